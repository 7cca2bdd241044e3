"""`qbert-opt diagnose`: has the model converged, and what does the loss look like around it?"""

from __future__ import annotations

from typing import Annotated

import typer

from .. import options
from ..progress import progress


def command(
    *,
    model: options.Model,
    data: options.Data,
    output: Annotated[str, typer.Option("--output", "-o", help="File to write.")] = "diagnosis.json",
    plot: Annotated[
        str | None, typer.Option("--plot", help="Draw the spectral density and the loss surface to this PNG or SVG.")
    ] = None,
    layer: Annotated[
        int | None, typer.Option("--layer", help="Diagnose this encoder layer only, counting from 1.")
    ] = None,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Number of labelled texts for the loss.")] = 64,
    vectors: Annotated[int, typer.Option("--vectors", min=2, help="Random vectors for the spectral density.")] = 4,
    steps: Annotated[int, typer.Option("--steps", min=2, help="Hessian-vector products per random vector.")] = 30,
    points: Annotated[int, typer.Option("--points", min=3, help="Points of the loss surface per direction; odd.")] = 11,
    columns: options.TextOptions,
    seed: options.Seed = 0,
    memory_limit: options.MemoryLimit = "4GiB",
    torch_device: options.TorchDevice = "auto",
    quiet: options.Quiet = False,
) -> None:
    """Analyse the true Hessian: spectral density, negative eigenvalues, loss along the top two eigenvectors.

    Example: `qbert-opt diagnose --model models/minilm-snips --data snips/train -o diagnosis.json --plot diagnosis.png`

    The loss is the cross-entropy that the model was trained with. On its training text, a converged model has no
    large negative eigenvalues. An interrupted run resumes where it stopped.
    """
    from ...models.loading import load_model
    from ...models.torch_device import on_device
    from ...reports.diagnosis import diagnosis_lines
    from ...reports.plots.saving import check_ending, save
    from ...runtime.distributed import processes
    from ...runtime.memory_budget import PeakMemory
    from ...scoring.diagnosing import DiagnosisPlan, diagnose
    from ...scoring.diagnosis import write_diagnosis
    from ..quantities import size

    if plot is not None:
        check_ending(plot)
    limit_bytes = size(memory_limit, "--memory-limit") or 0
    texts = columns.read(data)
    with (
        on_device(load_model(model), torch_device) as loaded,
        processes(loaded.model.device.type) as team,
        progress("diagnose", quiet=quiet or team.rank > 0, resume=f"{output}.partial") as tell,
    ):
        peak = PeakMemory()
        diagnosis = diagnose(
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
    write_diagnosis(diagnosis, output)
    if plot is not None:
        from ...reports.plots.diagnosis import draw

        save(draw(diagnosis), plot)
    from ...reports.printing import memory_line, print_lines
    from ...runtime.plain_text import one_line

    for warning in diagnosis.warnings:
        typer.echo(f"warning: {one_line(warning)}", err=True)
    print_lines([*diagnosis_lines(diagnosis, output), memory_line(peak.bytes, limit_bytes, team.count)])
