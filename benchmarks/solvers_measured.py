"""Do interactions and measured swaps help? Whole plans really measured on text that neither model nor scores saw.

    python benchmarks/solvers_measured.py MODEL CALIBRATION TEST OUT.json --texts 8,16 --fitted 128 --bits 2.5

Per number of scoring texts and budget: the plan of least summed scores, plans of `solve_interactions` from the real
per-text factors s_l(choice) of the directional form (one column per text and output factor), where alpha scales what
matrices have in common (½Σ‖s‖² at 0, ½‖Σs‖² at 1), and for the last case the plan of `refine` after at most 13
measurements on the scoring texts. "with interactions" is the quadratic form on the scoring texts, "held out" on as many
other texts. OUT.json is written after every case.
"""

import argparse
import json
import math
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from qbert_opt.curvature.factors import factor_pass
from qbert_opt.data.texts import read_texts
from qbert_opt.evaluation.evaluate import evaluate, outputs
from qbert_opt.models.batches import tokenize
from qbert_opt.models.loading import load_model
from qbert_opt.planning.planner import allocation_of, solve_task
from qbert_opt.planning.program import PlanningTask
from qbert_opt.planning.solving import Plan, SolverOptions
from qbert_opt.quantization.calibration import CalibrationPlan, MatrixQuantizer, calibration_texts
from qbert_opt.runtime.provenance import code_commit
from qbert_opt.scoring.metrics import directional
from qbert_opt.scoring.sensitivity import measure_sensitivity
from qbert_opt.spec.choices import grid
from qbert_opt.spec.limits import Limits
from qbert_opt.workflows.refine import refine_plan
from qbert_opt.workflows.verify import apply_plan
from solvers import price_interactions, solve_interactions

CHOICES = grid((2, 3, 4), ("rows:each", "columns:64", "columns:128"), "gptq")
ALPHAS = (0.25, 0.5, 1.0)
MEASUREMENTS = 13


def factors_of(loaded, quantizer, profile, texts):
    """Return s, float64 [matrices, choices, texts × factors], scaled so that ½‖s‖² is the score."""
    batches = tokenize(loaded.tokenizer, texts, batch_size=16)
    found = []
    for matrix in profile.matrices:
        name = matrix.module
        samples = factor_pass(loaded.model, batches, [name], temperature=directional.TEMPERATURE)[name]
        errors = quantizer.errors(matrix, CHOICES).flatten(1)
        rows = [(sample.jacobian().flatten(1) @ errors.T).double().numpy() for sample in samples]
        found.append(np.concatenate(rows).T / math.sqrt(len(samples)))
    return np.stack(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "calibration", "test", "out"):
        parser.add_argument(name)
    parser.add_argument("--texts", default="64,256")
    parser.add_argument("--fitted", type=int, default=128)
    parser.add_argument("--bits", default="2.5,3")
    options = parser.parse_args()
    numbers, budgets = [int(n) for n in options.texts.split(",")], [float(b) for b in options.bits.split(",")]
    loaded, data, test = load_model(options.model), read_texts(options.calibration), read_texts(options.test)
    most = max(numbers)
    fit, pool = calibration_texts(data, CalibrationPlan(options.fitted, 2 * most, 0))
    table = measure_sensitivity(loaded, data, CHOICES, plan=CalibrationPlan(options.fitted, 2 * most, 0))
    quantizer = MatrixQuantizer(loaded, table.profile, "gptq", fit)
    factors = factors_of(loaded, quantizer, table.profile, pool.texts)
    per_text = factors.shape[2] // (2 * most)
    truth = outputs(loaded, test)
    rows = []
    for number in numbers:
        part = factors[:, :, : number * per_text] * math.sqrt(2 * most / number)
        other = factors[:, :, most * per_text : (most + number) * per_text] * math.sqrt(2 * most / number)
        single = 0.5 * (part**2).sum(axis=2)
        scores = table.model_copy(update={"value": tuple(map(tuple, single.tolist())), "fold_value": ()})
        for bits in budgets:
            task = PlanningTask(scores, Limits(encoder_bytes=int(bits * table.profile.encoder_elements / 8)))
            best = solve_task(task, SolverOptions())
            plans = [("least sum of scores", best, best.solution.gap, 0.0)]
            nothing = replace(best.problem, value=np.zeros_like(single))
            for alpha in ALPHAS:
                start = time.process_time()
                apart = replace(best.problem, value=(1 - alpha) * single)
                found = solve_interactions(apart, math.sqrt(alpha) * part)
                spent = time.process_time() - start
                plans.append((f"interactions, alpha {alpha}", replace_plan(task, best, found.choice), found.gap, spent))
            if (number, bits) == (numbers[-1], budgets[-1]):
                start = time.process_time()
                scored = replace(pool, texts=pool.texts[:number], labels=None)
                refined, steps = refine_plan(task, best, loaded, quantizer, scored, MEASUREMENTS)
                name = f"refine: {steps.start:.4f} -> {steps.measured:.4f} on the scoring texts, {steps.accepted} swaps"
                plans.append((name, refined, refined.solution.gap, time.process_time() - start))
            for name, plan, gap, spent in plans:
                choice = plan.solution.choice
                kl = evaluate(apply_plan(loaded, allocation_of(task, plan, answer=False), quantizer), test, truth).kl
                row = {
                    "texts": number,
                    "bits": bits,
                    "plan": name,
                    "gap": gap,
                    "cpu_s": round(spent, 1),
                    "sum of scores": float(single[range(len(choice)), choice].sum()),
                    "with interactions": price_interactions(nothing, part, choice),
                    "with interactions, held out": price_interactions(nothing, other, choice),
                    "measured": [kl.value, kl.low, kl.high],
                }
                rows.append(row)
                print(json.dumps(row), flush=True)
            made = {
                "command": f"python benchmarks/solvers_measured.py {' '.join(sys.argv[1:])}",
                "commit": code_commit(),
            }
            Path(options.out).write_text(json.dumps(made | {"rows": rows}, indent=1) + "\n", encoding="utf-8")


def replace_plan(task: PlanningTask, best: Plan, choice: tuple[int, ...]) -> Plan:
    return replace(best, solution=replace(best.solution, choice=choice), storage=task.placed(choice)[0])


if __name__ == "__main__":
    main()
