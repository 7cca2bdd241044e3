"""Are the scores true? Every choice of every matrix is really applied, alone, and its KL measured on other text.

    python -m benchmarks.predictions.fidelity measure MODEL CALIBRATION TEST --method gptq -o measured.json
    python -m benchmarks.predictions.fidelity compare measured.json SCORES...

`measure` quantizes with the same texts and seed as `qbert-opt sensitivity` and can be interrupted and resumed;
`compare` prints one JSON line for each table of scores: Spearman pooled and within each (bits, grouping), the share of
those above 0.9, and measured/predicted in the median where the measured KL lies below 0.1.
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import nn

from qbert_opt.data.texts import read_texts
from qbert_opt.evaluation.evaluate import kl_divergence
from qbert_opt.models.batches import TokenBatch, tokenize
from qbert_opt.models.loading import load_model
from qbert_opt.models.structure import profile_model
from qbert_opt.quantization.calibration import CalibrationPlan, MatrixQuantizer, calibration_texts
from qbert_opt.runtime.provenance import code_commit
from qbert_opt.spec.grids import default_grid
from qbert_opt.spec.profiles import ModelProfile
from qbert_opt.spec.scores import read_scores

SMALL_KL = 0.1  # above it, second order is not meant to hold
DRAWS = 1000


class Known(nn.Module):
    """Stands for an encoder block whose output is known: nothing before the changed matrix is computed again."""

    def __init__(self) -> None:
        super().__init__()
        self.output: Any = None

    def forward(self, *_args: Any, **_kwargs: Any) -> Any:
        return self.output


class Replay:
    """Logits of a model on fixed batches, computed from the block that changed onwards."""

    def __init__(self, model: nn.Module, profile: ModelProfile, batches: Sequence[TokenBatch]) -> None:
        self._model, self._batches = model, batches
        self._blocks = model.get_submodule(block_list(profile))
        self._outputs: list[list[Any]] = [[] for _ in self._blocks]
        handles = [
            block.register_forward_hook(lambda _m, _a, out, kept=kept: kept.append(out))
            for block, kept in zip(self._blocks, self._outputs, strict=True)
        ]
        self.reference = self._run(0)
        for handle in handles:
            handle.remove()

    @contextmanager
    def _skipping(self, first: int) -> Iterator[list[Known]]:
        kept, known = list(self._blocks), [Known() for _ in range(first)]
        for i, stand_in in enumerate(known):
            self._blocks[i] = stand_in
        try:
            yield known
        finally:
            for i in range(first):
                self._blocks[i] = kept[i]

    @torch.no_grad()
    def _run(self, first: int) -> torch.Tensor:
        rows = []
        with self._skipping(first) as known:
            for index, batch in enumerate(self._batches):
                for i, stand_in in enumerate(known):
                    stand_in.output = self._outputs[i][index]
                rows.append(self._model(**batch.inputs).logits)
        return torch.cat(rows)

    def kl(self, first: int) -> np.ndarray:
        """KL to the reference per sample when only block `first` and later ones may have changed."""
        return kl_divergence(self.reference, self._run(first)).numpy()


def block_list(profile: ModelProfile) -> str:
    """Name of the module list that holds the encoder's blocks."""
    parts = profile.matrices[0].module.split(".")
    return ".".join(parts[: next(i for i, part in enumerate(parts) if part.isdigit())])


