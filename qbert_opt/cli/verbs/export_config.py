"""`qbert-opt export-config`: convert a plan to another tool's config."""

from __future__ import annotations

from typing import Annotated

import typer

from .. import options


def command(
    plan: Annotated[str, typer.Argument(help="An allocation.json.")],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            help="modelopt, autoround, torchao, gptqmodel, compressed-tensors, nncf, coremltools, llama.cpp, "
            "ai-edge-quantizer, tidl or hawq.",
        ),
    ],
    output: Annotated[str, typer.Option("--output", "-o", help="File to write, with a file extension of the tool.")],
    scores: Annotated[
        str | None,
        typer.Option("--scores", "-s", help="The plan's scores, or 'reference': predicts the cost of what changes."),
    ] = None,
    refit: Annotated[
        bool, typer.Option("--refit", help="Solve again with only the tool's formats, within the plan's bytes.")
    ] = False,
    device: Annotated[
        str | None,
        typer.Option("--device", "-d", help="With --refit: target hardware, whose formats are respected too."),
    ] = None,
) -> None:
    """Convert a plan to another tool's config, and report what it cannot represent and what that costs.

    Examples:
    `qbert-opt export-config allocation.json --to modelopt --scores scores.json -o modelopt.yaml`

    `qbert-opt export-config allocation.json --to nncf --scores scores.json --refit -o nncf.json`
    """
    from pathlib import Path

    from ...configs.tool import config_tool
    from ...costs.workload import Workload
    from ...errors import UsageError
    from ...reports.exchange import export_lines
    from ...reports.printing import print_lines
    from ...runtime.files import write_text
    from ...spec.allocation import read_allocation
    from ...workflows.export_config import export_cost, export_plan
    from ...workflows.refit import refit as solve_again

    tool = config_tool(to)
    allocation = read_allocation(plan)
    if refit and scores is None:
        raise UsageError("--refit: needs --scores, the scores that the plan was solved from.")
    table = None if scores is None else options.load_scores(scores)
    if refit and table is not None:
        allocation = solve_again(allocation, tool, table, options.load_target(device), Workload())
    export = export_plan(allocation, tool, Path(output).suffix)
    cost = None if table is None else export_cost(export, allocation, table)
    write_text(output, export.text)
    if refit:
        print_lines([f"solved again with the formats of {tool.TITLE}: predicted loss {allocation.predicted_loss:.4g}"])
    print_lines([*export_lines(export, cost, allocation)])
    print_lines([f"wrote {output}"])
