"""The transformers class that a model's config names, and models of that class without weights."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoConfig
from transformers.utils import logging as transformers_logging

from ..errors import InputFileError
from .config_fields import check_fields
from .folder_files import ModelFiles, first_line
from .head_counts import FIELD, narrow_attention
from .heads import KINDS
from .outputs import OutputKind, head_kind
from .sentence_embeddings import embedding_fields, read_sentence_embedding
from .tiers import split_table

AUTO_CLASSES: dict[OutputKind, Any] = {kind: spec.auto_class for kind, spec in KINDS.items()}
logger = logging.getLogger(__name__)
_UNFILLED = threading.Lock()  # one thread at a time replaces how parameters are registered
PROBLEM_TYPES = (None, "regression", "single_label_classification", "multi_label_classification")
MAX_LAYERS = 1000  # checked before any module is built


def quiet_transformers() -> None:
    """Suppress transformers' own reports and progress bars."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


@contextmanager
def refusing(source: str | Path) -> Iterator[None]:
    """Turn any library error about a broken folder into one line, since these errors have no common base class.

    Args:
        source: the folder, for messages.

    Raises:
        InputFileError: anything went wrong inside.
    """
    try:
        yield
    except InputFileError:
        raise
    except Exception as error:
        raise InputFileError(f"{source}: cannot be loaded as a model: {first_line(error)}") from None


def read_config(files: ModelFiles) -> Any:
    """Return transformers' config of a model folder, with settings of the output format reset.

    The model returns named outputs without attentions and hidden states, and uses torch's own attention. None of that
    changes the values, and other implementations of attention would have to be downloaded and run.

    Args:
        files: contents of a model folder.

    Raises:
        InputFileError: transformers does not know the model type, or the labels contradict each other.
    """
    kind = files.config.get("model_type")
    if kind not in CONFIG_MAPPING:
        raise InputFileError(
            f"{files.name}: config.json names model_type {kind!r}, which the installed transformers does not know. "
            "Give a BERT-style model; check the spelling, or upgrade transformers."
        )
    check_fields(files.config, files.name)
    if FIELD in files.config:
        raise InputFileError(
            f"{files.name}: config.json: {FIELD} belongs to a quantized folder. Give the float model that it was made "
            "from."
        )
    with refusing(files.name):
        config = AutoConfig.from_pretrained(files.folder, local_files_only=True)
        config._attn_implementation = None
        config._experts_implementation = None
        config.output_attentions = False
        config.output_hidden_states = False
        config.return_dict = True
    layers = getattr(config, "num_hidden_layers", 1)
    if not isinstance(layers, int) or not 1 <= layers <= MAX_LAYERS:
        raise InputFileError(f"{files.name}: config.json asks for {layers} layers. Legal: 1 to {MAX_LAYERS}.")
    embedding = read_sentence_embedding(files.folder)
    if embedding is not None:  # sentence-transformers reads the encoder, whatever class it was saved from
        config.architectures = None
        config.sentence_embedding = embedding_fields(embedding)
    named = config.architectures or ()
    if len(named) > 1:
        raise InputFileError(f"{files.name}: config.json names several architectures ({', '.join(named)}). Keep one.")
    check_labels(files.config, config_kind(config, files.name), files.name)
    activation = _activation(files.config)
    if activation is not None:
        logger.warning("warning: %s: answers are taken before its activation, %s", files.name, activation)
    return config


def written_config(folder: Path) -> Any:
    """Return transformers' config of a folder that this project wrote, without its `quantization_config`.

    The pooling comes from the folder's sentence-transformers files, if there are any.

    Args:
        folder: a quantized or exported folder.

    Raises:
        InputFileError: it cannot be read.
    """
    quiet_transformers()
    with refusing(folder):
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    embedding = read_sentence_embedding(folder)
    if embedding is not None:
        config.sentence_embedding = embedding_fields(embedding)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    return config


def _activation(config: Mapping[str, Any]) -> str | None:
    """Return the activation that a sentence-transformers cross-encoder applies to its logits; None without one."""
    settings = config.get("sentence_transformers")
    newer = settings.get("activation_fn") if isinstance(settings, dict) else None
    name = str(newer or config.get("sbert_ce_default_activation_function") or "Identity").rsplit(".", 1)[-1]
    return None if name == "Identity" else name


def config_kind(config: Any, source: str) -> OutputKind:
    """Return the kind of outputs of a model from its `config.json`.

    Args:
        config: transformers' config.
        source: the folder, for messages.

    Raises:
        InputFileError: the outputs are of an unknown kind.
    """
    architecture = (config.architectures or ["Model"])[0]  # encoders saved by other tools name none
    return head_kind(architecture, source)


