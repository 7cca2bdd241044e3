"""Whole plans: what was predicted and what is measured, for the plans of several metrics at equal bytes.

    python -m benchmarks.predictions.plans MODEL CALIBRATION TEST SCORES... -o results.json

Each table of scores (one per metric and seed, of the same model, data and method) is solved at each budget of encoder
bits per weight, all scales counted; the plan is applied with the quantizer that the table's seed fits and measured on
TEST against the unchanged model. Uniform plans within the budget are measured with the quantizer of each seed. An
interrupted run goes on: what stands in the output is not measured again.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.records import machine
from qbert_opt.data.texts import read_texts
from qbert_opt.evaluation.evaluate import evaluate, outputs
from qbert_opt.models.loading import load_model
from qbert_opt.planning.planner import allocate
from qbert_opt.planning.recipes import given_allocation, uniform_allocation
from qbert_opt.quantization.calibration import CalibrationPlan, MatrixQuantizer, calibration_texts
from qbert_opt.runtime.files import write_text
from qbert_opt.runtime.provenance import code_commit
from qbert_opt.spec.allocation import Allocation
from qbert_opt.spec.choices import Choice
from qbert_opt.spec.limits import Limits
from qbert_opt.spec.scores import ScoreTable, read_scores
from qbert_opt.workflows.verify import apply_plan

BUDGETS = (2.25, 2.5, 3.0, 4.0)
UNIFORM = ("columns:128", "columns:64", "rows:each", "rows:heads")


def plans(table: ScoreTable, bits: float, uniform: Sequence[str]) -> dict[str, Allocation]:
    """The plan of a table at a budget; for `directional` also the uniform plans that fit."""
    limits = Limits(encoder_bytes=int(bits * table.profile.encoder_elements / 8))
    found = {table.metric: allocate(table, limits)}
    if table.metric == "directional":
        found["random"] = dealt_anew(found["directional"], table.provenance.seed)
        for grouping in uniform:
            fits = [c for c in table.grid() if c.grouping == grouping and _fits(table, c, limits)]
            if fits:
                best = max(fits, key=lambda c: c.bits)
                found[f"uniform {best.bits}bit/{grouping}"] = uniform_allocation(table, best)
    return found


def dealt_anew(plan: Allocation, seed: int) -> Allocation:
    """A random plan of the same bytes: the choices of a plan, dealt anew among matrices of the same shape."""
    generator = np.random.default_rng(seed)
    specs = {m.module: (m.rows, m.columns) for m in plan.profile.matrices}
    choices = {}
    for shape in sorted(set(specs.values())):
        same = [m for m in plan.matrices if specs[m.module] == shape]
        for module, index in zip([m.module for m in same], generator.permutation(len(same)), strict=True):
            choices[module] = same[index].choice
    return given_allocation(plan.profile, choices)


def only(table: ScoreTable, groupings: Sequence[str] | None) -> ScoreTable:
    """The table without choices of other groupings."""
    if not groupings:
        return table
    kept = [j for j, c in enumerate(table.grid()) if c.grouping in groupings]

    def columns(rows: Any) -> Any:
        return tuple(tuple(row[j] for j in kept) for row in rows)

    update = {name: columns(getattr(table, name)) for name in ("value", "std_error", "weight_error")}
    update["fold_value"] = tuple(columns(fold) for fold in table.fold_value)
    return table.model_copy(update=update | {"choices": tuple(table.choices[j] for j in kept), "masks": {}})


def _fits(table: ScoreTable, c: Choice, limits: Limits) -> bool:
    if any(c.name in masks for masks in table.masks.values()):
        return False
    return uniform_allocation(table, c).encoder_bytes <= (limits.encoder_bytes or 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "calibration", "test"):
        parser.add_argument(name)
    parser.add_argument("scores", nargs="+", type=Path)
    parser.add_argument("--text-column", action="append", help="twice for pairs of sentences")
    parser.add_argument("--groupings", nargs="+", help="choices that plans may use; all by default")
    parser.add_argument("--uniform", nargs="*", default=UNIFORM, help="groupings of the uniform plans")
    parser.add_argument("--budgets", type=float, nargs="+", default=BUDGETS)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    loaded = load_model(options.model)
    data, test = (read_texts(p, text_columns=options.text_column) for p in (options.calibration, options.test))
    truth = outputs(loaded, test)
    tables = [only(read_scores(path), options.groupings) for path in options.scores]
    where = {"model": Path(options.model).name, "test": test.name, "commit": code_commit(), "machine": machine()}
    rows: list[dict[str, Any]] = []
    known: dict[Any, Any] = {}
    if options.output.exists():
        rows = json.loads(options.output.read_text())["rows"]
    for table in sorted(tables, key=lambda t: t.provenance.seed):
        source = table.provenance
        sizes = CalibrationPlan(source.num_calibration or 0, source.num_scored or 0, source.seed)
        quantizer = MatrixQuantizer(loaded, table.profile, table.method, calibration_texts(data, sizes)[0])
        for bits in options.budgets:
            for name, plan in plans(table, bits, options.uniform).items():
                key = {"plan": name, "method": table.method, "bits": bits, "seed": source.seed}
                if options.groupings:
                    key["groupings"] = " ".join(options.groupings)
                if any(key.items() <= row.items() for row in rows):
                    continue
                held = tuple(part.choice.name for part in (*plan.matrices, *plan.tables))
                if (source.seed, held) not in known:  # a uniform plan comes at several budgets
                    known[source.seed, held] = evaluate(apply_plan(loaded, plan, quantizer), test, truth)
                found = known[source.seed, held]
                assert found.loss is not None and found.accuracy is not None
                row = key | {
                    "encoder_bytes": plan.encoder_bytes,
                    "sum_of_scores": plan.sum_of_scores,
                    "predicted": plan.predicted_loss,
                    "predicted_std_error": plan.predicted_std_error,
                    "kl": [found.loss.value, found.loss.low, found.loss.high],
                    "accuracy": found.accuracy.value,
                    "flipped": found.flipped,
                }
                rows.append({k: float(f"{v:.5g}") if isinstance(v, float) else v for k, v in row.items()})
                write_text(options.output, json.dumps(where | {"rows": rows}, indent=1))
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
