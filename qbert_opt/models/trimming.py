"""The same model with fewer rows in its word embedding tables, as a model folder with its tokenizer rewritten."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..errors import InputFileError
from ..runtime.input_files import read_bytes
from .architectures import blank_model, build_model
from .folder_files import CONFIG, FLOATS, read_json, read_model_files
from .loading import LoadedModel
from .pieces import TOKENIZER, Document, vocabulary, without_others
from .sentence_embeddings import copy_companions
from .tiers import FIELD

SETTINGS = "tokenizer_config.json"
SPECIAL_TOKENS = "special_tokens_map.json"  # names tokens, without their ids
DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16}


def pieces_of_config(config: Mapping[str, Any], document: Document, name: str) -> frozenset[str]:
    """Return the pieces whose ids a model's config names, such as its padding.

    Args:
        config: content of `config.json`.
        document: content of `tokenizer.json`.
        name: name of the model, for messages.

    Raises:
        InputFileError: no piece has an id that the config names.
    """
    by_id = {index: piece for piece, index in vocabulary(document).items()}
    named = set()
    for field, index in _token_ids(config):
        if index not in by_id:
            raise InputFileError(
                f"{name}: config.json: {field} is {index}, which is not an id in {TOKENIZER}. Correct or remove it."
            )
        named.add(by_id[index])
    return frozenset(named)


def write_trimmed(
    loaded: LoadedModel, document: Document, numbers: Mapping[int, int], target: Path, tiers: Sequence[int] = ()
) -> None:
    """Write a model with only the rows of some pieces; weights keep their types, tokenizer and config are rewritten.

    A tensor has a row for each piece if its shape differs in a model with one more piece. Vocabularies in other formats
    (`vocab.txt`, `merges.txt`, a sentencepiece model) are not written, because `tokenizer.json` contains everything.

    Args:
        loaded: the whole model, from a folder.
        document: content of its `tokenizer.json`.
        numbers: new row of each row that is kept, in the order of the new rows.
        target: an empty folder.
        tiers: rows of each tier of the word embedding table; empty leaves it whole.

    Raises:
        InputFileError: a tensor depends on the vocabulary in another way, or a file cannot be read.
    """
    source = loaded.folder
    if source is None:
        raise InputFileError(f"{loaded.name}: has no folder. Save the model with its tokenizer first.")
    larger = copy.deepcopy(loaded.model.config)
    larger.vocab_size += 1
    wider = blank_model(larger, loaded.name)
    config = copy.deepcopy(loaded.model.config)
    config.vocab_size = len(numbers)
    for field, value in _renumbered_ids(config.to_dict(), numbers).items():
        setattr(config, field, value)
    model = build_model(config, loaded.name)
    model.load_state_dict(_cut(loaded, wider, model, list(numbers)))
    model.to(_stored_dtype(source)).save_pretrained(target)
    split = {FIELD: list(tiers)} if tiers else {}
    _write(target / CONFIG, _cut_config(read_json(source / CONFIG), loaded.model.config, numbers) | split)
    _write(target / TOKENIZER, without_others(document, numbers))
    if (source / SETTINGS).exists():
        _write(target / SETTINGS, _cut_settings(read_json(source / SETTINGS), numbers))
    if (source / SPECIAL_TOKENS).exists():
        (target / SPECIAL_TOKENS).write_bytes(read_bytes(source / SPECIAL_TOKENS, 2**20, "a map of special tokens"))
    copy_companions(source, target)


def _cut(loaded: LoadedModel, wider: Any, shorter: Any, rows: Sequence[int]) -> dict[str, torch.Tensor]:
    """Return the tensors of the whole model; those with a row for each piece are cut to some rows.

    Args:
        loaded: the whole model.
        wider: the same model with one more piece.
        shorter: the same model with as many pieces as there are rows.
        rows: the rows to keep, in order.
    """
    index = torch.tensor(rows)
    larger, wanted = ({n: t.shape for n, t in model.state_dict().items()} for model in (wider, shorter))
    state = {}
    for name, tensor in loaded.model.state_dict().items():
        cut = tensor if tensor.shape == larger.get(name) else tensor[index]
        if cut.shape != wanted.get(name):
            raise InputFileError(
                f"{loaded.name}: {name} has shape {tuple(tensor.shape)}, which depends on the vocabulary in an unknown "
                "way. Keep its vocabulary."
            )
        state[name] = cut
    return state


def _stored_dtype(source: Path) -> torch.dtype:
    """Return the type of all weights in a folder; if they differ, float32, which can represent all of them."""
    found = {tensor.dtype for tensor in read_model_files(source).tensors.values() if tensor.dtype in FLOATS}
    return DTYPES.get(found.pop(), torch.float32) if len(found) == 1 else torch.float32


def _token_ids(config: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return the fields of a config that name tokens by id, with each id."""
    pairs = []
    for field, value in config.items():
        if field.endswith("_token_id") and value is not None:
            pairs += [(field, index) for index in (value if isinstance(value, list) else [value])]
    return pairs


def _renumbered_ids(config: Mapping[str, Any], numbers: Mapping[int, int]) -> dict[str, Any]:
    """Return the fields of a config that name tokens by id, with the new ids."""
    fields = {field: config[field] for field, _ in _token_ids(config)}
    return {
        field: [numbers[index] for index in value] if isinstance(value, list) else numbers[value]
        for field, value in fields.items()
    }


def _cut_config(config: dict[str, Any], built: Any, numbers: Mapping[int, int]) -> dict[str, Any]:
    return (
        config | _renumbered_ids(config, numbers) | {built.attribute_map.get("vocab_size", "vocab_size"): len(numbers)}
    )


def _cut_settings(settings: dict[str, Any], numbers: Mapping[int, int]) -> dict[str, Any]:
    added = settings.get("added_tokens_decoder")
    if added is None:
        return settings
    return settings | {"added_tokens_decoder": {str(numbers[int(old)]): token for old, token in added.items()}}


def _write(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False), encoding="utf-8")
