"""Scores, prices and limits joined to the program that a solver is asked: the only place where the three meet."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
from numpy.typing import NDArray

from solvers import ChoiceProblem, ProblemError, reverse, solve

from ..costs.devices import check_engine
from ..costs.operations import Workload, model_graph
from ..costs.pricing import OptionTables, option_tables
from ..costs.simulate import simulate_storage
from ..costs.stored import Storage, engine_target
from ..errors import InfeasibleError, UsageError
from ..spec.choices import Choice
from ..spec.limits import Limits, Measure, Row, limit_rows, shown, tightest
from ..spec.profiles import ModelProfile, TableSpec
from ..spec.scores import ScoreTable
from .constraints import RESOURCES, PlanConstraints, allowed_choices, check_goal, formats, ties

if TYPE_CHECKING:
    from hwmodels import CostReport, Device

SCHEDULED = {"latency_s": "latency_bound_s", "energy_j": "energy_bound_j"}  # limit -> separable bound from above
FLOORS = {"latency_s": "latency_floor_s", "energy_j": "energy_floor_j"}  # and from below
LOSS: Final = "sum_of_scores"  # row of the program
BYTES: Final = "encoder_bytes"  # likewise
RESIDENT_GOALS = ("latency_bound_s", "energy_bound_j", "dram_bytes")  # what keeping weights on chip lowers
RESIDENCY_GAP = 1e-3  # which of two equal matrices stays on chip is worth no longer proof


class PlanningTask:
    """Scores, limits and hardware of one plan, with the tables made of them.

    Attributes:
        scores: predicted loss of each choice.
        limits: what the user asked for.
        device: target hardware, or None.
        workload: sentences and tokens of one inference.
        items: the matrices, then the embedding tables that were scored.
        constraints: what the plan must satisfy besides the limits.
        choices: what the items may be stored as; columns of `value`.
        value: predicted loss, float64 [items, choices]; NaN where not scored.
        target: the engine that the plan is made for, or None.
        legal: bool [items, choices]: scored and wanted, and held by the engine.
        ties: sets of modules that choose alike.
    """

    def __init__(
        self,
        scores: ScoreTable,
        limits: Limits,
        *,
        device: Device | None = None,
        workload: Workload | None = None,
        constraints: PlanConstraints | None = None,
    ) -> None:
        """Mask what the constraints rule out.

        Args:
            scores: predicted loss of each choice.
            limits: what the user asked for.
            device: target hardware, or None.
            workload: sentences and tokens of one inference.
            constraints: what the plan must satisfy besides the limits; None is nothing.

        Raises:
            UsageError: a constraint that leaves no choice, a name that nothing has, or an engine that the device does
                not run.
        """
        self.scores, self.limits, self.device = scores, limits, device
        self.constraints = constraints or PlanConstraints()
        check_goal(self.constraints, has_device=device is not None)
        self.profile: ModelProfile = scores.profile
        self.workload = workload or Workload()
        self.items = scores.items
        self.choices: tuple[Choice, ...] = scores.item_choices()
        self.value = scores.item_values()
        self.target = engine_target(self.constraints.engine)
        if device is not None and self.target is not None:
            check_engine(self.target.name, device)
        self.legal: NDArray[np.bool_] = allowed_choices(scores, self.choices, self.constraints, self.target)
        self.ties = ties(scores, self.constraints)

    def under(self, limits: Limits) -> PlanningTask:
        """Return the same task under other limits."""
        other = self._anew("rows", "hard")
        other.limits = limits
        return other

    def _anew(self, *made: str) -> PlanningTask:
        other = copy.copy(self)
        for name in made:
            other.__dict__.pop(name, None)
        return other

    def reading(self, input_bits: Mapping[str, int]) -> PlanningTask:
        """Return the same task with the integers that each matrix reads, so that prices hold for them."""
        other = self._anew("tables", "rows", "hard", "room_bytes")
        other.workload = replace(self.workload, input_bits=input_bits)
        return other

    def with_static_inputs(self, modules: Iterable[str]) -> PlanningTask:
        """Return the same task where these matrices have inputs with a static range, as their engine stores them."""
        other = self._anew("tables", "rows", "hard", "room_bytes")
        other.target = engine_target(self.constraints.engine, modules)
        other.legal = allowed_choices(self.scores, self.choices, self.constraints, other.target)
        return other

    @property
    def num_matrices(self) -> int:
        """Items that are matrices; the rest are tables."""
        return len(self.profile.matrices)

    @property
    def searched_tables(self) -> tuple[TableSpec, ...]:
        """The embedding tables that were scored."""
        return tuple(item for item in self.items if isinstance(item, TableSpec))

    @cached_property
    def tables(self) -> OptionTables:
        """Prices of every option: each choice streamed, and where there is a scratchpad also resident."""
        return option_tables(
            self.profile, self.choices, self.legal, self.device, self.workload, self.searched_tables, self.target
        )

    @cached_property
    def rows(self) -> list[Row]:
        """All limits."""
        activations = 0
        if self.device is not None:
            from hwmodels import peak_activation_bytes

            activations = peak_activation_bytes(model_graph(self.profile, None, self.workload), self.device)
        total: Literal["encoder_bytes", "total_bytes"] = "total_bytes" if self.searched_tables else "encoder_bytes"
        return limit_rows(self.limits, self.device, self.tables.fixed, activations, total)

    @cached_property
    def hard(self) -> dict[str, Row]:
        """The tightest limit of each resource that adds up over matrices.

        Raises:
            InfeasibleError: what is not searched already breaks a limit.
        """
        kept = "" if self.searched_tables else "tables, "
        hard = {k: r for k, r in tightest(self.rows).items() if k not in SCHEDULED}
        for row in hard.values():
            if row.capacity < 0:
                raise InfeasibleError(
                    f"{row.source} = {shown(row.measure, row.stated)}: what is not searched ({kept}norms, "
                    f"biases, head, activations) already needs {shown(row.measure, row.stated - row.capacity)} of it."
                )
        return hard

    @property
    def scheduled(self) -> list[Row]:
        """Limits on latency and energy, which do not add up."""
        return [row for row in self.rows if row.resource in SCHEDULED]

    @property
    def goal(self) -> Measure | None:
        """The resource that is to be least; None is the predicted loss."""
        return None if self.constraints.least is None else RESOURCES[self.constraints.least]

    @property
    def joint(self) -> bool:
        """Whether residency decides what bits are possible or best, so that both are one program."""
        return self.has_scratchpad and ("dram_bytes" in self.hard or self.goal in RESIDENT_GOALS)

    @property
    def has_scratchpad(self) -> bool:
        """Whether weights can stay on chip."""
        return self.device is not None and self.device.scratchpad is not None

    @cached_property
    def room_bytes(self) -> float:
        """Scratchpad bytes left for weights."""
        from hwmodels import scratchpad_room_bytes

        if self.device is None:
            return 0.0
        room = scratchpad_room_bytes(model_graph(self.profile, None, self.workload), self.device)
        asked = self.limits.scratchpad_bytes
        return float(room if asked is None else min(room, asked))

    def capacity(self) -> dict[str, float]:
        """What the limits that add up leave to the searched matrices."""
        return {name: row.capacity for name, row in self.hard.items()}

    def problem(self, capacity: Mapping[str, float], *, joint: bool = False) -> ChoiceProblem:
        """Build the program over streamed choices, or with `joint` over every choice streamed and resident.

        Where something else than the predicted loss is least, the loss is a row of its own, `LOSS`.

        Raises:
            InfeasibleError: the device allows no choice for some matrix.
            UsageError: ties of matrices that have no choice in common.
        """
        tables = self.tables
        columns = len(tables.options) if joint else len(self.choices)
        copies = columns // len(self.choices)
        allowed = np.tile(self.legal, (1, copies))
        for (i, j), _reason in tables.masks.items():
            if j < columns:
                allowed[i, j] = False
        for i in np.flatnonzero(~allowed.any(axis=1)).tolist():
            reasons = "; ".join(sorted({reason for (row, _), reason in tables.masks.items() if row == i}))
            raise InfeasibleError(f"{self.items[i].module}: no choice is allowed: {reasons}")
        rows = [*tables.usage, *(("energy_bound_j", "energy_floor_j") if self.device is not None else ())]
        usage = {row: self.usage(row)[:, :columns] for row in rows}
        limited = dict(capacity)
        if joint and self.has_scratchpad:
            limited["scratchpad_bytes"] = self.room_bytes
        try:
            problem = ChoiceProblem(
                items=tuple(item.module for item in self.items),
                options=tuple(f"{o.choice.name}{'/resident' if o.resident else ''}" for o in tables.options[:columns]),
                value=np.tile(np.where(self.legal, self.value, np.nan), (1, copies)),
                usage=usage,
                capacity=limited,
                allowed=allowed,
                ties=self.ties,
                families=formats(self.scores, self.choices) * copies if self.constraints.max_formats else None,
                max_families=self.constraints.max_formats,
                tie_break="total_bytes" if "total_bytes" in limited and "encoder_bytes" not in limited else BYTES,
            )
        except ProblemError as error:  # ties that have nothing in common
            raise UsageError(str(error)) from None
        if self.goal is None or self.constraints.max_loss is None:
            return problem
        return reverse(problem, self.goal, self.constraints.max_loss, LOSS)

    def usage(self, row: str) -> NDArray[np.float64]:
        """Return what every option uses of a row, float64 [items, options]."""
        if self.device is not None and row == "energy_bound_j":
            return energy_bound(self.tables, self.device)
        if self.device is not None and row == "energy_floor_j":
            return self._energy_floor(self.device)
        return self.tables.usage[row]

    def fixed(self, row: str) -> float:
        """Return what everything that is not searched takes of a row."""
        fixed = self.tables.fixed
        if self.device is not None and row in ("energy_bound_j", "energy_floor_j"):
            seconds = fixed["latency_bound_s" if row == "energy_bound_j" else "latency_floor_s"]
            return fixed["dynamic_energy_j"] + self.device.power.static_w * seconds
        return fixed[row]

    def _energy_floor(self, device: Device) -> NDArray[np.float64]:
        """Return the energy below which no option comes on any schedule, streamed or resident, float64."""
        dynamic, floor = self.tables.usage["dynamic_energy_j"], self.tables.usage["latency_floor_s"]
        energy = dynamic + device.power.static_w * floor
        masked = np.zeros(energy.shape, dtype=bool)
        for at in self.tables.masks:
            masked[at] = True
        pairs = np.where(masked, np.inf, energy).reshape(len(energy), -1, len(self.choices))
        least = np.tile(pairs.min(axis=1), (1, pairs.shape[1]))
        return np.where(np.isfinite(least), least, 0.0)

    def placed(self, choice: Sequence[int]) -> tuple[dict[str, Storage], CostReport | None]:
        """Decide what stays on chip, bits fixed, unless the program decided it for its goal; and simulate."""
        chosen = [self.tables.options[j] for j in choice]
        if self.device is not None and self.has_scratchpad and self.goal not in RESIDENT_GOALS:
            chosen = self._resident(chosen, self.device)
        storage = {item.module: s for item, s in zip(self.items, chosen, strict=True)}
        if self.device is None:
            return storage, None
        rate = self.limits.inferences_per_s
        return storage, simulate_storage(
            self.profile, storage, self.device, self.workload, inferences_per_s=rate, target=self.target
        )

    def _resident(self, chosen: Sequence[Storage], device: Device) -> list[Storage]:
        """Least energy bound for fixed bits, traffic and latency both in joules: a knapsack over the scratchpad."""
        tables = self.tables
        plain = np.array([tables.options.index(Storage(s.choice)) for s in chosen])
        pairs = np.stack([plain, plain + len(self.choices)], axis=1)
        rows = np.arange(len(chosen))[:, None]
        capacity = {"scratchpad_bytes": self.room_bytes}
        if "dram_bytes" in self.hard:
            capacity["dram_bytes"] = self.hard["dram_bytes"].capacity
        placed = solve(
            ChoiceProblem(
                items=tuple(item.module for item in self.items),
                options=("streamed", "resident"),
                value=energy_bound(tables, device)[rows, pairs],
                usage={name: tables.usage[name][rows, pairs] for name in capacity},
                capacity=capacity,
                allowed=np.array([[(i, j) not in tables.masks for j in pair] for i, pair in enumerate(pairs.tolist())]),
            ),
            "lagrangian" if len(capacity) == 1 else "auto",  # with two rows repair could come back empty
            relative_gap=RESIDENCY_GAP,
        )
        return [tables.options[pair[j]] for pair, j in zip(pairs.tolist(), placed.choice or (), strict=True)]

    def ceiling(self, problem: ChoiceProblem, resource: str) -> float:
        """Most of a resource that any plan uses."""
        table = np.where(problem.mask(), problem.usage[resource], -np.inf)
        return math.fsum(table.max(axis=1))


def energy_bound(tables: OptionTables, device: Device) -> NDArray[np.float64]:
    """Separable bound on an option's energy: dynamic, and static power for as long as its latency bound."""
    return tables.usage["dynamic_energy_j"] + device.power.static_w * tables.usage["latency_bound_s"]
