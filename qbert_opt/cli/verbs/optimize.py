"""`qbert-opt optimize`: from a model folder to files that run in an engine, measured there."""

from __future__ import annotations

from typing import Annotated

import typer

from .. import options
from ..optimize_options import AnswerLimitOptions
from ..progress import progress
from ..solve_options import HardwareOptions, LimitOptions


def command(
    model: options.Model,
    data: options.Data,
    output: Annotated[
        str, typer.Option("--output", "-o", help="Folder to write; the run resumes there if interrupted.")
    ],
    limit: LimitOptions,
    answers: AnswerLimitOptions,
    hardware: HardwareOptions,
    text: options.TextOptions,
    engine: Annotated[
        str | None,
        typer.Option("--engine", help="Engine to run the model: onnxruntime, openvino, llama-cpp or litert."),
    ] = None,
    activations: Annotated[
        str | None,
        typer.Option(
            "--activations",
            help="How inputs are rounded: planned, int8, int8-coarse or float32; by default the fastest that passes.",
        ),
    ] = None,
    scores: Annotated[str | None, typer.Option("--scores", "-s", help="Scores of this model and text.")] = None,
    metric: options.Metric = "directional",
    method: options.Method = "gptq",
    max_tokens: options.MaxTokens = None,
    seed: options.Seed = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    quiet: options.Quiet = False,
) -> None:
    """Score, plan, quantize, export, run and measure a model, and compare it with uniform 8 bits.

    Examples:
    `qbert-opt optimize --model DIR --data text.tsv --device rpi5 --engine onnxruntime --max-flips 1% -o out`

    `qbert-opt optimize --model DIR --data text.tsv --engine openvino --budget 4bit --max-accuracy-drop 0.5pt -o out`
    """
    from ...reports.decision import optimized_page
    from ...reports.optimized import outcome_lines
    from ...reports.printing import print_lines
    from ...runtime.files import write_text
    from ...workflows.optimize import optimize
    from ..solve_requests import resource_limits

    target = hardware.target()
    with progress("optimizing", quiet=quiet) as tell:
        done = optimize(
            model, text.read(data), output, budget=limit.budget, total_budget=limit.total_budget,
            limits=resource_limits(limit, hardware.rate), max_accuracy_drop=answers.max_accuracy_drop,
            max_flips=answers.max_flips, confidence=answers.confidence, device=target, engine=engine,
            activations=activations,  # type: ignore[arg-type]
            test_data=None if answers.test_data is None else text.read_other(answers.test_data),
            least=answers.least, seq_len=hardware.seq_len, batch_size=hardware.batch_size,
            metric=metric, method=method, max_tokens=max_tokens, seed=seed,
            scores=None if scores is None else options.load_scores(scores), progress=tell,
        )  # fmt: skip
        write_text(done.folder / "report.html", optimized_page(done, target))
    if as_json:
        typer.echo(done.outcome.model_dump_json(by_alias=True, indent=1))
    else:
        print_lines([*outcome_lines(done.outcome), f"report   {done.folder / 'report.html'}"])
