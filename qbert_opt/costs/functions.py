"""How softmax, LayerNorm and GELU are computed, and which method is cheapest on a device.

A device states its own rates for them, whatever arithmetic it uses. In integers, a function costs the elementary
operations of its program (`integer.work`) on the first unit that supports them. In floating point, it runs on the first
unit with floating point; moving the activations there and back is included.
"""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import TYPE_CHECKING
from warnings import warn

from hwmodels import Operation, operation_cost, operations, unsupported

from ..errors import InfeasibleError, QbertOptWarning
from ..integer.errors import usual_error
from ..integer.ways import BY_TABLE, Ways, parse_ways
from ..runtime.plugins import available
from ..spec.profiles import ModelProfile
from .operations import model_graph
from .workload import FLOAT, Functions, Workload

if TYPE_CHECKING:
    from collections.abc import Mapping

    import networkx as nx

    from hwmodels import Device

    from .engine_target import EngineTarget

AUTO = "auto"
KINDS = {"softmax": "softmax", "gelu": "activation", "layernorm": "norm"}
"""Kind of operation -> its field in `Ways`."""
LARGEST_ERROR = {"softmax": 5e-3, "activation": 2e-2, "norm": 5e-3}
"""Largest error that `auto` accepts: absolute for exp and GELU, relative for the square root.

I-BERT's polynomials, which keep a model's accuracy, have errors of 2.4e-3 (exp) and 1.84e-2 (GELU); I-ViT's shifts have
4.5e-2 and 2.6e-2.
"""


def cheapest_ways(profile: ModelProfile, workload: Workload, device: Device) -> Ways:
    """Return the method with the least predicted latency for each function, among those that are accurate enough.

    Args:
        profile: the model.
        workload: sentences and tokens of one inference.
        device: the hardware.

    Raises:
        InfeasibleError: there is a function that no unit can compute in integers accurately enough; says why.
    """
    chosen = {}
    for kind, function in KINDS.items():
        exact = {name: error for name in available("nonlinearities")
                 if (error := usual_error(function, name).largest) <= LARGEST_ERROR[function]}  # fmt: skip
        costs: dict[str, tuple[float, float, bool]] = {}
        reasons = []
        for name, error in exact.items():
            ways = replace(BY_TABLE, **{function: name})
            ops = _of_kind(kind, model_graph(profile, None, replace(workload, functions=ways)))
            reason = next((reason for op in ops if (reason := unsupported(op, device)) is not None), None)
            if reason is None:
                seconds = math.fsum(operation_cost(op, device).latency_bound_s for op in ops)
                costs[name] = (seconds, error, name != getattr(BY_TABLE, function))
            else:
                reasons.append(reason)
        if not costs:
            raise InfeasibleError(f"{device.id}: {'; '.join(dict.fromkeys(reasons))}.")
        chosen[function] = min(costs, key=costs.__getitem__)
    return Ways(**chosen)


def parse_functions(text: str | None, profile: ModelProfile, workload: Workload, device: Device) -> Functions | None:
    """Parse the option that says how functions are computed.

    Args:
        text: `auto` for the cheapest methods in integers, methods as in `parse_ways`, or `float`; None returns None.
        profile: the model.
        workload: sentences and tokens of one inference.
        device: the hardware that sets the prices.

    Raises:
        InfeasibleError: `auto`, and no unit of the device can compute some function in integers.
        UsageError: the text names an unknown function or method.
    """
    if text is None:
        return None
    if text == FLOAT:
        return FLOAT
    if text == AUTO:
        return cheapest_ways(profile, workload, device)
    return parse_ways(text, AUTO, FLOAT)


def with_functions(
    workload: Workload, profile: ModelProfile, device: Device | None, target: EngineTarget | None
) -> Workload:
    """Return a workload whose functions an integer-only engine computes by the methods that are cheapest on the device.

    Args:
        workload: returned unchanged if it states how functions are computed, or if the engine is not integer-only.
        profile: the model.
        device: the hardware; None returns the workload unchanged.
        target: the engine.

    Raises:
        InfeasibleError: no unit of the device can compute some function in integers.

    Warns:
        QbertOptWarning: no unit states rates of elementary integer operations, so the device's own rates are used.
    """
    if device is None or workload.functions is not None or target is None or not target.rules.integer_functions:
        return workload
    if all(unit.integers is None for unit in device.units):
        warn(
            f"{device.id}: states no rates of elementary integer operations, so softmax, LayerNorm and GELU are priced "
            "at its own rates, whatever their arithmetic. Add `integers` to a unit in the device file.",
            QbertOptWarning,
            stacklevel=3,
        )
        return workload
    return replace(workload, functions=cheapest_ways(profile, workload, device))


def table_bytes(graph: nx.DiGraph) -> int:
    """Return the bytes of all lookup tables of functions computed in integers.

    Args:
        graph: operator graph of one inference.
    """
    return sum(op.table_bytes for op in operations(graph).values())


def recorded(functions: Functions | None) -> dict[str, str]:
    """Return how functions are computed, in the form that a plan records; empty for the device's own rates.

    Args:
        functions: the workload's `functions`.
    """
    if functions is None:
        return {}
    return dict.fromkeys(KINDS.values(), FLOAT) if functions == FLOAT else asdict(functions)


def planned_functions(recorded: Mapping[str, str]) -> Functions | None:
    """Read what `recorded` returned.

    Args:
        recorded: function -> method.
    """
    if not recorded:
        return None
    return FLOAT if FLOAT in recorded.values() else Ways(**recorded)


def _of_kind(kind: str, graph: nx.DiGraph) -> list[Operation]:
    return [op for op in operations(graph).values() if op.kind == kind]
