"""Google AI Edge Quantizer: a recipe of dynamic 8-bit inputs, one entry per matrix and table of a TFLite file.

A recipe is a list; the last entry whose pattern is found in the names of an operation's outputs applies. Our float32
file of an encoder (`export_float`) names the outputs of its linear layers and tables after their modules.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from ...errors import UsageError
from ...spec.allocation import Allocation
from ...spec.planned import PlannedMatrix
from ...spec.profiles import ModelProfile
from ..offers import Carried, Offer

TITLE = "Google AI Edge Quantizer (LiteRT)"
SUFFIXES = (".json",)
OUTERMOST = list
CARRIES_TABLES = True
ROUNDING = "to the nearest code of a min-max range"
NOTES = (
    "Load: quantizer.Quantizer('model.tflite', 'recipe.json').quantize(), on a TFLite file whose operations are named "
    "after the model's modules, such as the float32 file of qbert_opt.workflows.export.export_float.",
    "Blocks are of 32, 64, 128 or 256 inputs and at 4 bits only: LiteRT has no kernel for 2-bit blocks, and the tool "
    "refuses 8-bit ones. Tables have one range per row, and the next of 2, 4 and 8 bits.",
    "For a plan's own codes rather than min-max ones, `export --engine litert` writes the file itself.",
)
WIDTHS = (2, 4, 8)
INPUT_BITS = (8,)
BLOCKS = (32, 64, 128, 256)
ROW_BITS = 96  # a float32 scale, and a zero point of 64 bits although it is 0
PRODUCT, TABLE = "FULLY_CONNECTED", "EMBEDDING_LOOKUP"


def offers(matrix: PlannedMatrix) -> Iterator[Offer]:
    """2, 4 or 8 bits per row, 4 bits in blocks that divide the inputs; no zero point."""
    for bits in WIDTHS:
        yield Offer(bits, "rows:each", "symmetric", ROW_BITS)
    for size in BLOCKS:
        if matrix.columns % size == 0:
            yield Offer(4, f"columns:{size}", "symmetric", 16)


def write(plan: Allocation, carried: Sequence[Carried], suffix: str) -> str:
    """Write one entry per matrix and per table.

    Raises:
        UsageError: a table is in tiers, which a TFLite file holds as one.
    """
    if tier := next((table for table in plan.profile.tables if table.tier_of), None):
        raise UsageError(
            f"{TITLE}: {tier.tier_of} is in tiers, and a TFLite file holds one table with one width. Plan for the "
            "model without tiers."
        )
    entries = [_entry(table.module, TABLE, _width(table.bits), "CHANNELWISE") for table in plan.tables]
    for item in carried:
        axis, _, size = item.offer.grouping.partition(":")
        granularity = f"BLOCKWISE_{size}" if axis == "columns" else "CHANNELWISE"
        entries.append(_entry(item.matrix.module, PRODUCT, item.offer.bits, granularity))
    return json.dumps(entries, indent=1) + "\n"


def read(content: Any, profile: ModelProfile, suffix: str) -> dict[str, Offer]:
    """Read the entries of products; the last one that finds a matrix applies.

    Raises:
        ValueError: static inputs, or ranges that are not symmetric.
    """
    offers: dict[str, Offer] = {}
    for matrix in profile.matrices:
        for entry in content:
            if entry["operation"] in (PRODUCT, "*") and re.search(entry["regex"], f"{matrix.module};"):
                if entry["algorithm_key"] == "no_quantize":
                    offers.pop(matrix.module, None)
                else:
                    offers[matrix.module] = _offer(entry["op_config"])
    return offers


def _entry(module: str, operation: str, bits: int, granularity: str) -> dict[str, Any]:
    """Return an entry; the tool ends each name with a semicolon."""
    weight = {"num_bits": bits, "symmetric": True, "granularity": granularity, "dtype": "INT"}
    return {
        "regex": f"(^|;){re.escape(module)};",
        "operation": operation,
        "algorithm_key": "min_max_uniform_quantize",
        "op_config": {
            "weight_tensor_config": weight,
            "compute_precision": "INTEGER",
            "explicit_dequantize": False,
            "skip_checks": False,
            "min_weight_elements": 0,
        },
    }


def _offer(config: dict[str, Any]) -> Offer:
    weight = config["weight_tensor_config"]
    if "activation_tensor_config" in config:
        raise ValueError("activation_tensor_config: static inputs are no part of what a matrix is stored as")
    if not weight.get("symmetric", True) or weight.get("dtype", "INT") != "INT":
        raise ValueError("weights must be symmetric integers")
    kind, _, size = weight.get("granularity", "TENSORWISE").partition("_")
    grouping = {"TENSORWISE": "rows:1", "CHANNELWISE": "rows:each", "BLOCKWISE": f"columns:{size}"}[kind]
    return Offer(weight["num_bits"], grouping, "symmetric", 16 if kind == "BLOCKWISE" else ROW_BITS)


def _width(bits: int) -> int:
    """Return the narrowest width that holds so many bits."""
    return next(width for width in WIDTHS if width >= bits)
