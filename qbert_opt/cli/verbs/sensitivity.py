"""`qbert-opt sensitivity`: score a model on calibration text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import options
from ..progress import progress

if TYPE_CHECKING:
    from ...spec.scores import ScoreTable


@dataclass(frozen=True, slots=True)
class StabilityOptions:
    """Whether to test how much a plan depends on the scoring texts."""

    stability: Annotated[
        int,
        typer.Option(
            "--stability", min=0, help="Number of bootstrap resamples of the texts, to test how stable the plan is."
        ),
    ] = 0
    budget: Annotated[
        str,
        typer.Option(
            "--budget",
            "-b",
            help="Budget for --stability and for --metric differentiable; as in 'solve'.",
        ),
    ] = "2.5bit"


def command(
    *,
    model: options.Model,
    data: options.Data,
    output: Annotated[str, typer.Option("--output", "-o", help="File to write.")] = "scores.json",
    metric: options.Metric = "directional",
    grid: options.GridOptions,
    calibration_samples: options.CalibrationSamples = 256,
    scoring_samples: options.ScoringSamples = 256,
    scoring_pool: options.ScoringPool = 0,
    columns: options.TextOptions,
    held_out: Annotated[
        str | None,
        typer.Option(
            "--held-out", help="Text that the model was not trained on; warns if --data looks like training text."
        ),
    ] = None,
    curvature: Annotated[
        bool,
        typer.Option(
            "--curvature", help="Also record the Gauss-Newton trace and top eigenvalue of each matrix (slower)."
        ),
    ] = False,
    max_tokens: options.MaxTokens = None,
    seed: options.Seed = 0,
    memory_limit: options.MemoryLimit = "2GiB",
    torch_device: options.TorchDevice = "auto",
    paging: options.PagingOptions,
    resampling: StabilityOptions,
    quiet: options.Quiet = False,
) -> None:
    """Score every choice of every matrix on calibration text.

    Example: `qbert-opt sensitivity --model models/minilm-snips --data snips/dev -o scores.json`

    An interrupted run resumes when it is started again with the same options. Several processes can share the work:
    `torchrun --nproc-per-node 2 -m qbert_opt sensitivity …`; the scores are the same.

    `--stability 20 --budget 2.5bit` tests how much the plan depends on the scoring texts: which choices change, and
    how much text is enough. The result is also written to `stability.json` next to the scores.
    """
    from ...models.loading import load_model
    from ...models.structure import profile_model
    from ...models.torch_device import on_device
    from ...planning.budgets import parse_budget
    from ...planning.possible import check_possible, unscored
    from ...quantization.calibration import CalibrationPlan
    from ...runtime.distributed import processes
    from ...runtime.memory_budget import PeakMemory
    from ...scoring.sensitivity import measure_sensitivity
    from ...spec.limits import Limits
    from ...spec.scores import write_scores
    from ..quantities import size

    limit_bytes = size(memory_limit, "--memory-limit") or 0
    parse_budget(resampling.budget, 1, "--budget")  # report a wrong budget before the work starts
    choices, texts = grid.matrices(), columns.read(data)
    plan = CalibrationPlan(calibration_samples, scoring_samples, seed, scoring_pool)
    with (
        on_device(load_model(model, max_tokens=max_tokens, paging=paging.beside(output)), torch_device) as loaded,
        processes(loaded.model.device.type) as team,
        progress(f"{metric} scores", quiet=quiet or team.rank > 0, resume=f"{output}.partial") as tell,
    ):
        profile = profile_model(loaded)
        budget_bytes = parse_budget(resampling.budget, profile.encoder_elements, "--budget")
        if resampling.stability:
            check_possible(unscored(profile, choices), Limits(encoder_bytes=budget_bytes))
        peak = PeakMemory()
        table = measure_sensitivity(
            loaded, texts, choices, metric=metric, plan=plan,
            table_choices=grid.tables(), activation_choices=grid.activations(), budget_bytes=budget_bytes,
            held_out=None if held_out is None else columns.read_other(held_out), with_curvature=curvature,
            memory_limit_bytes=limit_bytes, checkpoint=f"{output}.partial", processes=team, progress=tell,
        )  # fmt: skip
    if team.rank == 0:
        write_scores(table, output)
        _print_scores(table, output, peak.bytes, limit_bytes, team.count)
        if resampling.stability:
            _stability(table, resampling, output, quiet)


def _print_scores(table: ScoreTable, output: str, peak_bytes: int, limit_bytes: int, processes: int) -> None:
    """Print what was scored, what to watch out for, and how much memory it took."""
    from ...reports.printing import memory_line, print_lines
    from ...reports.scores import scores_summary
    from ...runtime.plain_text import one_line

    for warning in table.warnings:
        typer.echo(f"warning: {one_line(warning)}", err=True)
    print_lines([f"{output}: {scores_summary(table)}", memory_line(peak_bytes, limit_bytes, processes)])


def _stability(table: ScoreTable, resampling: StabilityOptions, output: str, quiet: bool) -> None:
    """Measure, write and print how much a plan depends on the scoring texts."""
    from ...planning.budgets import parse_budget
    from ...planning.program import PlanningTask
    from ...planning.solving import SolverOptions
    from ...planning.stability import measure_stability, write_stability
    from ...planning.task_solver import solve_task
    from ...reports.printing import print_lines
    from ...reports.stability import stability_lines
    from ...spec.limits import Limits

    encoder_bytes = parse_budget(resampling.budget, table.profile.encoder_elements, "--budget")
    task = PlanningTask(table, Limits(encoder_bytes=encoder_bytes))
    with progress("stability", quiet=quiet) as tell:
        result = measure_stability(
            task, solve_task(task, SolverOptions()), resamples=resampling.stability, progress=tell
        )
    write_stability(result, Path(output).parent / "stability.json")
    print_lines(stability_lines(result))
