"""`qbert-opt evaluate`: measure the quality of a model or a quantized folder."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from .. import options


def command(
    *,
    folder: Annotated[str, typer.Argument(help="A quantized folder, or a model folder.")],
    data: options.Data,
    reference: Annotated[
        str | None, typer.Option("--reference", help="Float model folder to compare outputs with.")
    ] = None,
    columns: options.TextOptions,
    max_tokens: options.MaxTokens = None,
    engine: Annotated[
        str | None,
        typer.Option(
            "--engine", help="Also time it in this engine: torch, openvino, onnxruntime, llama-cpp, litert or integer."
        ),
    ] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads of the engine.")] = 1,
    seq_len: Annotated[
        int | None, typer.Option("--seq-len", min=1, help="Tokens per timed run; by default at most 128.")
    ] = None,
    paging: options.PagingOptions,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, as read by --measured of report and pareto.")
    ] = False,
) -> None:
    """Measure quality (accuracy, F1, entity F1, exact match) and loss relative to a reference on held-out text.

    Examples:
    `qbert-opt evaluate out --data snips/test --reference models/minilm-snips`

    `qbert-opt evaluate slots --data snips/test --label-column tags --reference models/minilm-slots`
    """
    from ...reports.evaluation import cut_lines, drop_lines, measured_table
    from ...reports.printing import print_lines
    from ...serving.engine_model import timing_rows
    from ...serving.measuring import evaluation_document, measure_folder

    texts = columns.read(data)
    measured = measure_folder(
        folder, texts, reference=reference, engine=engine, threads=threads, seq_len=seq_len, max_tokens=max_tokens,
        paging=paging.beside(None),
    )  # fmt: skip
    if as_json:
        typer.echo(json.dumps(evaluation_document(measured, reference, texts), indent=1))
        return
    evaluations = [row.evaluation for row in measured]
    print_lines([measured_table(measured, texts), *drop_lines(evaluations[-1]), *cut_lines(evaluations)])
    timings = [(row.folder, row.timing) for row in measured if row.timing is not None]
    if timings:
        plan = measured[-1].plan
        print_lines(timing_rows(timings, None if plan is None or plan.device is None else plan.device.latency_s))
