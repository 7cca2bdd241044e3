"""NVIDIA ModelOpt: a YAML `quant_cfg` for `modelopt.torch.quantization.quantize`.

A list of rules, of which the last match wins; weights only. Row groups are expressed by two-dimensional blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import yaml

from ...spec.allocation import Allocation
from ...spec.planned import PlannedMatrix
from ...spec.profiles import ModelProfile
from ..offers import Carried, Offer, ranges, row_ranges

TITLE = "NVIDIA ModelOpt"
SUFFIXES = (".yaml",)
DECODERS = True
ROUNDING = "to the nearest code of a range by its algorithm `max`"
NOTES = ("Load: mtq.quantize(model, yaml.safe_load(text), forward_loop). Ranges are symmetric and simulated in torch.",)
SUFFIX = ".weight_quantizer"


def offers(matrix: PlannedMatrix) -> Iterable[Offer]:
    """Any width, any grouping of rows or inputs, symmetric."""
    return ranges(matrix, range(2, 9), any_rows=True, forms=("symmetric",))


def write(plan: Allocation, carried: Sequence[Carried], suffix: str) -> str:
    """Write a rule that disables everything, then one rule per matrix."""
    rules: list[dict[str, Any]] = [{"quantizer_name": "*", "enable": False}]
    for item in carried:
        rules.append({"quantizer_name": item.matrix.module + SUFFIX, "cfg": _config(item)})
    return yaml.safe_dump({"quant_cfg": rules, "algorithm": "max"}, sort_keys=False)


def read(content: Any, profile: ModelProfile, suffix: str) -> dict[str, Offer]:
    """Read rules that name one matrix each; wildcards other than the first `*` are ignored."""
    offers = {}
    for rule in content["quant_cfg"]:
        if not rule["quantizer_name"].endswith(SUFFIX) or not rule.get("enable", True):
            continue
        module, config = rule["quantizer_name"].removesuffix(SUFFIX), rule["cfg"]
        blocks = {int(axis): size for axis, size in (config.get("block_sizes") or {}).items() if str(axis) != "type"}
        if -2 in blocks:
            grouping = row_ranges(profile, module, blocks[-2])
        elif -1 in blocks:
            grouping = f"columns:{blocks[-1]}"
        else:
            grouping = "rows:each" if config.get("axis") == 0 else "rows:1"
        offers[module] = Offer(config["num_bits"], grouping, "symmetric")
    return offers


def _config(item: Carried) -> dict[str, Any]:
    matrix, offer = item.matrix, item.offer
    axis, _, size = offer.grouping.partition(":")
    config: dict[str, Any] = {"num_bits": offer.bits}
    if axis == "columns":
        return config | {"block_sizes": {-1: int(size)}}
    if size in ("1", "each"):
        return config | {"axis": 0 if size == "each" else None}
    return config | {"block_sizes": {-1: matrix.columns, -2: matrix.group_size}}
