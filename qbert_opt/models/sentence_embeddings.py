"""Sentence-transformers folders: how their sentence embedding is made of the encoder's states.

`modules.json` lists what follows the encoder: a pooling of its states, perhaps a normalization to length 1. Both are
part of what is scored. Anything else there is refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import InputFileError
from .folder_files import read_json
from .samples import TokenBatch

MODULES = "modules.json"
TRANSFORMER_SETTINGS = "sentence_bert_config.json"
SETTINGS = "config_sentence_transformers.json"


def _first(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return states[torch.arange(len(states), device=states.device), mask.to(torch.int8).argmax(1)]


def _maximum(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return states.masked_fill(~mask[:, :, None], -torch.inf).amax(1)


def _mean(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    weights = mask[:, :, None].to(states)
    return (states * weights).sum(1) / weights.sum(1)


def _mean_sqrt(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    weights = mask[:, :, None].to(states)
    return (states * weights).sum(1) / weights.sum(1).sqrt()


POOLINGS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "cls": _first,
    "max": _maximum,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_sqrt,
}
FLAGS = {  # of 1_Pooling/config.json, in the order in which sentence-transformers joins the parts
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclass(frozen=True, slots=True)
class SentenceEmbedding:
    """How a sentence embedding is made of the last hidden states.

    Attributes:
        modes: names of `POOLINGS`; several are joined one behind the other.
        normalized: whether the result is brought to length 1.
        max_tokens: longest text that the folder asks for; None for the model's window.
        lower_case: whether texts are made lower-case before they are tokenized.
    """

    modes: tuple[str, ...] = ("mean",)
    normalized: bool = False
    max_tokens: int | None = None
    lower_case: bool = False

    def read(self, model: nn.Module, batch: TokenBatch) -> torch.Tensor:
        """Embed a batch, in the graph; float `[B, hidden * modes]`."""
        states = model(**batch.inputs).last_hidden_state
        mask = batch.mask.to(states.device)
        joined = torch.cat([POOLINGS[mode](states, mask) for mode in self.modes], 1)
        return nn.functional.normalize(joined, dim=1) if self.normalized else joined


def read_sentence_embedding(folder: Path) -> SentenceEmbedding | None:
    """Return how a sentence-transformers folder embeds sentences; None where the folder is none.

    Args:
        folder: of a model.

    Raises:
        InputFileError: modules, poolings or prompts that are not supported; names the first.
    """
    if not (folder / MODULES).exists():
        return None
    modes: tuple[str, ...] = ("mean",)
    normalized = pooled = False
    for module in _modules(folder):
        kind, where = str(module.get("type", "")).rsplit(".", 1)[-1], str(module.get("path", ""))
        if kind == "Transformer" and where in ("", "."):
            continue
        if kind == "Pooling" and not pooled:
            modes, pooled = _modes(folder / where / "config.json"), True
        elif kind == "Normalize" and pooled:
            normalized = True
        else:
            raise InputFileError(
                f"{folder / MODULES}: module {kind!r} ({where or 'root'}) is not supported. Legal: Transformer in the "
                "folder itself, one Pooling, Normalize behind it."
            )
    if not pooled:
        raise InputFileError(f"{folder / MODULES}: has no Pooling, so there is no sentence embedding. Add one.")
    _check_prompt(folder)
    settings = read_json(folder / TRANSFORMER_SETTINGS) if (folder / TRANSFORMER_SETTINGS).exists() else {}
    longest = settings.get("max_seq_length")
    if longest is not None and (not isinstance(longest, int) or isinstance(longest, bool) or longest < 1):
        raise InputFileError(
            f"{folder / TRANSFORMER_SETTINGS}: max_seq_length is {longest!r}. Give tokens, at least 1."
        )
    return SentenceEmbedding(modes, normalized, longest, bool(settings.get("do_lower_case")))


def embedding_fields(embedding: SentenceEmbedding) -> dict[str, Any]:
    """Return what a model's config carries of it, so that it goes wherever the config goes.

    Args:
        embedding: pooling and normalization.
    """
    return {"pooling": list(embedding.modes), "normalized": embedding.normalized}


def embedding_of(config: Any) -> SentenceEmbedding | None:
    """Return how a model with this config embeds sentences; None where the config does not say.

    Args:
        config: transformers' config.

    Raises:
        InputFileError: fields that are not those of `embedding_fields`.
    """
    fields = getattr(config, "sentence_embedding", None)
    if fields is None:
        return None
    modes = fields.get("pooling") if isinstance(fields, dict) else None
    if not isinstance(modes, list) or not modes or not all(mode in POOLINGS for mode in modes):
        raise InputFileError(f"config.json: sentence_embedding.pooling is {modes!r}. Legal: {', '.join(POOLINGS)}.")
    return SentenceEmbedding(tuple(modes), bool(fields.get("normalized")))


def companion_files(folder: Path) -> tuple[str, ...]:
    """Name the files that say how the encoder's states are used, relative to the folder; copies must hold them too.

    Without them sentence-transformers opens the folder with a pooling of its own choice.

    Args:
        folder: of a model.
    """
    if not (folder / MODULES).exists():
        return ()
    names = [MODULES, TRANSFORMER_SETTINGS, SETTINGS]
    for module in _modules(folder):
        inner = folder / str(module.get("path", ""))
        if inner != folder and inner.is_dir():
            names += [str(path.relative_to(folder)) for path in sorted(inner.glob("*.json"))]
    return tuple(name for name in names if (folder / name).is_file())


def _modules(folder: Path) -> list[Mapping[str, Any]]:
    """Entries of `modules.json` in their order; their paths stay inside the folder."""
    path = folder / MODULES
    try:
        modules = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputFileError(f"{path}: cannot be read: {error}") from None
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise InputFileError(f"{path}: is no list of modules. Copy the file again.")
    for module in modules:
        inner = str(module.get("path", ""))
        if Path(inner).is_absolute() or ".." in Path(inner).parts:
            raise InputFileError(f"{path}: names {inner!r}, outside the folder. Copy the module into the folder.")
    return modules


def _modes(path: Path) -> tuple[str, ...]:
    settings = read_json(path)
    named = settings.get("pooling_mode")
    if named is not None:
        modes = [named] if isinstance(named, str) else list(named)
    else:
        modes = [mode for flag, mode in FLAGS.items() if settings.get(flag)]
    unknown = [mode for mode in modes if mode not in POOLINGS]
    if unknown or not modes:
        raise InputFileError(
            f"{path}: pooling {unknown[0] if unknown else 'none'!r} is not supported. Legal: {', '.join(POOLINGS)}."
        )
    return tuple(modes)


def _check_prompt(folder: Path) -> None:
    """Refuse a prompt that is put before every text: what is scored would be other texts."""
    path = folder / SETTINGS
    settings = read_json(path) if path.exists() else {}
    default = settings.get("default_prompt_name")
    prompts = settings.get("prompts")
    if default is not None and isinstance(prompts, dict) and prompts.get(default):
        raise InputFileError(
            f"{path}: puts prompt {default!r} before every text. Write it into the texts and set default_prompt_name "
            "to null."
        )
