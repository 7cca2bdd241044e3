"""Scores, prices and limits to a proven plan.

Two questions are asked in turn. First the bits: least predicted loss under every limit. Then, bits fixed, which
matrices stay in the scratchpad: least energy. Only where a limit on traffic, latency or energy binds do both become
one program, because then residency decides what bits are possible.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hwmodels.errors import DeviceError
from solvers import ChoiceProblem, ChoiceSolution, SolverError, Status, shadow_price, solve

from .allocation import Allocation, Limit, UniformPlan
from .choices import Choice
from .errors import InfeasibleError, UsageError
from .limits import Limits, Row, limit_rows, tightest
from .operations import Storage, Workload, model_graph
from .planned import Proof, assemble, stored_bytes
from .pricing import OptionTables, option_tables
from .profiles import ModelProfile
from .scores import ScoreTable
from .simulate import simulate_storage

if TYPE_CHECKING:
    from hwmodels.device import Device
    from hwmodels.simulate import CostReport

MB = 1_000_000
MAX_TIGHTENINGS = 12
RESIDENCY_GAP = 1e-4  # which of two equal matrices stays on chip is worth no longer proof
SCHEDULED = {"latency_s": "latency_bound_s", "energy_j": "energy_bound_j"}  # limit -> separable bound


@dataclass(frozen=True, slots=True)
class SolverOptions:
    """How to solve: a file in `solvers/methods`, seconds, and where the search may stop."""

    solver: str = "auto"
    time_limit_s: float | None = None
    relative_gap: float = 1e-6


def allocate(
    scores: ScoreTable,
    limits: Limits,
    *,
    device: Device | None = None,
    workload: Workload | None = None,
    bits: Sequence[int] | None = None,
    groupings: Sequence[str] | None = None,
    pins: Mapping[str, int] | None = None,
    options: SolverOptions | None = None,
) -> Allocation:
    """Choose bits and groups for every matrix with least predicted loss under all limits.

    Args:
        scores: predicted loss of each choice.
        limits: what the user asked for.
        device: target hardware; its own limits and formats count too.
        workload: sentences and tokens of one inference.
        bits: bit widths to choose from; all that were scored when None.
        groupings: groupings to choose from; all that were scored when None.
        pins: bits of matrices whose module name contains the key.
        options: solver, time limit, gap.

    Raises:
        InfeasibleError: no plan keeps every limit; the message holds the nearest feasible value.
        UsageError: a filter that leaves nothing, a pin that matches nothing, a limit without a device.
    """
    planner = _Planner(scores, limits, device, workload or Workload(), options or SolverOptions())
    planner.restrict(bits, groupings, pins or {})
    return planner.plan()


class _Planner:
    """The tables of one planning run; each method answers one question about them."""

    def __init__(
        self, scores: ScoreTable, limits: Limits, device: Device | None, workload: Workload, options: SolverOptions
    ) -> None:
        self.scores, self.limits, self.device = scores, limits, device
        self.profile: ModelProfile = scores.profile
        self.workload, self.options = workload, options
        self.choices: tuple[Choice, ...] = scores.grid()
        self.value = scores.values()
        self.legal: NDArray[np.bool_] = np.isfinite(self.value)

    def restrict(self, bits: Sequence[int] | None, groupings: Sequence[str] | None, pins: Mapping[str, int]) -> None:
        """Mask what the user does not want."""
        wanted = [
            (bits is None or c.bits in bits) and (groupings is None or c.grouping in groupings) for c in self.choices
        ]
        if not any(wanted):
            raise UsageError(f"--bits/--groupings: none of these was scored. Scored: {', '.join(self.scores.choices)}.")
        self.legal &= np.array(wanted)
        for name, width in pins.items():
            rows = [i for i, m in enumerate(self.profile.matrices) if name in m.module]
            if not rows:
                raise UsageError(f"--pin {name}={width}: no matrix of {self.profile.name} has {name!r} in its name.")
            columns = np.array([c.bits == width for c in self.choices])
            if not (self.legal[rows] & columns).any(axis=1).all():
                raise UsageError(f"--pin {name}={width}: {width} bits were not scored or are masked for it.")
            self.legal[rows] &= columns

    def plan(self) -> Allocation:
        """Solve, place, simulate, and check the limits that do not add up."""
        tables = option_tables(self.profile, self.choices, self.legal, self.device, self.workload)
        rows = limit_rows(self.limits, self.profile, self.device, tables.fixed, self._activation_bytes())
        hard = {k: r for k, r in tightest(rows).items() if k not in SCHEDULED}
        self._check_capacities(hard)
        problem = self._problem(tables, {k: r.capacity for k, r in hard.items()}, joint="dram_bytes" in hard)
        solution = self._solved(problem, hard)
        storage, report = self._placed(tables, problem, solution)
        scheduled = [r for r in rows if r.resource in SCHEDULED]
        tightened: tuple[str, ...] = ()
        if report is not None and self._broken(scheduled, report):
            problem, solution, storage, report, tightened = self._tighten(tables, hard, scheduled, solution)
        proof = self._proof(tables, rows, problem, solution, storage, report, tightened)
        return assemble(self.scores, storage, proof, report, self.workload)

    def _activation_bytes(self) -> int:
        if self.device is None:
            return 0
        from hwmodels.simulate import peak_activation_bytes

        return peak_activation_bytes(model_graph(self.profile, None, self.workload), self.device)

    def _check_capacities(self, hard: Mapping[str, Row]) -> None:
        for row in hard.values():
            if row.capacity < 0:
                raise InfeasibleError(
                    f"{row.source} = {_shown(row.measure, row.stated)}: what is not searched (tables, norms, "
                    f"biases, head, activations) already needs {_shown(row.measure, row.stated - row.capacity)} of it."
                )

    def _problem(self, tables: OptionTables, capacity: Mapping[str, float], *, joint: bool) -> ChoiceProblem:
        """Streamed choices only, or with `joint` every choice streamed and resident."""
        columns = len(tables.options) if joint else len(self.choices)
        copies = columns // len(self.choices)
        allowed = np.tile(self.legal, (1, copies))
        for (i, j), _reason in tables.masks.items():
            if j < columns:
                allowed[i, j] = False
        usage = {row: table[:, :columns] for row, table in tables.usage.items()}
        if self.device is not None:
            usage["energy_bound_j"] = _energy_bound(tables, self.device)[:, :columns]
        capacity = dict(capacity)
        if joint and self.device is not None:
            capacity["scratchpad_bytes"] = self._room()
        for i in np.flatnonzero(~allowed.any(axis=1)).tolist():
            reasons = {reason for (row, _), reason in tables.masks.items() if row == i}
            raise InfeasibleError(
                f"{self.profile.matrices[i].module}: no choice is allowed: {'; '.join(sorted(reasons))}"
            )
        return ChoiceProblem(
            items=tuple(m.module for m in self.profile.matrices),
            options=tuple(f"{o.choice.name}{'/resident' if o.resident else ''}" for o in tables.options[:columns]),
            value=np.tile(np.where(self.legal, self.value, np.nan), (1, copies)),
            usage=usage,
            capacity=capacity,
            allowed=allowed,
            tie_break="encoder_bytes",
        )

    def _room(self) -> float:
        from hwmodels.simulate import scratchpad_room_bytes

        if self.device is None:
            return 0.0
        return float(scratchpad_room_bytes(model_graph(self.profile, None, self.workload), self.device))

    def _solved(self, problem: ChoiceProblem, rows: Mapping[str, Row]) -> ChoiceSolution:
        try:
            solution = solve(
                problem,
                self.options.solver,
                time_limit_s=self.options.time_limit_s,
                relative_gap=self.options.relative_gap,
            )
        except SolverError as error:
            raise UsageError(str(error)) from None
        if solution.choice is not None:
            return solution
        if solution.status is Status.TIME_LIMIT:
            raise InfeasibleError(f"no plan found within {self.options.time_limit_s} s. Allow more time.")
        raise InfeasibleError(self._why_infeasible(problem, solution, rows))

    def _why_infeasible(self, problem: ChoiceProblem, solution: ChoiceSolution, rows: Mapping[str, Row]) -> str:
        parts = []
        for resource in solution.conflicts or tuple(solution.nearest_capacity):
            row, nearest = rows.get(resource), solution.nearest_capacity.get(resource)
            if row is None or nearest is None:
                parts.append(f"{resource} conflicts")
                continue
            floor = nearest + row.stated - row.capacity if row.measure != "bandwidth_bytes_per_s" else nearest
            table = np.where(np.isfinite(problem.value), problem.usage[resource], -np.inf)
            ceiling = math.fsum(table.max(axis=1)) + row.stated - row.capacity
            parts.append(
                f"{row.source} = {_shown(row.measure, row.stated)} is below the floor: nearest feasible "
                f"{_shown(row.measure, floor)}, ceiling {_shown(row.measure, ceiling)}; binding limit {row.measure}"
            )
        return "no plan keeps every limit: " + "; ".join(parts) + ". Raise it, or allow fewer --bits."

    def _placed(
        self, tables: OptionTables, problem: ChoiceProblem, solution: ChoiceSolution
    ) -> tuple[dict[str, Storage], CostReport | None]:
        """Decide what stays on chip, bits fixed, and simulate."""
        chosen = [tables.options[j] for j in solution.choice or ()]
        if self.device is not None and self.device.scratchpad is not None:
            chosen = self._resident(tables, chosen, self.device)
        storage = {m.module: s for m, s in zip(self.profile.matrices, chosen, strict=True)}
        return storage, self._simulated(storage)

    def _simulated(self, storage: Mapping[str, Storage]) -> CostReport | None:
        if self.device is None:
            return None
        rate = self.limits.inferences_per_s
        return simulate_storage(self.profile, storage, self.device, self.workload, inferences_per_s=rate)

    def _resident(self, tables: OptionTables, chosen: Sequence[Storage], device: Device) -> list[Storage]:
        """Least energy bound for fixed bits, traffic and latency both in joules: a knapsack over the scratchpad."""
        plain = [tables.options.index(replace(s, resident=False)) for s in chosen]
        pairs = np.array([[j, j + len(self.choices)] for j in plain])
        rows = np.arange(len(chosen))[:, None]
        placed = solve(
            ChoiceProblem(
                items=tuple(m.module for m in self.profile.matrices),
                options=("streamed", "resident"),
                value=_energy_bound(tables, device)[rows, pairs],
                usage={"scratchpad_bytes": tables.usage["scratchpad_bytes"][rows, pairs]},
                capacity={"scratchpad_bytes": self._room()},
                allowed=np.array([[(i, j) not in tables.masks for j in pair] for i, pair in enumerate(pairs.tolist())]),
            ),
            relative_gap=RESIDENCY_GAP,
        )
        return [tables.options[pair[j]] for pair, j in zip(pairs, placed.choice or (), strict=True)]

    def _broken(self, scheduled: Sequence[Row], report: CostReport) -> list[Row]:
        return [row for row in scheduled if getattr(report, row.measure) > row.stated]

    def _tighten(
        self, tables: OptionTables, hard: Mapping[str, Row], scheduled: Sequence[Row], relaxed: ChoiceSolution
    ) -> tuple[ChoiceProblem, ChoiceSolution, dict[str, Storage], CostReport, tuple[str, ...]]:
        """Enforce limits on scheduled values: cap their separable bound, and lower the cap until they hold.

        The plan without these limits bounds every plan with them from below, so the gap stays proven.
        """
        floors = {row.resource: self._fixed_bound(tables, row.resource) for row in scheduled}
        caps = {row.resource: 1.3 * row.stated - floors[row.resource] for row in scheduled}
        for _ in range(MAX_TIGHTENINGS):
            capacity = {k: r.capacity for k, r in hard.items()} | {
                SCHEDULED[k]: max(0.0, cap) for k, cap in caps.items()
            }
            problem = self._problem(
                tables, capacity, joint=self.device is not None and self.device.scratchpad is not None
            )
            named = dict(hard) | {SCHEDULED[r.resource]: self._bound_row(r, caps[r.resource]) for r in scheduled}
            solution = self._solved(problem, named)
            storage = {
                m.module: tables.options[j] for m, j in zip(self.profile.matrices, solution.choice or (), strict=True)
            }
            report = self._simulated(storage)
            if report is None:
                raise UsageError("limits on latency and energy need --device")
            broken = self._broken(scheduled, report)
            if not broken:
                gap = (solution.value - relaxed.lower_bound) / max(abs(solution.value), 1e-300)
                status = Status.OPTIMAL if gap <= 1e-6 else Status.FEASIBLE
                proven = replace(solution, status=status, lower_bound=relaxed.lower_bound, gap=max(0.0, gap))
                return problem, proven, storage, report, tuple(row.measure for row in scheduled)
            for row in broken:
                overshoot = getattr(report, row.measure) / row.stated
                bound = solution.usage[SCHEDULED[row.resource]]
                caps[row.resource] = min(caps[row.resource], bound) - (overshoot - 1) * row.stated * 1.02
        raise InfeasibleError(
            f"{', '.join(r.source for r in scheduled)}: no plan found that keeps the scheduled limits after "
            f"{MAX_TIGHTENINGS} tightenings. Raise them."
        )

    def _fixed_bound(self, tables: OptionTables, resource: str) -> float:
        if self.device is None:
            return 0.0
        if resource == "latency_s":
            return tables.fixed["latency_bound_s"]
        return tables.fixed["dynamic_energy_j"] + self.device.power.static_w * tables.fixed["latency_bound_s"]

    def _bound_row(self, row: Row, capacity: float) -> Row:
        return replace(row, capacity=capacity)

    def _proof(
        self,
        tables: OptionTables,
        rows: Sequence[Row],
        problem: ChoiceProblem,
        solution: ChoiceSolution,
        storage: Mapping[str, Storage],
        report: CostReport | None,
        tightened: Sequence[str],
    ) -> Proof:
        encoder_bytes = stored_bytes(self.profile, storage)
        total_bytes = encoder_bytes + self.profile.fixed_bytes
        return Proof(
            status=solution.status.value,
            gap=solution.gap,
            lower_bound=solution.lower_bound,
            solver=solution.solver,
            limits=tuple(
                self._limit(row, rows, solution, encoder_bytes, total_bytes, report, tightened) for row in rows
            ),
            uniform=tuple(self._uniform(tables, rows)),
            next_mb_gain=self._next_mb(problem, solution),
        )

    def _limit(
        self,
        row: Row,
        rows: Sequence[Row],
        solution: ChoiceSolution,
        encoder_bytes: int,
        total_bytes: int,
        report: CostReport | None,
        tightened: Sequence[str],
    ) -> Limit:
        plan = {"encoder_bytes": encoder_bytes, "total_bytes": total_bytes}
        used = plan[row.measure] if row.measure in plan else _measured(report, row.measure)
        binds = row.resource in solution.binding and tightest(list(rows))[row.resource] is row
        binds = binds or (row.measure in tightened and SCHEDULED.get(row.resource) in solution.binding)
        return Limit(resource=row.measure, capacity=row.stated, used=used, source=row.source, binds=binds)

    def _uniform(self, tables: OptionTables, rows: Sequence[Row]) -> list[UniformPlan]:
        """The three best plans that give every matrix one choice within the limits on bytes."""
        row = tightest(list(rows)).get("encoder_bytes")
        capacity = math.inf if row is None else row.capacity
        found = []
        for j, c in enumerate(self.choices):
            masked = any((i, j) in tables.masks for i in range(len(self.profile.matrices)))
            size = int(tables.usage["encoder_bytes"][:, j].sum())
            if self.legal[:, j].all() and not masked and size <= capacity:
                loss = math.fsum(self.value[:, j])
                found.append(UniformPlan(choice=c.name, encoder_bytes=size, predicted_loss=loss))
        return sorted(found, key=lambda plan: plan.predicted_loss)[:3]

    def _next_mb(self, problem: ChoiceProblem, solution: ChoiceSolution) -> float | None:
        if "encoder_bytes" not in problem.capacity:
            return None
        return shadow_price(problem, solution, "encoder_bytes", MB)


def _energy_bound(tables: OptionTables, device: Device) -> NDArray[np.float64]:
    return tables.usage["dynamic_energy_j"] + device.power.static_w * tables.usage["latency_bound_s"]


def _measured(report: CostReport | None, measure: str) -> float:
    if report is None:
        raise DeviceError(f"{measure} needs a device")
    names = {"bandwidth_bytes_per_s": "dram_bandwidth_bytes_per_s"}
    return float(getattr(report, names.get(measure, measure)))


def _shown(measure: str, value: float) -> str:
    from hwmodels.units import format_bandwidth, format_bytes, format_joules, format_seconds

    if measure == "bops":
        return f"{value:.4g} BOPs"
    by_unit = {"_bytes": format_bytes, "_per_s": format_bandwidth, "_j": format_joules, "_s": format_seconds}
    return next(show(value) for unit, show in by_unit.items() if measure.endswith(unit))
