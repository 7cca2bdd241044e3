"""`solve --verify`: measure the plan and its uniform rivals, and say which wins."""

from __future__ import annotations

from collections.abc import Sequence

from ..spec.allocation import Allocation, write_allocation
from ..spec.scores import ScoreTable
from .progress import progress


def verify(
    table: ScoreTable,
    allocation: Allocation,
    model: str,
    data: str,
    texts: str,
    output: str | None,
    *,
    others: Sequence[Allocation] = (),
    quiet: bool,
) -> None:
    """Measure the plan, others of a shortlist and the best uniform plans at no more bytes; offer what wins.

    Args:
        table: the scores that the plan was made of.
        allocation: the plan.
        model: folder of the model.
        data: the calibration data of the scores.
        texts: text to measure on, seen neither by the model nor by the scores.
        output: where the plan was written; a winning uniform plan goes beside it.
        others: the rest of a shortlist, numbered from 2.
        quiet: no progress.
    """
    from ..data.texts import read_texts
    from ..models.loading import load_model
    from ..planning.assembly import with_activations
    from ..planning.recipes import uniform_allocation
    from ..reports.evaluation import evaluation_table
    from ..reports.printing import print_lines
    from ..spec.choices import choice
    from ..workflows.quantize import plan_quantizer
    from ..workflows.verify import least_measured, measure_plans

    loaded = load_model(model)
    quantizer = plan_quantizer(loaded, allocation, read_texts(data))
    shortlist = [(f"plan {number}", other) for number, other in enumerate(others, 2)]
    uniform = [(f"uniform {u.choice}", uniform_allocation(table, choice(u.choice))) for u in allocation.uniform]
    if allocation.activations:
        uniform = [(name, with_activations(rival, allocation.activations)) for name, rival in uniform]
    with progress("measuring", quiet=quiet) as tell:
        found = measure_plans(
            loaded, [("this plan", allocation), *shortlist, *uniform], quantizer, read_texts(texts), progress=tell
        )
    rows = [
        (m.name, m.evaluation, f"{m.allocation.total_bytes:,} planned", f"{m.allocation.predicted_loss:.3g}")
        for m in found
    ]
    print_lines(["", evaluation_table(rows, f"measured on {texts}")])
    best = least_measured(found)
    if best.name == "this plan":
        print_lines(["the plan measures better than every uniform plan at no more bytes"])
        return
    if best.name.startswith("plan "):
        print_lines([f"{best.name} measures best: use {numbered(output, best.name) if output else 'it'}"])
        return
    print_lines([f"{best.name} measures better than the plan: use it, or score on more text like the deployment's"])
    if output is not None:
        path = f"{output.removesuffix('.json')}.uniform.json"
        write_allocation(best.allocation, path)
        print_lines([f"wrote {path}"])


def numbered(output: str, name: str) -> str:
    """Where a plan of a shortlist goes: `plan.json`, `plan.2.json`, `plan.3.json`."""
    return f"{output.removesuffix('.json')}.{name.removeprefix('plan ')}.json"
