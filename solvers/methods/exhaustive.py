"""Tries every plan; the reference for tests, and for tiny problems."""

import math

import numpy as np

from ..model.errors import SolverError
from ..model.program import NO_FAMILY, FloatArray, IntArray, Program
from ..search.outcome import Outcome, SearchLimits

ABOUT = (__doc__ or "").partition("\n")[0]
MOST_PLANS = 5_000_000
_BLOCK = 100_000


class Exhaustive:
    """What `solver="exhaustive"` runs."""

    about = ABOUT

    def usable(self) -> bool:
        """Needs only numpy."""
        return True

    def label(self) -> str:
        """Return name and version."""
        return f"exhaustive (numpy {np.__version__})"

    def run(self, program: Program, limits: SearchLimits) -> Outcome:
        """Price every combination in blocks; equal costs (up to rounding) are decided by `tie`, then by position.

        Args:
            program: Presolved and scaled.
            limits: Time.

        Raises:
            SolverError: There are more than five million plans.
        """
        sizes = np.diff(program.starts, append=len(program.group))
        plans = math.prod(sizes.tolist())
        if plans > MOST_PLANS:
            raise SolverError(
                f"exhaustive: there are {plans:.3g} plans, and at most {MOST_PLANS:.0e} can be tried. "
                "Use the solver 'ilp'."
            )
        best: tuple[float, float, IntArray] | None = None
        noise = program.rounding()
        for first in range(0, plans, _BLOCK):
            if limits.expired():
                return Outcome(None if best is None else best[2], _trivial_bound(program), finished=False)
            indices = np.arange(first, min(first + _BLOCK, plans))
            columns = program.starts[:, None] + np.array(np.unravel_index(indices, tuple(sizes.tolist())))
            columns = columns[:, _fitting(program, columns)]
            if not columns.shape[1]:
                continue
            candidate = _first(program.cost[columns].sum(axis=0), program.tie[columns].sum(axis=0), columns, noise)
            if best is None or _better(candidate, best, noise):
                best = candidate
        if best is None:
            return Outcome(None, math.inf, finished=True)
        return Outcome(best[2], best[0], finished=True)


METHOD = Exhaustive()


def _trivial_bound(program: Program) -> float:
    return float(program.least(program.cost).sum())


def _fitting(program: Program, columns: IntArray) -> np.ndarray:
    fits = np.ones(columns.shape[1], dtype=bool)
    for row, limit in zip(program.rows, program.rhs, strict=True):
        fits &= row[columns].sum(axis=0) <= limit
    if program.max_families is not None:
        family = np.sort(program.family[columns], axis=0)
        distinct = (np.diff(family, axis=0, prepend=NO_FAMILY - 1) > 0) & (family != NO_FAMILY)
        fits &= distinct.sum(axis=0) <= program.max_families
    return fits


def _first(cost: FloatArray, tie: FloatArray, columns: IntArray, noise: float) -> tuple[float, float, IntArray]:
    equal = np.flatnonzero(cost <= cost.min() + noise)
    chosen = equal[np.argmin(tie[equal])]
    return float(cost[chosen]), float(tie[chosen]), columns[:, chosen]


def _better(candidate: tuple[float, float, IntArray], best: tuple[float, float, IntArray], noise: float) -> bool:
    if abs(candidate[0] - best[0]) > noise:
        return candidate[0] < best[0]
    return candidate[1] < best[1]
