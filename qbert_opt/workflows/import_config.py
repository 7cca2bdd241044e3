"""Evaluate another tool's config with our scores and simulator, and solve for a plan that beats it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..configs.offers import Offer, checked
from ..configs.tool import ConfigTool, parse_config
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
from ..spec.profiles import MatrixSpec
from ..spec.scores import ScoreTable
from ..spec.tables import TABLE_METHOD
from .nearest_score import nearest_scored

if TYPE_CHECKING:
    from hwmodels import Device


TABLE_AS_SCORED = Choice(8, "rows:each", TABLE_METHOD)  # of tables, which other tools' configs leave out


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
        column = nearest_scored(scores, row, choice, f"{path}: {matrix.module}")
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
