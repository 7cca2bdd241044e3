"""Load a fine-tuned encoder and its tokenizer from a folder, and say which model it is."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoTokenizer
from transformers.utils import logging as transformers_logging

from ..errors import InputFileError, UsageError
from .batches import tokenize
from .heads import KINDS
from .heads.protocol import TextReader
from .outputs import Head, OutputKind, head_kind, head_of
from .samples import TokenBatch
from .windows import longest_sample, model_window

VOCABULARIES = (
    "tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model",
)  # fmt: skip

AUTO_CLASSES: dict[OutputKind, Any] = {kind: spec.auto_class for kind, spec in KINDS.items()}


FEWEST_TOKENS = 4  # of a text: one between its special tokens, of a pair one more


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in evaluation mode and float32, with its tokenizer and the hash of its weights.

    Attributes:
        name: what the user called it.
        model: the model.
        tokenizer: the model's; ready samples (`modules.SampleFeed`) for a plain module.
        sha256: hash of the weights.
        given_head: how its answers are read; by its class when None.
        given_example: one sample to learn its structure from; a short sentence when None.
        max_tokens: where its texts are cut; by default the model's window, or what its kind of head usually reads.
    """

    name: str
    model: Any
    tokenizer: Any
    sha256: str
    given_head: Head | None = None
    given_example: TokenBatch | None = None
    max_tokens: int | None = None

    @property
    def head(self) -> Head:
        """How its answers are read.

        Raises:
            InputFileError: a head of an unknown kind.
        """
        return self.given_head or head_of(self.model, self.name)

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Label names by index of the head's outputs; None where the outputs are no classes or tags.

        The classes of a plain module are known by their numbers.
        """
        if self.given_head is not None and self.head.spec.classifies:
            return tuple(map(str, range(self.head.columns)))
        if self.given_head is not None or not self.head.spec.named:
            return None
        config: Any = self.model.config
        return tuple(str(config.id2label[index]) for index in range(config.num_labels))

    @property
    def longest(self) -> int:
        """Tokens at which its texts are cut, or at which windows of a text end."""
        return longest_sample(self.tokenizer, self.head.spec.default_tokens, self.max_tokens)

    @property
    def reader(self) -> TextReader:
        """What reads its texts."""
        return TextReader(self.name, self.tokenizer, self.longest, self.labels or (), self.given_head is not None)

    def example(self) -> TokenBatch:
        """One short sample without padding."""
        if self.given_example is not None:
            return self.given_example
        return TokenBatch(dict(self.tokenizer("turn the light on", return_tensors="pt")), (0,))


def tokenized(loaded: LoadedModel, texts: Sequence[tuple[str, ...]], *, batch_size: int) -> list[TokenBatch]:
    """Tokenize texts as a model reads them, into batches of similar length, shortest first; see `batches.tokenize`."""
    return tokenize(loaded.tokenizer, texts, batch_size=batch_size, max_tokens=loaded.longest, kind=loaded.head.kind)


def cut_at(loaded: LoadedModel, max_tokens: int | None) -> LoadedModel:
    """Return a model that reads so many tokens of a text at most; None leaves it as it is.

    Raises:
        UsageError: fewer than a token between its special ones, or more than the model has positions for.
    """
    if max_tokens is None:
        return loaded
    window = int(loaded.tokenizer.model_max_length)
    if not FEWEST_TOKENS <= max_tokens <= window:
        raise UsageError(f"max_tokens {max_tokens}: {loaded.name} reads {FEWEST_TOKENS} to {window} tokens.")
    return replace(loaded, max_tokens=max_tokens)


def load_model(source: str | Path, *, max_tokens: int | None = None) -> LoadedModel:
    """Load a fine-tuned model in float32, evaluation mode, from a folder or a named hub model.

    Only safetensors weights are read: other weight files can run code when they are opened.

    Args:
        source: the folder, or the name of a hub model.
        max_tokens: where its texts are cut; by default the model's window.

    Raises:
        UsageError: the model does not read so many tokens.
        InputFileError: the folder is no model, has a head of an unknown kind, lacks weights or tokenizer, or holds
            NaN or infinite weights.
    """
    check_is_model(source)
    quiet_transformers()
    local = Path(source).is_dir()
    with refusing(source):
        config = AutoConfig.from_pretrained(source, local_files_only=local)
    kind = config_kind(config, str(source))
    with refusing(source):
        model, found = AUTO_CLASSES[kind].from_pretrained(
            source, local_files_only=local, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    # transformers would fill in random weights; only a pooler that nobody asks for may be missing
    missing = sorted(n for n in found["missing_keys"] if not n.startswith(KINDS[kind].spare_weights))
    if missing:
        raise InputFileError(f"{source}: weight {missing[0]} is missing ({len(missing)} in all). Save the model anew.")
    tokenizer = load_tokenizer(source, config)
    check_finite(model, str(source))
    loaded = LoadedModel(str(source), model.eval(), tokenizer, weights_sha256(model))
    _ = loaded.head  # refused here rather than after an hour
    return cut_at(loaded, max_tokens)


def config_kind(config: Any, source: str) -> OutputKind:
    """Return the kind of outputs that a model's `config.json` names.

    Raises:
        InputFileError: none of the known kinds.
    """
    architecture = (config.architectures or ["Model"])[0]  # encoders saved by other tools name none
    return head_kind(architecture, source)


def build_model(config: Any, source: str) -> Any:
    """Return a model of the class that its config names, in float32, with weights still to be filled in.

    Raises:
        InputFileError: a head of an unknown kind, or a config that makes no model.
    """
    kind = config_kind(config, source)
    with refusing(source):
        return AUTO_CLASSES[kind].from_config(config, dtype=torch.float32)


@contextmanager
def refusing(source: str | Path) -> Iterator[None]:
    """Turn whatever the libraries say of a broken folder into one line: their errors have no common family.

    Raises:
        InputFileError: anything went wrong inside.
    """
    try:
        yield
    except InputFileError:
        raise
    except Exception as error:
        raise InputFileError(f"{source}: cannot be loaded as a model: {_first_line(error)}") from None


def load_tokenizer(source: str | Path, config: Any) -> Any:
    """Load the tokenizer of a model folder or hub model; it cuts texts where the model has no more positions.

    Raises:
        InputFileError: there is none; transformers would go on with an empty vocabulary.
    """
    folder = Path(source)
    if folder.is_dir() and not any((folder / name).exists() for name in VOCABULARIES):
        raise InputFileError(f"{source}: has no tokenizer ({', '.join(VOCABULARIES)}). Save it beside the model.")
    with refusing(source):
        options = KINDS[config_kind(config, str(source))].tokenizer_options
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=folder.is_dir(), **options)
    tokenizer.model_max_length = model_window(tokenizer, config)
    return tokenizer


def quiet_transformers() -> None:
    """Keep transformers' own reports and bars off the screen: ours say what matters."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def check_is_model(source: str | Path) -> None:
    """Refuse what is neither a model folder nor the name of a hub model.

    Raises:
        InputFileError: a missing folder, a file, or a folder without `config.json`.
    """
    folder = Path(source)
    if folder.is_dir():
        if not (folder / "config.json").exists():
            raise InputFileError(
                f"{source}: is no model folder: it has no config.json. Give a transformers model folder."
            )
    elif folder.exists():
        raise InputFileError(f"{source}: is a file. Give the folder that holds config.json and model.safetensors.")
    elif str(source).startswith((".", "/", "~")) or str(source).count("/") != 1:
        raise InputFileError(f"{source}: no such folder. Give a model folder, or a hub model as owner/name.")


def check_finite(model: nn.Module, source: str) -> None:
    """Refuse weights that are NaN or infinite.

    Raises:
        InputFileError: names the first such tensor.
    """
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise InputFileError(f"{source}: {name} holds NaN or infinite values. Repair or re-train the model.")


def weights_sha256(model: nn.Module) -> str:
    """Hash every tensor's name, shape and float32 bytes, in order of name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().float().numpy().tobytes())
    return digest.hexdigest()


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
