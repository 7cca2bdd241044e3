"""Intel NNCF: calls of `nncf.compress_weights` on an OpenVINO model, one per format, with everything else ignored.

NNCF supports one low precision and one backup precision per call; weights that are already compressed stay unchanged.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from ...spec.allocation import Allocation
from ...spec.planned import PlannedMatrix
from ...spec.profiles import ModelProfile
from ..offers import FP16_BITS, Carried, Offer, by_offer, ranges

TITLE = "Intel NNCF (OpenVINO)"
SUFFIXES = (".json",)
ROUNDING = "to the nearest code of a min-max range"
NOTES = (
    "Load: for each entry nncf.compress_weights(model, mode=CompressWeightsMode(entry['mode']), "
    "ignored_scope=IgnoredScope(names=..., types=..., validate=False), ...) on the OpenVINO model that "
    "openvino.convert_model returns for the torch model.",
    "2 bits have no zero point in NNCF. 3 bits become 4: NNCF 3.4 writes 3-bit weights, but cannot be called again on "
    "a model that contains them.",
)


def offers(matrix: PlannedMatrix) -> Iterator[Offer]:
    """2 bits symmetric and 4 bits with or without zero point, per row or group of inputs; 8 bits per row."""
    yield from ranges(matrix, (2,), rows=("rows:each",), forms=("symmetric",))
    yield from ranges(matrix, (4,), rows=("rows:each",))
    yield Offer(8, "rows:each", "zero-point", FP16_BITS + 8)
    yield Offer(8, "rows:each", "symmetric", FP16_BITS)


def write(plan: Allocation, carried: Sequence[Carried], suffix: str) -> str:
    """Write one call per format; `ignored_scope` names every other linear layer of the model."""
    everything = [m.module for m in plan.matrices] + [head.module for head in plan.profile.head]
    calls = []
    for offer, modules in by_offer(carried).items():
        chosen = set(modules)
        call: dict[str, object] = {"mode": f"int{offer.bits}_{'sym' if offer.form == 'symmetric' else 'asym'}"}
        if offer.bits < 8:
            axis, _, size = offer.grouping.partition(":")
            call |= {"group_size": int(size) if axis == "columns" else -1, "ratio": 1.0, "all_layers": True}
            call |= {"backup_mode": "none"}
        ignored = [node for module in everything if module not in chosen for node in _nodes(module)]
        call["ignored_scope"] = {"names": ignored, "types": ["Gather"], "validate": False}
        calls.append(call | {"applies_to": modules})
    return json.dumps({"compress_weights": calls}, indent=1) + "\n"


def read(content: Any, profile: ModelProfile, suffix: str) -> dict[str, Offer]:
    """Read the calls; each applies to the matrices that it does not ignore and that no earlier call has compressed."""
    offers: dict[str, Offer] = {}
    for call in content["compress_weights"]:
        width, _, kind = call["mode"].removeprefix("int").partition("_")
        size = call.get("group_size", -1)
        grouping = "rows:each" if size == -1 else f"columns:{size}"
        ignored = set(call["ignored_scope"]["names"])
        for matrix in profile.matrices:
            if matrix.module not in offers and not ignored & set(_nodes(matrix.module)):
                offers[matrix.module] = Offer(int(width), grouping, "symmetric" if kind == "sym" else "zero-point")
    return offers


def _nodes(module: str) -> tuple[str, str]:
    """Names of a linear layer in OpenVINO: with a fused bias, its last node is an addition."""
    return f"__module.{module}/aten::linear/MatMul", f"__module.{module}/aten::linear/Add"
