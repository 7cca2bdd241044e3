"""Why a plan has its choices, and the best plan for each budget, as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from hwmodels import format_bytes, format_seconds
from solvers import ChoiceProblem, ChoiceSolution, Step, explain

from ..planning.constraints import RESOURCES
from ..planning.frontier import TradeOff
from ..planning.program import LOSS
from ..spec.allocation import Allocation
from ..spec.quantities import shown
from .printing import TextTable, measure_name, with_error

if TYPE_CHECKING:
    from ..workflows.rerank import TimedPlan


COLUMNS = {"token": "latency of a token"}
"""Headings of resources whose names alone do not say what is counted."""


def frontier_table(trade_off: TradeOff, rows: int = 16) -> Table:
    """Return a few evenly chosen plans of a frontier, each with the best uniform plan that fits.

    Args:
        trade_off: frontier over one resource or two.
        rows: maximum number of plans to show.
    """
    names = [RESOURCES[name] for name in trade_off.resources]
    title = f"{len(trade_off.points)} plans in {trade_off.runtime_s:.2f} s, {trade_off.loss_unit}"
    table = TextTable(
        *(f"{COLUMNS.get(name, name)} of the searched matrices" for name in trade_off.resources), title=title
    )
    for column in ("predicted loss", "sum of scores", "gap", "best uniform plan that fits"):
        table.add_column(column)
    if trade_off.own_limits:
        limits = (f"{limit.source} leaves {shown(limit.resource, limit.capacity)}" for limit in trade_off.own_limits)
        table.caption = Text(f"not ended by its own limits: {'; '.join(limits)} to the searched matrices")
        table.caption_justify = "left"
    # Several budgets of two resources often have the same best plan.
    plans = list({(point.choices, point.tables): point for point in trade_off.points}.values())
    step = max(1, len(plans) // rows)
    for point in plans[::step]:
        fits = [u for u in trade_off.uniform if all(u.usage[name] <= point.usage[name] for name in names)]
        best = min(fits, key=lambda u: u.predicted_loss, default=None)
        table.add_row(
            *(shown(name, point.usage[name]) for name in names),
            with_error(point.predicted_loss, point.predicted_std_error),
            f"{point.sum_of_scores:.4g}",
            f"{point.gap:.0e}",
            "-" if best is None else f"{with_error(best.predicted_loss, best.predicted_std_error)}  {best.choice}",
        )
    return table


def explanation_lines(problem: ChoiceProblem, solution: ChoiceSolution, objective: str = LOSS) -> Iterator[str]:
    """Yield for each matrix why it got its choice: what the next better and the next worse one would have cost.

    Args:
        problem: the solved program.
        solution: its answer.
        objective: name of the measure that is minimized.
    """
    for reason in explain(problem, solution.choice or ()):
        better = (
            "has its best choice"
            if reason.better is None
            else f"next better {_step(reason.better, 'gains', 'needs', objective)}"
        )
        worse = (
            "has its least choice"
            if reason.worse is None
            else f"next worse {_step(reason.worse, 'loses', 'frees', objective)}"
        )
        yield from (f"{reason.item}: {reason.option}", f"    {better}", f"    {worse}")


def _step(step: Step, verb: str, resource_verb: str, objective: str) -> str:
    value = f"{abs(step.value):.2g}" if objective == LOSS else shown(objective, abs(step.value))
    size = shown("total_bytes", abs(step.usage["total_bytes"]))
    missing = ", ".join(f"{shown(name, lack)} of {name} missing" for name, lack in step.missing.items())
    return f"{step.option} {verb} {value}, {resource_verb} {size}{f' ({missing})' if missing else ''}"


def shortlist_table(plans: Sequence[Allocation]) -> Table:
    """Return a table of several plans: losses, size, latency, and in how many matrices each differs from the first.

    Args:
        plans: plans in their proven order, i.e. by the measure that was minimized.
    """
    with_device = all(plan.device is not None for plan in plans)
    latencies = ("first token" if plans[0].profile.causal else "latency",) if with_device else ()
    least = measure_name(plans[0].objective, plans[0].profile)
    title = f"{len(plans)} plans, the least {least} first; predicted losses are cross-fitted"
    if not all(plan.folds for plan in plans):
        title = f"{len(plans)} plans, the least {least} first; losses are sums of scores"
    table = TextTable(
        "plan",
        "predicted loss",
        "sum of scores",
        plans[0].profile.part,
        *latencies,
        "matrices that differ",
        title=title,
    )
    for number, plan in enumerate(plans, 1):
        differ = sum(a.choice != b.choice for a, b in zip(plan.matrices, plans[0].matrices, strict=True))
        differ += sum(a.choice != b.choice for a, b in zip(plan.tables, plans[0].tables, strict=True))
        latency = [format_seconds(plan.device.latency_s)] if with_device and plan.device is not None else []
        loss = with_error(plan.predicted_loss, plan.predicted_std_error)
        sizes = (f"{plan.sum_of_scores:.6g}", format_bytes(plan.encoder_bytes))
        table.add_row(str(number), loss, *sizes, *latency, str(differ))
    return table


def timed_table(plans: Sequence[TimedPlan], engine: str) -> Table:
    """Return a table of a shortlist in measured order: loss, and predicted and measured latency.

    Args:
        plans: in the order to show.
        engine: where they were timed.
    """
    table = TextTable(title=f"measured in {engine}, one thread, processor time")
    for column in ("plan", "predicted loss", "matrices", "predicted on the device", "measured here", "readings spread"):
        table.add_column(column)
    for timed in plans:
        cost = timed.allocation.device
        table.add_row(
            str(timed.number),
            with_error(timed.allocation.predicted_loss, timed.allocation.predicted_std_error),
            format_bytes(timed.allocation.encoder_bytes),
            "-" if cost is None else format_seconds(cost.latency_s),
            format_seconds(timed.latency_s),
            f"{100 * timed.spread:.1f} %",
        )
    return table
