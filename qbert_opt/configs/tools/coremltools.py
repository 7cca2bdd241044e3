"""coremltools: the YAML of a `PostTrainingPalettizerConfig`, mixed widths by module name.

A palette is a codebook of 2^bits fp16 values for a group of rows. It matches Q-BERT's row groups exactly, but with
arbitrary values instead of a uniform grid. Group-wise ranges of inputs are not supported.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import yaml

from ...spec.allocation import Allocation
from ...spec.planned import PlannedMatrix
from ...spec.profiles import ModelProfile
from ..offers import Carried, Offer, ranges, row_ranges

TITLE = "Apple coremltools (mixed palettization)"
SUFFIXES = (".yaml",)
ROUNDING = "to the nearest value of a k-means codebook"
NOTES = (
    "Load: PostTrainingPalettizerConfig.from_yaml(file) and PostTrainingPalettizer(model, config).compress().",
    "A codebook per group costs 2^bits fp16 values: many small groups at many bits grow the file.",
)
BITS = (1, 2, 3, 4, 6, 8)


def offers(matrix: PlannedMatrix) -> Iterable[Offer]:
    """2, 3, 4, 6 or 8 bits, one codebook per matrix, per group of rows or per row."""
    return ranges(
        matrix,
        BITS[1:],
        any_rows=True,
        columns=(),
        forms=("codebook",),
    )


def write(plan: Allocation, carried: Sequence[Carried], suffix: str) -> str:
    """Write one entry per module name."""
    entries = {item.matrix.module: _entry(item) for item in carried}
    return yaml.safe_dump({"module_name_configs": entries}, sort_keys=False)


def read(content: Any, profile: ModelProfile, suffix: str) -> dict[str, Offer]:
    """Read entries by module name."""
    by_module = {}
    for module, entry in content["module_name_configs"].items():
        whole = entry.get("granularity", "per_tensor") == "per_tensor"
        grouping = "rows:1" if whole else row_ranges(profile, module, entry["group_size"])
        bits = entry["n_bits"]
        if bits not in BITS:
            raise ValueError(f"{module}: n_bits {bits!r}; legal: {', '.join(map(str, BITS))}")
        by_module[module] = Offer(bits, grouping, form="codebook")
    return by_module


def _entry(item: Carried) -> dict[str, Any]:
    size = item.offer.grouping.partition(":")[2]
    if size == "1":
        return {"n_bits": item.offer.bits, "granularity": "per_tensor"}
    rows = 1 if size == "each" else item.matrix.group_size
    return {"n_bits": item.offer.bits, "granularity": "per_grouped_channel", "group_size": rows, "channel_axis": 0}
