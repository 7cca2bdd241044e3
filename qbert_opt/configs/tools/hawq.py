"""HAWQ: a `bit_config.py` for its quantization-aware training, module name -> bits; one range per output row."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Sequence
from typing import Any

from ...spec.allocation import Allocation
from ...spec.planned import PlannedMatrix
from ...spec.profiles import ModelProfile
from ..offers import FP16_BITS, Carried, Offer, ranges

TITLE = "HAWQ bit config"
SUFFIXES = (".py",)
ROUNDING = "to the nearest code, refined by quantization-aware training"
NOTES = ("HAWQ's own models are convolutional; the file names this model's modules.",)


def offers(matrix: PlannedMatrix) -> Iterable[Offer]:
    """Any width, a symmetric range per output row (its weights' `per_channel`)."""
    return ranges(matrix, range(2, 9), rows=("rows:each",), columns=(), forms=("symmetric",))


def write(plan: Allocation, carried: Sequence[Carried], suffix: str) -> str:
    """Write one dictionary, named after the model."""
    name = re.sub(r"\W+", "_", plan.profile.name.rstrip("/").rsplit("/", 1)[-1])
    lines = [f"        {item.matrix.module!r}: {item.offer.bits},\n" for item in carried]
    return f"bit_config_dict = {{\n    {f'bit_config_{name}'!r}: {{\n{''.join(lines)}    }},\n}}\n"


def read(content: Any, profile: ModelProfile, suffix: str) -> dict[str, Offer]:
    """Read the literal without running it; the file must contain exactly one config."""
    tree = ast.parse(content)
    [assignment] = [node for node in tree.body if isinstance(node, ast.Assign)]
    configs = ast.literal_eval(assignment.value)
    if len(configs) != 1:
        raise ValueError(f"holds {len(configs)} configs ({', '.join(configs)}); keep one")
    [config] = configs.values()
    return {
        module: Offer(int(bits), "rows:each", form="symmetric", group_bits=FP16_BITS) for module, bits in config.items()
    }
