"""Why a plan is as it is, and what every budget buys, as text."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from solvers import ChoiceProblem, ChoiceSolution, Step, explain

from .frontier import RESOURCES, TradeOff
from .limits import shown


def frontier_table(found: TradeOff, rows: int = 16) -> Table:
    """A few plans of a frontier, evenly chosen, with the best uniform plan that fits beside each."""
    names = [RESOURCES[name] for name in found.resources]
    title = f"{len(found.points)} plans in {found.runtime_s:.2f} s, {found.loss_unit}"
    table = Table(title=title, box=None, pad_edge=False, title_justify="left")
    for column in (*(f"{name} of the searched matrices" for name in found.resources), "predicted loss", "gap"):
        table.add_column(column)
    table.add_column("best uniform that fits")
    step = max(1, len(found.points) // rows)
    for point in found.points[::step]:
        fits = [u for u in found.uniform if all(u.usage[name] <= point.usage[name] for name in names)]
        best = min(fits, key=lambda u: u.predicted_loss, default=None)
        table.add_row(
            *(shown(name, point.usage[name]) for name in names),
            f"{point.predicted_loss:.4g}",
            f"{point.gap:.0e}",
            "-" if best is None else f"{best.predicted_loss:.4g}  {best.choice}",
        )
    return table


def explanation_lines(problem: ChoiceProblem, solution: ChoiceSolution) -> Iterator[str]:
    """Why each matrix got its bits: what the next better and the next worse choice would have cost."""
    for reason in explain(problem, solution.choice or ()):
        better = (
            "has its best choice" if reason.better is None else f"next better {_step(reason.better, 'gains', 'needs')}"
        )
        worse = (
            "has its least choice" if reason.worse is None else f"next worse {_step(reason.worse, 'loses', 'frees')}"
        )
        yield f"{reason.item}: {reason.option}\n    {better}\n    {worse}"


def _step(step: Step, verb: str, resource_verb: str) -> str:
    size = shown("total_bytes", abs(step.usage["total_bytes"]))
    missing = ", ".join(f"{shown(name, lack)} of {name} missing" for name, lack in step.missing.items())
    return f"{step.option} {verb} {abs(step.value):.2g}, {resource_verb} {size}{f' ({missing})' if missing else ''}"
