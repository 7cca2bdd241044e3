"""Does a search that learns by gradient beat one set of scores? Plans of equal bytes, of about equal processor time.

    python -m benchmarks.allocation.differentiable MODEL CALIBRATION TEST OUT [--budgets 2.25 2.5 3] [--passes N]
        [--rate R]

`differentiable` learns the probabilities of choices at each budget anew; `directional` scores once for all budgets.
Both have the same quantizer (`gptq`, 2, 3 and 4 bits, `rows:each` and `columns:64`), the same texts to fit it and the
same texts to score or learn on, and the exact solver makes the plan of either. KL on TEST, which neither saw, against
the float model; ratios to `directional` at the same budget are paired over texts. An interrupted run goes on.
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.records import machine, rounded
from qbert_opt.data.texts import read_texts
from qbert_opt.evaluation.evaluate import evaluation_batches
from qbert_opt.evaluation.intervals import ratio_interval
from qbert_opt.models.heads import KINDS
from qbert_opt.models.loading import LoadedModel, load_model
from qbert_opt.models.outputs import collect
from qbert_opt.models.structure import profile_model
from qbert_opt.planning.planner import allocate
from qbert_opt.quantization.calibration import CalibrationPlan, MatrixQuantizer, calibration_texts
from qbert_opt.runtime.files import write_text
from qbert_opt.runtime.provenance import code_commit
from qbert_opt.scoring.metrics import differentiable
from qbert_opt.scoring.sensitivity import measure_sensitivity
from qbert_opt.spec.grids import grid
from qbert_opt.spec.limits import Limits
from qbert_opt.spec.scores import ScoreTable
from qbert_opt.workflows.verify import apply_plan

CHOICES = grid((2, 3, 4), ("rows:each", "columns:64"), "gptq")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "calibration", "test"):
        parser.add_argument(name)
    parser.add_argument("output", type=Path)
    parser.add_argument("--budgets", type=float, nargs="+", default=(2.25, 2.5, 3.0))
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--passes", type=int, default=differentiable.PASSES)
    parser.add_argument("--rate", type=float, default=differentiable.RATE)
    options = parser.parse_args()
    torch.set_num_threads(1)
    vars(differentiable).update(PASSES=options.passes, RATE=options.rate)
    loaded = load_model(options.model)
    data, test = (read_texts(path) for path in (options.calibration, options.test))
    sizes = CalibrationPlan(options.samples, options.samples, options.seed)
    batches = evaluation_batches(loaded, test)
    truth = collect(loaded.head, loaded.model, batches).values
    document: dict[str, Any] = {"rows": []}
    if options.output.exists():
        document = json.loads(options.output.read_text())
    document |= {"machine": machine(), "cpus": os.cpu_count()}
    quantizer: MatrixQuantizer | None = None

    def per_text(one: LoadedModel) -> np.ndarray[Any, np.dtype[np.float64]]:
        values = collect(one.head, one.model, batches).values
        return KINDS[one.head.kind].loss.of_rows(truth, values).numpy()

    bases: dict[float, Any] = {}
    chosen: dict[float, Any] = {}
    tables: dict[str, tuple[ScoreTable, float]] = {}
    for bits in options.budgets:
        for metric in ("directional", "differentiable"):
            key = {"metric": metric, "bits": bits, "seed": options.seed, "samples": options.samples}
            if metric == "differentiable":
                key |= {"passes": options.passes, "rate": options.rate}
            if metric != "directional" and any(key.items() <= row.items() for row in document["rows"]):
                continue
            if metric not in tables or metric == "differentiable":
                budget = int(bits * profile_model(loaded).encoder_elements / 8)
                started = time.process_time()
                table = measure_sensitivity(loaded, data, CHOICES, metric=metric, plan=sizes, budget_bytes=budget)
                tables[metric] = table, time.process_time() - started
            table, seconds = tables[metric]
            plan = allocate(table, Limits(encoder_bytes=int(bits * table.profile.encoder_elements / 8)))
            quantizer = quantizer or MatrixQuantizer(loaded, table.profile, "gptq", calibration_texts(data, sizes)[0])
            kl = per_text(apply_plan(loaded, plan, quantizer))
            base = chosen.get(bits)
            bases.setdefault(bits, kl)
            chosen.setdefault(bits, plan.matrices)
            held, ratio = ratio_interval(kl, np.ones_like(kl)), ratio_interval(kl, bases[bits])
            row = key | {
                "encoder_bytes": plan.encoder_bytes,
                "minutes": seconds / 60,
                "same": None
                if base is None
                else sum(a.choice == b.choice for a, b in zip(base, plan.matrices, strict=True)),
                "kl": [held.value, held.low, held.high],
                "to_directional": [ratio.value, ratio.low, ratio.high],
                "commit": code_commit(),
            }
            print(json.dumps(row), flush=True)
            if not any(key.items() <= old.items() for old in document["rows"]):
                document["rows"].append({name: rounded(value) for name, value in row.items()})
                write_text(options.output, json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
