"""Which device and which budget: what the plan costs on several devices, and what other budgets would buy."""

from __future__ import annotations

import numpy as np

from hwmodels import format_bytes, format_joules

from ..costs.phases import simulate_phases
from ..costs.stored import Storage
from ..errors import QbertOptError
from ..planning.frontier import TradeOff, TradeOffPoint
from ..spec.choices import choice
from ..spec.profiles import ModelProfile
from .comparison import Cell, Line, engines_text
from .decoding import broken_limits, expected, peak_bytes
from .printing import with_error
from .rivals import running_engines
from .verdict import Case, trust

BUDGETS = 7


def device_lines(case: Case) -> tuple[Line, ...]:
    """Return what the plan costs on each device; cells: latency, trust, peak memory, DRAM, energy, limits, engines.

    Args:
        case: a case with at least one device.
    """
    own = case.rivals[-1]
    lines = []
    for device in case.devices:
        cost = own.costs[device.id]
        if isinstance(cost, str):
            lines.append(
                Line(device.id, device.name, (Cell(f"cannot run it: {cost}; make a plan for it with solve --device"),))
            )
            continue
        engines = None if device.engines is None or own.plan is None else running_engines(own.plan, device.engines)
        token = own.token(device)
        last = token or cost
        cells = (
            expected(cost, token, case.workload), trust(cost.confidence), format_bytes(peak_bytes(cost, token)),
            format_bytes(last.dram_bytes), format_joules(last.energy_j),
            "; ".join(broken_limits(cost, token)) or "kept", engines_text(engines),
        )  # fmt: skip
        lines.append(Line(device.id, device.name, tuple(map(Cell, cells)), device is case.device))
    return tuple(lines)


def device_columns(profile: ModelProfile) -> tuple[str, ...]:
    """Return the headings of `device_lines`.

    Args:
        profile: the model; for a decoder, DRAM traffic and energy are those of one token with a full cache.
    """
    each = "token" if profile.causal else "inference"
    return (
        "latency of this plan", "how sure", "peak memory", f"DRAM per {each}", f"energy per {each}", "limits",
        "runs today in",
    )  # fmt: skip


def device_advice(case: Case) -> str:
    """Return a sentence with the devices whose limits the plan meets, the one with the least predicted latency first.

    Args:
        case: a case with at least one device.
    """
    own = case.rivals[-1]
    costs = {name: cost for name, cost in own.costs.items() if not isinstance(cost, str)}
    ordered = sorted(costs, key=lambda name: own.tokens.get(name, costs[name]).latency_s)
    fitting = [name for name in ordered if not broken_limits(costs[name], own.tokens.get(name))]
    others = [device.id for device in case.devices if device.id not in fitting]
    told = f"Meets the limits of {', '.join(fitting)}" if fitting else "Meets the limits of no device here"
    return told + (f"; not those of {', '.join(others)}." if others and fitting else ".")


BUDGET_COLUMNS = ("matrices", "whole model", "bits per weight", "predicted loss", "times this plan", "latency")


def budget_lines(case: Case, frontier: TradeOff) -> tuple[Line, ...]:
    """Return plans of the frontier over the range of budgets, and this plan, with a cell for each of `BUDGET_COLUMNS`.

    Args:
        case: the plan and its device.
        frontier: loss over encoder bytes.
    """
    ours = case.plan
    points = sorted(frontier.points, key=lambda p: p.usage["encoder_bytes"])
    sizes = [p.usage["encoder_bytes"] for p in points]
    wanted = np.geomspace(sizes[0], sizes[-1], BUDGETS)
    picked = sorted({int(np.argmin(np.abs(np.log(sizes) - np.log(size)))) for size in wanted})
    other_bytes = ours.total_bytes - ours.encoder_bytes
    rows = [(_budget_line(case, points[i], other_bytes), sizes[i]) for i in picked]
    cost = None if case.device is None else case.rivals[-1].cost(case.device)
    token = case.rivals[-1].token(case.device)
    latency = "-" if cost is None or isinstance(cost, str) else expected(cost, token, case.workload)
    loss = "void: trained" if case.is_trained else with_error(ours.predicted_loss, ours.predicted_std_error)
    own = (
        f"{ours.encoder_bytes / 1e6:.2f} MB", f"{ours.total_bytes / 1e6:.2f} MB", f"{ours.average_bits:.2f}", loss, "1",
        latency,
    )  # fmt: skip
    rows.append((Line("this plan", "", tuple(map(Cell, own)), own=True), float(ours.encoder_bytes)))
    return tuple(line for line, _ in sorted(rows, key=lambda row: row[1]))


def budget_advice(case: Case, frontier: TradeOff) -> tuple[str, ...]:
    """Return how small a plan can be if its predicted loss must not exceed that of uniform 8 bits, and of 4 bits.

    Args:
        case: a case with the uniform plans.
        frontier: loss over encoder bytes.
    """
    told = []
    for rival in case.rivals[1:-1]:
        allowed = rival.predicted_loss
        enough = [] if allowed is None else [p for p in frontier.points if p.predicted_loss <= allowed]
        if allowed is None:
            continue
        if not enough:
            told.append(f"No plan here is predicted to lose as little as {rival.name} ({allowed:.3g}).")
            continue
        size = min(p.usage["encoder_bytes"] for p in enough)
        told.append(
            f"As little predicted loss as {rival.name} ({allowed:.3g} in {rival.encoder_bytes / 1e6:.2f} MB of "
            f"matrices) needs {size / 1e6:.2f} MB."
        )
    return tuple(told)


def _budget_line(case: Case, point: TradeOffPoint, other_bytes: int) -> Line:
    workload = case.workload
    size, ours = point.usage["encoder_bytes"], case.plan
    device, latency = case.device, "-"
    if device is not None:
        storage = {
            m.module: Storage(choice(name)) for m, name in zip(ours.profile.matrices, point.choices, strict=True)
        }
        try:
            latency = expected(*simulate_phases(ours.profile, storage, device, workload), workload)
        except QbertOptError:
            latency = f"cannot run on {device.id}"
    ratio = "-"
    if not case.is_trained and ours.predicted_loss > 0:
        ratio = f"{point.predicted_loss / ours.predicted_loss:.2g}"
    cells = (
        f"{size / 1e6:.2f} MB", f"{(size + other_bytes) / 1e6:.2f} MB",
        f"{8 * size / ours.profile.encoder_elements:.2f}",
        with_error(point.predicted_loss, point.predicted_std_error), ratio, latency,
    )  # fmt: skip
    return Line("best plan", "", tuple(map(Cell, cells)))