def measure(options: argparse.Namespace) -> None:
    """Measure every choice of every matrix, or of some of them, and write mean and standard error."""
    loaded = load_model(options.model)
    data, test = (read_texts(p, text_columns=options.text_column) for p in (options.calibration, options.test))
    profile = profile_model(loaded)
    plan = CalibrationPlan(options.calibration_samples, options.scoring_samples, options.seed)
    fit, _ = calibration_texts(data, plan)
    quantizer = MatrixQuantizer(loaded, profile, options.method, fit)
    replay = Replay(loaded.model, profile, tokenize(loaded.tokenizer, test.texts, batch_size=64))
    found: dict[str, Any] = {
        "model": profile.sha256, "name": Path(options.model).name, "method": options.method, "test": test.name,
        "samples": len(test), "plan": [plan.num_calibration, plan.num_scored, plan.seed], "commit": code_commit(),
        "kl": {},
    }  # fmt: skip
    if options.output.exists():
        earlier = json.loads(options.output.read_text())
        if all(earlier[k] == found[k] for k in ("model", "method", "test", "plan")):
            found["kl"] = earlier["kl"]
    started = time.monotonic()
    drawn = np.random.default_rng(0).permutation(len(profile.matrices))[: options.matrices].tolist()
    for index, matrix in enumerate(profile.matrices[i] for i in sorted(drawn)):
        if matrix.module in found["kl"]:
            continue
        choices = default_grid(options.method)
        weight = loaded.model.get_parameter(f"{matrix.module}.weight")
        original = weight.detach().clone()
        rows = {}
        for choice, quantized in zip(choices, quantizer.quantize(matrix, choices), strict=True):
            with torch.no_grad():
                weight.copy_(quantized.dequantize())
            kl = replay.kl(matrix.block)
            rows[choice.name] = [float(kl.mean()), float(kl.std() / len(kl) ** 0.5)]
        with torch.no_grad():
            weight.copy_(original)
        found["kl"][matrix.module] = rows
        options.output.write_text(json.dumps(found))
        print(f"{index + 1}/{len(drawn)} {time.monotonic() - started:.0f} s", flush=True)


def compare(options: argparse.Namespace) -> None:
    """Print how well each table of scores agrees with what was measured."""
    found = json.loads(options.measured.read_text())
    for path in options.scores:
        table = read_scores(path)
        if table.profile.sha256 != found["model"] or table.method != found["method"]:
            raise SystemExit(f"{path}: is of another model or method than {options.measured}")
        rows = [m.module for m in table.profile.matrices]
        picked = [i for i, module in enumerate(rows) if module in found["kl"]]
        measured = np.array([[found["kl"][rows[i]][c][0] for c in table.choices] for i in picked])
        predicted = table.values()[picked]
        print(json.dumps({"metric": table.metric, "name": found["name"], **agreement(predicted, measured)}), flush=True)


def agreement(predicted: np.ndarray, measured: np.ndarray) -> dict[str, Any]:
    """Spearman and ratios with 95 % bootstrap intervals over matrices; arrays are [matrices, choices]."""
    within = [float(spearmanr(predicted[:, j], measured[:, j]).statistic) for j in range(predicted.shape[1])]
    pooled = [float(spearmanr(predicted.ravel(), measured.ravel()).statistic)]
    ratios = [ratio(predicted, measured)]
    generator = np.random.default_rng(0)
    for _ in range(DRAWS):
        rows = generator.integers(0, len(predicted), len(predicted))
        pooled.append(float(spearmanr(predicted[rows].ravel(), measured[rows].ravel()).statistic))
        ratios.append(ratio(predicted[rows], measured[rows]))
    return {
        "pairs": int(predicted.size),
        "spearman": interval(pooled),
        "within_median": float(np.median(within)),
        "within_least": min(within),
        "within_above_0.9": float(np.mean(np.array(within) >= 0.9)),
        "measured_over_predicted": interval(ratios),
    }


def ratio(predicted: np.ndarray, measured: np.ndarray) -> float:
    """Median of measured/predicted where second order is meant to hold."""
    small = (measured < SMALL_KL) & (predicted > 0)
    return float(np.median(measured[small] / predicted[small]))


def interval(values: Sequence[float]) -> list[float]:
    """The figure itself, and the 2.5 and 97.5 % quantiles of its bootstrap draws, rounded."""
    low, high = np.quantile(values[1:], [0.025, 0.975])
    return [round(float(v), 4) for v in (values[0], low, high)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    one = verbs.add_parser("measure")
    for name in ("model", "calibration", "test"):
        one.add_argument(name)
    one.add_argument("--method", default="gptq")
    one.add_argument("--calibration-samples", type=int, default=340)
    one.add_argument("--scoring-samples", type=int, default=340)
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--matrices", type=int, help="measure so many only, drawn at random; all by default")
    one.add_argument("--text-column", action="append", help="twice for pairs of sentences")
    one.add_argument("-o", "--output", type=Path, required=True)
    two = verbs.add_parser("compare")
    two.add_argument("measured", type=Path)
    two.add_argument("scores", nargs="+")
    options = parser.parse_args()
    (measure if options.verb == "measure" else compare)(options)


if __name__ == "__main__":
    main()
