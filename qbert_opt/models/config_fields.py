"""Fields of a model's `config.json` that transformers accepts unchecked, only to fail later without naming them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers.activations import ACT2FN

from ..errors import InputFileError

SIZES = (
    "dim", "embedding_size", "hidden_dim", "hidden_size", "intermediate_size", "max_position_embeddings", "n_heads",
    "n_layers", "num_attention_heads", "num_hidden_layers", "type_vocab_size", "vocab_size",
)  # fmt: skip
MAY_BE_ZERO = ("max_position_embeddings", "type_vocab_size")
ACTIVATIONS = ("activation", "hidden_act", "hidden_activation")


def check_fields(config: Mapping[str, Any], name: str) -> None:
    """Check the class, the sizes, the activation and the label names of a config.

    Args:
        config: `config.json` as it is in the folder.
        name: what the user called the model.

    Raises:
        InputFileError: names the first field that is wrong, and what is legal.
    """
    where = f"{name}: config.json"
    architectures = config.get("architectures")
    if architectures is not None and not (
        isinstance(architectures, list) and all(isinstance(entry, str) for entry in architectures)
    ):
        raise InputFileError(f"{where}: architectures is {architectures!r}. Give a list with one class name.")
    for field in SIZES:
        value = config.get(field)
        least = 0 if field in MAY_BE_ZERO else 1
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
            raise InputFileError(f"{where}: {field} is {value!r}. Give a whole number, at least {least}.")
    for field in ACTIVATIONS:
        value = config.get(field)
        if value is not None and (not isinstance(value, str) or value not in ACT2FN):
            raise InputFileError(f"{where}: {field} is {value!r}. Legal: {', '.join(sorted(ACT2FN))}.")
    for field in ("id2label", "label2id"):
        value = config.get(field)
        if value is not None and not isinstance(value, dict):
            raise InputFileError(f"{where}: {field} is a {type(value).__name__}. Give an object, one entry per output.")
