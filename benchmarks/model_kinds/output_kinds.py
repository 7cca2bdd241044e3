"""Do directional scores hold for every kind of output? Predicted against measured losses of single matrices.

    python -m benchmarks.model_kinds.output_kinds MODEL CALIBRATION MEASURED [--label-column C] [--split-calibration S]
        [--split-measured S] [--samples N] [--matrices N]

A few matrices spread over the model, 2, 3 and 4 bits, row and column groups, plain rounding: scores on CALIBRATION, the
same matrix replaced alone and the loss measured on MEASURED, other text. One JSON line: rank correlation (pooled, and
the mean within each choice), median measured/predicted with quartiles, at softmax temperatures 1 and 2 (the default
metric's; means nothing to embeddings), and the model's own quality.
"""

import argparse
import json
import time

import numpy as np
import torch
from scipy.stats import spearmanr

from qbert_opt.curvature.columns import FactorPlan
from qbert_opt.curvature.factors import factor_pass
from qbert_opt.data.texts import LabeledTexts, read_texts
from qbert_opt.evaluation.evaluate import evaluate, evaluation_batches, measure
from qbert_opt.models.batches import mean_tokens, tokenize
from qbert_opt.models.loading import load_model
from qbert_opt.models.outputs import collect
from qbert_opt.models.structure import profile_model
from qbert_opt.quantization.calibration import MatrixQuantizer
from qbert_opt.runtime.provenance import code_commit, today
from qbert_opt.scoring.metrics.directional import quadratic_forms
from qbert_opt.spec.grids import grid

CHOICES = grid((2, 3, 4), ("rows:each", "columns:64"), "rtn")
TEMPERATURES = (1.0, 2.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("calibration")
    parser.add_argument("measured")
    parser.add_argument("--label-column")
    parser.add_argument("--split-calibration")
    parser.add_argument("--split-measured")
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--matrices", type=int, default=8)
    options = parser.parse_args()
    started = time.process_time()
    loaded = load_model(options.model)
    labels = options.label_column
    scored = sample(read_texts(options.calibration, label_column=labels, split=options.split_calibration), options)
    test = sample(read_texts(options.measured, label_column=labels, split=options.split_measured), options)
    profile = profile_model(loaded)
    picked = np.linspace(0, len(profile.matrices) - 1, options.matrices).round().astype(int)
    matrices = [profile.matrices[i] for i in picked]
    head, names = loaded.head, [m.module for m in matrices]
    batches = tokenize(loaded.tokenizer, scored.texts, batch_size=16, kind=head.kind)
    temperatures = TEMPERATURES if "KL" in head.loss_unit else TEMPERATURES[:1]
    passes = {t: factor_pass(loaded.model, batches, names, FactorPlan(t), head) for t in temperatures}
    quantizer = MatrixQuantizer(loaded, profile, "rtn", None)
    test_batches = evaluation_batches(loaded, test)
    reference = collect(head, loaded.model, test_batches).values
    predicted = {t: np.empty((len(matrices), len(CHOICES))) for t in temperatures}
    measured = np.empty((len(matrices), len(CHOICES)))
    for i, matrix in enumerate(matrices):
        errors = quantizer.errors(matrix, CHOICES)
        for t in temperatures:
            predicted[t][i] = quadratic_forms(passes[t][matrix.module], errors).value.numpy()
        weight = loaded.model.get_submodule(matrix.module).weight
        for j, error in enumerate(errors):
            original = weight.detach().clone()
            with torch.no_grad():
                weight += error
                loss = measure(collect(head, loaded.model, test_batches), None, reference).loss
                weight.copy_(original)
            measured[i, j] = float("nan") if loss is None else loss.value
    quality = evaluate(loaded, test)
    figures = ("accuracy", "macro_f1", "entity_f1", "exact_match", "answer_f1")
    row = {
        "model": options.model.rstrip("/").split("/")[-1],
        "kind": head.kind,
        "loss_unit": head.loss_unit,
        "factors_per_sample": FactorPlan().most(head),
        "pairs": measured.size,
        "samples": [len(scored), len(test)],
        "mean_tokens": round(mean_tokens(batches), 1),
        "quality": {f: figure(getattr(quality, f)) for f in figures if getattr(quality, f) is not None},
        "scores": {f"temperature {t:g}": summary(predicted[t], measured) for t in temperatures},
        "cpu_s": round(time.process_time() - started),
        "commit": code_commit(),
        "date": today(),
    }
    print(json.dumps(row), flush=True)


def sample(data: LabeledTexts, options: argparse.Namespace) -> LabeledTexts:
    chosen = np.random.default_rng(0).permutation(len(data))[: options.samples]
    return data.take(sorted(chosen.tolist()))


def figure(value) -> float:  # type: ignore[no-untyped-def]
    return round(getattr(value, "value", value), 4)


def summary(predicted: np.ndarray, measured: np.ndarray) -> dict[str, object]:
    small = measured < 0.1
    ratios = (measured / predicted)[small]
    within = [spearmanr(predicted[:, j], measured[:, j]).statistic for j in range(measured.shape[1])]
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    return {
        "spearman_pooled": round(float(spearmanr(predicted.ravel(), measured.ravel()).statistic), 3),
        "spearman_within_choice": [round(float(np.mean(within)), 3), round(float(np.min(within)), 3)],
        "measured_over_predicted": [round(float(v), 3) for v in (low, middle, high)],
        "pairs_below_0.1": int(small.sum()),
    }


if __name__ == "__main__":
    main()
