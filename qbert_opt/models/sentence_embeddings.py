"""Sentence-transformers folders: how the sentence embedding is computed from the encoder's hidden states.

`modules.json` lists the modules after the encoder: a pooling, and optionally normalization to length 1. Both are part
of the model that is scored, and so is the default prompt, which is put before every text. Other modules are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import InputFileError
from ..runtime.files import MAX_JSON_BYTES
from ..runtime.input_files import decode_text, parse_json, read_bytes
from ..runtime.manifest import IN_SUBFOLDER
from .folder_files import CONFIG, read_json
from .samples import TokenBatch

GENERATION = "generation_config.json"
MODULES = "modules.json"
TRANSFORMER_SETTINGS = "sentence_bert_config.json"
SETTINGS = "config_sentence_transformers.json"
PROMPT = "qbert_opt_prompt"  # attribute of a tokenizer that holds the default prompt


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
FLAGS = {  # of 1_Pooling/config.json, in the order in which sentence-transformers concatenates the parts
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclass(frozen=True, slots=True)
class SentenceEmbedding:
    """How a sentence embedding is computed from the last hidden states.

    Attributes:
        modes: names of `POOLINGS`; several are concatenated.
        normalized: whether the result is normalized to length 1.
        max_tokens: the folder's `max_seq_length`; None for the model's window.
        lower_case: whether texts are lower-cased before tokenization.
        prompt: text that is put before every text.
    """

    modes: tuple[str, ...] = ("mean",)
    normalized: bool = False
    max_tokens: int | None = None
    lower_case: bool = False
    prompt: str = ""

    def read(self, model: nn.Module, batch: TokenBatch) -> torch.Tensor:
        """Embed a batch, in the graph; float `[B, hidden * modes]`.

        Args:
            model: the encoder.
            batch: its inputs.
        """
        states = model(**batch.inputs).last_hidden_state
        return self.pool(states, batch.mask.to(states.device))

    def pool(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Pool hidden states, and normalize the result if the folder says so.

        Args:
            states: last hidden states, float `[B, T, hidden]`.
            mask: bool `[B, T]`, True at real tokens.

        Returns:
            Float `[B, hidden * modes]`.
        """
        joined = torch.cat([POOLINGS[mode](states, mask) for mode in self.modes], 1)
        return nn.functional.normalize(joined, dim=1) if self.normalized else joined


def read_sentence_embedding(folder: Path) -> SentenceEmbedding | None:
    """Return the pooling of a sentence-transformers folder; None if the folder is not one.

    Args:
        folder: of a model.

    Raises:
        InputFileError: a module, the pooling or the prompt is not supported.
    """
    if not (folder / MODULES).exists():
        return None
    modes: tuple[str, ...] = ("mean",)
    normalized = pooled = False
    prompt = _default_prompt(folder)
    for module in _modules(folder):
        kind, where = str(module.get("type", "")).rsplit(".", 1)[-1], str(module.get("path", ""))
        if kind == "Transformer" and where in ("", "."):
            continue
        if kind == "Pooling" and not pooled:
            modes, pooled = _modes(folder / where / CONFIG, prompt), True
        elif kind == "Normalize" and pooled:
            normalized = True
        else:
            raise InputFileError(
                f"{folder / MODULES}: module {kind!r} ({where or 'root'}) is not supported. Legal: Transformer in the "
                "folder itself, one Pooling, Normalize behind it."
            )
    if not pooled:
        raise InputFileError(f"{folder / MODULES}: has no Pooling, so there is no sentence embedding. Add one.")
    settings = read_json(folder / TRANSFORMER_SETTINGS) if (folder / TRANSFORMER_SETTINGS).exists() else {}
    longest = settings.get("max_seq_length")
    if longest is not None and (not isinstance(longest, int) or isinstance(longest, bool) or longest < 1):
        raise InputFileError(
            f"{folder / TRANSFORMER_SETTINGS}: max_seq_length is {longest!r}. Give a number of tokens, at least 1."
        )
    return SentenceEmbedding(modes, normalized, longest, bool(settings.get("do_lower_case")), prompt)


def with_prompt(tokenizer: Any, texts: Sequence[str]) -> list[str]:
    """Put the default prompt of a tokenizer's folder before texts.

    Args:
        tokenizer: as `load_tokenizer` returned it.
        texts: as given by the user.
    """
    return [getattr(tokenizer, PROMPT, "") + text for text in texts]