def build_model(config: Any, source: str) -> Any:
    """Return a float32 model of the class and the shapes that its config states, with random weights.

    Args:
        config: transformers' config.
        source: the folder, for messages.

    Raises:
        InputFileError: a head of an unknown kind, or a config from which no model can be built.
    """
    kind = config_kind(config, source)
    with refusing(source):
        model = AUTO_CLASSES[kind].from_config(config, dtype=torch.float32)
    split_table(model, source)
    narrow_attention(model, source)
    return model


def blank_model(config: Any, source: str) -> Any:
    """Return the same model on the meta device: class, inputs and shapes, without memory for weights.

    Args:
        config: transformers' config.
        source: the folder, for messages.

    Raises:
        InputFileError: no model can be built from the config.
    """
    with torch.device("meta"):
        return build_model(config, source)


def unfilled_model(config: Any, source: str) -> Any:
    """Return the same model with real buffers, and with parameters on the meta device that the caller assigns.

    Args:
        config: transformers' config.
        source: the folder, for messages.

    Raises:
        InputFileError: no model can be built from the config.
    """
    owner = threading.get_ident()  # another thread may meanwhile build a model that needs its memory
    with _UNFILLED:
        register = nn.Module.register_parameter

        def without_memory(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
            if parameter is not None and not parameter.is_meta and threading.get_ident() == owner:
                parameter = nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
            register(module, name, parameter)

        nn.Module.register_parameter = without_memory  # type: ignore[assignment,method-assign]
        try:
            return build_model(config, source)
        finally:
            nn.Module.register_parameter = register  # type: ignore[method-assign]


def check_class(config: Any, blank: Any, source: str) -> None:
    """Check that the model type of a config belongs to the class that the config names.

    Args:
        config: transformers' config.
        blank: result of `blank_model` for it.
        source: the folder, for messages.

    Raises:
        InputFileError: it belongs to another class.
    """
    made, named = type(blank).__name__, (config.architectures or [type(blank).__name__])[0]
    if made != named:
        raise InputFileError(
            f"{source}: config.json names the class {named}, but its model_type {config.model_type!r} is {made}. "
            "Correct the one that is wrong."
        )


def check_labels(config: Mapping[str, Any], kind: OutputKind, source: str) -> None:
    """Check that a config has exactly one label for each output, without gaps or contradictions.

    Args:
        config: `config.json` as it is in the folder.
        kind: kind of the model's outputs.
        source: what the user called the model.

    Raises:
        InputFileError: names the first contradiction.
    """
    if kind not in ("classes", "tags", "spans"):
        return
    problem = config.get("problem_type")
    if problem not in PROBLEM_TYPES:
        raise InputFileError(f"{source}: config.json: problem_type {problem!r} is unknown. Legal: {PROBLEM_TYPES[1:]}.")
    if problem == "multi_label_classification":
        raise InputFileError(f"{source}: multi-label classification (problem_type {problem}) is not supported.")
    names = config.get("id2label")
    if names is None:
        return
    if not isinstance(names, dict) or not all(isinstance(name, (str, int)) and name != "" for name in names.values()):
        raise InputFileError(f"{source}: config.json: id2label must give each output a name, as text.")
    expected = {str(index) for index in range(len(names))}
    if names.keys() != expected:
        wrong = min(names.keys() - expected)
        raise InputFileError(
            f"{source}: config.json: id2label names output {wrong!r}, but {len(names)} outputs have the numbers 0 to "
            f"{len(names) - 1}. Name each once, without gaps."
        )
    given = config.get("num_labels", len(names))
    if given != len(names):
        raise InputFileError(f"{source}: config.json: num_labels is {given}, and id2label has {len(names)} names.")
    if kind == "spans" and len(names) != 2:
        raise InputFileError(f"{source}: its span head has {len(names)} outputs. Legal: 2, start and end.")
    back = config.get("label2id")
    for index, name in names.items():
        if isinstance(back, dict) and str(back.get(name, index)) != index and list(names.values()).count(name) == 1:
            raise InputFileError(
                f"{source}: config.json: id2label calls output {index} {name!r}, but label2id gives it index "
                f"{back[name]}. Correct the one that is wrong."
            )


def token_types(model: nn.Module) -> int:
    """Return the number of token types (first and second text) of a model; 0 if it has no table of them.

    Args:
        model: a transformers model.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.rsplit(".", 1)[-1] == "token_type_embeddings":
            return module.num_embeddings
    return 0
