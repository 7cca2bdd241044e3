"""At which softmax temperature should the curvature of `directional` be taken? Plans measured on unseen text.

    python -m benchmarks.scoring.temperature MODEL CALIBRATION TEST [--text-column NAME]

For each temperature: scores, the plan at 2.25, 2.5 and 3 bits per weight, its predicted loss (curvature at that
temperature) and the KL measured on TEST with its 95 % bootstrap interval. One quantizer (gptq) for all.
"""

import argparse
import json

import numpy as np

from qbert_opt.curvature.columns import FactorPlan
from qbert_opt.curvature.factors import factor_pass
from qbert_opt.data.texts import read_texts
from qbert_opt.evaluation.evaluate import evaluate, outputs
from qbert_opt.models.batches import tokenize
from qbert_opt.models.loading import load_model
from qbert_opt.planning.planner import allocate
from qbert_opt.quantization.calibration import CalibrationPlan, MatrixQuantizer, calibration_texts
from qbert_opt.runtime.provenance import code_commit
from qbert_opt.scoring.metrics.directional import quadratic_forms
from qbert_opt.scoring.sensitivity import measure_sensitivity
from qbert_opt.spec.grids import default_grid
from qbert_opt.spec.limits import Limits
from qbert_opt.workflows.verify import apply_plan

TEMPERATURES = (1.0, 2.0, 4.0)
BITS = (2.25, 2.5, 3.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("calibration")
    parser.add_argument("test")
    parser.add_argument("--samples", type=int, default=340)
    options = parser.parse_args()
    loaded, data, test = load_model(options.model), read_texts(options.calibration), read_texts(options.test)
    plan = CalibrationPlan(options.samples, options.samples, 0)
    choices = default_grid("gptq")
    table = measure_sensitivity(loaded, data, choices, plan=plan)
    fit, scored = calibration_texts(data, plan)
    quantizer = MatrixQuantizer(loaded, table.profile, "gptq", fit)
    batches = tokenize(loaded.tokenizer, scored.texts, batch_size=16)
    names = [m.module for m in table.profile.matrices]
    passes = {t: factor_pass(loaded.model, batches, names, FactorPlan(t)) for t in TEMPERATURES}
    values = {t: np.empty((len(names), len(choices))) for t in TEMPERATURES}
    for index, matrix in enumerate(table.profile.matrices):
        errors = quantizer.errors(matrix, choices)
        for t in TEMPERATURES:
            values[t][index] = quadratic_forms(passes[t].pop(matrix.module), errors).value.numpy()
    truth = outputs(loaded, test)
    for bits in BITS:
        for t in TEMPERATURES:
            scores = table.model_copy(update={"value": tuple(map(tuple, values[t].tolist()))})
            found = allocate(scores, Limits(encoder_bytes=int(bits * table.profile.encoder_elements / 8)))
            kl = evaluate(apply_plan(loaded, found, quantizer), test, truth).kl
            measured = None if kl is None else [kl.value, kl.low, kl.high]
            row = {"bits": bits, "temperature": t, "predicted": found.predicted_loss, "measured": measured}
            print(json.dumps(row | {"model": options.model, "commit": code_commit()}), flush=True)


if __name__ == "__main__":
    main()
