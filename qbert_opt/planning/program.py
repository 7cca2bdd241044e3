"""Combines scores, costs and limits into one integer program: the only place where the three meet."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from solvers import ChoiceProblem, ProblemError, reverse

from ..costs.decoding import device_for
from ..costs.functions import with_functions
from ..costs.portable import plan_target
from ..costs.pricing import OptionTables
from ..costs.stored import Storage
from ..costs.workload import Workload, check_decoder, in_phase
from ..errors import InfeasibleError, UsageError
from ..spec.choices import Choice
from ..spec.limits import Limits, Row, limit_rows, tightest
from ..spec.profiles import ModelProfile, TableSpec
from ..spec.quantities import Measure, shown
from ..spec.scores import ScoreTable
from .allowed_choices import allowed_choices
from .constraints import RESOURCES, PlanConstraints, check_goal, formats, ties
from .prices import bytes_beside_weights, priced_options, room_bytes

if TYPE_CHECKING:
    from hwmodels import Device

# limit -> its separable upper bound, and its separable lower bound
SCHEDULED = {"latency_s": "latency_bound_s", "token_s": "token_bound_s", "energy_j": "energy_bound_j"}
FLOORS = {"latency_s": "latency_floor_s", "token_s": "token_floor_s", "energy_j": "energy_floor_j"}
LOSS: Final = "sum_of_scores"  # row of the program
BYTES: Final = "encoder_bytes"  # row of the program
RESIDENT_GOALS = ("latency_bound_s", "token_bound_s", "energy_bound_j", "dram_bytes")  # lowered by weights on chip


class PlanningTask:
    """Scores, limits and hardware of one plan (see `__init__`), and the tables computed from them.

    Attributes:
        items: the matrices, then the embedding tables that were scored.
        choices: the ways an item may be stored; columns of `value`.
        value: predicted loss, float64 [items, choices]; NaN where not scored.
        folds: the same on each part of the scoring text, float64 [folds, items, choices].
        target: the engine or engines that the plan is made for, or None.
        legal: bool [items, choices]: scored, allowed by the constraints, and supported by the engine.
        ties: sets of modules that must share one choice.
        largest_sum: bound on the sum of scores where a resource is minimized; the limit on the predicted loss, unless
            `within_sum` lowered it.
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
        """Mask the choices that the constraints rule out.

        Args:
            scores: predicted loss of each choice.
            limits: the user's limits.
            device: target hardware, or None.
            workload: sentences and tokens of one inference; None is one sentence of 128 tokens.
            constraints: what the plan must satisfy besides the limits; None adds no constraint.

        Raises:
            UsageError: a constraint leaves a matrix without a choice or names a matrix that does not exist, or the
                device does not run the engine.
        """
        self.scores, self.limits = scores, limits
        self.profile: ModelProfile = scores.profile
        self.device = device
        self.constraints = constraints or PlanConstraints()
        check_goal(self.constraints, self.profile, has_device=device is not None)
        check_decoder(self.profile, tokens_per_s=limits.tokens_per_s, cache_bits=self.constraints.cache_bits)
        self.largest_sum = self.constraints.max_loss
        self.workload = in_phase(self.profile, workload or Workload())
        self.items = scores.items
        self.choices: tuple[Choice, ...] = scores.item_choices()
        self.value, self.folds = scores.item_values(), scores.item_folds()
        self.target = plan_target(self.constraints.engine, self.constraints.portable)
        if self.device is not None and self.target is not None:
            self.target.check_device(self.device)
            self.device = self.target.on(self.device)
        self.workload = with_functions(self.workload, self.profile, self.device, self.target)
        self.legal: NDArray[np.bool_] = allowed_choices(scores, self.choices, self.constraints, self.target)
        self.ties = ties(scores, self.constraints)

    def __repr__(self) -> str:
        """Return one line."""
        device = None if self.device is None else self.device.id
        return f"PlanningTask({self.profile.name!r}, {device=}, items={len(self.items)}, choices={len(self.choices)})"

    def under(self, limits: Limits) -> PlanningTask:
        """Return the same task under other limits.

        Args:
            limits: replace the task's own; the cost tables are kept.
        """
        other = self._copy_without("rows", "hard")
        other.limits = limits
        return other

    def within_sum(self, bound: float) -> PlanningTask:
        """Return the same task under another bound on the sum of scores; the limit on the predicted loss stays.

        Args:
            bound: of the matrices and scored tables together.
        """
        other = self._copy_without()
        other.largest_sum = bound
        return other

    def without_goal(self) -> PlanningTask:
        """Return the same task minimizing the sum of scores instead of a resource under a bound."""
        other = self._copy_without()
        other.constraints = self.constraints.model_copy(update={"max_loss": None, "least": None})
        other.largest_sum = None
        return other

    def sum_of_scores(self, storage: Mapping[str, Storage]) -> float:
        """Return the sum of the scores of one choice per matrix and scored table.

        Args:
            storage: how each item is stored, by module.
        """
        chosen = [self.choices.index(storage[item.module].choice) for item in self.items]
        return math.fsum(self.value[range(len(chosen)), chosen].tolist())

    def _copy_without(self, *cached: str) -> PlanningTask:
        """Return a copy that computes these cached properties again."""
        other = copy.copy(self)
        for name in cached:
            other.__dict__.pop(name, None)
        return other

    def reading(self, input_bits: Mapping[str, int]) -> PlanningTask:
        """Return the same task priced for quantized inputs.

        Args:
            input_bits: bits of each matrix's input, by module; others have the engine's or the device's own.
        """
        return self._repriced(input_bits=input_bits)

    def with_static_inputs(self, modules: Iterable[str]) -> PlanningTask:
        """Return the same task with static ranges for the inputs of some matrices, as the engine stores them.

        Args:
            modules: the matrices.
        """
        other = self._copy_without("tables", "rows", "hard", "room_bytes")
        other.target = plan_target(self.constraints.engine, self.constraints.portable, modules)
        other.legal = allowed_choices(self.scores, self.choices, self.constraints, other.target)
        return other

    def caching(self, bits: int) -> PlanningTask:
        """Return the same task for a decoder's cache of another width.

        Args:
            bits: of a key or value.
        """
        return self if bits == self.workload.cache_bits else self._repriced(cache_bits=bits)

    def _repriced(self, **changes: Any) -> PlanningTask:
        """Return the same task for another workload."""
        other = self._copy_without("tables", "rows", "hard", "room_bytes")
        other.workload = replace(self.workload, **changes)
        return other

    @property
    def num_matrices(self) -> int:
        """Number of matrices among the items; the rest are tables."""
        return len(self.profile.matrices)

    @property
    def searched_tables(self) -> tuple[TableSpec, ...]:
        """The embedding tables that were scored."""
        return tuple(item for item in self.items if isinstance(item, TableSpec))

    @cached_property
    def tables(self) -> OptionTables:
        """Cost of every option: each choice streamed and, on a device with a scratchpad, also resident."""
        return priced_options(
            self.profile, self.choices, self.legal, self.device, self.workload, self.searched_tables, self.target
        )

    @cached_property
    def rows(self) -> list[Row]:
        """All limits."""
        expands = "held_bytes" in self.tables.usage
        beside = bytes_beside_weights(self.profile, self.device, self.workload, with_cache=not expands)
        total: Literal["encoder_bytes", "total_bytes"] = "encoder_bytes"
        if self.searched_tables or self.target is not None:  # an engine's graph depends on the choices too
            total = "total_bytes"
        device = None if self.device is None else device_for(self.profile, self.device)
        return limit_rows(self.limits, device, self.tables.fixed, beside, total, expands=expands)

    @cached_property
    def hard(self) -> dict[str, Row]:
        """The tightest limit on each resource that adds up over matrices.

        Raises:
            InfeasibleError: the parts of the model that are not searched already exceed a limit.
        """
        kept = "" if self.searched_tables else "tables, "
        hard = {k: r for k, r in tightest(self.rows).items() if k not in SCHEDULED}
        for row in hard.values():
            if row.capacity < 0:
                raise InfeasibleError(
                    f"{row.source} = {shown(row.measure, row.stated)}: the parts that are not searched ({kept}norms, "
                    f"biases, head, activations) already need {shown(row.measure, row.stated - row.capacity)}."
                )
        return hard

    @property
    def scheduled(self) -> list[Row]:
        """Limits on latency and energy, which do not add up."""
        return [row for row in self.rows if row.resource in SCHEDULED]

    @property
    def goal(self) -> Measure | None:
        """The resource to minimize; None minimizes the predicted loss."""
        return None if self.constraints.least is None else RESOURCES[self.constraints.least]

    @property
    def joint(self) -> bool:
        """Whether bits and residency are solved jointly, because residency affects which bits are possible or best."""
        return self.has_scratchpad and ("dram_bytes" in self.hard or self.goal in RESIDENT_GOALS)

    @property
    def has_scratchpad(self) -> bool:
        """Whether weights can stay on chip."""
        return self.device is not None and self.device.scratchpad is not None

    @cached_property
    def room_bytes(self) -> float:
        """Scratchpad bytes left for weights."""
        room = room_bytes(self.profile, self.device, self.workload)
        limit = self.limits.scratchpad_bytes
        return float(room if limit is None else min(room, limit))

    def capacity(self) -> dict[str, float]:
        """Return what the additive limits leave for the searched matrices, by resource."""
        return {name: row.capacity for name, row in self.hard.items()}

    def problem(self, capacity: Mapping[str, float], *, joint: bool = False) -> ChoiceProblem:
        """Build the integer program.

        Where a resource is minimized instead of the predicted loss, the loss is a row of its own, `LOSS`.

        Args:
            capacity: limit on each additive resource, in its own unit.
            joint: offer every choice both streamed and resident; otherwise only streamed.

        Raises:
            InfeasibleError: the device allows no choice for some matrix.
            UsageError: tied matrices have no choice in common.
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
        limited = {**capacity, **({"scratchpad_bytes": self.room_bytes} if joint and self.has_scratchpad else {})}
        try:
            problem = ChoiceProblem(
                items=tuple(item.module for item in self.items),
                options=tuple(f"{o.choice.name}{'/resident' if o.resident else ''}" for o in tables.options[:columns]),
                value=np.tile(np.where(self.legal, self.value, np.nan), (1, copies)),
                usage={row: table[:, :columns] for row, table in tables.usage.items()},
                capacity=limited,
                allowed=allowed,
                ties=self.ties,
                families=formats(self.scores, self.choices) * copies if self.constraints.max_formats else None,
                max_families=self.constraints.max_formats,
                tie_break="total_bytes" if "total_bytes" in limited and "encoder_bytes" not in limited else BYTES,
            )
        except ProblemError as error:  # tied matrices without a common choice
            raise UsageError(str(error)) from None
        goal, most = self.goal, self.largest_sum
        return problem if goal is None or most is None else reverse(problem, goal, most, LOSS)
