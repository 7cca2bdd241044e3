"""Load a fine-tuned encoder, or a decoder, with its tokenizer from a folder, and hash its weights."""

from __future__ import annotations

import hashlib
import logging
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
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
    unfilled_model,
    written_config,
)
from .batches import tokenize
from .folder_files import ModelFiles, find_folder, read_model_files
from .heads import KINDS
from .heads.protocol import TextReader
from .outputs import Head, head_of
from .pages import DTYPES, Pages, Paging
from .paging import in_parts, page, streamed
from .probe import probe
from .samples import TokenBatch
from .sentence_embeddings import MODULES
from .tiers import split_table
from .tokenizers import load_tokenizer
from .weight_names import check_names, check_sizes, wrapper_prefix
from .windows import longest_sample

__all__ = [
    "AUTO_CLASSES", "LoadedModel", "build_model", "check_evaluation_mode", "check_finite", "config_kind", "cut_at",
    "find_folder", "load_model", "load_tokenizer", "quiet_transformers", "refusing", "tokenized", "unfilled_model",
    "weights_sha256", "written_config",
]  # fmt: skip

logger = logging.getLogger(__name__)

FLOAT32_BYTES = 4
EXAMPLE_TOKENS = 64  # length at which the example is truncated
FEWEST_TOKENS = 4  # leaves room for text between the special tokens; pairs need one more


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in evaluation mode and float32, with its tokenizer and the hash of its weights.

    Attributes:
        name: what the user called it.
        model: the model.
        tokenizer: its tokenizer; for a plain module, ready samples (`modules.SampleFeed`).
        sha256: hash of the weights.
        given_head: how its outputs are read; if None, determined by its class.
        given_example: a sample for tracing its structure; if None, a short sentence.
        max_tokens: length at which texts are truncated; by default the model's window or its kind of head's default.
        folder: local path of its files; None for a plain module.
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
        """How its outputs are read.

        Raises:
            InputFileError: a head of an unknown kind.
        """
        return self.given_head or head_of(self.model, self.name)

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Label names by index of the head's outputs; None if the outputs are not classes or tags.

        The classes of a plain module are named by their numbers.
        """
        if self.given_head is not None and self.head.spec.classifies:
            return tuple(map(str, range(self.head.columns)))
        if self.given_head is not None or not self.head.spec.named:
            return None
        config: Any = self.model.config
        return tuple(str(config.id2label[index]) for index in range(config.num_labels))

    @property
    def longest(self) -> int:
        """Length in tokens at which texts are truncated, or of windows."""
        return longest_sample(self.tokenizer, self.head.spec.default_tokens, self.max_tokens)

    @property
    def reader(self) -> TextReader:
        """The tokenizer with its limits."""
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
        loaded: the model, whose tokenizer and length limit are used.
        texts: one or two strings each.
        batch_size: samples per batch.
    """
    return tokenize(loaded.tokenizer, texts, batch_size=batch_size, max_tokens=loaded.longest, kind=loaded.head.kind)


def check_evaluation_mode(loaded: LoadedModel) -> None:
    """Reject a model in training mode.

    Args:
        loaded: the model.

    Raises:
        UsageError: names the module.
    """
    for name, module in loaded.model.named_modules():
        if module.training:
            raise UsageError(
                f"{loaded.name}: {name or 'the model'} is in training mode, where dropout makes every answer random. "
                "Call model.eval() first."
            )


def cut_at(loaded: LoadedModel, max_tokens: int | None) -> LoadedModel:
    """Return the model with texts truncated at another length.

    Args:
        loaded: a model.
        max_tokens: the length in tokens; None leaves the model's own.

    Raises:
        UsageError: the length leaves no room for text, or exceeds the model's positions.
    """
    if max_tokens is None:
        return loaded
    window = int(loaded.tokenizer.model_max_length)
    if not isinstance(max_tokens, Integral) or not FEWEST_TOKENS <= max_tokens <= window:
        raise UsageError(f"`max_tokens` {max_tokens}: {loaded.name} reads {FEWEST_TOKENS} to {window} tokens.")
    return replace(loaded, max_tokens=int(max_tokens))


