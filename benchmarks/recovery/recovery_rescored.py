"""Is the plan that is best after rounding also the best after recovery? Scores at the recovered point, solved again.

    python -m benchmarks.recovery.recovery_rescored MODEL CALIBRATION TRAIN TEST PLAN SCORES OUT.jsonl --work W
        [--seed 0]
        [--texts 1500] [--scored 256] [--label-column C]

PLAN is recovered (`blocks`, two passes). Its weights before rounding, as training left them, are a float model of their
own: it is scored as any model is, on the same choices as SCORES. With these scores a plan of the same bytes is solved,
and recovered from the original float model with the same settings. Rows: each plan as its quantizer leaves it and
after recovery, KL and accuracy on TEST, which decides nothing; how many matrices chose anew; the paired ratio of the
two recovered plans' KL; processor minutes of each step. One thread.
"""

import argparse
import copy
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.records import machine
from benchmarks.recovery.recovery import some, whole_sentences
from qbert_opt.checkpoint.reader import load_quantized
from qbert_opt.data.texts import read_texts
from qbert_opt.evaluation.evaluate import evaluate, outputs
from qbert_opt.evaluation.intervals import ratio_interval
from qbert_opt.models.heads.protocol import per_text
from qbert_opt.models.loading import LoadedModel, load_model, tokenized
from qbert_opt.models.outputs import collect
from qbert_opt.planning.planner import allocate
from qbert_opt.quantization.calibration import CalibrationPlan
from qbert_opt.runtime.provenance import code_commit
from qbert_opt.scoring.sensitivity import measure_sensitivity
from qbert_opt.spec.allocation import Allocation, read_allocation
from qbert_opt.spec.limits import Limits
from qbert_opt.spec.scores import ScoreTable, read_scores, write_scores
from qbert_opt.training.run_state import PhaseRecord, read_state
from qbert_opt.training.settings import RecoverySettings
from qbert_opt.workflows.quantize import quantize_model
from qbert_opt.workflows.recover import STATE_SUFFIX, recover

SETTINGS = RecoverySettings(steps=("blocks",), epochs={"blocks": 2.0}, rates={"blocks": (6e-4, 3e-4)})
PREFIX, SUFFIX = "matrices./", ".latent"


def before_rounding(file: Path) -> dict[str, torch.Tensor]:
    """The latent weights of a training run's state, by parameter name."""
    student = read_state(file).student
    names = [key for key in student if key.startswith(PREFIX) and key.endswith(SUFFIX)]
    return {f"{key.removeprefix(PREFIX).removesuffix(SUFFIX).replace('/', '.')}.weight": student[key] for key in names}


def with_weights(loaded: LoadedModel, weights: dict[str, torch.Tensor], folder: Path) -> None:
    """Write a copy of the model with other weights as a folder of its own."""
    model = copy.deepcopy(loaded.model)
    with torch.no_grad():
        for name, weight in weights.items():
            parameter = model.get_parameter(name)
            parameter.copy_(weight.reshape(parameter.shape))
    model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)


class Study:
    """One plan, and the plan of scores at its recovered point."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.work, self.out, self.seed = Path(options.work), Path(options.out), options.seed
        self.work.mkdir(exist_ok=True)
        self.loaded = load_model(options.model)
        self.calibration, train, self.test = (
            read_texts(source, label_column=options.label_column)
            for source in (options.calibration, options.train, options.test)
        )
        self.train = some(whole_sentences(train), options.texts)
        self.truth, self.options = outputs(self.loaded, self.test), options
        self.batches = tokenized(self.loaded, self.test.texts, batch_size=32)
        self.answers = collect(self.loaded.head, self.loaded.model, self.batches)
        self.losses: dict[str, NDArray[np.float64]] = {}

    def row(self, name: str, folder: Path, plan: Allocation, **more: object) -> None:
        """Measure a folder on the unseen text and append the row."""
        model = load_quantized(folder)[0]
        found, answers = evaluate(model, self.test, self.truth), collect(model.head, model.model, self.batches)
        losses = model.head.spec.loss.of_rows(self.answers.values, answers.values)
        self.losses[folder.name] = per_text(self.answers, losses).above
        row = {
            "model": Path(self.loaded.name).name, "plan": name, "seed": self.seed, "folder": folder.name,
            "accuracy": round(100 * found.accuracy.value, 2) if found.accuracy else None,
            "drop": [round(100 * x, 2) for x in (found.drop.value, found.drop.low, found.drop.high)],
            "kl": [round(x, 5) for x in (found.kl.value, found.kl.low, found.kl.high)],
            "predicted_kl": round(plan.predicted_loss, 5), "encoder_bytes": plan.encoder_bytes, **more,
            "commit": code_commit(), "machine": f"{machine()}, {torch.get_num_threads()} thread",
        }  # fmt: skip
        with self.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(*row.values(), flush=True)

    def recovered(self, name: str, plan: Allocation) -> dict[str, torch.Tensor]:
        """Quantize and recover a plan, add both rows, and return the weights before rounding."""
        start, end = self.work / f"{name}-start", self.work / f"{name}-recovered"
        begun = time.process_time()
        if not start.exists():
            quantize_model(self.loaded, plan, self.calibration, start)
        self.row(name, start, plan, cpu_minutes=round((time.process_time() - begun) / 60, 2))
        latent: dict[str, torch.Tensor] = {}

        def over(_record: PhaseRecord, _model: LoadedModel) -> None:
            latent.update(before_rounding(Path(f"{end}{STATE_SUFFIX}")))

        found = recover(
            self.loaded, start, [self.train, self.calibration], end,
            settings=replace(SETTINGS, seed=self.seed), phase_over=over,
        )  # fmt: skip
        self.row(name, end, plan, cpu_minutes=round(found.cpu_seconds / 60, 2))
        return latent

    def scores_at(self, weights: dict[str, torch.Tensor], table: ScoreTable) -> ScoreTable:
        """The table of the original model, with scores of the model that has these weights."""
        folder, path = self.work / "latent", self.work / "latent-scores.json"
        if not path.exists():
            with_weights(self.loaded, weights, folder)
            plan = CalibrationPlan(self.options.scored, self.options.scored, 0)
            write_scores(measure_sensitivity(load_model(folder), self.calibration, table.grid(), plan=plan), path)
        found = read_scores(path)
        names = ("value", "std_error", "weight_error", "fold_value", "scale", "samples", "effective_samples")
        return table.model_copy(update={name: getattr(found, name) for name in names})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "calibration", "train", "test", "plan", "scores", "out"):
        parser.add_argument(name)
    parser.add_argument("--work", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--texts", type=int, default=1500)
    parser.add_argument("--scored", type=int, default=256)
    parser.add_argument("--label-column")
    options = parser.parse_args()
    torch.set_num_threads(1)
    study = Study(options)
    plan, table = read_allocation(options.plan), read_scores(options.scores)
    weights = study.recovered("scored at the float model", plan)
    begun = time.process_time()
    again = allocate(study.scores_at(weights, table), Limits(encoder_bytes=plan.encoder_bytes))
    pairs = zip(plan.matrices, again.matrices, strict=True)
    changed = sum((a.bits, a.grouping, a.form) != (b.bits, b.grouping, b.form) for a, b in pairs)
    print("scored again in", round((time.process_time() - begun) / 60, 2), "minutes; chose anew:", changed, flush=True)
    study.recovered("scored at the recovered point", again)
    first, second = (study.losses[f"scored at the {name}-recovered"] for name in ("float model", "recovered point"))
    print("KL of the second / the first:", ratio_interval(second, first), flush=True)


if __name__ == "__main__":
    main()
