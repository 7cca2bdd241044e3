"""AutoRound: the JSON of `layer_config`, module name -> bits, group size, symmetric."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from ...spec.allocation import Allocation
from ...spec.planned import PlannedMatrix
from ...spec.profiles import ModelProfile
from ..offers import Carried, Offer, ranges

TITLE = "AutoRound"
SUFFIXES = (".json",)
DECODERS = True
TRANSPOSED = True
ROUNDING = "to codes tuned by signed gradient descent"
NOTES = (
    "Load: AutoRound(model, tokenizer, layer_config=json.loads(text)). "
    "Group size -1 means one range per row, 0 one range per matrix.",
)
SIZES = {"rows:1": 0, "rows:each": -1}


def offers(matrix: PlannedMatrix) -> Iterator[Offer]:
    """2, 3, 4 bits with or without a zero point, 8 bits without; a range per matrix, row or group of inputs."""
    yield from ranges(matrix, (2, 3, 4))
    yield from ranges(matrix, (8,), forms=("symmetric",))


def write(plan: Allocation, carried: Sequence[Carried], suffix: str) -> str:
    """Write one entry for every matrix, since others would get AutoRound's default."""
    return json.dumps({item.matrix.module: _entry(item.offer) for item in carried}, indent=1) + "\n"


def read(content: Any, profile: ModelProfile, suffix: str) -> dict[str, Offer]:
    """Read integer entries."""
    return {module: _offer(entry) for module, entry in content.items() if entry["bits"] < 16}


def _entry(offer: Offer) -> dict[str, object]:
    size = SIZES[offer.grouping] if offer.grouping in SIZES else int(offer.grouping.partition(":")[2])
    return {
        "bits": offer.bits,
        "group_size": size,
        "sym": offer.form == "symmetric",
        "data_type": "int",
        "act_bits": 16,
    }


def _offer(entry: dict[str, object]) -> Offer:
    size = int(str(entry["group_size"]))
    grouping = {0: "rows:1", -1: "rows:each"}.get(size, f"columns:{size}")
    return Offer(int(str(entry["bits"])), grouping, "symmetric" if entry["sym"] else "zero-point")
