"""One plan per device class as a table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from hwmodels import format_bytes, format_joules, format_seconds

from ..planning.device_classes import DevicePlan
from .printing import TextTable, measure_name


def device_table(plans: Sequence[DevicePlan]) -> Table:
    """A row for each device: its best plan, what binds, or why it can hold none.

    Args:
        plans: one for each device.
    """
    table = TextTable(title="best plan for each device")
    for column in ("device", "matrices", "bits", "whole model", "predicted loss", "latency", "peak memory", "energy"):
        table.add_column(column, no_wrap=True)
    table.add_column("what binds", overflow="fold")
    for item in plans:
        if item.plan is None or item.plan.device is None:
            table.add_row(item.device, *["-"] * 7, item.reason)
            continue
        plan, cost = item.plan, item.plan.device
        binds = ", ".join(measure_name(limit.resource, plan.profile) for limit in plan.limits if limit.binds)
        table.add_row(
            item.device,
            format_bytes(plan.encoder_bytes),
            f"{plan.average_bits:.2f}",
            format_bytes(plan.total_bytes),
            f"{plan.predicted_loss:.3g} ± {plan.predicted_std_error:.1g}",
            format_seconds(cost.latency_s),
            format_bytes(cost.peak_memory_bytes),
            format_joules(cost.energy_j),
            binds or "nothing: no limit is reached",
        )
    return table
