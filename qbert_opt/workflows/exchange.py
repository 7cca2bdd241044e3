"""Convert plans to other tools' configs and back; what a tool cannot represent is reported with its cost."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..configs.offers import Carried, Offer, checked, nearest
from ..configs.tool import ConfigTool, check_takes, parse_config
from ..costs.operations import Storage
from ..costs.phases import simulate_phases
from ..costs.workload import Workload, in_phase
from ..errors import InfeasibleError, InputFileError, UsageError
from ..planning.assembly import Proof, assemble
from ..planning.planner import allocation_of
from ..planning.program import PlanningTask
from ..planning.solving import SolverOptions
from ..planning.task_solver import solve_task
from ..runtime.files import MAX_JSON_BYTES
from ..runtime.input_files import decode_text, quoted, read_bytes
from ..spec.allocation import Allocation
from ..spec.choices import Choice
from ..spec.limits import Limits
from ..spec.plan_scores import check_scores
from ..spec.profiles import MatrixSpec
from ..spec.scores import ScoreTable
from ..spec.tables import TABLE_METHOD

if TYPE_CHECKING:
    from hwmodels import Device

TABLE_AS_SCORED = Choice(8, "rows:each", TABLE_METHOD)  # of tables, which other tools' configs leave out
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


@dataclass(frozen=True, slots=True)
class Import:
    """Another tool's plan.

    Attributes:
        plan: in the tool's own bits, groups and forms, with the losses of the nearest scored choices.
        tool_bytes: size of the encoder's matrices as the tool stores them.
        stand_ins: (choice that was not scored, scored choice whose loss is used instead) -> number of matrices.
    """

    plan: Allocation
    tool_bytes: int
    stand_ins: Mapping[tuple[str, str], int]


def export_plan(plan: Allocation, tool: ConfigTool, suffix: str) -> Export:
    """Convert a plan to a tool's config, with the tool's nearest format for each matrix.

    Args:
        plan: the plan.
        tool: a module of `configs/tools`.
        suffix: file extension, which selects one of the tool's formats.

    Returns:
        The config, and how the tool stores each matrix.

    Raises:
        UsageError: the tool does not read this file extension, or cannot store a matrix at all.
    """
    if suffix not in tool.SUFFIXES:
        raise UsageError(f"{tool.TITLE}: writes {', '.join(tool.SUFFIXES)}; found the file extension {suffix!r}.")
    check_takes(tool, plan.profile)
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
        column = _scored(scores, row, choice, item.matrix.module)
        if scores.choices[column] != choice.name:
            stand_ins[(choice.name, scores.choices[column])] += 1
        loss.append(float(values[row, column]))
    loss += [table.predicted_loss or 0.0 for table in plan.tables]  # tables and inputs stay as planned
    loss += [item.predicted_loss for item in plan.activations]
    return Cost(plan.sum_of_scores, math.fsum(loss), stand_ins)


def import_plan(
    path: str | Path,
    tool: ConfigTool,
    scores: ScoreTable,
    *,
    rest: Choice | None = None,
    device: Device | None = None,
    workload: Workload | None = None,
) -> Import:
    """Evaluate another tool's plan with our scores and simulator.

    Args:
        path: the tool's config.
        tool: a module of `configs/tools`.
        scores: a table for the same model.
        rest: choice for matrices that the config does not name; without it the config must name all of them.
        device: hardware for which to predict the cost.
        workload: sentences and tokens of one inference.

    Raises:
        InputFileError: the file cannot be read, is not a config of this tool, is for another model, or has bit widths
            that were not scored.
    """
    offers = _read(path, tool, scores)
    matrices = {m.module: m for m in scores.profile.matrices}
    unknown = [module for module in offers if module not in matrices]
    if unknown:
        raise InputFileError(
            f"{path}: names {quoted(unknown[0])} and {len(unknown) - 1} more, not found in {scores.profile.name}. "
            "The plan is for another model, or the scores are."
        )
    stand_ins, storage, priced, tool_bytes = Counter[tuple[str, str]](), {}, {}, 0
    for row, matrix in enumerate(scores.profile.matrices):
        if matrix.module in offers:
            where, heads = f"{path}: {matrix.module}", scores.profile.heads_of(matrix)
            choice = _choice_of(offers[matrix.module], scores.method, matrix, heads, where)
        elif rest is not None:
            choice = rest
        else:
            raise InputFileError(
                f"{path}: does not name {matrix.module}, which therefore stays in floating point. "
                f"Give the rest a choice with `rest`, for example `rest` {scores.choices[-1]}."
            )
        column = _scored(scores, row, choice, f"{path}: {matrix.module}")
        if scores.choices[column] != choice.name:
            stand_ins[(choice.name, scores.choices[column])] += 1
        storage[matrix.module], priced[matrix.module] = Storage(choice), scores.grid()[column]
        stored = offers.get(matrix.module, choice)
        tool_bytes += stored.bytes(matrix.rows, matrix.columns, heads=scores.profile.heads_of(matrix))
    if scores.tables is not None and TABLE_AS_SCORED.name in scores.tables.choices:  # the loss then includes them
        storage |= {module: Storage(TABLE_AS_SCORED) for module in scores.tables.modules}
    workload = in_phase(scores.profile, workload or Workload())
    report, token = (None, None) if device is None else simulate_phases(scores.profile, storage, device, workload)
    proof = Proof("unproven", f"imported from {tool.TITLE}: {Path(path).name}")
    return Import(assemble(scores, storage, proof, report, workload, priced=priced, token=token), tool_bytes, stand_ins)


def best_within(imported: Import, scores: ScoreTable) -> Allocation | None:
    """Return our best plan with at most as many encoder bytes and total bytes as another tool's; None if there is none.

    Args:
        imported: its bytes, as the tool stores it, are the limit.
        scores: of the same model.
    """
    more = imported.tool_bytes - imported.plan.encoder_bytes
    limits = Limits(encoder_bytes=imported.tool_bytes, total_bytes=imported.plan.total_bytes + more)
    task = PlanningTask(scores, limits)
    try:
        return allocation_of(task, solve_task(task, SolverOptions()))
    except InfeasibleError:
        return None


def _read(path: str | Path, tool: ConfigTool, scores: ScoreTable) -> dict[str, Offer]:
    file = Path(path)
    if file.suffix not in tool.SUFFIXES:
        raise InputFileError(f"{path}: {tool.TITLE} has {', '.join(tool.SUFFIXES)} files; found {file.suffix!r}.")
    text = decode_text(read_bytes(file, MAX_JSON_BYTES, "a config"), path)
    content = parse_config(text, file, getattr(tool, "OUTERMOST", dict))
    try:
        offers = checked(tool.read(content, scores.profile, file.suffix))
    except Exception as error:  # a foreign file can be malformed in any way
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputFileError(f"{path}: no plan of {tool.TITLE}: {reason[:200]}.") from None
    if not offers:
        raise InputFileError(f"{path}: no plan of {tool.TITLE}: it names no matrix of {scores.profile.name}.")
    return offers


def _choice_of(offer: Offer, method: str, matrix: MatrixSpec, heads: int, where: str) -> Choice:
    """Return a matrix's choice as the tool stores it, if it is one that the matrix can have."""
    try:
        choice = offer.as_choice(method)
        choice.layout(matrix.rows, matrix.columns, heads=heads)
        return choice
    except UsageError as error:
        raise InputFileError(f"{where}: {error}") from None


