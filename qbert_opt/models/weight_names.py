"""Check that a model uses every tensor of its weight files, and that the rest can be ignored."""

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
INDEX_BUFFERS = (  # derived from the config; older versions saved them
    "position_ids", "rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias",
)  # fmt: skip
ADAPTER_PARTS = re.compile(r"lora_|adapter|\bia3_|base_layer|modules_to_save|base_model\.model")
PRETRAINING_HEADS = re.compile(  # not needed by a fine-tuned model
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
    """Return the prefix that a wrapper added to the name of every tensor, for example `_orig_mod.`; else empty.

    Args:
        names: names of all tensors.
        base_prefix: the model's own prefix for its encoder.
    """
    prefix, names = "", list(names)
    wrappers = [wrapper for wrapper in WRAPPERS if wrapper != f"{base_prefix}."]
    while added := next((w for w in wrappers if names and all(n.startswith(prefix + w) for n in names)), None):
        prefix += added
    return prefix


def check_sizes(files: ModelFiles, blank: Any) -> None:
    """Check that the weights can belong to the model, before memory for it is allocated.

    Args:
        files: headers of the weight files.
        blank: the model on the meta device.

    Raises:
        InputFileError: the model is far larger than the files, or weights are not floating-point.
    """
    if not files.tensors:
        raise InputFileError(f"{files.name}: its weight file holds no tensors. Save the model again.")
    stored = sum(math.prod(tensor.shape) for tensor in files.tensors.values())
    described = sum(parameter.numel() for parameter in blank.parameters())
    if described > 2 * stored + 10**6:
        raise InputFileError(
            f"{files.name}: config.json describes a model of {described:,} weights, and the files hold {stored:,}. "
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
    """Check that the tensors of the files and of the model correspond.

    Args:
        files: contents of the folder.
        model: the loaded model.
        info: transformers' report of loading it.
        kind: kind of the model's outputs.
        prefix: prefix that was removed from the tensors' names before loading, see `wrapper_prefix`.
        encoder_only: whether a head in the files may be ignored (sentence-transformers folders).

    Returns:
        A line about tensors that are harmlessly unused; None if all are used.

    Raises:
        InputFileError: a tensor is missing, has another shape, or would be dropped although it matters.
    """
    for name, stored, expected in sorted(info["mismatched_keys"]):
        raise InputFileError(
            f"{files.name}: {name} has shape {tuple(stored)} in the file, and config.json makes it {tuple(expected)} "
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
            f"{files.name}: weight {missing[0]} is missing ({len(missing)} in all{extra}). Save the model again."
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
    """Return the tensors that the model does not use, including those that transformers ignores silently."""
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
