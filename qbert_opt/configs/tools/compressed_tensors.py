"""compressed-tensors (`.json`: a `quantization_config`) and llm-compressor (`.yaml`: a recipe): the same groups.

Row groups are expressed by strategy `block`, with blocks as wide as the matrix.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import yaml

from ...spec.allocation import Allocation
from ...spec.planned import PlannedMatrix
from ...spec.profiles import ModelProfile
from ..offers import Carried, Offer, by_offer, of_matrix, ranges, row_ranges

TITLE = "compressed-tensors / llm-compressor"
SUFFIXES = (".json", ".yaml")
DECODERS = True
ROUNDING = "to the nearest code of a min-max range; the recipe can name GPTQModifier instead of QuantizationModifier"
NOTES = (
    "Load: QuantizationConfig.model_validate(json.loads(text)) and apply_quantization_config(model, config); "
    "the recipe by llmcompressor.oneshot.",
)


def offers(matrix: PlannedMatrix) -> Iterable[Offer]:
    """2 to 8 bits, any grouping of rows or inputs, with or without an int8 zero point."""
    return ranges(matrix, range(2, 9), any_rows=True, group_bits=lambda bits, form: 16 if form == "symmetric" else 24)


def write(plan: Allocation, carried: Sequence[Carried], suffix: str) -> str:
    """Write one config group per format; targets are exact names."""
    groups = {}
    for index, ((scheme, _), modules) in enumerate(_schemes(plan, carried).items()):
        groups[f"group_{index}"] = {"targets": modules, "weights": json.loads(scheme)}
    if suffix == ".yaml":
        recipe = {"quant_stage": {"quant_modifiers": {"QuantizationModifier": {"config_groups": groups}}}}
        return yaml.safe_dump(recipe, sort_keys=False)
    config = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "initialized",
        "config_groups": groups,
        "ignore": [],
    }
    return json.dumps(config, indent=1) + "\n"


def read(content: Any, profile: ModelProfile, suffix: str) -> dict[str, Offer]:
    """Read groups whose targets are names or `re:` patterns; the first group that matches a matrix applies."""
    if suffix == ".yaml":
        [content] = content["quant_stage"]["quant_modifiers"].values()
    offers = {}
    for matrix in profile.matrices:
        for group in content["config_groups"].values():
            if any(_matches(target, matrix.module) for target in group["targets"]):
                offers[matrix.module] = _offer(group["weights"], matrix.module, profile)
                break
    return offers


def _schemes(plan: Allocation, carried: Sequence[Carried]) -> dict[tuple[str, str], list[str]]:
    modules_by_scheme: dict[tuple[str, str], list[str]] = {}
    for offer, modules in by_offer(carried).items():
        for module in modules:
            scheme = json.dumps(_weights(offer, of_matrix(plan, module)))
            modules_by_scheme.setdefault((scheme, offer.grouping), []).append(module)
    return modules_by_scheme


def _weights(offer: Offer, matrix: PlannedMatrix) -> dict[str, Any]:
    axis, _, size = offer.grouping.partition(":")
    weights: dict[str, Any] = {"num_bits": offer.bits, "type": "int", "symmetric": offer.form == "symmetric"}
    if axis == "columns":
        return weights | {"strategy": "group", "group_size": int(size)}
    if size in ("1", "each"):
        return weights | {"strategy": "channel" if size == "each" else "tensor"}
    return weights | {"strategy": "block", "block_structure": [matrix.group_size, matrix.columns]}


def _offer(weights: dict[str, Any], module: str, profile: ModelProfile) -> Offer:
    readers: dict[str, Callable[[], str]] = {
        "channel": lambda: "rows:each",
        "tensor": lambda: "rows:1",
        "group": lambda: f"columns:{weights['group_size']}",
        "block": lambda: row_ranges(profile, module, weights["block_structure"][0]),
    }
    grouping = readers[weights["strategy"]]()
    if weights["symmetric"]:
        return Offer(weights["num_bits"], grouping, "symmetric", 16)
    return Offer(weights["num_bits"], grouping, "zero-point", 24)


def _matches(target: str, module: str) -> bool:
    if target.startswith("re:"):
        return re.match(target.removeprefix("re:"), module) is not None
    return target in (module, "Linear")
