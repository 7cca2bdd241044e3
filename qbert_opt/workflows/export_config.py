"""Convert plans to other tools' configs; what a tool cannot represent is reported with its cost."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..configs.offers import Carried, nearest
from ..configs.tool import ConfigTool, check_takes
from ..errors import UsageError
from ..spec.allocation import Allocation
from ..spec.plan_scores import check_scores
from ..spec.scores import ScoreTable
from .nearest_score import nearest_scored

if TYPE_CHECKING:
    pass

WORDS = {
    "offset": "an fp16 offset",
    "symmetric": "no offset (around zero)",
    "signed": "no offset (two's-complement integers)",
    "zero-point": "an integer zero point",
    "codebook": "a codebook",
    "ternary": "no offset (three levels, five codes a byte)",
}


@dataclass(frozen=True, slots=True)
class Cost:
    """Predicted loss of a plan as another tool stores it.

    Attributes:
        planned_loss: sum of scores of the plan.
        carried_loss: the same with the tool's nearest choices, rounded by our quantizer.
        stand_ins: (choice that was not scored, scored choice whose loss is used instead) -> number of matrices.
    """

    planned_loss: float
    carried_loss: float
    stand_ins: Mapping[tuple[str, str], int]


@dataclass(frozen=True, slots=True)
class Export:
    """A plan as another tool's config.

    Attributes:
        tool: the tool's module.
        text: the config.
        carried: how the tool stores each matrix.
        planned_bytes: size of the encoder's matrices as planned.
        tool_bytes: their size as the tool stores them.
    """

    tool: ConfigTool
    text: str
    carried: tuple[Carried, ...]
    planned_bytes: int
    tool_bytes: int

    @property
    def changes(self) -> Counter[str]:
        """Descriptions of the differences to the plan, with the number of matrices affected."""
        return Counter(change for item in self.carried for change in _changes(item))


def export_plan(plan: Allocation, tool: ConfigTool, suffix: str) -> Export:
    """Convert a plan to a tool's config, with the tool's nearest format for each matrix.

    Args:
        plan: the plan.
        tool: a module of `configs/tools`.
        suffix: file extension, which selects one of the tool's formats.

    Returns:
        The config, and how the tool stores each matrix.

    Raises:
        UsageError: the tool does not read this file extension, cannot store a matrix at all, or rounds inputs to other
            widths than the plan.
    """
    if suffix not in tool.SUFFIXES:
        raise UsageError(
            f"`output`: {tool.TITLE} writes {', '.join(tool.SUFFIXES)}; found the file extension {suffix!r}."
        )
    check_takes(tool, plan.profile)
    if plan.dropped is not None or plan.dropped_heads is not None:
        what = "layers" if plan.dropped is not None else "attention heads"
        raise UsageError(
            f"{tool.TITLE}: quantizes the whole model, and the plan leaves {what} out of it. Plan without "
            f"`{'allow_drop' if plan.dropped is not None else 'allow_drop_heads'}`."
        )
    _check_inputs(plan, tool)
    carried, tool_bytes = [], 0
    for matrix, spec in zip(plan.matrices, plan.profile.matrices, strict=True):
        heads = plan.profile.heads_of(spec)
        offer = nearest(tool.offers(matrix), matrix, heads)
        if offer is None:
            raise UsageError(
                f"{matrix.module}: {tool.TITLE} has no format for {matrix.rows} × {matrix.columns} weights. "
                "Choose another tool."
            )
        carried.append(Carried(matrix, offer))
        tool_bytes += offer.bytes(matrix.rows, matrix.columns, heads=heads)
    return Export(
        tool=tool,
        text=tool.write(plan, carried, suffix),
        carried=tuple(carried),
        planned_bytes=plan.encoder_bytes,
        tool_bytes=tool_bytes,
    )


def export_cost(export: Export, plan: Allocation, scores: ScoreTable) -> Cost:
    """Return the predicted loss of a plan as a tool stores it.

    Args:
        export: the converted plan.
        plan: the plan.
        scores: the table that the plan was solved from.

    Raises:
        InputFileError: the scores are for another model, or not those that the plan was solved from.
    """
    check_scores(plan, scores)
    values, stand_ins, loss = scores.values(), Counter[tuple[str, str]](), []
    for row, item in enumerate(export.carried):
        choice = item.offer.as_choice(item.matrix.method)
        column = nearest_scored(scores, row, choice, item.matrix.module)
        if scores.choices[column] != choice.name:
            stand_ins[(choice.name, scores.choices[column])] += 1
        loss.append(float(values[row, column]))
    loss += [table.predicted_loss or 0.0 for table in plan.tables]  # tables and inputs stay as planned
    loss += [item.predicted_loss for item in plan.activations]
    return Cost(plan.sum_of_scores, math.fsum(loss), stand_ins)


def _check_inputs(plan: Allocation, tool: ConfigTool) -> None:
    """Raise UsageError for an input in a width that a tool does not have, if it rounds inputs at all."""
    held: tuple[int, ...] | None = getattr(tool, "INPUT_BITS", None)
    other = next((item for item in plan.activations if held is not None and item.bits not in held), None)
    if held is not None and other is not None:
        raise UsageError(
            f"{other.modules[0]}: its inputs have {other.bits} bits; {tool.TITLE} rounds inputs to "
            f"{' or '.join(map(str, held))}. Plan with `activation_bits` {','.join(map(str, held))}, or none."
        )


def _changes(item: Carried) -> Sequence[str]:
    matrix, offer = item.matrix, item.offer
    changes = []
    if offer.bits != matrix.bits:
        changes.append(f"{matrix.bits} bits become {offer.bits}")
    if offer.grouping != matrix.grouping:
        changes.append(f"groups {matrix.grouping} become {offer.grouping}")
    if offer.form != matrix.form:
        changes.append(f"ranges with {WORDS[matrix.form]} become ranges with {WORDS[offer.form]}")
    if matrix.residency == "resident":
        changes.append("residency on chip cannot be expressed in the tool")
    return changes
