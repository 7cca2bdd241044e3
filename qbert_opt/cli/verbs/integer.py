"""`qbert-opt integer`: compile a quantized folder to integers only."""

from __future__ import annotations

from typing import Annotated

import typer

from .. import options
from ..progress import progress


def command(
    *,
    folder: Annotated[str, typer.Argument(help="A quantized folder whose plan rounds inputs in static ranges.")],
    data: options.Data,
    output: Annotated[str, typer.Option("--output", "-o", help="Folder to write.")],
    nonlinearity: Annotated[
        str | None,
        typer.Option(
            "--nonlinearity",
            help="How nonlinear functions are computed: table, poly or shift; or by function, as in "
            "softmax=poly,activation=table,norm=table; or auto, the cheapest on --device that are accurate "
            "enough. Default: those that the plan was priced with, else table.",
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option("--device", "-d", help="Hardware whose costs decide --nonlinearity auto."),
    ] = None,
    calibration_samples: options.CalibrationSamples = 256,
    emit: Annotated[
        str | None,
        typer.Option("--emit", help="Also write the program for other tools, into the same folder: c, onnx, or both."),
    ] = None,
    emit_tokens: Annotated[
        int | None,
        typer.Option(
            "--emit-tokens",
            help="Longest text for --emit, which sets the static memory of the C code; default: the program's.",
        ),
    ] = None,
    columns: options.TextOptions,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
    quiet: options.Quiet = False,
) -> None:
    """Write a program of integer operations only, proven free of overflow, and compare its outputs with PyTorch's.

    Example: `qbert-opt integer out --data snips/dev -o out-integer --emit c,onnx`

    The folder opens in `run` and `evaluate`. The plan must round the inputs of matrices in static ranges: score with
    `--activation-bits 8,16` and solve with `--activation-ranges tensor`.
    """
    from ...integer.emitter import parse_emitters
    from ...reports.integer import integer_lines
    from ...reports.printing import print_lines
    from ...workflows.integer import integer_model, planned_ways

    texts = columns.read(data)
    ways = planned_ways(folder, nonlinearity, options.load_target(device))
    with progress("compiling", quiet=quiet) as tell:
        written = integer_model(
            folder, texts, output, ways=ways, num_texts=calibration_samples, emit=parse_emitters(emit),
            emit_tokens=emit_tokens, progress=tell,
        )  # fmt: skip
    if as_json:
        typer.echo(written.summary.model_dump_json(by_alias=True, indent=1))
        return
    print_lines(integer_lines(written))
