"""Whether any choices can meet the limits, determined from shapes before anything is scored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..costs.workload import Workload
from ..errors import InfeasibleError, NoPlanFoundError
from ..spec.choices import Choice
from ..spec.legal import masked_choices, scorable_tables
from ..spec.limits import Limits
from ..spec.profiles import MatrixSpec, ModelProfile, TableSpec
from ..spec.score_arrays import Rows
from ..spec.score_parts import Provenance, TableScores
from ..spec.scores import ScoreTable
from .constraints import PlanConstraints
from .program import PlanningTask
from .solving import SolverOptions
from .task_solver import solve_task

if TYPE_CHECKING:
    from hwmodels import Device

UNSCORED = "nothing"


def unscored(profile: ModelProfile, choices: Sequence[Choice], table_choices: Sequence[Choice] = ()) -> ScoreTable:
    """Return a score table in which every legal choice has zero loss.

    Args:
        profile: of the model.
        choices: of matrices, of one quantizer.
        table_choices: of embedding tables; none keeps them at 8 bits.
    """

    def zeros(items: Sequence[MatrixSpec | TableSpec], columns: Sequence[Choice]) -> Rows:
        masks = [masked_choices(item, columns, heads=profile.heads_of(item)) for item in items]
        return tuple(tuple(None if c.name in refused else 0.0 for c in columns) for refused in masks)

    matrices = zeros(profile.matrices, choices)
    searched, tables = scorable_tables(profile), None
    if searched and table_choices:
        rows, none = zeros(searched, table_choices), (0.0,) * len(searched)
        tables = TableScores(
            modules=tuple(table.module for table in searched), choices=tuple(c.name for c in table_choices),
            value=rows, std_error=rows, weight_error=rows, unseen_rows=none, unseen_reads=none, contains=UNSCORED,
        )  # fmt: skip
    origin = Provenance(
        data=UNSCORED, data_sha256="", num_scored=0, num_calibration=0, mean_tokens=0.0, mean_confidence=None,
        scored_accuracy=None, seed=0, commit="", version="", date="",
    )  # fmt: skip
    return ScoreTable(
        metric=UNSCORED, method=choices[0].method, loss_unit=UNSCORED, contains=UNSCORED, profile=profile,
        choices=tuple(c.name for c in choices), value=matrices, std_error=matrices, weight_error=matrices,
        tables=tables, provenance=origin,
    )  # fmt: skip


def check_possible(
    scores: ScoreTable,
    limits: Limits,
    *,
    device: Device | None = None,
    workload: Workload | None = None,
    constraints: PlanConstraints | None = None,
    input_bits: Sequence[int | None] = (None,),
) -> None:
    """Refuse limits that no choices can meet, whatever their loss; a limit on the loss itself is not checked.

    Args:
        scores: of the choices, or `unscored`.
        limits: on resources.
        device: target hardware, or None.
        workload: sentences and tokens of one inference.
        constraints: what a plan must satisfy besides.
        input_bits: acceptable widths of the matrices' inputs; None is the engine's or the device's own.

    Raises:
        InfeasibleError: says which limit binds, and the nearest feasible value.
        UsageError: the constraints leave no choice, or a limit needs a device.
    """
    free = (constraints or PlanConstraints()).model_copy(update={"max_loss": None, "least": None})
    task = PlanningTask(scores, limits, device=device, workload=workload, constraints=free)
    refusals = []
    for bits in input_bits:
        reading = {} if bits is None else {matrix.module: bits for matrix in task.profile.matrices}
        try:
            solve_task(task.reading(reading) if reading else task, SolverOptions())
        except InfeasibleError as error:
            refusals.append(error)
        except NoPlanFoundError:  # which proves nothing
            return
        else:
            return
    raise refusals[0]
