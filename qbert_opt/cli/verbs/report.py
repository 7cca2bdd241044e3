"""`qbert-opt report`: write a plan as one HTML file."""

from __future__ import annotations

from typing import Annotated

import typer

from .. import options


def command(
    plan: Annotated[str, typer.Argument(help="An allocation.json.")],
    output: Annotated[str, typer.Option("--output", "-o", help="HTML file to write.")],
    scores: Annotated[
        str | None, typer.Option("--scores", "-s", help="The plan's scores, or 'reference': adds the frontier.")
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", "-d", help="Target hardware: adds the predicted cost of each operation.")
    ] = None,
    seq_len: options.SeqLen = None,
    batch_size: options.BatchSize = 1,
    measured: Annotated[
        str | None, typer.Option("--measured", help="Measured points (JSON), with this plan's first.")
    ] = None,
) -> None:
    """Write a self-contained HTML report: plan, frontier, cost, every matrix, provenance.

    Example: `qbert-opt report allocation.json --scores reference --device car-soc -o report.html`
    """
    from hwmodels import DeviceError

    from ...costs.operations import workload_of
    from ...costs.simulate import simulate_allocation
    from ...errors import InfeasibleError
    from ...planning.frontier import trade_off
    from ...planning.measured_points import read_measured
    from ...planning.program import PlanningTask
    from ...reports.html import html_report
    from ...reports.printing import print_lines
    from ...runtime.files import write_text
    from ...spec.allocation import read_allocation
    from ...spec.limits import Limits
    from ...spec.plan_scores import check_scores

    allocation = read_allocation(plan)
    points = None if measured is None else read_measured(measured)
    frontier = None
    if scores is not None:
        table = options.load_scores(scores)
        check_scores(allocation, table)
        frontier = trade_off(PlanningTask(table, Limits()), ("bytes",))
    cost = None
    if device is not None:
        try:
            cost = simulate_allocation(
                allocation, options.load_device(device), workload_of(allocation.profile, seq_len, batch_size)
            )
        except DeviceError as error:
            raise InfeasibleError(f"{plan}: {error}") from None
    write_text(output, html_report(allocation, frontier=frontier, cost=cost, measured=points))
    print_lines([f"wrote {output}"])
