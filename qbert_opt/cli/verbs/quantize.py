"""`qbert-opt quantize`: quantize a model by a plan and write the folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import options
from ..progress import progress


def command(
    *,
    plan: Annotated[str, typer.Argument(help="An allocation.json.")],
    model: options.Model,
    output: Annotated[str, typer.Option("--output", "-o", help="Folder to write.")],
    data: Annotated[
        str | None, typer.Option("--data", help="The calibration text that the scores were computed from.")
    ] = None,
    columns: options.TextOptions,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            help="Quantizer that writes the codes; see 'qbert-opt choices'. By default guided, where an encoder's plan "
            "was scored with gptq or quantease and has matrices of at most 4 bits; else the plan's.",
        ),
    ] = None,
    sequential: Annotated[
        bool,
        typer.Option("--sequential", help="Calibrate each block on inputs that contain the errors of earlier blocks."),
    ] = False,
    paging: options.PagingOptions,
    quiet: options.Quiet = False,
) -> None:
    """Write the quantized model as safetensors, with exactly the planned number of bytes.

    Example: `qbert-opt quantize allocation.json --model models/minilm-snips --data snips/dev -o out`
    """
    from ...models.loading import load_model
    from ...reports.printing import print_lines
    from ...reports.written import written_lines
    from ...spec.allocation import read_allocation
    from ...workflows.quantize import quantize_model

    allocation = read_allocation(plan)
    texts = None if data is None else columns.read(data)
    with progress("quantizing", quiet=quiet) as tell:
        loaded = load_model(model, paging=paging.beside(output))
        written = quantize_model(loaded, allocation, texts, output, method=method, sequential=sequential, progress=tell)
    if sequential:  # the losses of the plan in the folder were scored again
        again = read_allocation(Path(output) / "allocation.json")
        typer.echo(
            f"predicted loss   {allocation.predicted_loss:.4g} in the plan, {again.predicted_loss:.4g} scored again"
        )
        allocation = again
    print_lines(written_lines(written, allocation))
