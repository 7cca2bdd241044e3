"""`solve --measure`: time the plans of a shortlist in an engine, and say which comes first by that."""

from __future__ import annotations

from collections.abc import Sequence

from ..costs.operations import Workload
from ..spec.allocation import Allocation
from .progress import progress
from .verify import numbered


def measure(
    shortlist: Sequence[Allocation], model: str, engine: str, workload: Workload, output: str | None, *, quiet: bool
) -> None:
    """Print the shortlist in its measured order.

    Args:
        shortlist: plans, of least predicted loss first.
        model: folder of the model.
        engine: what runs them.
        workload: sentences and tokens of one inference.
        output: where the first plan was written; the others lie beside it.
        quiet: no progress.
    """
    from ..models.loading import load_model
    from ..reports.printing import print_lines
    from ..reports.trade_off import timed_table
    from ..workflows.rerank import ranked, time_plans

    with progress("measuring", quiet=quiet) as tell:
        timed = time_plans(load_model(model), shortlist, engine, workload, progress=tell)
    limit_s = next((row.capacity for row in shortlist[0].limits if row.resource == "latency_s"), None)
    order = ranked(timed, limit_s)
    best = order[0]
    name = "this plan" if best.number == 1 else f"plan {best.number}"
    where = f": use {numbered(output, name)}" if output is not None and best.number > 1 else ""
    print_lines(["", timed_table(order, engine), f"{name} comes first by measuring{where}"])
    if limit_s is not None and best.latency_s > limit_s:
        print_lines([f"no plan of this shortlist keeps the limit on latency in {engine} on this machine"])
