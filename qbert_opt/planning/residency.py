"""Bounds on the energy of options, and which weights stay in the scratchpad when the bits are fixed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from solvers import ChoiceProblem, solve

from ..costs.operations import Storage
from ..costs.pricing import OptionTables

if TYPE_CHECKING:
    from hwmodels import Device

RESIDENCY_GAP = 1e-3  # a tighter proof would only settle which of two equal matrices stays on chip


def energy_bound(tables: OptionTables, device: Device) -> NDArray[np.float64]:
    """Return a separable upper bound on each option's energy: dynamic + static power × latency bound.

    Args:
        tables: costs of the options.
        device: its static power.

    Returns:
        Joules, float64 [items, options].
    """
    return tables.usage["dynamic_energy_j"] + device.power.static_w * tables.usage["latency_bound_s"]


def energy_floor(tables: OptionTables, device: Device, num_choices: int) -> NDArray[np.float64]:
    """Return each option's least energy over all schedules, streamed or resident.

    Args:
        tables: costs of the options.
        device: its static power.
        num_choices: number of choices; each is an option streamed and, with a scratchpad, another resident.

    Returns:
        Joules, float64 [items, options].
    """
    energy = tables.usage["dynamic_energy_j"] + device.power.static_w * tables.usage["latency_floor_s"]
    masked = np.zeros(energy.shape, dtype=bool)
    for at in tables.masks:
        masked[at] = True
    pairs = np.where(masked, np.inf, energy).reshape(len(energy), -1, num_choices)
    least = np.tile(pairs.min(axis=1), (1, pairs.shape[1]))
    return np.where(np.isfinite(least), least, 0.0)


def least_energy_residency(
    tables: OptionTables,
    device: Device,
    modules: Sequence[str],
    chosen: Sequence[Storage],
    capacity: Mapping[str, float],
) -> list[Storage]:
    """Choose which weights stay on chip, so that the energy bound is least.

    Energy contains both traffic (dynamic) and latency (static power × time), so both are weighed in joules.

    Args:
        tables: costs of the options; the streamed options come first, then the same choices resident.
        device: its static power.
        modules: names of the items.
        chosen: how each item is stored; only its choice is used.
        capacity: scratchpad bytes for weights and, where DRAM traffic is limited, the bytes of DRAM traffic.

    Returns:
        The same choices, each streamed or resident.
    """
    streamed = np.array([tables.options.index(Storage(s.choice)) for s in chosen])
    pairs = np.stack([streamed, streamed + len(tables.options) // 2], axis=1)
    rows = np.arange(len(chosen))[:, None]
    placed = solve(
        ChoiceProblem(
            items=tuple(modules),
            options=("streamed", "resident"),
            value=energy_bound(tables, device)[rows, pairs],
            usage={name: tables.usage[name][rows, pairs] for name in capacity},
            capacity=capacity,
            allowed=np.array([[(i, j) not in tables.masks for j in pair] for i, pair in enumerate(pairs.tolist())]),
        ),
        "lagrangian" if len(capacity) == 1 else "auto",  # with two rows its repair step may find no plan
        relative_gap=RESIDENCY_GAP,
    )
    return [tables.options[pair[j]] for pair, j in zip(pairs.tolist(), placed.choice or (), strict=True)]
