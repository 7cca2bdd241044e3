"""Tables with one plan for each device, or for each budget."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from hwmodels import format_bytes, format_joules, format_seconds

from ..planning.device_classes import DevicePlan
from ..spec.allocation import Allocation
from ..spec.planned import DeviceCost
from ..workflows.family import Member
from .printing import TextTable, measure_name

SIZES = ("matrices", "bits", "whole model", "predicted loss")
COSTS = ("latency", "peak memory", "energy")


def device_table(plans: Sequence[DevicePlan], *, depth: bool = False) -> Table:
    """Return a row for each device: its best plan and the limits that bind, or why it has none.

    Args:
        plans: one for each device.
        depth: whether to say how many layers each plan has.
    """
    table = TextTable(title="best plan for each device")
    columns = ("device", *(["layers"] if depth else []), *SIZES, *COSTS)
    for column in columns:
        table.add_column(column, no_wrap=True)
    table.add_column("what binds", overflow="fold")
    for item in plans:
        if item.plan is None or item.plan.device is None:
            table.add_row(item.device, *["-"] * (len(columns) - 1), item.reason)
            continue
        plan = item.plan
        binds = ", ".join(measure_name(limit.resource, plan.profile) for limit in plan.limits if limit.binds)
        table.add_row(
            item.device,
            *([_layers(plan)] if depth else []),
            *_sizes(plan),
            *_costs(item.plan.device),
            binds or "nothing: no limit is reached",
        )
    return table


def family_table(members: Sequence[Member]) -> Table:
    """Return a row for each member of a family: its layers, sizes, predicted loss, costs on the device, and proof.

    Args:
        members: members of the family, the smallest first.
    """
    table = TextTable(title=f"{len(members)} models, each the best of its size")
    costs = COSTS if members and members[0].plan.device is not None else ()
    for column in ("layers", *SIZES, *costs, "proof"):
        table.add_column(column, no_wrap=True)
    for member in members:
        plan = member.plan
        table.add_row(
            _layers(plan),
            *_sizes(plan),
            *([] if plan.device is None else _costs(plan.device)),
            plan.status if plan.gap is None else f"{plan.status}, gap {plan.gap:.0e}",
        )
    return table


def _layers(plan: Allocation) -> str:
    if plan.dropped is None:
        return f"all {plan.profile.num_blocks}"
    numbers = ", ".join(str(layer + 1) for layer in plan.dropped.layers)
    return f"{plan.profile.num_blocks} of {plan.dropped.num_layers}, without {numbers}"


def _sizes(plan: Allocation) -> tuple[str, ...]:
    return (
        format_bytes(plan.encoder_bytes),
        f"{plan.average_bits:.2f}",
        format_bytes(plan.total_bytes),
        f"{plan.predicted_loss:.3g} ± {plan.predicted_std_error:.1g}",
    )


def _costs(cost: DeviceCost) -> tuple[str, ...]:
    return format_seconds(cost.latency_s), format_bytes(cost.peak_memory_bytes), format_joules(cost.energy_j)