def _scored(scores: ScoreTable, row: int, choice: Choice, where: str) -> int:
    """Return the column of a choice, or of the nearest scored one: the same bits, the nearest number of groups."""
    grid, matrix, legal = scores.grid(), scores.profile.matrices[row], np.isfinite(scores.values()[row])
    if choice.name in scores.choices and legal[scores.choices.index(choice.name)]:
        return scores.choices.index(choice.name)
    columns = [j for j, c in enumerate(grid) if c.bits == choice.bits and legal[j]]
    if not columns:
        scored = sorted({c.bits for c in grid})
        raise InputFileError(
            f"{where}: {choice.bits} bits were not scored. Scored: {', '.join(map(str, scored))}. "
            f"Score again with `bits` {','.join(map(str, sorted({*scored, choice.bits})))}."
        )

    def groups(c: Choice) -> int:
        return c.layout(matrix.rows, matrix.columns, heads=scores.profile.heads_of(matrix)).num_groups

    def distance(column: int) -> tuple[bool, float, bool]:
        other = grid[column]
        same_axis = other.grouping.partition(":")[0] == choice.grouping.partition(":")[0]
        return not same_axis, abs(math.log2(groups(other) / groups(choice))), other.form != choice.form

    try:
        return min(columns, key=distance)
    except UsageError as error:
        raise InputFileError(f"{where}: {error}") from None


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
