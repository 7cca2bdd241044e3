"""Converts the options of `solve` to the planner's types."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from .options import UNSCORED, load_scores
from .progress import progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..planning.constraints import PlanConstraints
    from ..spec.limits import Limits
    from ..spec.scores import ScoreTable
    from ..workflows.solve import Shortlist, Solved
    from .options import TextOptions
    from .solve_options import ConstraintOptions, LimitOptions, ScoringOptions, ShortlistOptions

DEFAULT_SHORTLIST = 5
"""Number of plans that `--measure` times without `--top-k`."""


def read_scores(
    options: ScoringOptions,
    text: TextOptions,
    constraint: ConstraintOptions,
    num_scored: int,
    *,
    only_measured: bool,
    quiet: bool,
) -> ScoreTable:
    """Read the table of `--scores`, score `--model`, or take the bundled reference.

    Args:
        options: where the scores come from.
        text: columns and split of `--data`.
        constraint: widths of rounded inputs to score, for example `8,16`, and whether tables are planned.
        num_scored: number of texts to score.
        only_measured: whether `--model` is given beside `--scores` only to be measured, not to be scored.
        quiet: report no progress.

    Raises:
        UsageError: both are given, or a model without calibration text.
    """
    from ..errors import UsageError

    model = None if only_measured and options.scores is not None else options.model
    if options.scores is not None and model is not None:
        raise UsageError("--scores and --model: give one of them; --scores already names its model.")
    planned = constraint.table_bits != UNSCORED
    if model is None:
        table = load_scores(options.scores or "reference")
        return table if planned else table.model_copy(update={"tables": None})
    if options.data is None:
        raise UsageError("--model: needs --data, calibration text to score it on.")
    from ..quantization.calibration import CalibrationPlan
    from ..spec.activations import parse_activation_bits
    from ..workflows.score import score_model

    with progress(f"{options.metric} scores", quiet=quiet) as tell:
        return score_model(
            model,
            text.read(options.data),
            metric=options.metric,
            method=options.method,
            calibration=CalibrationPlan(options.calibration_samples, num_scored, options.seed, options.scoring_pool),
            activation_bits=parse_activation_bits(constraint.activation_bits or "none"),
            with_tables=planned,
            max_tokens=options.max_tokens,
            progress=tell,
        )


def solve_until_exact(
    score: Callable[[int], ScoreTable],
    solve: Callable[[ScoreTable], Solved],
    options: ScoringOptions,
    text: TextOptions,
) -> tuple[ScoreTable, Solved]:
    """Score more and more text of `--data`, and solve, until the prediction is as precise as `--until` asks.

    With `--scoring-pool`, the texts are drawn from the same pool, at most all of them.

    Args:
        score: scores a number of texts, or reads the table of `--scores`.
        solve: makes the plan of a table.
        options: where the scores come from, and how precise the prediction must be.
        text: columns and split of `--data`.

    Returns:
        The last table and its plan.

    Raises:
        UsageError: `--until` is not a share above 0.
        InputFileError: `--data` has too few texts to begin with.

    Warns:
        QbertOptWarning: the prediction is less precise; the message estimates how many texts it would need.
    """
    from warnings import warn

    from ..errors import QbertOptWarning, UsageError
    from ..workflows.until import relative_error, solve_until, texts_needed
    from .quantities import share

    asked = str(options.until)
    until = share(asked, "--until")
    if until == 0:
        raise UsageError(f"--until {asked}: a prediction always has an error. Give more than 0, for example 20%.")
    start = most = options.scoring_samples
    if options.scoring_pool:
        most = max(most, options.scoring_pool)
    elif options.scores is None and options.model is not None and options.data is not None:
        most = max(most, len(set(text.read(options.data).texts)) - options.calibration_samples)
    table, solved = solve_until(score, solve, until, start=start, most=most)
    error = relative_error(solved.plan)
    if error > until:
        needed, scored = texts_needed(solved.plan, until), solved.plan.provenance.num_scored
        more = "how many would do is not known" if needed is None else f"about {needed - scored:,} more are needed"
        warn(
            QbertOptWarning(
                f"--until {asked}: the predicted loss is known only to {error:.0%}, from {scored:,} texts; {more}."
            ),
            stacklevel=2,
        )
    return table, solved


def read_limits(options: LimitOptions, scores: ScoreTable, rate: float | None) -> Limits:
    """Read the limits from their options.

    Args:
        options: quantities with their units.
        scores: the table; `2.5bit` and `13x` refer to the shapes of its model.
        rate: inferences per second.

    Raises:
        UsageError: an option is not a quantity of its kind.
    """
    from ..planning.budgets import parse_budget

    encoder, everything = scores.profile.encoder_elements, scores.profile.float_bytes // 4
    budget, total = options.budget, options.total_budget
    return replace(
        resource_limits(options, rate),
        encoder_bytes=None if budget is None else parse_budget(budget, encoder, "--budget"),
        total_bytes=None if total is None else parse_budget(total, everything, "--total-budget"),
    )


def resource_limits(options: LimitOptions, rate: float | None) -> Limits:
    """Read the limits that do not depend on the model's shapes: all but the budgets.

    Args:
        options: quantities with their units.
        rate: inferences per second.

    Raises:
        UsageError: an option is not a quantity of its kind.
    """
    from ..errors import UsageError
    from ..spec.limits import Limits
    from .quantities import bandwidth, energy, seconds, size

    if options.min_tokens_per_s is not None and not options.min_tokens_per_s > 0:
        raise UsageError(
            f"--min-tokens-per-s {options.min_tokens_per_s:g}: is no limit. Give more than 0, or leave it out."
        )
    return Limits(
        latency_s=seconds(options.max_latency, "--max-latency"),
        memory_bytes=size(options.max_memory, "--max-memory"),
        dram_bytes=size(options.max_dram_bytes, "--max-dram-bytes"),
        bandwidth_bytes_per_s=bandwidth(options.max_bandwidth, "--max-bandwidth"),
        energy_j=energy(options.max_energy, "--max-energy"),
        scratchpad_bytes=size(options.max_scratchpad, "--max-scratchpad"),
        bops=options.max_bops,
        tokens_per_s=options.min_tokens_per_s,
        inferences_per_s=rate,
    )


def read_constraints(options: ConstraintOptions, cache_bits: tuple[int, ...] | None = None) -> PlanConstraints:
    """Read the constraints from their options.

    Args:
        options: as the user gave them.
        cache_bits: bit widths that a decoder's cache may have; None leaves them open.

    Raises:
        UsageError: an option does not have the required form.
    """
    from ..planning.constraints import PlanConstraints
    from ..spec.forms import parse_bits
    from ..spec.groupings import parse_groupings
    from .quantities import parse_pins

    tables = None if options.table_bits == UNSCORED else options.table_bits
    return PlanConstraints(
        bits=None if options.bits is None else parse_bits(options.bits),
        groupings=None if options.groupings is None else parse_groupings(options.groupings),
        table_bits=None if tables is None else parse_bits(tables, "--table-bits"),
        cache_bits=cache_bits,
        engine=options.engine,
        portable=None if options.portable is None else [name.strip() for name in options.portable.split(",")],
        pins=parse_pins(options.pins or []),
        excluded=options.excluded or (),
        ties=options.ties or (),
        max_formats=options.max_formats,
        max_loss=options.max_loss,
        least=options.least,
    )


def read_shortlist(options: ShortlistOptions) -> Shortlist | None:
    """Read the request for several plans; None if only one is asked for.

    Args:
        options: as the user gave them; `--measure` alone asks for `DEFAULT_SHORTLIST` plans.

    Raises:
        UsageError: `--within` is not a share.
    """
    from ..workflows.solve import Shortlist
    from .quantities import share

    count = options.top_k or (DEFAULT_SHORTLIST if options.measure else None)
    farthest = math.inf if options.within is None else share(options.within, "--within")
    return None if count is None else Shortlist(count, farthest, options.apart)


def check_together(
    constraints: PlanConstraints, recipe: str | None, scoring: ScoringOptions, shortlist: ShortlistOptions
) -> None:
    """Refuse options that contradict each other, or lack another option that they need.

    Args:
        constraints: what `read_constraints` returned.
        recipe: the value of `--recipe`.
        scoring: where the scores come from.
        shortlist: number of plans, and how they are measured.

    Raises:
        UsageError: names the options.
    """
    from ..errors import UsageError
    from ..planning.constraints import PlanConstraints

    measure, refine, top_k = shortlist.measure, shortlist.refine, shortlist.top_k
    for flag, value in (("--verify", shortlist.verify), ("--refine", refine)):
        if value is not None and (scoring.model is None or scoring.data is None):
            raise UsageError(f"{flag}: needs --model and --data, the calibration set of the scores.")
    if measure is not None and scoring.model is None:
        raise UsageError("--measure: needs --model, which is run in the engine.")
    if measure is not None:
        from ..workflows.rerank import check_timed

        check_timed(measure)
    restricted = constraints.model_copy(update={"table_bits": None, "cache_bits": None}) != PlanConstraints()
    if recipe is not None and (restricted or top_k or measure or refine):
        raise UsageError(
            "--recipe: is a fixed rule. Remove --top-k, --measure, --refine and every constraint on the choices."
        )
    if refine is not None and (top_k is not None or measure is not None or constraints.least is not None):
        raise UsageError("--refine: lowers the measured loss of one plan. Remove --top-k, --measure and --least.")