def load_model(source: str | Path, *, max_tokens: int | None = None, paging: Paging | None = None) -> LoadedModel:
    """Load a fine-tuned model in float32, evaluation mode, from a folder or a named hub model.

    Only safetensors weights are read, because other weight files can run code when they are opened.

    Args:
        source: the folder, or the name of a hub model.
        max_tokens: length at which texts are truncated; by default the model's window.
        paging: whether its weights stay on disk; None keeps them in memory.

    Raises:
        UsageError: the model does not support this length, or the folder of `paging` cannot be written.
        InputFileError: the folder is not a model, requires something unsupported, has missing or unused weights, has
            NaN or infinite weights, lacks a tokenizer, or fails in a dry run.
    """
    quiet_transformers()
    files = read_model_files(source)
    config = read_config(files)
    KINDS[config_kind(config, files.name)].check(config, files.name)
    blank = blank_model(config, files.name)
    check_class(config, blank, files.name)
    check_sizes(files, blank)
    tokenizer = load_tokenizer(files.folder, config, blank, name=files.name)
    pages = Pages(paging.folder) if paging is not None and paging.applies(_float32_bytes(files), files.name) else None
    model = _filled(files, config, blank, pages)
    check_finite(model, files.name)
    loaded = LoadedModel(files.name, model.eval(), tokenizer, weights_sha256(model), folder=files.folder)
    probe(model, tokenizer, loaded.head, files.name)
    return cut_at(loaded, max_tokens)


def _float32_bytes(files: ModelFiles) -> int:
    """Bytes of a model's floating-point weights in float32.

    Args:
        files: the model folder.
    """
    return sum(FLOAT32_BYTES * math.prod(t.shape) for t in files.tensors.values() if t.dtype in DTYPES)


def _filled(files: ModelFiles, config: Any, blank: Any, pages: Pages | None) -> Any:
    """Load the weights; a tensor of the files that the model does not use is an error or is logged."""
    kind = config_kind(config, files.name)
    prefix = wrapper_prefix(files.tensors, blank.base_model_prefix)
    settings: dict[str, Any] = {
        "config": config, "dtype": torch.float32, "output_loading_info": True, "ignore_mismatched_sizes": True,
    }  # fmt: skip
    if prefix:
        settings["key_mapping"] = {f"^{re.escape(prefix)}": ""}
    state = None if pages is None else pages.state(files)
    with refusing(files.name):
        if state is None:
            model, report = AUTO_CLASSES[kind].from_pretrained(
                files.folder, local_files_only=True, use_safetensors=True, **settings
            )
        else:
            model, report = type(blank).from_pretrained(None, state_dict=state, **settings)
    unused = check_names(files, model, report, kind, prefix, encoder_only=(files.folder / MODULES).exists())
    if unused is not None:
        logger.warning("warning: %s", unused)
    with torch.no_grad():  # transformers initializes missing weights at random: different weights and hash each time
        for name in report["missing_keys"]:
            model.get_parameter(name).zero_()
    model.config.architectures = [type(model).__name__]
    split_table(model, files.name)
    if pages is not None:
        page(model, pages)
    return model


def check_finite(model: nn.Module, source: str) -> None:
    """Refuse weights that are NaN or infinite.

    Args:
        model: all its floating-point tensors are checked.
        source: the folder, for messages.

    Raises:
        InputFileError: names the first such tensor.
    """
    for name, tensor in streamed(model, model.state_dict()):
        if tensor.is_floating_point() and not all(map(is_finite, in_parts(model, flat(tensor)))):
            raise InputFileError(f"{source}: {name} holds NaN or infinite values. Repair or re-train the model.")


def weights_sha256(model: nn.Module) -> str:
    """Hash every tensor's name, shape and float32 bytes, in order of name.

    Args:
        model: its parameters and persistent buffers are hashed.
    """
    digest = hashlib.sha256()
    for name, tensor in streamed(model, dict(sorted(model.state_dict().items()))):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        for part in in_parts(model, flat(tensor)):
            digest.update(part.cpu().float().numpy().data)
    return digest.hexdigest()


def flat(tensor: torch.Tensor) -> torch.Tensor:
    """Return the elements of a tensor in order, one-dimensional and outside the graph.

    Args:
        tensor: of any shape.
    """
    return tensor.detach().reshape(-1)


def is_finite(tensor: torch.Tensor) -> bool:
    """Return whether all values of a floating-point tensor are finite, without a copy of it.

    Args:
        tensor: a tensor of any shape; an empty one counts as finite.
    """
    return tensor.numel() == 0 or bool(torch.isfinite(torch.stack(tensor.detach().aminmax())).all())
