"""Plans exported to another tool's config, and plans imported from one, as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from hwmodels import format_bytes

from ..spec.allocation import Allocation
from ..spec.choices import choice
from ..workflows.export_config import WORDS, Cost, Export
from ..workflows.import_config import Import
from .plan import rounded_inputs


def export_lines(export: Export, cost: Cost | None, plan: Allocation) -> Iterator[str]:
    """Yield what was carried over, what was not, and what that costs.

    Args:
        export: the config, with what it cannot represent.
        cost: loss and bytes of the model that the config describes; None without scores.
        plan: the plan that was exported.
    """
    exact = sum(item.is_exact for item in export.carried)
    yield f"{export.tool.TITLE}: {exact} of {len(export.carried)} matrices keep their bits and groups"
    for change, count in export.changes.most_common():
        yield f"changed          {change}: {count} matrices"
    yield f"rounding         {plan.method} here; there {export.tool.ROUNDING}"
    more = export.tool_bytes - export.planned_bytes
    yield (
        f"{plan.profile.part} bytes    {format_bytes(export.planned_bytes)} planned, {format_bytes(export.tool_bytes)} "
        f"as the tool describes its format{f' <- {format_bytes(more)} more' if more > 0 else ''}"
    )
    yield f"predicted loss   {plan.predicted_loss:.4g} ± {plan.predicted_std_error:.1g} {plan.loss_unit}, as planned"
    if cost is None:
        yield "sum of scores    cost of the changes unknown without --scores"
    else:
        yield (
            f"sum of scores    {cost.planned_loss:.4g} planned, {cost.carried_loss:.4g} with what the tool runs"
            f"{ratio(cost.carried_loss, cost.planned_loss)}; both rounded by {plan.method}, ranges as scored"
        )
        yield from stand_in_lines(cost.stand_ins)
    if plan.tables and getattr(export.tool, "CARRIES_TABLES", False):
        yield (
            f"not carried      everything else in fp16: the config covers {plan.profile.part} matrices and embedding "
            "tables"
        )
    elif plan.tables:
        widths = sorted({table.bits for table in plan.tables})
        yield (
            f"not carried      {len(plan.tables)} embedding tables at {', '.join(map(str, widths))} bits and "
            f"everything else in fp16: the config covers the {plan.profile.part}'s matrices only"
        )
    if plan.activations and getattr(export.tool, "INPUT_BITS", None) is None:
        yield f"not carried      {rounded_inputs(plan)}: the config says nothing about inputs"
    for note in export.tool.NOTES:
        yield f"note             {note}"


def stand_in_lines(stand_ins: Mapping[tuple[str, str], int]) -> Iterator[str]:
    """Report choices that were not scored, and the scored ones used instead; one line per form if only forms differ.

    Args:
        stand_ins: (choice that was not scored, scored choice whose loss is used instead) -> number of matrices.
    """
    forms = Counter[tuple[str, str]]()
    for (unscored, scored), count in stand_ins.items():
        actual, priced = choice(unscored), choice(scored)
        if (actual.bits, actual.grouping) == (priced.bits, priced.grouping):
            forms[(actual.form, priced.form)] += count
        else:
            yield f"priced as        {unscored} was not scored for {count} matrices; its loss is taken from {scored}"
    for (actual_form, priced_form), count in forms.items():
        more = ", which loses less" if (actual_form, priced_form) == ("symmetric", "offset") else ""
        yield (
            f"not priced       ranges with {WORDS[actual_form]} were not scored: {count} matrices are priced with "
            f"{WORDS[priced_form]}{more}"
        )


def import_lines(imported: Import, best: Allocation | None) -> Iterator[str]:
    """Compare another tool's plan with our best plan, by the same figure: the sum of scores.

    A cross-fitted prediction exists only for a plan that these scores chose.

    Args:
        imported: the other tool's plan.
        best: our best plan of no more bytes; None if no scored choices fit.
    """
    plan, size = imported.plan, format_bytes(imported.tool_bytes)
    if imported.tool_bytes != plan.encoder_bytes:
        yield (
            f"{plan.profile.part} bytes    {size} as the tool describes its format; "
            f"{format_bytes(plan.encoder_bytes)} packed as quantize stores the same choices"
        )
    if best is None:
        yield f"our best plan    none: no scored choices fit into the imported plan's {size}"
        return
    yield (
        f"our best plan    sum of scores {best.sum_of_scores:.4g} at {format_bytes(best.encoder_bytes)}, "
        f"{best.status}; the imported plan's {plan.sum_of_scores:.4g} at {size}"
        f"{ratio(plan.sum_of_scores, best.sum_of_scores)}"
    )
    if best.predicted_loss != best.sum_of_scores:
        yield (
            f"                 ours is predicted to lose {best.predicted_loss:.4g} ± {best.predicted_std_error:.1g} on "
            "text that did not choose it; the imported plan's prediction is on the text that was scored"
        )
    pairs = [(choice(unscored).form, choice(scored).form) for unscored, scored in imported.stand_ins]
    forms = sorted({actual for actual, priced in pairs if actual != priced})
    if forms:
        yield (
            f"                 ours has no ranges with {' or '.join(WORDS[form] for form in forms)}, and their loss is "
            f"unknown: score again with --forms {','.join(forms)}"
        )


def ratio(loss: float, reference: float) -> str:
    """Return loss / reference as text in brackets; empty if the ratio is meaningless.

    Args:
        loss: a loss in any unit.
        reference: a loss in the same unit; 0 or less has no ratio.
    """
    return f" ({loss / reference:.2f}x)" if reference > 0 else ""
