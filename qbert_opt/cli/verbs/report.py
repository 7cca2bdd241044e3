"""`qbert-opt report`: write the page that a decision is made from, as one HTML file."""

from __future__ import annotations

from typing import Annotated

import typer

from .. import options


def command(
    plan: Annotated[str, typer.Argument(help="An allocation.json, or a quantized folder.")],
    output: Annotated[str, typer.Option("--output", "-o", help="HTML file to write.")],
    scores: Annotated[
        str | None,
        typer.Option("--scores", "-s", help="The plan's scores, or 'reference': adds the frontier and uniform plans."),
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", "-d", help="Target hardware; by default the plan's own, if it is bundled.")
    ] = None,
    devices: Annotated[
        str | None, typer.Option("--devices", help="Further hardware to compare, separated by commas: rpi5,orin-nano.")
    ] = None,
    seq_len: options.SeqLen = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size", min=1, max=options.LARGEST_BATCH, help="Sentences per inference; by default the plan's own."
        ),
    ] = None,
    measured: Annotated[
        list[str] | None,
        typer.Option(
            "--measured", help="Measurements from evaluate --json or optimize (JSON); may be given several times."
        ),
    ] = None,
) -> None:
    """Write a self-contained HTML report: verdict, comparison, frontier, devices, every matrix, provenance.

    Examples:
    `qbert-opt report allocation.json --scores reference --device car-soc -o report.html`

    `qbert-opt report allocation.json -s scores.json --devices rpi5,imx95 --measured measured.json -o report.html`
    """
    from pathlib import Path

    from ...costs.workload import reported_workload
    from ...reports.decision import decision_page, read_plan
    from ...reports.measurements import read_measurements
    from ...reports.printing import print_lines
    from ...runtime.files import check_folder, write_text
    from ..quantities import listed

    check_folder(Path(output))
    allocation, record = read_plan(plan)
    named = {} if device is None else {device: "--device "}
    named |= {name: named.get(name, "--devices ") for name in (() if devices is None else listed(devices, "--devices"))}
    page = decision_page(
        allocation,
        scores=None if scores is None else options.load_scores(scores),
        devices=[options.load_device(name, flag) for name, flag in named.items()],
        workload=reported_workload(allocation, seq_len, batch_size),
        measured=read_measurements(measured or (), allocation),
        record=record,
    )
    write_text(output, page)
    print_lines([f"wrote {output}"])
