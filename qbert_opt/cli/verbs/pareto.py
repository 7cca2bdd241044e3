"""`qbert-opt pareto`: the Pareto frontier of loss over a budget."""

from __future__ import annotations

from typing import Annotated

import typer

from .. import options
from ..progress import progress


def command(
    scores: Annotated[
        str | None, typer.Option("--scores", "-s", help="Score table; by default the bundled reference.")
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", "-d", help="Target hardware: a YAML file or the name of a bundled device.")
    ] = None,
    resource: Annotated[
        str,
        typer.Option(
            "--resource",
            help="Resource: bytes, total-bytes, latency, energy, dram or bops; or two, separated by a comma.",
        ),
    ] = "bytes",
    points: Annotated[
        int, typer.Option("--points", min=2, help="Number of budgets between the smallest and the largest.")
    ] = 200,
    seq_len: Annotated[int, typer.Option("--seq-len", min=1, help="Tokens per sentence.")] = 128,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Sentences per inference.")] = 1,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", help="Write the frontier to this .json or .csv; an interrupted run resumes."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    plot: Annotated[str | None, typer.Option("--plot", help="Draw the frontier to this PNG or SVG.")] = None,
    devices: Annotated[
        str | None,
        typer.Option("--devices", help="Comma-separated devices: the best plan and a curve for each."),
    ] = None,
    compare: Annotated[
        list[str] | None,
        typer.Option("--compare", help="LABEL=scores.json: add another metric or quantizer to the plot."),
    ] = None,
    plan: Annotated[str | None, typer.Option("--plan", help="An allocation.json to mark in the plot.")] = None,
    measured: Annotated[
        str | None, typer.Option("--measured", help="Measured points (JSON) to add to the plot.")
    ] = None,
    quiet: options.Quiet = False,
) -> None:
    """Compute the Pareto frontier: the best plan for every budget of bytes, latency, energy or DRAM traffic.

    Examples:
    `qbert-opt pareto --device car-soc --points 200 -o frontier.csv --plot frontier.svg`

    `qbert-opt pareto --devices car-soc,rpi5,coral --plot devices.png`
    """
    from pydantic import TypeAdapter

    from ...costs.operations import Workload
    from ...data.reference import reference_scores
    from ...errors import UsageError
    from ...planning.device_classes import DevicePlan, plan_for_each
    from ...planning.frontier import to_csv, trade_off
    from ...planning.program import PlanningTask
    from ...reports.devices import device_table
    from ...reports.printing import print_lines
    from ...reports.trade_off import frontier_table
    from ...runtime.files import write_text
    from ...spec.limits import Limits
    from ...spec.scores import read_scores
    from ..pictures import check_plot, draw_frontiers, parse_resources, subjects

    table = reference_scores() if scores is None else read_scores(scores)
    if output is not None and not output.endswith((".json", ".csv")):
        raise UsageError(f"--output {output}: legal endings: .json, .csv.")
    if plot is None and (compare or plan or measured):
        raise UsageError("--compare, --plan and --measured: only affect the plot; add --plot FILE.")
    if device is not None and devices is not None:
        raise UsageError("--device and --devices: give one of them.")
    if devices is not None and output is not None:
        raise UsageError("--devices: prints a table or JSON; --output writes the frontier of one --device.")
    check_plot(plot)
    resources, workload = parse_resources(resource), Workload(seq_len, batch_size)
    targets = [options.load_target(name.strip()) for name in (devices or "").split(",") if name.strip()]
    frontier = None
    if devices is None:
        targets = [options.load_target(device)]
        task = PlanningTask(table, Limits(), device=targets[0], workload=workload)
        checkpoint = None if output is None else f"{output}.partial"
        with progress("frontier", quiet=quiet or checkpoint is None, resume=checkpoint) as tell:
            frontier = trade_off(task, resources, points=points, checkpoint=checkpoint, progress=tell)
        if output is not None:
            write_text(
                output, to_csv(frontier) if output.endswith(".csv") else frontier.model_dump_json(by_alias=True) + "\n"
            )
        if as_json:
            typer.echo(frontier.model_dump_json(by_alias=True, indent=1))
        else:
            print_lines([frontier_table(frontier)])
    else:
        plans = plan_for_each(table, [target for target in targets if target is not None], Limits(), workload)
        if as_json:
            typer.echo(TypeAdapter(list[DevicePlan]).dump_json(plans, by_alias=True, indent=1).decode())
        else:
            print_lines([device_table(plans)])
    if plot is not None:
        curves = subjects(table, f"{table.metric} {table.method}", targets, compare)
        draw_frontiers(plot, curves, frontier, resources, points, workload, plan=plan, measured=measured)
    if not as_json:
        for path in (output, plot):
            if path is not None:
                print_lines([f"wrote {path}"])
