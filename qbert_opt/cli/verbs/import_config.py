"""`qbert-opt import-config`: evaluate another tool's plan with our scores and simulator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from .. import options

if TYPE_CHECKING:
    from ...spec.choices import Choice


def command(
    config: Annotated[str, typer.Argument(help="Config of the other tool.")],
    source: Annotated[
        str,
        typer.Option(
            "--from",
            help="modelopt, autoround, torchao, gptqmodel, compressed-tensors, nncf, coremltools, llama.cpp or hawq.",
        ),
    ],
    scores: Annotated[
        str, typer.Option("--scores", "-s", help="Scores of the same model, or 'reference' for the bundled ones.")
    ],
    device: options.Device = None,
    seq_len: options.SeqLen = None,
    batch_size: options.BatchSize = 1,
    rest: Annotated[
        str | None, typer.Option("--rest", help="Choice for matrices that the config leaves in floating point.")
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="Write the plan as allocation.json here.")
    ] = None,
) -> None:
    """Evaluate another tool's plan: predicted loss, bytes, cost on a device, and our best plan of the same size.

    Example: `qbert-opt import-config quantize_config.json --from gptqmodel --scores scores.json --device car-soc`
    """
    from ...configs.tool import config_tool
    from ...costs.phases import simulate_plan
    from ...costs.workload import workload_of
    from ...reports.exchange import import_lines, stand_in_lines
    from ...reports.plan import print_plan
    from ...reports.printing import print_lines
    from ...spec.allocation import write_allocation
    from ...workflows.import_config import best_within, import_plan

    tool = config_tool(source)
    filler = None if rest is None else _choice(rest)
    table = options.load_scores(scores)
    target, workload = options.load_target(device), workload_of(table.profile, seq_len, batch_size)
    imported = import_plan(config, tool, table, rest=filler, device=target, workload=workload)
    plan = imported.plan
    if output is not None:
        write_allocation(plan, output)
    report, token = (None, None) if target is None else simulate_plan(plan, target, workload)
    print_plan(plan, report, token)
    print_lines([*stand_in_lines(imported.stand_ins), *import_lines(imported, best_within(imported, table))])
    if output is not None:
        print_lines([f"wrote {output}"])


def _choice(text: str) -> Choice:
    """Read `--rest`."""
    from ...errors import UsageError
    from ...spec.choices import choice

    try:
        return choice(text)
    except UsageError as error:
        raise UsageError(f"--rest: {error}") from None
