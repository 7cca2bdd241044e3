"""What `optimize` scores: forms and input widths that the engine supports, and the table before it is filled."""

from __future__ import annotations

from ..engines.rules import EngineRules
from ..engines.session import Activations, rules_of
from ..errors import UsageError
from ..planning.possible import unscored
from ..scoring.task import ScoresActivations, ScoresTables, metric_named
from ..spec.forms import Form
from ..spec.profiles import ModelProfile
from ..spec.scores import ScoreTable
from ..spec.tables import table_grid
from .output_folder import scored_choices
from .route import planned_widths


def unscored_table(
    profile: ModelProfile,
    method: str,
    metric: str,
    forms: tuple[Form, ...] | None,
    widths: tuple[int, ...],
    rules: EngineRules | None,
) -> ScoreTable:
    """Return the table that will be scored, before scoring.

    Args:
        profile: the model.
        method: quantizer.
        metric: estimator of the loss.
        forms: to score; None for the quantizer's usual form.
        widths: scored widths of inputs.
        rules: of the engine; None without one.
    """
    tables = table_grid(forms=forms or ("offset",)) if isinstance(metric_named(metric), ScoresTables) else ()
    return unscored(profile, scored_choices(method, widths, forms, rules), tables)


def scored_widths(engine: str | None, activations: Activations | None, metric: str) -> tuple[int, ...]:
    """Return the widths of inputs to score; none where the metric scores no inputs.

    Args:
        engine: to plan for; None without one.
        activations: how it is to round inputs; None lets the plan decide.
        metric: estimator of the loss.

    Raises:
        UsageError: planned inputs were asked for, which the metric does not score.
    """
    widths = planned_widths(engine, activations)
    if not widths or isinstance(metric_named(metric), ScoresActivations):
        return widths
    if activations == "planned":
        raise UsageError(f"`activations` planned: `metric` {metric} does not score inputs. Use directional.")
    return ()


def scored_forms(engine: str | None) -> tuple[Form, ...] | None:
    """Return the forms to score for an engine without offsets; None for others.

    One form is enough if the engine supports all its levels; otherwise the engine's rules say at which widths.

    Args:
        engine: to plan for; None without one.
    """
    rules = None if engine is None else rules_of(engine)
    if rules is None or not rules.forms or "offset" in rules.forms:
        return None
    return ("signed",) if "signed" in rules.forms and not rules.signed_bits else rules.forms
