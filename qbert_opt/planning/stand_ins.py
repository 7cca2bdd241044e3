"""Approximate plans under a fold's scores, for every budget of a frontier at once.

Cross-fitting hundreds of points exactly would solve each point again for every fold. Instead, one sweep over Lagrange
multipliers ("prices") of the limited resources gives the plans of a fold's Lagrangian relaxation for all budgets
(Everett 1963). Each budget takes the best plan that fits and then spends the rest of the budget greedily. The loss of
accuracy is far below the spread between folds, and it is conservative: a slightly worse plan predicts a slightly
larger loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from math import inf

import numpy as np
from numpy.typing import NDArray

from solvers import ChoiceProblem

PRICES = {1: 1500, 2: 60, 3: 16}  # prices per resource, by the number of limited resources
FEWEST_PRICES = 8  # with more resources than that
SPAN = 1e5  # prices lie between a resource's typical worth divided by this and multiplied by this
MOST_STEPS = 60
SLACK = 1 + 1e-12  # rounding, where a capacity is a plan's own usage
Table = NDArray[np.float64]


class Sweep:
    """The plans for many combinations of prices, under one set of scores."""

    def __init__(self, problem: ChoiceProblem, values: Table, resources: Sequence[str]) -> None:
        """Compute the plan for every combination of prices.

        Args:
            problem: the program; its ties hold, its capacities are ignored.
            values: scores, float64 [items, options]; not finite where an option is not allowed.
            resources: names of the limited resources.
        """
        mask = problem.mask() & np.isfinite(values)
        groups = [list(members) for members in problem.groups()]
        self.group_of = np.empty(len(values), dtype=np.int64)
        for number, members in enumerate(groups):
            self.group_of[members] = number
        self.value = _summed(np.where(mask, values, inf), groups)
        self.usage = {name: _summed(np.where(mask, problem.usage[name], inf), groups) for name in resources}
        rows = np.arange(len(groups))
        plans = {self._best(prices).tobytes(): None for prices in self._prices()}
        plans |= {self._least(name).tobytes(): None for name in resources}
        self.plans = np.array([np.frombuffer(plan, dtype=np.int64) for plan in plans])
        self.losses = self.value[rows, self.plans].sum(axis=1)
        self.uses = {name: table[rows, self.plans].sum(axis=1) for name, table in self.usage.items()}

    def choose(self, capacity: Mapping[str, float]) -> NDArray[np.int_] | None:
        """Choose the best plan of the sweep that fits, and spend the rest of the budget greedily.

        Args:
            capacity: of each limited resource.

        Returns:
            The choice of each item, int [items]; None if no plan of the sweep fits.
        """
        fits = np.all([self.uses[name] <= limit * SLACK for name, limit in capacity.items()], axis=0)
        if not fits.any():
            return None
        best = int(np.flatnonzero(fits)[self.losses[fits].argmin()])
        chosen: NDArray[np.int64] = self._filled(self.plans[best].copy(), capacity)[self.group_of]
        return chosen

    def _prices(self) -> Iterator[dict[str, float]]:
        """Yield prices of every resource, zero included."""
        count = PRICES.get(len(self.usage), FEWEST_PRICES)
        axes = []
        for table in self.usage.values():
            worth = _spread(self.value) / max(_spread(table), 1e-300)
            axes.append([0.0, *np.geomspace(worth / SPAN, worth * SPAN, count).tolist()])
        for prices in product(*axes):
            yield dict(zip(self.usage, prices, strict=True))

    def _best(self, prices: Mapping[str, float]) -> NDArray[np.int64]:
        cost = self.value.copy()
        for name, price in prices.items():
            if price:
                cost = cost + price * self.usage[name]
        chosen: NDArray[np.int64] = cost.argmin(axis=1).astype(np.int64)
        return chosen

    def _least(self, name: str) -> NDArray[np.int64]:
        """Return the plan that uses least of a resource; where options are equal, the one with the least loss."""
        table = self.usage[name]
        least = table == table.min(axis=1, keepdims=True)
        chosen: NDArray[np.int64] = np.where(least, self.value, inf).argmin(axis=1).astype(np.int64)
        return chosen

    def _filled(self, chosen: NDArray[np.int64], capacity: Mapping[str, float]) -> NDArray[np.int64]:
        """Repeatedly make the single change that lowers the loss most and still fits."""
        rows = np.arange(len(chosen))
        gain = self.value[rows, chosen][:, None] - self.value
        used = {name: self.usage[name][rows, chosen] for name in capacity}
        more = {name: self.usage[name] - own[:, None] for name, own in used.items()}
        for _ in range(MOST_STEPS):
            fits = gain > 0
            for name, limit in capacity.items():
                fits &= more[name] <= limit * SLACK - used[name].sum()
            item, option = divmod(int(np.where(fits, gain, 0.0).argmax()), gain.shape[1])
            if not fits[item, option]:
                break
            chosen[item] = option
            gain[item] = self.value[item, option] - self.value[item]  # the other rows stay as they are
            for name, own in used.items():
                own[item] = self.usage[name][item, option]
                more[name][item] = self.usage[name][item] - own[item]
        return chosen


def _summed(table: Table, groups: Sequence[Sequence[int]]) -> Table:
    """Add up the rows of tied items."""
    return np.array([table[list(members)].sum(axis=0) for members in groups])


def _spread(table: Table) -> float:
    """Return the median over items of the difference between their largest and smallest value."""
    finite = np.where(np.isfinite(table), table, np.nan)
    return float(np.median(np.nanmax(finite, axis=1) - np.nanmin(finite, axis=1)))
