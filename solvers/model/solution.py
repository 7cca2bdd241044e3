"""The solution of a problem, with what is proven about it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

PROVEN_GAP = 1e-6
"""Largest relative gap that may be called optimal."""
NOISE = 1e-9
"""Share of Σ |chosen values| below which a difference between value and bound is float rounding."""


class Status(StrEnum):
    """What was proven, and no more."""

    OPTIMAL = "optimal"  # a plan; proven that no plan is better by more than 1e-6 × Σ |its values|
    FEASIBLE = "feasible"  # a plan with a larger proven gap
    INFEASIBLE = "infeasible"  # proven: no plan keeps every row
    TIME_LIMIT = "time_limit"  # a plan with its gap; the time limit stopped the search
    NO_PLAN_FOUND = "no_plan_found"  # the search ended with neither a plan nor a proof that there is none


@dataclass(frozen=True, slots=True, eq=False)
class ChoiceSolution:
    """One plan with its proof, priced again from the problem's own tables.

    Attributes:
        status: See `Status`.
        choice: Option index of each item; None without a plan.
        value: Sum over the items (`math.fsum`); NaN without a plan.
        usage: Usage of every resource of the problem; empty without a plan.
        lower_bound: No plan has a smaller value; infinity if infeasible.
        gap: (value − lower_bound) / Σ |chosen values|; infinity without a plan.
        binding: Resources of which a larger capacity, alone, would let some item take a better option.
        nearest_capacity: Only if infeasible: the least feasible capacity of each limited resource with the other rows
            unchanged; if no capacity of it alone is enough, without the other capacities. Empty if masks and links
            alone leave no plan.
        conflicts: Only if infeasible: a minimal set of rows that cannot hold together (resource names, "pins",
            "ties", "max_families").
        runtime_s: Wall-clock time.
        solver: Name and version.
    """

    status: Status
    choice: tuple[int, ...] | None
    value: float
    usage: Mapping[str, float]
    lower_bound: float
    gap: float
    binding: tuple[str, ...] = ()
    nearest_capacity: Mapping[str, float] = field(default_factory=dict)
    conflicts: tuple[str, ...] = ()
    runtime_s: float = 0.0
    solver: str = ""

    def __repr__(self) -> str:
        """Return one line."""
        items = None if self.choice is None else len(self.choice)
        return (
            f"ChoiceSolution({self.status.value!r}, items={items}, value={self.value:.6g}, gap={self.gap:.1e}, "
            f"binding={self.binding}, solver={self.solver!r})"
        )

    def __str__(self) -> str:
        """Return the report in one short paragraph."""
        if self.status is Status.NO_PLAN_FOUND:
            return (
                f"{self.status.value}: the search ended before any plan was found, and there may be one; "
                f"no plan is below {self.lower_bound:.6g}. Allow more time ({self.solver}, {self.runtime_s:.3f} s)"
            )
        if self.choice is None:
            nearest = ", ".join(f"{name} ≥ {limit:.10g}" for name, limit in self.nearest_capacity.items())
            reason = f"; in conflict: {', '.join(self.conflicts)}; least feasible: {nearest}" if self.conflicts else ""
            return f"{self.status.value}: no plan{reason} ({self.solver}, {self.runtime_s:.3f} s)"
        used = ", ".join(f"{name} {amount:.10g}" for name, amount in self.usage.items())
        limits = f"; binding: {', '.join(self.binding)}" if self.binding else ""
        return (
            f"{self.status.value}: value {self.value:.6g} (gap {self.gap:.1e}, bound {self.lower_bound:.6g})"
            f"; {used}{limits} ({self.solver}, {self.runtime_s:.3f} s)"
        )


def relative_gap(value: float, lower_bound: float, magnitude: float | None = None) -> float:
    """Return (value − lower_bound) / magnitude; 0 if they are equal, infinity for a magnitude of 0.

    Args:
        value: Value of a plan.
        lower_bound: Proven lower bound of the value of every plan.
        magnitude: Σ |chosen values| of the plan; None: |value|, which is the same if no value is negative.
    """
    if value <= lower_bound:
        return 0.0
    size = abs(value) if magnitude is None else magnitude
    return (value - lower_bound) / size if size > 0 else math.inf
