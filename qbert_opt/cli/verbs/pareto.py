"""`qbert-opt pareto`: what every budget buys."""

from __future__ import annotations

from typing import Annotated

import typer

from .. import options


def command(
    scores: Annotated[
        str | None, typer.Option("--scores", "-s", help="Table of scores; the bundled reference without it.")
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", "-d", help="Target hardware: a YAML file or a bundled name.")
    ] = None,
    resource: Annotated[
        str, typer.Option("--resource", help="bytes, latency, energy, dram or bops; two with a comma.")
    ] = "bytes",
    points: Annotated[int, typer.Option("--points", min=2, help="Budgets between floor and ceiling.")] = 200,
    seq_len: Annotated[int, typer.Option("--seq-len", min=1, help="Tokens of a sentence.")] = 128,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Sentences of one inference.")] = 1,
    output: Annotated[str | None, typer.Option("--output", "-o", help="Write .json or .csv here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Find the best plan for every budget: the frontier of loss against bytes, latency, energy or traffic.

    Example: `qbert-opt pareto --device car-soc --points 200 -o frontier.csv`
    """
    from ...errors import UsageError
    from ...files import write_text
    from ...frontier import to_csv, trade_off
    from ...limits import Limits
    from ...operations import Workload
    from ...programs import PlanningTask
    from ...reference import reference_scores
    from ...report import print_lines
    from ...report_trade_off import frontier_table
    from ...scores import read_scores

    table = reference_scores() if scores is None else read_scores(scores)
    if output is not None and not output.endswith((".json", ".csv")):
        raise UsageError(f"--output {output}: legal endings: .json, .csv.")
    task = PlanningTask(table, Limits(), device=options.load_target(device), workload=Workload(seq_len, batch_size))
    found = trade_off(task, tuple(part.strip() for part in resource.split(",")), points=points)
    if output is not None:
        write_text(output, to_csv(found) if output.endswith(".csv") else found.model_dump_json(by_alias=True) + "\n")
    if as_json:
        typer.echo(found.model_dump_json(by_alias=True, indent=1))
        return
    print_lines([frontier_table(found)])
    if output is not None:
        typer.echo(f"wrote {output}")
