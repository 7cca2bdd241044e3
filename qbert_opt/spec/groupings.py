"""The groupings of a weight matrix: which weights share a range.

- `rows:N`: Q-BERT's group-wise quantization (Shen et al. 2020, section 3.2): the output rows are cut into N groups of
  consecutive rows, and each group shares one range. `rows:heads` is one group per attention head, `rows:each` one per
  row (per-channel).
- `columns:G`: G consecutive inputs of one output row share a range, as in GPTQ, OpenVINO and ONNX Runtime.
"""

from __future__ import annotations

from ..errors import UsageError
from ..runtime.plain_text import whole_number

LEGAL_GROUPINGS = "rows:N, rows:heads, rows:each, columns:N"


def num_groups(grouping: str, rows: int, columns: int, *, heads: int) -> int:
    """Return the number of ranges that a grouping gives a matrix.

    Args:
        grouping: `rows:N`, `rows:heads`, `rows:each` or `columns:G`.
        rows: outputs of the matrix.
        columns: inputs of the matrix.
        heads: attention heads of the model, for `rows:heads`.

    Raises:
        UsageError: the groups do not divide the matrix; the message lists the sizes that do.
    """
    axis, _, size = grouping.partition(":")
    number = {"heads": heads, "each": rows}.get(size) or int(size)
    length, what = (columns, "inputs") if axis == "columns" else (rows, "output rows")
    if length % number:
        divisors = [d for d in range(1, min(length, 1024) + 1) if length % d == 0]
        raise UsageError(
            f"grouping {grouping}: {number} does not divide {length} {what}. Divisors: {', '.join(map(str, divisors))}."
        )
    return rows * columns // number if axis == "columns" else number


def parse_groupings(text: str, option: str = "--groupings") -> tuple[str, ...]:
    """Parse groupings such as `rows:128,columns:64`.

    Args:
        text: comma-separated groupings: `rows:N`, `rows:heads`, `rows:each` or `columns:N`.
        option: name of the option, for error messages.

    Raises:
        UsageError: a part of the text is not a grouping.
    """
    groupings = []
    for part in (p.strip() for p in text.split(",")):
        axis, _, size = part.partition(":")
        named, number = size in ("heads", "each") and axis == "rows", whole_number(size)
        if axis not in ("rows", "columns") or not (named or number):
            raise UsageError(f"{option} {text}: {part!r} is not a grouping. Legal: {LEGAL_GROUPINGS}.")
        groupings.append(part if named else f"{axis}:{number}")
    return tuple(dict.fromkeys(groupings))
