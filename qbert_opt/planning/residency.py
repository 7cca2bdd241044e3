"""Bounds on the energy of options, and which weights stay in the scratchpad when the bits are fixed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from solvers import ChoiceProblem, solve

from ..costs.decoding import seconds_of
from ..costs.operations import Storage
from ..costs.pricing import OptionTables
from ..errors import InfeasibleError

if TYPE_CHECKING:
    from hwmodels import Device

RESIDENCY_GAP = 1e-3  # a tighter proof would only decide which of two equal matrices stays on chip


def with_energy(tables: OptionTables, device: Device, num_choices: int) -> OptionTables:
    """Return the tables with separable bounds on energy, `energy_bound_j` and `energy_floor_j`, in joules.

    The upper bound is dynamic energy + static power × latency bound. The lower one is each choice's least energy over
    all schedules, streamed or resident.

    Args:
        tables: costs of the options.
        device: its static power.
        num_choices: number of choices; each is an option streamed and, with a scratchpad, another resident.
    """
    usage, fixed = dict(tables.usage), dict(tables.fixed)
    for energy, seconds in seconds_of(usage).items():
        usage[energy] = usage["dynamic_energy_j"] + device.power.static_w * usage[seconds]
        fixed[energy] = fixed["dynamic_energy_j"] + device.power.static_w * fixed[seconds]
    masked = np.zeros(usage["energy_floor_j"].shape, dtype=bool)
    for at in tables.masks:
        masked[at] = True
    pairs = np.where(masked, np.inf, usage["energy_floor_j"]).reshape(len(masked), -1, num_choices)
    least = np.tile(pairs.min(axis=1), (1, pairs.shape[1]))
    usage["energy_floor_j"] = np.where(np.isfinite(least), least, 0.0)
    return replace(tables, usage=usage, fixed=fixed)


def least_energy_residency(
    tables: OptionTables,
    modules: Sequence[str],
    chosen: Sequence[Storage],
    capacity: Mapping[str, float],
) -> list[Storage]:
    """Choose which weights stay on chip, so that the energy bound is least.

    Energy covers both traffic (dynamic) and latency (static power × time), so both are compared in joules.

    Args:
        tables: costs of the options, energy included; the streamed ones come first, then the same choices resident.
        modules: names of the items.
        chosen: how each item is stored; only its choice is used.
        capacity: scratchpad bytes for weights and, where DRAM traffic is limited, the bytes of DRAM traffic.

    Returns:
        The same choices, each streamed or resident.

    Raises:
        InfeasibleError: no placement keeps the capacities.
    """
    streamed = np.array([tables.options.index(Storage(s.choice)) for s in chosen])
    pairs = np.stack([streamed, streamed + len(tables.options) // 2], axis=1)
    rows = np.arange(len(chosen))[:, None]
    placed = solve(
        ChoiceProblem(
            items=tuple(modules),
            options=("streamed", "resident"),
            value=tables.usage["energy_bound_j"][rows, pairs],
            usage={name: tables.usage[name][rows, pairs] for name in capacity},
            capacity=capacity,
            allowed=np.array([[(i, j) not in tables.masks for j in pair] for i, pair in enumerate(pairs.tolist())]),
        ),
        "lagrangian" if len(capacity) == 1 else "auto",  # with two rows its repair step may find no plan
        relative_gap=RESIDENCY_GAP,
    )
    if placed.choice is None:
        raise InfeasibleError("not enough weights fit on chip to keep the limit on DRAM traffic.")
    return [tables.options[pair[j]] for pair, j in zip(pairs.tolist(), placed.choice, strict=True)]
