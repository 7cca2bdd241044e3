"""Load a fine-tuned encoder and its tokenizer from a folder, and say which model it is."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import InputFileError, UsageError
from .architectures import (
    AUTO_CLASSES,
    blank_model,
    build_model,
    check_class,
    config_kind,
    quiet_transformers,
    read_config,
    refusing,
    written_config,
)
from .batches import tokenize
from .folder_files import ModelFiles, find_folder, read_model_files
from .heads.protocol import TextReader
from .outputs import Head, head_of
from .probe import probe
from .samples import TokenBatch
from .sentence_embeddings import MODULES
from .tokenizers import load_tokenizer
from .weight_names import check_names, check_sizes, wrapper_prefix
from .windows import longest_sample

__all__ = [
    "AUTO_CLASSES", "LoadedModel", "build_model", "check_finite", "config_kind", "cut_at", "find_folder", "load_model",
    "load_tokenizer", "quiet_transformers", "refusing", "tokenized", "weights_sha256", "written_config",
]  # fmt: skip

logger = logging.getLogger(__name__)

EXAMPLE_TOKENS = 64  # a model with a window shorter than an example reads its beginning
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
        folder: where its files are on this machine; None for a plain module.
    """

    name: str
    model: Any = field(repr=False)
    tokenizer: Any = field(repr=False)
    sha256: str
    given_head: Head | None = field(default=None, repr=False)
    given_example: TokenBatch | None = field(default=None, repr=False)
    max_tokens: int | None = None
    folder: Path | None = None

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
        short = {"truncation": True, "max_length": min(self.longest, EXAMPLE_TOKENS), "return_tensors": "pt"}
        return TokenBatch(dict(self.tokenizer("turn the light on", **short)), (0,))


def tokenized(loaded: LoadedModel, texts: Sequence[tuple[str, ...]], *, batch_size: int) -> list[TokenBatch]:
    """Tokenize texts as a model reads them, into batches of similar length, shortest first; see `batches.tokenize`.

    Args:
        loaded: its tokenizer, and where its texts are cut.
        texts: each of one or two parts.
        batch_size: samples in a batch.
    """
    return tokenize(loaded.tokenizer, texts, batch_size=batch_size, max_tokens=loaded.longest, kind=loaded.head.kind)


def cut_at(loaded: LoadedModel, max_tokens: int | None) -> LoadedModel:
    """Return a model that reads so many tokens of a text at most; None leaves it as it is.

    Args:
        loaded: a model.
        max_tokens: cut texts here; None keeps what the model has.

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
        InputFileError: the folder is no model, asks for what would not be done, holds weights that would not be used,
            lacks weights or tokenizer, holds NaN or infinite weights, or answers wrongly in a dry run.
    """
    quiet_transformers()
    files = read_model_files(source)
    config = read_config(files)
    blank = blank_model(config, files.name)
    check_class(config, blank, files.name)
    check_sizes(files, blank)
    tokenizer = load_tokenizer(files.folder, config, blank, name=files.name)
    model = _filled(files, config, blank.base_model_prefix)
    check_finite(model, files.name)
    loaded = LoadedModel(files.name, model.eval(), tokenizer, weights_sha256(model), folder=files.folder)
    probe(model, tokenizer, loaded.head, files.name)
    return cut_at(loaded, max_tokens)


def _filled(files: ModelFiles, config: Any, base_prefix: str) -> Any:
    """Load the weights; every tensor of the files gets its place, or is named."""
    kind = config_kind(config, files.name)
    prefix = wrapper_prefix(files.tensors, base_prefix)
    renaming = {"key_mapping": {f"^{re.escape(prefix)}": ""}} if prefix else {}
    with refusing(files.name):
        model, report = AUTO_CLASSES[kind].from_pretrained(
            files.folder, config=config, local_files_only=True, use_safetensors=True, dtype=torch.float32,
            output_loading_info=True, ignore_mismatched_sizes=True, **renaming,
        )  # fmt: skip
    unused = check_names(files, model, report, kind, prefix, encoder_only=(files.folder / MODULES).exists())
    if unused is not None:
        logger.warning("warning: %s", unused)
    with (
        torch.no_grad()
    ):  # transformers fills what is missing with random weights: other ones, and another hash, each time
        for name in report["missing_keys"]:
            model.get_parameter(name).zero_()
    model.config.architectures = [type(model).__name__]
    return model


def check_finite(model: nn.Module, source: str) -> None:
    """Refuse weights that are NaN or infinite.

    Args:
        model: every floating-point tensor is looked at.
        source: the folder, for messages.

    Raises:
        InputFileError: names the first such tensor.
    """
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise InputFileError(f"{source}: {name} holds NaN or infinite values. Repair or re-train the model.")


def weights_sha256(model: nn.Module) -> str:
    """Hash every tensor's name, shape and float32 bytes, in order of name.

    Args:
        model: parameters and buffers that are saved.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().float().numpy().tobytes())
    return digest.hexdigest()
