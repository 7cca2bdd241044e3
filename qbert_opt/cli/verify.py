"""`solve --verify`: measure the plan and its uniform rivals, and say which wins."""

from __future__ import annotations

from ..allocation import Allocation, write_allocation
from ..scores import ScoreTable
from .progress import progress


def verify(
    table: ScoreTable, allocation: Allocation, model: str, data: str, texts: str, output: str | None, *, quiet: bool
) -> None:
    """Measure the plan and the best uniform plans at no more bytes; offer the uniform one if it wins.

    Args:
        table: the scores that the plan was made of.
        allocation: the plan.
        model: folder of the model.
        data: the calibration data of the scores.
        texts: text to measure on, seen neither by the model nor by the scores.
        output: where the plan was written; a winning uniform plan goes beside it.
        quiet: no progress.
    """
    from ..choices import choice
    from ..deploy import plan_quantizer
    from ..models.loading import load_model
    from ..planned import with_activations
    from ..recipes import uniform_allocation
    from ..report import evaluation_table, print_lines
    from ..texts import read_texts
    from ..verification import least_measured, measure_plans

    loaded = load_model(model)
    quantizer = plan_quantizer(loaded, allocation, read_texts(data))
    rivals = [(f"uniform {u.choice}", uniform_allocation(table, choice(u.choice))) for u in allocation.uniform]
    if allocation.activations:
        rivals = [(name, with_activations(rival, allocation.activations)) for name, rival in rivals]
    with progress("measuring", quiet=quiet) as tell:
        found = measure_plans(loaded, [("this plan", allocation), *rivals], quantizer, read_texts(texts), progress=tell)
    rows = [
        (m.name, m.evaluation, f"{m.allocation.total_bytes:,} planned", f"{m.allocation.expected_loss:.4f}")
        for m in found
    ]
    print_lines(["", evaluation_table(rows, f"measured on {texts}")])
    best = least_measured(found)
    if best.name == "this plan":
        print_lines(["the plan measures better than every uniform plan at no more bytes"])
        return
    print_lines([f"{best.name} measures better than the plan: use it, or score on more text like the deployment's"])
    if output is not None:
        path = f"{output.removesuffix('.json')}.uniform.json"
        write_allocation(best.allocation, path)
        print_lines([f"wrote {path}"])
