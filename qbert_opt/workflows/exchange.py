"""Plans to other tools and back: what cannot be carried over is named and priced, never dropped in silence."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..configs.offers import Carried, Offer, checked, nearest
from ..configs.tool import ConfigTool
from ..costs.operations import Storage, Workload
from ..costs.simulate import simulate_storage
from ..errors import InputFileError, UsageError
from ..planning.assembly import Proof, assemble
from ..planning.planner import allocation_of, solve_task
from ..planning.program import PlanningTask
from ..planning.solving import SolverOptions
from ..runtime.files import MAX_JSON_BYTES
from ..runtime.input_files import decode_text, quoted, read_bytes
from ..spec.allocation import Allocation, PlannedMatrix
from ..spec.choices import Choice
from ..spec.limits import Limits
from ..spec.scores import ScoreTable

if TYPE_CHECKING:
    from hwmodels import Device

WORDS = {
    "offset": "an fp16 offset",
    "symmetric": "no offset (around zero)",
    "zero-point": "an integer zero point",
    "codebook": "a codebook",
}


@dataclass(frozen=True, slots=True)
class Cost:
    """What a plan costs as another tool stores it, by our scores.

    Attributes:
        planned_loss: of the plan as it was made.
        carried_loss: of the nearest choices that the tool runs, still rounded by our method.
        stand_ins: choices that were not scored -> the scored choice whose loss was taken, with how often.
    """

    planned_loss: float
    carried_loss: float
    stand_ins: Mapping[tuple[str, str], int]


@dataclass(frozen=True, slots=True)
class Export:
    """A plan in another tool's words.

    Attributes:
        tool: the tool's module.
        text: the config.
        carried: what became of each matrix.
        planned_bytes: of the encoder's matrices as planned; `tool_bytes` as the tool stores them.
    """

    tool: ConfigTool
    text: str
    carried: tuple[Carried, ...]
    planned_bytes: int
    tool_bytes: int

    @property
    def changes(self) -> Counter[str]:
        """What was not carried over, in words, with how many matrices each concerns."""
        return Counter(change for item in self.carried for change in _changes(item))


def export_plan(plan: Allocation, tool: ConfigTool, suffix: str) -> Export:
    """Say a plan in a tool's words, each matrix by the offer nearest to its choice.

    Args:
        plan: the plan.
        tool: a module of `exporters/`.
        suffix: ending of the file to be; decides between a tool's formats.

    Raises:
        UsageError: an ending that the tool does not read, or a matrix that it cannot store at all.
    """
    if suffix not in tool.SUFFIXES:
        raise UsageError(f"{tool.TITLE}: writes {', '.join(tool.SUFFIXES)}; found the ending {suffix!r}.")
    heads = plan.profile.heads
    carried = []
    for matrix in plan.matrices:
        offer = nearest(tool.offers(matrix), matrix, heads)
        if offer is None:
            raise UsageError(
                f"{matrix.module}: {tool.TITLE} has no format for {matrix.rows} × {matrix.columns} weights. "
                "Choose another tool."
            )
        carried.append(Carried(matrix, offer))
    return Export(
        tool=tool,
        text=tool.write(plan, carried, suffix),
        carried=tuple(carried),
        planned_bytes=plan.encoder_bytes,
        tool_bytes=sum(item.offer.bytes(item.matrix, heads) for item in carried),
    )


def export_cost(export: Export, plan: Allocation, scores: ScoreTable) -> Cost:
    """Price what a tool will run by our scores.

    Raises:
        InputFileError: the scores are of another model.
    """
    _check_same_model(plan, scores)
    values, stand_ins, loss = scores.values(), Counter[tuple[str, str]](), []
    for row, item in enumerate(export.carried):
        wanted = item.offer.as_choice(item.matrix.method)
        column = _scored(scores, row, wanted, item.matrix.module)
        if scores.choices[column] != wanted.name:
            stand_ins[(wanted.name, scores.choices[column])] += 1
        loss.append(float(values[row, column]))
    loss += [table.predicted_loss or 0.0 for table in plan.tables]  # these and inputs stay as planned
    loss += [item.predicted_loss for item in plan.activations]
    return Cost(plan.sum_of_scores, math.fsum(loss), stand_ins)


def refit(
    plan: Allocation, tool: ConfigTool, scores: ScoreTable, device: Device | None, workload: Workload
) -> Allocation:
    """Solve again among the scored choices that a tool runs, within the plan's bytes.

    Scored embedding tables are chosen along with the matrices: a tool's config says nothing of them.

    Raises:
        InputFileError: the scores are of another model.
        InfeasibleError: none fits into the plan's bytes.
        UsageError: none of the tool's choices was scored.
    """
    _check_same_model(plan, scores)
    limits = Limits(encoder_bytes=plan.encoder_bytes, total_bytes=plan.total_bytes)
    task = PlanningTask(scores, limits, device=device, workload=workload)
    matrices = slice(task.num_matrices)
    task.legal[matrices] &= np.array([[_runs(tool, matrix, c) for c in task.choices] for matrix in plan.matrices])
    if not task.legal[matrices].any(axis=1).all():
        raise UsageError(f"{tool.TITLE}: none of its formats was scored. Scored: {', '.join(scores.choices)}.")
    return allocation_of(task, solve_task(task, SolverOptions()))


def import_plan(
    path: str | Path,
    tool: ConfigTool,
    scores: ScoreTable,
    *,
    rest: Choice | None = None,
    device: Device | None = None,
    workload: Workload | None = None,
) -> tuple[Allocation, Mapping[tuple[str, str], int]]:
    """Price somebody else's plan with our scores and simulator.

    Args:
        path: the tool's config.
        tool: a module of `exporters/`.
        scores: a table of the same model.
        rest: choice of the matrices that the plan leaves alone; without it they must all be named.
        device: where to predict its cost.
        workload: sentences and tokens of one inference.

    Returns:
        The plan, and which choices were priced as which scored ones because they were not scored.

    Raises:
        InputFileError: unreadable, no plan of that tool, of another model, or with bits that were not scored.
    """
    offers = _read(path, tool, scores)
    matrices = {m.module: m for m in scores.profile.matrices}
    strange = [module for module in offers if module not in matrices]
    if strange:
        raise InputFileError(
            f"{path}: names {quoted(strange[0])} and {len(strange) - 1} more that {scores.profile.name} has not. "
            "The plan is for another model, or the scores are."
        )
    stand_ins, storage = Counter[tuple[str, str]](), {}
    for row, matrix in enumerate(scores.profile.matrices):
        if matrix.module in offers:
            wanted = offers[matrix.module].as_choice(scores.method)
        elif rest is not None:
            wanted = rest
        else:
            raise InputFileError(
                f"{path}: says nothing about {matrix.module}, which stays in floats there. "
                f"Give the rest a choice with `rest`, for example `rest` {scores.choices[-1]}."
            )
        column = _scored(scores, row, wanted, f"{path}: {matrix.module}")
        if scores.choices[column] != wanted.name:
            stand_ins[(wanted.name, scores.choices[column])] += 1
        storage[matrix.module] = Storage(scores.grid()[column])
    workload = workload or Workload()
    report = None if device is None else simulate_storage(scores.profile, storage, device, workload)
    proof = Proof("unproven", f"imported from {tool.TITLE}: {Path(path).name}")
    return assemble(scores, storage, proof, report, workload), stand_ins


def best_within(plan: Allocation, scores: ScoreTable) -> Allocation:
    """Our best plan that takes no more bytes for the encoder than another."""
    task = PlanningTask(scores, Limits(encoder_bytes=plan.encoder_bytes))
    return allocation_of(task, solve_task(task, SolverOptions()))


def _read(path: str | Path, tool: ConfigTool, scores: ScoreTable) -> dict[str, Offer]:
    file = Path(path)
    if file.suffix not in tool.SUFFIXES:
        raise InputFileError(f"{path}: {tool.TITLE} has {', '.join(tool.SUFFIXES)} files; found {file.suffix!r}.")
    text = decode_text(read_bytes(file, MAX_JSON_BYTES, "a config"), path)
    try:
        found = checked(tool.read(text, scores.profile, file.suffix))
    except Exception as error:  # a foreign file can be wrong in any way; what is said is where and what
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputFileError(f"{path}: no plan of {tool.TITLE}: {reason[:200]}.") from None
    if not found:
        raise InputFileError(f"{path}: no plan of {tool.TITLE}: it names no matrix of {scores.profile.name}.")
    return found


def _scored(scores: ScoreTable, row: int, wanted: Choice, where: str) -> int:
    """Column of the scored choice that stands for a wanted one: the same bits, the nearest number of groups."""
    grid, matrix, legal = scores.grid(), scores.profile.matrices[row], np.isfinite(scores.values()[row])
    if wanted.name in scores.choices and legal[scores.choices.index(wanted.name)]:
        return scores.choices.index(wanted.name)
    columns = [j for j, c in enumerate(grid) if c.bits == wanted.bits and legal[j]]
    if not columns:
        scored = sorted({c.bits for c in grid})
        raise InputFileError(
            f"{where}: {wanted.bits} bits were not scored; scored are {', '.join(map(str, scored))}. "
            f"Score again with `bits` {','.join(map(str, sorted({*scored, wanted.bits})))}."
        )

    def groups(c: Choice) -> int:
        return c.layout(matrix.rows, matrix.columns, heads=scores.profile.heads).num_groups

    def distance(column: int) -> tuple[bool, float, bool]:
        other = grid[column]
        same_axis = other.grouping.partition(":")[0] == wanted.grouping.partition(":")[0]
        return not same_axis, abs(math.log2(groups(other) / groups(wanted))), other.form != wanted.form

    try:
        return min(columns, key=distance)
    except UsageError as error:
        raise InputFileError(f"{where}: {error}") from None


def _changes(item: Carried) -> Sequence[str]:
    matrix, offer = item.matrix, item.offer
    found = []
    if offer.bits != matrix.bits:
        found.append(f"{matrix.bits} bits become {offer.bits}")
    if offer.grouping != matrix.grouping:
        found.append(f"groups {matrix.grouping} become {offer.grouping}")
    if offer.form != matrix.form:
        found.append(f"ranges with {WORDS[matrix.form]} become ranges with {WORDS[offer.form]}")
    if matrix.residency == "resident":
        found.append("kept on chip: the tool has no word for it")
    return found


def _runs(tool: ConfigTool, matrix: PlannedMatrix, choice: Choice) -> bool:
    """Whether a tool has these bits and groups for a matrix; the kind of offset is another matter."""
    axis = choice.grouping.partition(":")[0]
    asked = matrix.model_copy(update={"axis": axis, "grouping": choice.grouping})
    return any((offer.bits, offer.grouping) == (choice.bits, choice.grouping) for offer in tool.offers(asked))


def _check_same_model(plan: Allocation, scores: ScoreTable) -> None:
    if plan.profile.sha256 != scores.profile.sha256:
        raise InputFileError(
            f"the plan is of {plan.profile.name} (sha256 {plan.profile.sha256[:12]}…), the scores are of "
            f"{scores.profile.name} ({scores.profile.sha256[:12]}…). Give the scores that the plan was made of."
        )
