"""Proofs that hold in exact arithmetic, whatever the range of the values.

A method computes in float64 and its engine has tolerances, so its proof holds up to an error that grows with the
largest cost in its program, even if no good plan takes that column. The error must be small compared with the worth of
a plan, the sum of its absolute costs. If it is not, columns that no better plan can afford are removed (in exact
arithmetic) and the method runs again. If none can be removed, some group has a column that gains far more than the
known plan is worth, and the program is split there: with these columns only, and without them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ..model.errors import SolverError
from ..model.program import FloatArray, IntArray, Program, columns_in
from ..model.solution import PROVEN_GAP
from .outcome import TIE_TOLERANCE, Outcome, SearchLimits
from .presolve import drop_unfitting

ARITHMETIC = 1e-12
"""Error of a proven bound relative to Σ_g max_j |c_j|: float sums (1e-14) and engine tolerances (1e-13)."""
ALLOWED = 0.1 * PROVEN_GAP
"""Largest acceptable error of a proof, relative to Σ |c| of the best plan."""
MODERATE = 1e75
MOST_RUNS = 100
"""Largest number of runs of a method on one problem; more than three are rare. Programs left over keep their bound."""

Run = Callable[[Program, SearchLimits], Outcome]


@dataclass(frozen=True, slots=True, eq=False)
class _Best:
    """The best plan so far, as columns of the whole program.

    Attributes:
        columns: int [G].
        value: Σ c, correctly rounded.
        worth: Σ |c|.
        tie: Σ tie.
        settled: Of all plans of this value in its part, this one has least `tie`.
    """

    columns: IntArray
    value: float
    worth: float
    tie: float
    settled: bool

    @classmethod
    def of(cls, program: Program, columns: IntArray, settled: bool) -> "_Best":
        cost = program.cost[columns].tolist()
        tie = math.fsum(program.tie[columns].tolist())
        return cls(columns, math.fsum(cost), math.fsum(map(abs, cost)), tie, settled)


def prove(program: Program, limits: SearchLimits, run: Run) -> Outcome:
    """Run a method, and return its best plan with a bound that holds in exact arithmetic.

    Args:
        program: Presolved; costs and rows of any size whose sums are finite.
        limits: Time and gap.
        run: The method; it is given programs whose costs and rows are at most 1.

    Raises:
        SolverError: The method rejected the program, or returned something that is not a plan of it.
    """
    least_value = math.inf
    best: _Best | None = None
    bound, finished, label = math.inf, True, ""
    waiting = [(program, math.fsum(program.least(program.cost).tolist()))]
    runs = 0
    while waiting:
        part, known = waiting.pop()
        if best is not None:
            affordable = _affordable(part, least_value)
            if affordable is None:
                bound = min(bound, least_value)
                continue
            part = affordable
            fitting = drop_unfitting(part)
            if fitting is None:
                continue
            part = fitting
            if runs >= MOST_RUNS or limits.expired():
                bound, finished = min(bound, known), finished and not limits.expired()
                continue
        runs += 1
        try:
            outcome = _run_scaled(part, limits, run)
        except SolverError:
            if best is None:
                raise
            bound = min(bound, known)  # the plan stays, with the bound that is proven for the rest
            continue
        label = label or outcome.solver
        lower = max(known, outcome.bound - ARITHMETIC * part.magnitude())
        if outcome.columns is None:
            bound, finished = min(bound, math.inf if outcome.finished else lower), finished and outcome.finished
            continue
        candidate = _Best.of(program, columns_in(program, part, outcome.columns), outcome.tie_settled)
        least_value = min(least_value, candidate.value)
        if best is None or _preferred(candidate, best, least_value):
            best = candidate
        finished = finished and outcome.finished
        error = ARITHMETIC * part.magnitude() + 2 * TIE_TOLERANCE * _above_least(part, outcome.columns)
        if not outcome.finished or least_value - lower <= ALLOWED * best.worth or error <= ALLOWED * best.worth:
            bound = min(bound, lower)
            continue
        waiting += [(smaller, lower) for smaller in _smaller(part, outcome.columns, least_value)]
    if best is None:
        return Outcome(None, bound, finished, label)
    return Outcome(best.columns, min(bound, least_value), finished, label, best.settled and runs == 1)


def trusted(program: Program, columns: IntArray) -> bool:
    """Whether float arithmetic is exact enough to prove a plan of this program optimal.

    The search must have left out columns that cost more than the plan.

    Args:
        program: What was searched.
        columns: int [G], the plan.
    """
    cost = program.cost[columns]
    error = ARITHMETIC * program.magnitude(float(cost.sum())) + 2 * TIE_TOLERANCE * _above_least(program, columns)
    return error <= ALLOWED * float(np.abs(cost).sum())


def moderate(program: Program) -> bool:
    """Whether costs and rows are small enough that no product or quotient of them overflows.

    Args:
        program: Its costs and rows.
    """
    rows = program.rows[program.rows > 0]
    least, most = rows.min(initial=1.0), max(rows.max(initial=1.0), float(np.abs(program.cost).max()))
    return bool(least > 1 / MODERATE and most < MODERATE)


def _preferred(candidate: _Best, best: _Best, least_value: float) -> bool:
    """Whether a plan is better; among equal values (relative to the plans' worth) the least `tie` wins."""
    limit = least_value + TIE_TOLERANCE * min(candidate.worth, best.worth)
    if candidate.value <= limit and best.value <= limit:
        return (candidate.tie, candidate.value) < (best.tie, best.value)
    return candidate.value < best.value


def _above_least(program: Program, columns: IntArray) -> float:
    """Return Σ (c of the plan − least c of its group), correctly rounded."""
    return math.fsum([*program.cost[columns].tolist(), *(-program.least(program.cost)).tolist()])


def _affordable(program: Program, value: float) -> Program | None:
    """Remove columns whose plans all cost more than a value; None if no plan costs at most that."""
    least = program.least(program.cost)
    room = math.fsum([value, *(-least).tolist()])
    # `value` is rounded, `room` and the differences are too: by half a unit in the last place of each.
    slack = 1e-12 * abs(room) + 2.0**-52 * abs(value)
    return program.keep(program.cost - least[program.group] <= room + slack)


def _smaller(program: Program, columns: IntArray, value: float) -> list[Program]:
    """Return programs that together contain every plan of at most this value, the most promising program last."""
    affordable = _affordable(program, value)
    if affordable is None:
        return []
    if len(affordable.group) < len(program.group):
        return [affordable]
    gain: FloatArray = program.cost[columns][program.group] - program.cost
    group = int(program.group[int(gain.argmax())])
    paying = (program.group == group) & (gain >= gain.max() / 2)
    if gain.max() <= 0:
        return []
    parts = [program.keep(~paying), program.keep(paying | (program.group != group))]
    return [part for part in parts if part is not None]


def _exponent(largest: float) -> int:
    return math.frexp(largest)[1]


def _run_scaled(program: Program, limits: SearchLimits, run: Run) -> Outcome:
    """Run a method on the program with costs and rows multiplied by powers of 2, so that no product overflows."""
    power = _exponent(float(np.abs(program.cost).max()))
    most = np.maximum.reduceat(program.rows, program.starts, axis=1)
    powers = np.array([_exponent(largest) for largest in most.max(axis=1, initial=0.0).tolist()], dtype=np.int64)
    rows = np.ldexp(program.rows, -powers[:, None])
    # A capacity above what any plan uses limits nothing, whatever it is.
    rhs = np.minimum(np.ldexp(np.minimum(program.rhs, 2 * most.sum(axis=1)), -powers), 4.0 * len(program.starts))
    tie_power = _exponent(float(np.abs(program.tie).max()))
    scaled = replace(
        program,
        cost=np.ldexp(program.cost, -power),
        rows=rows,
        rhs=rhs,
        tie=np.ldexp(program.tie, -tie_power),
    )
    outcome = run(scaled, limits)
    if outcome.columns is not None:
        _check_plan(scaled, outcome)
    return replace(outcome, bound=float(np.ldexp(outcome.bound, power)))


def _check_plan(program: Program, outcome: Outcome) -> None:
    columns = outcome.columns
    groups = np.arange(len(program.starts))
    inside = columns is not None and len(columns) == len(groups) and bool((np.abs(columns) < len(program.group)).all())
    if columns is None or not inside or (program.group[columns] != groups).any() or not program.fits(columns):
        raise SolverError(f"solver {outcome.solver!r}: returned columns that are not a plan of the program.")
