"""How far does second order reach? The real loss of each text beside the loss of the model's linear response.

    python -m benchmarks.scoring.linear_response MODEL TEXTS FOLDER OUT.jsonl [--texts 900] [--skip 512]
        [--label-column C]

For several errors ΔW of all matrices (that of the quantized FOLDER, and rounding to nearest in `rows:each` at 6 and 7
bits): the KL of each text at W + ΔW, and its second order from the outputs at W + ΔW / 256, with what the matrices do
to each other. Rows: both means and effective sample sizes; the share of the second-order loss in texts that really lose
less than a quarter of it; and how well one error's ratios of real to second order tell another's (rank correlation over
the texts that carry most): a correction by text that is measured once would need that.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from benchmarks.records import machine
from qbert_opt.checkpoint.reader import load_quantized
from qbert_opt.data.texts import read_texts
from qbert_opt.models.heads.protocol import per_text
from qbert_opt.models.loading import LoadedModel, load_model, tokenized
from qbert_opt.models.outputs import collect
from qbert_opt.models.structure import profile_model
from qbert_opt.quantization.calibration import CalibrationPlan, MatrixQuantizer, calibration_texts
from qbert_opt.runtime.provenance import code_commit, today
from qbert_opt.spec.choices import choice

STEP = 1 / 256
PLAN = "the plan's"
NEAREST = {"rtn, 6 bits": 6, "rtn, 7 bits": 7}
CARRYING = 50  # texts with the most second-order loss
Weights = dict[str, torch.Tensor]
Losses = NDArray[np.float64]


class Study:
    """The float model and its answers."""

    def __init__(self, loaded: LoadedModel, texts: Any) -> None:
        self.loaded = loaded
        self.batches = tokenized(loaded, texts.texts, batch_size=32)
        self.truth = collect(loaded.head, loaded.model, self.batches)
        self.weights = {
            m.module: loaded.model.get_submodule(m.module).weight.detach().clone()
            for m in profile_model(loaded).matrices
        }
        self.rows = per_text(self.truth, torch.zeros(len(self.truth.values))).below

    @torch.no_grad()
    def answers(self, errors: Mapping[str, torch.Tensor], step: float) -> torch.Tensor:
        """Outputs of the model whose matrices have moved by a share of their errors."""
        for module, weight in self.weights.items():
            self.loaded.model.get_submodule(module).weight.copy_(weight + step * errors[module])
        return collect(self.loaded.head, self.loaded.model, self.batches).values

    def losses(self, errors: Mapping[str, torch.Tensor]) -> tuple[Losses, Losses]:
        """Real and second-order loss of each text, summed over its rows."""
        real = self.loaded.head.spec.loss.of_rows(self.truth.values, self.answers(errors, 1.0))
        p = self.truth.values.double().softmax(-1)
        moved = (self.answers(errors, STEP).double() - self.truth.values.double()) / STEP
        second = ((p * moved.square()).sum(-1) - (p * moved).sum(-1).square()) / 2
        return per_text(self.truth, real).above, per_text(self.truth, second).above


def all_errors(study: Study, folder: Path) -> dict[str, Weights]:
    """The errors of the folder's matrices, and of plain rounding."""
    profile, model = profile_model(study.loaded), load_quantized(folder)[0].model
    quantizer = MatrixQuantizer(study.loaded, profile, "rtn", None)
    found: dict[str, Weights] = {PLAN: {n: model.get_submodule(n).weight - w for n, w in study.weights.items()}}
    for name, bits in NEAREST.items():
        rounded = choice(f"{bits}bit/rows:each/rtn")
        found[name] = {m.module: quantizer.errors(m, [rounded])[0] for m in profile.matrices}
    return found


def effective(losses: Losses) -> float:
    return float(losses.sum() ** 2 / np.square(losses).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "texts_file", "folder", "out"):
        parser.add_argument(name)
    parser.add_argument("--texts", type=int, default=900)
    parser.add_argument("--skip", type=int, default=512, help="texts that fitted the quantizer, drawn first")
    parser.add_argument("--label-column")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = read_texts(options.texts_file, label_column=options.label_column)
    _, texts = calibration_texts(data, CalibrationPlan(options.skip, options.texts, 0))
    study = Study(load_model(options.model), texts)
    measured = {name: study.losses(errors) for name, errors in all_errors(study, Path(options.folder)).items()}
    carrying = np.argsort(-measured[PLAN][1])[:CARRYING]
    for name, (real, second) in measured.items():
        ratios = [r[carrying] / s[carrying] for r, s in (measured[PLAN], measured[name])]
        row = {
            "model": Path(options.model).name, "errors": name, "texts": len(real),
            "real": float(f"{real.sum() / study.rows.sum():.4g}"), "real_effective": round(effective(real), 1),
            "second": float(f"{second.sum() / study.rows.sum():.4g}"), "second_effective": round(effective(second), 1),
            "second_in_texts_under_a_quarter": round(float(second[real < second / 4].sum() / second.sum()), 3),
            "rank_correlation_of_ratios": round(float(spearmanr(*ratios).statistic), 2),
            "commit": code_commit(), "date": today(), "machine": machine(),
        }  # fmt: skip
        with Path(options.out).open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(row, flush=True)


if __name__ == "__main__":
    main()
