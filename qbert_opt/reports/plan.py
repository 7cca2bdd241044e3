"""A plan as text: its choices, sizes, losses and limits."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from hwmodels import format_bytes

from ..costs.workload import planned_workload
from ..engines.session import rules_of
from ..runtime.plain_text import one_line
from ..spec.allocation import Allocation
from ..spec.planned import PlannedMatrix, UniformPlan
from ..spec.profiles import ModelProfile
from ..spec.quantities import shown
from .cost import cost_lines
from .decoding import decoder_lines
from .left_out import left_out_lines
from .printing import TextTable, both, measure_name, origin, print_lines, with_error

if TYPE_CHECKING:
    from hwmodels import CostReport

TITLES = {
    "query": "query",
    "key": "key",
    "value": "value",
    "query_key_value": "q, k, v",
    "position": "positions",
    "attention_output": "att. out",
    "intermediate": "ffn in",
    "output": "ffn out",
}


def print_plan(plan: Allocation, report: CostReport | None, token: CostReport | None = None) -> None:
    """Print a plan and, with a device, its predicted cost.

    Args:
        plan: the plan to print.
        report: predicted cost on a device, for a decoder that of the prompt; None without a device.
        token: predicted cost of a decoder's token; None for an encoder.
    """
    print_lines(
        [
            _heading(plan.profile),
            f"scores: {origin(plan, plan.provenance)}",
            "",
            plan_table(plan.matrices),
            "bits and grouping: r = row groups, c = inputs per column group; * stays on chip",
            "",
            *_table_lines(plan),
            *left_out_lines(plan),
            *_activation_lines(plan),
            *_size_lines(plan),
            *_engine_lines(plan),
            *_loss_lines(plan),
            *_limit_lines(plan),
            *_outlook_lines(plan),
        ]
    )
    if report is not None and token is not None:
        print_lines(["", *decoder_lines(report, token, plan, planned_workload(plan))])
    elif report is not None:
        print_lines(["", *cost_lines(report)])


def _heading(profile: ModelProfile) -> Text:
    heading = Text(one_line(profile.name), style="bold")
    return heading.append(one_line(f" ({profile.architecture}, {_layers(profile)})"), style="not bold")


def _layers(profile: ModelProfile) -> str:
    if profile.num_layers == profile.num_blocks:
        return f"{profile.num_blocks} layers"
    return f"{profile.num_layers} layers that share the weights of {profile.num_blocks}"


def plan_table(matrices: Sequence[PlannedMatrix]) -> Table:
    """Return a table of layers by matrices, with bits and grouping of each.

    Args:
        matrices: matrices of one plan.
    """
    table = TextTable()
    kinds = list(dict.fromkeys(m.kind for m in matrices))
    places = [(m.block, m.kind) for m in matrices]
    plain = all(kind in TITLES for kind in kinds) and len(set(places)) == len(places)
    table.add_column("layer", justify="right")
    if not plain:
        table.add_column("matrix")
        table.add_column("choice")
        for m in matrices:
            table.add_row(str(m.block + 1), m.module, _cell(m))
        return table
    for kind in kinds:
        table.add_column(TITLES[kind])
    for block in sorted({m.block for m in matrices}):
        cells = {m.kind: _cell(m) for m in matrices if m.block == block}
        table.add_row(str(block + 1), *(cells.get(kind, "") for kind in kinds))
    return table


def _cell(m: PlannedMatrix) -> str:
    size = f"c{m.group_size}" if m.axis == "columns" else f"r{m.num_groups}"
    return f"{m.bits} {size}{'*' if m.residency == 'resident' else ''}"


def _size_lines(plan: Allocation) -> list[str]:
    metadata = sum(m.bytes - m.choice.code_bytes(m.rows, m.columns) for m in plan.matrices)
    float_bytes = 4 * plan.profile.encoder_elements
    tables = sum(table.bytes for table in plan.tables)
    rest = plan.profile.other_bytes
    widths = {(table.bits, table.grouping) for table in plan.tables}
    uniform = f"at {next(iter(widths))[0]} bits" if len(widths) == 1 else "see above"
    return [
        f"{plan.profile.part} matrices {both(plan.encoder_bytes)}, {plan.average_bits:.3f} bits per weight with "
        f"{format_bytes(metadata)} of scales and offsets; {float_bytes / plan.encoder_bytes:.1f}x smaller than float32",
        f"whole model      {both(plan.total_bytes)}: embedding tables {format_bytes(tables)} {uniform}, "
        f"everything else {format_bytes(rest)} in fp16",
    ]


def _engine_lines(plan: Allocation) -> list[str]:
    """The plan's size in its engine's own file, to which limits on bytes apply."""
    file = plan.engine
    if file is None or file.total_bytes == plan.total_bytes:
        return []
    engines = file.name.split(",")
    taken = all(rules_of(name).takes(**plan.profile.engine_needs) for name in engines)
    what = f"file of {file.name}" if len(engines) == 1 else f"largest file of {', '.join(engines)} (same codes in each)"
    return [
        f"{what}: {both(file.total_bytes)}: {plan.profile.part} matrices {format_bytes(file.encoder_bytes)}, graph "
        f"{format_bytes(file.graph_bytes)}; limits on bytes count this file"
        f"{'' if taken else ', to which qbert-opt cannot export ' + plan.profile.oddity}"
    ]


def _outlook_lines(plan: Allocation) -> list[str]:
    """Which engines run the plan today, which kernels are missing, and what a plan for an engine costs instead."""
    outlook = plan.outlook
    if outlook is None:
        return []
    runs = ", ".join(outlook.runs) or f"none of its engines ({', '.join(outlook.engines)})"
    line = f"runs today in    {runs}"
    if outlook.custom:
        line += f"; needs custom kernels: {', '.join(outlook.custom)}"
    if outlook.instead is not None and outlook.loss_ratio is not None:
        line += f"; a plan for {outlook.instead} under the same limits loses {outlook.loss_ratio:.2g}x as much"
    return [line + (f"; {outlook.reason}" if outlook.reason else "")]


def _loss_lines(plan: Allocation) -> list[str]:
    proof = plan.status if plan.gap is None else f"{plan.status}, proven gap {plan.gap:.1e}"
    if plan.objective != "sum_of_scores":
        bound = "" if plan.lower_bound is None else f", at least {shown(plan.objective, plan.lower_bound)}"
        bound_on_sum = next((limit.capacity for limit in plan.limits if limit.resource == "sum_of_scores"), None)
        among = "" if bound_on_sum is None else f" among plans whose sum of scores is at most {bound_on_sum:.4g}"
        proof += f" of the least {measure_name(plan.objective, plan.profile)}{bound}{among}"
    lines = [
        *_prediction_lines(plan),
        f"                 ({plan.contains}; {_included(plan)})",
        f"status           {proof} ({plan.solver})",
    ]
    for index, uniform in enumerate(plan.uniform):
        name = "best uniform    " if index == 0 else "                "
        lines.append(
            f"{name} {uniform.choice}: {with_error(uniform.predicted_loss, uniform.predicted_std_error)} at "
            f"{format_bytes(uniform.encoder_bytes)}"
            f"{_ratio(uniform.predicted_loss, plan.predicted_loss) if plan.objective == 'sum_of_scores' else ''}"
        )
    if plan.random_loss is not None:
        ratio = _ratio(plan.random_loss, plan.predicted_loss)
        lines.append(f"random plans     {plan.random_loss:.4g} in the median, filling the same limits{ratio}")
    better = better_uniform(plan)
    if better is not None:
        lines.append(
            f"warning          {better.choice} for every matrix is predicted to lose less than this plan on text that "
            f"chose neither: {better.predicted_loss:.4g} against {plan.predicted_loss:.4g}. Score more text, or use "
            f"--recipe uniform:{better.choice}; --verify measures both"
        )
    return lines


def better_uniform(plan: Allocation) -> UniformPlan | None:
    """Return the uniform plan with the least predicted loss, if it is another plan and loses less than this one.

    Args:
        plan: the plan, with the uniform plans that meet its limits.
    """
    if plan.objective != "sum_of_scores":
        return None
    best = min(plan.uniform, key=lambda rival: rival.predicted_loss, default=None)
    if best is None or all(matrix.choice.name == best.choice for matrix in plan.matrices):
        return None
    return best if best.predicted_loss < plan.predicted_loss else None


def _prediction_lines(plan: Allocation) -> list[str]:
    """The loss to expect, and beside it the sum that was minimized."""
    lines = [f"predicted loss   {plan.predicted_loss:.4g} ± {plan.predicted_std_error:.1g} {plan.loss_unit}"]
    about = "sum of the scores that chose the plan: optimistic"
    if plan.folds:
        about = f"cross-fitted: on text that did not choose the plan; the sum of scores is {plan.sum_of_scores:.4g}"
        if (interval := plan.predicted_interval) is not None:
            about += f"; 90 % interval {interval[0]:.2g} to {interval[1]:.2g}"
    return lines if not plan.folds and plan.status == "unproven" else [*lines, f"                 ({about})"]


def _included(plan: Allocation) -> str:
    missing = " and ".join(part for part in ("tables", "activations") if part not in plan.roundings)
    return f"rounding of {missing} not included" if missing else "tables and activations included"


def rounded_inputs(plan: Allocation) -> str:
    """Return how the inputs of matrices are rounded, and what this costs in total; empty if they are not.

    Args:
        plan: a plan with or without choices of inputs.
    """
    if not plan.activations:
        return ""
    forms = Counter(
        f"{item.bits} bits {'per token' if item.range is None else f'per tensor ({item.range})'}"
        for item in plan.activations
    )
    shown = ", ".join(f"{count} in {form}" for form, count in forms.most_common())
    loss = math.fsum(item.predicted_loss for item in plan.activations)
    return f"{len(plan.activations)} of matrices rounded: {shown}; predicted loss {loss:.2g}"


def _activation_lines(plan: Allocation) -> list[str]:
    return [f"inputs           {rounded_inputs(plan)}"] if plan.activations else []


def _table_lines(plan: Allocation) -> list[str]:
    """Return the choices of the scored embedding tables."""
    lines = []
    for table in plan.tables:
        if table.predicted_loss is not None and table.unseen_rows is not None:
            lines.append(
                f"table {table.module} ({table.rows} × {table.columns}): {table.bits} bits {table.grouping}, "
                f"{format_bytes(table.bytes)}, predicted loss {table.predicted_loss:.2g}; the scoring text read "
                f"{100 * (1 - table.unseen_rows):.1f} % of its rows"
            )
    return lines


def _limit_lines(plan: Allocation) -> list[str]:
    lines = []
    limited_sum_only = all(limit.resource != "predicted_loss" for limit in plan.limits)  # plans of older releases
    for limit in plan.limits:
        share = 100 * limit.used / limit.capacity if limit.capacity else math.nan
        mark = "  <- binds" if limit.binds else ""
        lines.append(
            f"limit            {limit.source}: {measure_name(limit.resource, plan.profile)} "
            f"{shown(limit.resource, limit.used)} of {shown(limit.resource, limit.capacity)} ({share:.1f} %){mark}"
        )
        if limit.resource == "sum_of_scores" and limited_sum_only and plan.predicted_loss > limit.capacity:
            lines.append(
                f"warning          {limit.source} holds for the sum of scores; on text that did not choose the plan it "
                f"is predicted to lose {plan.predicted_loss:.4g}. Ask for less, or score more text"
            )
    for more, gain in (("one more MB     ", plan.next_mb_gain), ("one more ms     ", plan.next_ms_gain)):
        if gain is not None:
            lines.append(f"{more} {gain_text(gain, plan.predicted_loss)}")
    return lines


def gain_text(gain: float, loss: float) -> str:
    """Return how raising a limit changes the predicted loss; a gain that is not positive is noise of the scoring text.

    Args:
        gain: decrease of the predicted loss, in its unit.
        loss: the plan's predicted loss.
    """
    if gain <= 0:
        return "does not lower the predicted loss"
    return f"lowers the predicted loss by {gain:.3g}" + (f" ({100 * gain / loss:.1f} %)" if loss > 0 else "")


def _ratio(other: float, ours: float) -> str:
    return f" ({other / ours:.1f}x ours)" if ours > 0 and other > 0 else ""
