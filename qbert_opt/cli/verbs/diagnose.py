"""`qbert-opt diagnose`: has the model converged, and how does its loss look nearby?"""

from __future__ import annotations

from typing import Annotated

import typer

from .. import options
from ..progress import progress


def command(
    model: options.Model,
    data: options.Data,
    output: Annotated[str, typer.Option("--output", "-o", help="File to write.")] = "diagnosis.json",
    plot: Annotated[str | None, typer.Option("--plot", help="Draw density and surface to this PNG or SVG.")] = None,
    layer: Annotated[
        int | None, typer.Option("--layer", help="Only the matrices of this encoder layer, from 1.")
    ] = None,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Labelled texts that the loss is over.")] = 64,
    vectors: Annotated[int, typer.Option("--vectors", min=2, help="Random vectors of the density.")] = 4,
    steps: Annotated[int, typer.Option("--steps", min=2, help="Hessian products for each of them.")] = 30,
    points: Annotated[int, typer.Option("--points", min=3, help="Of the surface in each direction; odd.")] = 11,
    text_column: options.TextColumn = None,
    label_column: options.LabelColumn = None,
    split: options.Split = None,
    seed: options.Seed = 0,
    memory_limit: Annotated[
        str, typer.Option("--memory-limit", help="Bound on what is held above the model itself, e.g. 1GiB.")
    ] = "4GiB",
    torch_device: options.TorchDevice = "auto",
    quiet: options.Quiet = False,
) -> None:
    """Look at the true Hessian: density of its eigenvalues, negative ones, loss along the top two eigenvectors.

    Example: `qbert-opt diagnose --model models/minilm-snips --data snips/train -o diagnosis.json --plot diagnosis.png`

    The loss is the cross-entropy that the model was trained with; on its training text a converged model has no
    negative eigenvalues of notable size. An interrupted run goes on where it stopped.
    """
    from ...data.texts import read_texts
    from ...models.loading import load_model
    from ...models.torch_device import on_device
    from ...reports.diagnosis import diagnosis_lines
    from ...runtime.distributed import processes
    from ...runtime.memory_budget import PeakMemory
    from ...scoring.diagnosing import DiagnosisPlan, diagnose
    from ...scoring.diagnosis import write_diagnosis
    from ..pictures import check_plot
    from ..quantities import size

    check_plot(plot)
    limit_bytes = size(memory_limit, "--memory-limit") or 0
    texts = read_texts(data, text_columns=text_column, label_column=label_column, split=split)
    with (
        on_device(load_model(model), torch_device) as loaded,
        processes(loaded.model.device.type) as team,
        progress("diagnose", quiet=quiet or team.rank > 0, resume=f"{output}.partial") as tell,
    ):
        peak = PeakMemory()
        found = diagnose(
            loaded,
            texts,
            DiagnosisPlan(samples, vectors, steps, points, layer, seed),
            memory_limit_bytes=limit_bytes,
            checkpoint=f"{output}.partial",
            processes=team,
            progress=tell,
        )
    if team.rank:
        return
    write_diagnosis(found, output)
    if plot is not None:
        from ...reports.plots.diagnosis import draw
        from ...reports.plots.plan import save

        save(draw(found), plot)
    from ...reports.printing import memory_line, print_lines
    from ...runtime.plain_text import one_line

    for warning in found.warnings:
        typer.echo(f"warning: {one_line(warning)}", err=True)
    print_lines([*diagnosis_lines(found, output), memory_line(peak.bytes, limit_bytes, team.count)])
