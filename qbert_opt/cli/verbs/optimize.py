"""`qbert-opt optimize`: from a model folder to files that run in an engine, measured there."""

from __future__ import annotations

from typing import Annotated

import typer

from .. import options
from ..progress import progress


def command(
    model: options.Model,
    data: options.Data,
    output: Annotated[str, typer.Option("--output", "-o", help="Folder to write; an interrupted run goes on in it.")],
    device: options.Device = None,
    engine: Annotated[str | None, typer.Option("--engine", help="Where it will run: onnxruntime or openvino.")] = None,
    budget: options.Budget = None,
    total_budget: options.TotalBudget = None,
    max_accuracy_drop: options.MaxAccuracyDrop = None,
    max_flips: options.MaxFlips = None,
    confidence: options.Confidence = "95%",
    max_latency: options.MaxLatency = None,
    max_memory: options.MaxMemory = None,
    test_data: options.TestData = None,
    activations: options.EngineActivations = None,
    pins: options.Pins = None,
    excluded: options.Excluded = None,
    scores: Annotated[str | None, typer.Option("--scores", "-s", help="Scores of this model and text.")] = None,
    metric: options.Metric = "directional",
    method: options.Method = "gptq",
    seq_len: options.SeqLen = 128,
    batch_size: options.BatchSize = 1,
    max_tokens: options.MaxTokens = None,
    text_column: options.TextColumn = None,
    label_column: options.LabelColumn = None,
    split: options.Split = None,
    seed: options.Seed = 0,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Score, plan, quantize, export, run and measure a model, and compare it with uniform 8 bits.

    Examples:
    `qbert-opt optimize --model DIR --data text.tsv --device rpi5 --engine onnxruntime --max-flips 1% -o out`

    `qbert-opt optimize --model DIR --data text.tsv --engine openvino --budget 4bit --max-accuracy-drop 0.5pt -o out`
    """
    from ...costs.operations import Workload
    from ...data.texts import LabeledTexts, read_texts
    from ...planning.constraints import PlanConstraints
    from ...reports.optimized import outcome_lines
    from ...reports.printing import print_lines
    from ...spec.limits import Limits
    from ...workflows.optimize import optimize
    from ..quantities import parse_pins, seconds, size

    def read(source: str, part: str | None = None) -> LabeledTexts:
        return read_texts(source, split=part, text_columns=text_column, label_column=label_column)

    limits = Limits(latency_s=seconds(max_latency, "--max-latency"), memory_bytes=size(max_memory, "--max-memory"))
    with progress("optimizing", quiet=quiet) as tell:
        done = optimize(
            model, read(data, split), output, budget=budget, total_budget=total_budget, limits=limits,
            max_accuracy_drop=max_accuracy_drop, max_flips=max_flips, confidence=confidence,
            device=options.load_target(device), engine=engine, activations=activations,  # type: ignore[arg-type]
            test_data=None if test_data is None else read(test_data), workload=Workload(seq_len, batch_size),
            constraints=PlanConstraints(pins=parse_pins(pins or []), excluded=excluded or ()), metric=metric,
            method=method, seed=seed, max_tokens=max_tokens,
            scores=None if scores is None else options.load_scores(scores), progress=tell,
        )  # fmt: skip
    if as_json:
        typer.echo(done.outcome.model_dump_json(by_alias=True, indent=1))
    else:
        print_lines(outcome_lines(done.outcome))
