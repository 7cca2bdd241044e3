r"""GPTQModel: a `quantize_config.json` whose `dynamic` rules name one matrix each.

A rule is a regular expression: `+:^name$` overrides the defaults, `-:name` leaves a module alone.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from ...spec.allocation import Allocation
from ...spec.planned import PlannedMatrix
from ...spec.profiles import ModelProfile
from ..offers import COLUMN_SIZES, Carried, Offer, ranges

TITLE = "GPTQModel"
SUFFIXES = (".json",)
DECODERS = True
TRANSPOSED = True
ROUNDING = "to codes compensated as in GPTQ"
NOTES = ("Load: QuantizeConfig.from_quant_config(json.loads(text)). Group size -1 means one range per row.",)


def offers(matrix: PlannedMatrix) -> Iterable[Offer]:
    """2, 3, 4 or 8 bits, one range per row or per group of inputs, with or without a zero point."""
    return ranges(matrix, (2, 3, 4, 8), rows=("rows:each",), columns=COLUMN_SIZES)


def write(plan: Allocation, carried: Sequence[Carried], suffix: str) -> str:
    """Write the most frequent entry as the default, and one rule per matrix."""
    common = Counter(item.offer for item in carried).most_common(1)[0][0]
    rules = {f"+:^{re.escape(item.matrix.module)}$": _entry(item.offer) for item in carried}
    config = {**_entry(common), "quant_method": "gptq", "checkpoint_format": "gptq", "lm_head": False}
    return json.dumps(config | {"dynamic": rules}, indent=1) + "\n"


def read(content: Any, profile: ModelProfile, suffix: str) -> dict[str, Offer]:
    """Apply defaults and rules to the profile's matrices, the first rule that matches a name wins."""
    offers = {}
    for matrix in profile.matrices:
        entry = dict(content)
        for rule, override in content.get("dynamic", {}).items():
            if re.match(rule.removeprefix("+:").removeprefix("-:"), matrix.module):
                entry = {} if rule.startswith("-:") else entry | override
                break
        if entry:
            size = entry["group_size"]
            grouping = "rows:each" if size == -1 else f"columns:{size}"
            offers[matrix.module] = Offer(
                entry["bits"], grouping, "symmetric" if entry.get("sym", True) else "zero-point"
            )
    return offers


def _entry(offer: Offer) -> dict[str, object]:
    axis, _, size = offer.grouping.partition(":")
    return {"bits": offer.bits, "group_size": int(size) if axis == "columns" else -1, "sym": offer.form == "symmetric"}
