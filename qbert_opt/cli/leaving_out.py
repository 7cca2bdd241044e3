"""What `solve` may leave out of a model: layers, or attention heads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .progress import progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..planning.constraints import PlanConstraints
    from ..spec.scores import ScoreTable
    from ..workflows.solve import Solved
    from .options import TextOptions
    from .solve_options import ConstraintOptions, ScoringOptions, ShortlistOptions


def most(constraint: ConstraintOptions) -> int | None:
    """Return how many layers or heads may be left out; None keeps all.

    Args:
        constraint: options with the values of `--allow-drop` and `--allow-drop-heads`.
    """
    return constraint.allow_drop or constraint.allow_drop_heads


def check_drop(
    constraint: ConstraintOptions,
    recipe: str | None,
    scoring: ScoringOptions,
    shortlist: ShortlistOptions,
    constraints: PlanConstraints,
) -> None:
    """Refuse to leave layers or heads out without a model to measure, or with options for a single whole model.

    Engines and models that do not support fewer heads are refused before anything is scored.

    Args:
        constraint: options with the values of `--allow-drop` and `--allow-drop-heads`.
        recipe: the value of `--recipe`.
        scoring: where the scores come from.
        shortlist: number of plans, and how they are measured.
        constraints: constraints that name the engines of the plan.

    Raises:
        UsageError: names the options, or the engine or model.
    """
    from ..errors import UsageError

    flag = "--allow-drop" if constraint.allow_drop is not None else "--allow-drop-heads"
    of_heads = constraint.allow_drop_heads is not None
    if constraint.allow_drop is None and not of_heads:
        return
    if constraint.allow_drop is not None and of_heads:
        raise UsageError("--allow-drop-heads: is for a model with all of its layers. Remove --allow-drop.")
    if scoring.model is None or scoring.data is None:
        what = "heads" if of_heads else "layers"
        raise UsageError(f"{flag}: needs --model and --data, to measure the model without its {what}.")
    others = {
        "--recipe": recipe, "--until": scoring.until, "--max-loss": constraint.max_loss, "--top-k": shortlist.top_k,
        "--measure": shortlist.measure, "--refine": shortlist.refine, "--verify": shortlist.verify,
    }  # fmt: skip
    for name, value in others.items():
        if value is not None:
            several = "sets of heads" if of_heads else "depths"
            raise UsageError(f"{flag}: finds the one plan with the least loss over several {several}. Remove {name}.")
    if constraint.allow_drop_heads is not None:
        _check_heads(constraint.allow_drop_heads, str(scoring.model), constraints)
        return
    named = {"--pin": constraint.pins, "--exclude": constraint.excluded}
    named["--tie"] = [name for name in constraint.ties or () if name != "qkv"]
    for name, names in named.items():
        if names:
            raise UsageError(f"{flag}: layers are renumbered if one is left out. Remove {name} {names[0]}.")


def _check_heads(most: int, model: str, constraints: PlanConstraints) -> None:
    """Refuse to leave out more heads than the model allows, or any if an engine needs all of them.

    Raises:
        UsageError: names the engine or the model.
    """
    from ..costs.portable import plan_target
    from ..engines.session import rules_of
    from ..errors import UsageError

    target = plan_target(constraints.engine, constraints.portable)
    for name in () if target is None else target.engines:
        if not rules_of(name).fewer_heads:
            raise UsageError(
                f"--allow-drop-heads: {name} needs the same number of heads in every layer. Remove the option, or plan "
                "for onnxruntime or openvino."
            )
    from ..models.loading import load_model
    from ..scoring.head_drops import check_head_drops

    check_head_drops(load_model(model), most)


def solve_least(
    scores: ScoreTable,
    options: ScoringOptions,
    text: TextOptions,
    constraint: ConstraintOptions,
    solve: Callable[[ScoreTable, ScoreTable], Solved],
    *,
    quiet: bool,
) -> tuple[ScoreTable, Solved, list[str]]:
    """Solve for bits, and for the layers or heads to leave out if any; see `workflows.depth` and `workflows.heads`.

    Args:
        scores: scores of the whole model.
        options: options that name the model and its text.
        text: columns and split of that text.
        constraint: how many layers or heads may be left out.
        solve: returns the best plan of a first table within limits read from a second, that of the whole model.
        quiet: report no progress.

    Returns:
        The scores that the plan was solved from, the plan, and lines about what was not worth leaving out.
    """
    layers, heads = constraint.allow_drop, constraint.allow_drop_heads
    if layers is None and heads is None:
        return scores, solve(scores, scores), []
    from ..models.loading import load_model
    from ..reports.left_out import all_heads_line
    from ..workflows.depth import solve_with_drops
    from ..workflows.heads import solve_with_fewer_heads

    def of_whole(table: ScoreTable) -> Solved:
        return solve(table, scores)

    loaded, data = load_model(str(options.model)), text.read(str(options.data))
    with progress("layers left out" if heads is None else "heads left out", quiet=quiet) as tell:
        if heads is None:
            return *solve_with_drops(scores, loaded, data, layers or 0, of_whole, progress=tell), []
        table, solved, tried = solve_with_fewer_heads(scores, loaded, data, heads, of_whole, progress=tell)
    return table, solved, [all_heads_line(tried)] if solved.plan.dropped_heads is None else []
