"""How much noise do random sign sums add to scores, and what do they cost?

    python -m benchmarks.scoring.sign_draws MODEL DATA OUT.jsonl [--label-column C] [--scored 320] [--seeds 12]

Three matrices of every other layer at 2 and 4 bits (`rtn`, one range per row). Each text's loss is computed for several
seeds with one draw, which separates the noise of the draws from what the texts differ by; from both follows the
relative standard error of the score for any number of draws. `columns` are √p (e - p) of each output as they come;
`ordered` is the Cholesky factor with the likeliest output first, which the package uses; `shared` are `sign_draws`.
Processor seconds are of the factor pass and the products, of all draws. For embeddings both are the same.
"""

import argparse
import json
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.records import machine, rounded
from qbert_opt.curvature import columns
from qbert_opt.curvature.columns import FactorPlan, combined_factors
from qbert_opt.curvature.factors import factor_pass
from qbert_opt.curvature.sharing import softened
from qbert_opt.data.texts import read_texts
from qbert_opt.models.loading import load_model, tokenized
from qbert_opt.models.outputs import Outputs, collect
from qbert_opt.models.structure import profile_model
from qbert_opt.quantization.calibration import CalibrationPlan, MatrixQuantizer, calibration_texts
from qbert_opt.runtime.provenance import code_commit, today
from qbert_opt.scoring.metrics.directional import both_losses
from qbert_opt.spec.grids import grid


def in_any_order(outputs: Outputs, temperature: float, seed: int, draw: int) -> torch.Tensor:
    """B s of the columns √p (e - p), in the order of the outputs."""
    signs = columns._signs(outputs, seed, draw)
    p = (outputs.values.detach().double() / temperature).softmax(-1)
    return (p.sqrt() * signs - p * (p.sqrt() * signs).sum(-1, keepdim=True)).to(outputs.values.dtype)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("output", type=Path)
    parser.add_argument("--label-column")
    parser.add_argument("--scored", type=int, default=320)
    parser.add_argument("--seeds", type=int, default=12)
    options = parser.parse_args()
    torch.set_num_threads(1)
    loaded = load_model(options.model)
    data = read_texts(options.data, label_column=options.label_column)
    fit, texts = calibration_texts(data, CalibrationPlan(16, options.scored, 0))
    batches = tokenized(loaded, texts.texts, batch_size=16)
    profile, head = profile_model(loaded), loaded.head
    chosen = [matrix for matrix in profile.matrices if matrix.block % 2 == 0][::2]
    quantizer, choices = MatrixQuantizer(loaded, profile, "rtn", fit), grid((2, 4), ("rows:each",), "rtn")
    errors = {matrix.module: quantizer.errors(matrix, choices) for matrix in chosen}
    shared = softened(head, collect(head, loaded.model, batches))

    def losses(plan: FactorPlan) -> np.ndarray:
        factors = factor_pass(loaded.model, plan.batched(head, batches), list(errors), plan, head)
        return sum(both_losses(factors.pop(name), errors[name])[0] for name in list(errors)).numpy()

    about = {"commit": code_commit(), "date": today(), "machine": machine()}
    about |= {"cpus": os.cpu_count(), "name": Path(loaded.name).name, "kind": head.kind, "scored": options.scored}
    with options.output.open("a") as file:
        for way in ("columns", "ordered") if head.spec.loss.softmax else ("ordered",):
            columns.combined_factors = in_any_order if way == "columns" else combined_factors
            drawn = np.array([losses(FactorPlan(draws=1, seed=seed)) for seed in range(options.seeds)])
            mean, noise = drawn.mean(0), drawn.var(0, ddof=1)
            square = mean.mean(0) ** 2
            own = (mean.var(0) - noise.mean(0) / options.seeds) / square  # of the texts
            plans = {str(draws): FactorPlan(draws=draws) for draws in (1, 2, 4)}
            plans |= {} if way == "columns" or isinstance(shared.draws, int) else {"shared": shared}
            for name, plan in plans.items():
                counts = np.array([plan.count(head, sample) for sample in range(options.scored)])
                started = time.process_time()
                losses(replace(plan, seed=99))
                seconds = time.process_time() - started
                added = (noise / counts[:, None]).mean(0) / square
                row = {"way": way, "draws": name, "mean_draws": float(counts.mean()), "seconds": seconds}
                row |= {"texts": own.tolist(), "noise": added.tolist()}
                row |= {"relative_std_error": np.sqrt((own + added) / options.scored).tolist()}
                print(json.dumps(about | {key: rounded(value) for key, value in row.items()}), file=file, flush=True)


if __name__ == "__main__":
    main()