def embedding_fields(embedding: SentenceEmbedding) -> dict[str, Any]:
    """Return the pooling as fields of a model's config, so that it is saved with the model.

    Args:
        embedding: pooling and normalization.
    """
    return {"pooling": list(embedding.modes), "normalized": embedding.normalized}


def embedding_of(config: Any) -> SentenceEmbedding | None:
    """Return the pooling from a model's config; None if the config has none.

    Args:
        config: transformers' config.

    Raises:
        InputFileError: the fields are malformed.
    """
    fields = getattr(config, "sentence_embedding", None)
    if fields is None:
        return None
    modes = fields.get("pooling") if isinstance(fields, dict) else None
    if not isinstance(modes, list) or not modes or not all(mode in POOLINGS for mode in modes):
        raise InputFileError(f"config.json: sentence_embedding.pooling is {modes!r}. Legal: {', '.join(POOLINGS)}.")
    return SentenceEmbedding(tuple(modes), bool(fields.get("normalized")))


def companion_files(folder: Path) -> tuple[str, ...]:
    """Return the relative paths of sentence-transformers' own files, which copies of the folder must contain.

    Without them, sentence-transformers opens the folder with its default pooling.

    Args:
        folder: of a model.

    Raises:
        InputFileError: settings of a module are not in a direct sub-folder of the model's folder.
    """
    if not (folder / MODULES).exists():
        return ()
    names = [MODULES, TRANSFORMER_SETTINGS, SETTINGS]
    for module in _modules(folder):
        name = f"{module.get('path', '')}/{CONFIG}"
        if module.get("path") in (None, "", ".") or not (folder / name).is_file():
            continue
        if not IN_SUBFOLDER.fullmatch(name):
            raise InputFileError(
                f"{folder / MODULES}: names {module['path']!r}; settings of modules are kept in sub-folders of the "
                "model's folder, such as '1_Pooling'. Rename it there and in the folder."
            )
        names.append(name)
    return tuple(name for name in names if (folder / name).is_file())


def copy_companions(source: Path, target: Path) -> None:
    """Copy sentence-transformers' own files, so that it pools as before, and a decoder's settings of `generate`.

    Args:
        source: folder of the model.
        target: folder that the model is written to.

    Raises:
        InputFileError: as `companion_files`, or a file cannot be read.
    """
    generation = [GENERATION] if (source / GENERATION).is_file() else []
    for name in (*companion_files(source), *generation):
        (target / name).parent.mkdir(exist_ok=True)
        (target / name).write_bytes(read_bytes(source / name, MAX_JSON_BYTES, "a config"))


def _modules(folder: Path) -> list[Mapping[str, Any]]:
    """Return the entries of `modules.json` in order, after checking that their paths stay inside the folder."""
    path = folder / MODULES
    modules = parse_json(decode_text(read_bytes(path, MAX_JSON_BYTES, "a list of modules"), path), path)
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise InputFileError(f"{path}: is not a list of modules. Copy the file again.")
    for module in modules:
        inner = str(module.get("path", ""))
        if Path(inner).is_absolute() or ".." in Path(inner).parts:
            raise InputFileError(f"{path}: names {inner!r}, outside the folder. Copy the module into the folder.")
    return modules


def _modes(path: Path, prompt: str) -> tuple[str, ...]:
    settings = read_json(path)
    if prompt and settings.get("include_prompt") is False:
        raise InputFileError(
            f"{path}: leaves the prompt out of the pooling (include_prompt), which is not supported. Set "
            f"default_prompt_name in {SETTINGS} to null and write the prompt into the texts, or set include_prompt to "
            "true; both change the embeddings."
        )
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


def _default_prompt(folder: Path) -> str:
    """Return the prompt that sentence-transformers puts before every text; empty without one."""
    path = folder / SETTINGS
    settings = read_json(path) if path.exists() else {}
    name, prompts = settings.get("default_prompt_name"), settings.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(prompt, str) for prompt in prompts.values()):
        raise InputFileError(f"{path}: prompts must be texts by name. Correct them.")
    if name is None:
        return ""
    if name not in prompts:
        raise InputFileError(
            f"{path}: default_prompt_name is {name!r}. Legal: null, {', '.join(prompts) or 'and there are no prompts'}."
        )
    return str(prompts[name])
