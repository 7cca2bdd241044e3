"""The master program of the cutting planes: maximize the least of all cuts over a box of multipliers.

    max t   such that   t ≤ height_k + slope_k·λ  for every cut k,   0 ≤ λ ≤ box

A round adds one cut, so with highspy the simplex method goes on from the last maximum; SciPy's interface solves the
program again each round, and spends several times as long on checking it.
"""

from importlib.util import find_spec
from typing import Protocol

import numpy as np

from ..model.program import FloatArray

_UNIT = 1e-6  # the engine's absolute tolerances become small against a cost of 1


class Master(Protocol):
    """Cuts, and where the least of them is largest."""

    def add(self, height: float, slope: FloatArray) -> None:
        """Add the cut `height + slope·λ`.

        Args:
            height: Value of the cut at λ = 0, at most 1.
            slope: Float [R].
        """

    def maximum(self, box: FloatArray) -> tuple[FloatArray, float]:
        """Maximize the least of all cuts; there must be at least one.

        Args:
            box: Float [R], the largest value of each multiplier; the least is 0.

        Returns:
            The multipliers, float [R], and the least cut there; zeros and minus infinity if the engine fails.
        """


def master(rows: int) -> Master:
    """Return a program without cuts, in HiGHS by highspy if it is installed, else in SciPy's built-in HiGHS.

    Args:
        rows: number of multipliers.
    """
    return _ByHighs(rows) if find_spec("highspy") is not None else _ByScipy(rows)


class _ByHighs:
    def __init__(self, rows: int) -> None:
        import highspy

        self._infinity, self._optimal = highspy.kHighsInf, highspy.HighsModelStatus.kOptimal
        self._columns = np.arange(rows + 1, dtype=np.int32)
        self._engine = highspy.Highs()
        for option, value in (("output_flag", False), ("threads", 1), ("solver", "simplex"), ("presolve", "off")):
            self._engine.setOptionValue(option, value)
        self._engine.addVars(rows + 1, np.r_[-self._infinity, np.zeros(rows)], np.full(rows + 1, self._infinity))
        self._engine.changeColCost(0, -1.0)

    def add(self, height: float, slope: FloatArray) -> None:
        row = np.concatenate([[1.0], -slope])
        self._engine.addRow(-self._infinity, height / _UNIT, len(row), self._columns, row)

    def maximum(self, box: FloatArray) -> tuple[FloatArray, float]:
        for column, limit in enumerate(box.tolist(), 1):
            self._engine.changeColBounds(column, 0.0, limit / _UNIT)
        self._engine.run()
        if self._engine.getModelStatus() != self._optimal:  # lost in rounding: once more from the start
            self._engine.clearSolver()
            self._engine.run()
        if self._engine.getModelStatus() != self._optimal:
            return np.zeros(len(box)), -np.inf
        found = np.array(self._engine.getSolution().col_value) * _UNIT
        return np.clip(found[1:], 0.0, box), float(found[0])


class _ByScipy:
    def __init__(self, rows: int) -> None:
        self._cost = np.concatenate([[-1.0], np.zeros(rows)])
        self._heights: list[float] = []
        self._slopes: list[FloatArray] = []

    def add(self, height: float, slope: FloatArray) -> None:
        self._heights.append(height)
        self._slopes.append(slope)

    def maximum(self, box: FloatArray) -> tuple[FloatArray, float]:
        from scipy.optimize import linprog

        result = linprog(
            self._cost,
            A_ub=np.column_stack([np.ones(len(self._slopes)), -np.array(self._slopes)]),
            b_ub=np.array(self._heights) / _UNIT,
            bounds=[(None, None), *((0.0, float(limit)) for limit in box / _UNIT)],
            method="highs",
        )
        if result.x is None:
            return np.zeros(len(box)), -np.inf
        return np.clip(result.x[1:] * _UNIT, 0.0, box), float(result.x[0]) * _UNIT
