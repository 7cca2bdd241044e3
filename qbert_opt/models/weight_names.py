"""Which tensors of the weight files a model uses: all, or those left over are named and judged."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

from ..errors import InputFileError
from .folder_files import FLOATS, ModelFiles
from .heads import KINDS
from .samples import OutputKind

WRAPPERS = ("_orig_mod.", "module.", "model.")  # torch.compile, DistributedDataParallel, training frameworks
INDEX_BUFFERS = ("position_ids", "rotary_emb.inv_freq")  # follow from the config; older versions wrote them down
ADAPTER_PARTS = re.compile(r"lora_|adapter|\bia3_|base_layer|modules_to_save|base_model\.model")
PRETRAINING_HEADS = re.compile(  # of these a fine-tuned model needs none
    r"^(\w+\.)?(pooler|cls\.predictions|cls\.seq_relationship|lm_head|lm_predictions|predictions|sop_classifier"
    r"|vocab_\w+|discriminator_predictions|generator_predictions|generator_lm_head|mask_predictions"
    r"|embeddings\.position_embeddings)\b"
)
HEAD_CLASSES = {
    r"(^|\.)qa_outputs\.": "ForQuestionAnswering",
    r"(^|\.)(classifier|pre_classifier|score|classification_head)\.": "ForSequenceClassification",
    r"(^|\.)(cls\.predictions|lm_head|predictions|vocab_\w+|lm_predictions)\b": "ForMaskedLM",
}


def wrapper_prefix(names: Iterable[str], base_prefix: str) -> str:
    """Return what a wrapper put before the name of every tensor, `_orig_mod.` for example; empty where nothing.

    Args:
        names: of all tensors.
        base_prefix: what the model itself puts before its encoder's names.
    """
    found, names = "", list(names)
    wrappers = [wrapper for wrapper in WRAPPERS if wrapper != f"{base_prefix}."]
    while added := next((w for w in wrappers if names and all(n.startswith(found + w) for n in names)), None):
        found += added
    return found


def check_sizes(files: ModelFiles, blank: Any) -> None:
    """Check that the weights can be the model's, before memory is taken for it.

    Args:
        files: headers of the weight files.
        blank: the model without memory for its weights.

    Raises:
        InputFileError: a model that is far larger than what the files hold, or weights that are no floats.
    """
    if not files.tensors:
        raise InputFileError(f"{files.name}: its weight file holds no tensors. Save the model anew.")
    stored = sum(math.prod(tensor.shape) for tensor in files.tensors.values())
    wanted = sum(parameter.numel() for parameter in blank.parameters())
    if wanted > 2 * stored + 10**6:
        raise InputFileError(
            f"{files.name}: config.json describes a model of {wanted:,} weights, and the files hold {stored:,}. "
            "Put the config and the weights of one model together."
        )
    for name, tensor in files.tensors.items():
        if tensor.dtype not in FLOATS and not name.endswith(INDEX_BUFFERS) and name.endswith((".weight", ".bias")):
            raise InputFileError(
                f"{files.name}: {name} is stored as {tensor.dtype}; weights are read as {', '.join(FLOATS)}. Give the "
                "float model that it was made from."
            )


def check_names(
    files: ModelFiles, model: Any, info: dict[str, Any], kind: OutputKind, prefix: str, *, encoder_only: bool
) -> str | None:
    """Check that every tensor of the files has its place in the model and the other way round.

    Args:
        files: what the folder holds.
        model: the loaded model.
        info: transformers' report of loading it.
        kind: what the model answers with.
        prefix: what was taken off the tensors' names.
        encoder_only: whether heads in the files are meant to be left out (sentence-transformers folders).

    Returns:
        One line about tensors that are not used, and need not be; None where all are.

    Raises:
        InputFileError: a tensor that is missing, of another shape, or would be dropped.
    """
    for name, stored, wanted in sorted(info["mismatched_keys"]):
        raise InputFileError(
            f"{files.name}: {name} has shape {tuple(stored)} in the file, and config.json makes it {tuple(wanted)} "
            f"({len(info['mismatched_keys'])} such in all). Put the config and the weights of one model together."
        )
    unused = _unused(files, model, info, prefix)
    adapters = [name for name in unused if ADAPTER_PARTS.search(name)]
    if adapters:
        raise InputFileError(
            f"{files.name}: {adapters[0]} belongs to an adapter that would not be used ({len(adapters)} such tensors). "
            "Merge it into the model (peft's merge_and_unload) and save."
        )
    missing = sorted(name for name in info["missing_keys"] if not name.startswith(KINDS[kind].spare_weights))
    if missing:
        extra = f"; the file has {unused[0]} instead" if unused else ""
        raise InputFileError(
            f"{files.name}: weight {missing[0]} is missing ({len(missing)} in all{extra}). Save the model anew."
        )
    leftover = [name for name in unused if PRETRAINING_HEADS.search(name)]
    if kind == "embeddings" and not encoder_only:
        leftover = [name for name in leftover if not _head_class(name)]
    elif encoder_only:
        leftover += [name for name in unused if _head_class(name)]
    strange = sorted(set(unused) - set(leftover))
    if strange:
        ending = _head_class(strange[0])
        remedy = f"If it is the head of a …{ending}, write that class into" if ending else "Correct the class in"
        raise InputFileError(
            f"{files.name}: {strange[0]} ({len(strange)} such tensors) has no place in a {type(model).__name__}. "
            f"{remedy} config.json's architectures, or save without it."
        )
    if not leftover:
        return None
    return (
        f"{files.name}: {', '.join(leftover[:3])}{' …' if len(leftover) > 3 else ''} ({len(leftover)} tensors) not used"
    )


def _unused(files: ModelFiles, model: Any, info: dict[str, Any], prefix: str) -> list[str]:
    """Tensors without a place in the model, those that transformers passes over in silence included."""
    ignored = model._keys_to_ignore_on_load_unexpected or ()
    places = set(model.state_dict())
    base = f"{model.base_model_prefix}."
    silent = {
        name
        for name in (stored.removeprefix(prefix) for stored in files.tensors)
        if any(re.search(pattern, name) for pattern in ignored)
        and not {name, base + name, name.removeprefix(base)} & places
    }
    unused = silent | set(info["unexpected_keys"])
    return sorted(name for name in unused if not name.endswith(INDEX_BUFFERS))


def _head_class(name: str) -> str | None:
    return next((ending for pattern, ending in HEAD_CLASSES.items() if re.search(pattern, name)), None)
