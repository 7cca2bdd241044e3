"""What training brings back at 2 bits: KL and accuracy on unseen text against processor minutes, step by step.

    python -m benchmarks.recovery.recovery MODEL CALIBRATION TRAIN TEST OUT.jsonl [--bits 2.05]
        [--runs plain,sensitivity,ranges]
        [--epochs blocks:2,distill:2,ranges:1] [--rates blocks:1e-4:2e-4] [--seeds 0]
        [--from FOLDER] [--work FOLDER] [--recipe uniform:2bit/rows:each/gptq | --plan ALLOCATION]
        [--texts 3000] [--brief] [--label-column tags] [--text-column a --text-column b] [--method gptq]
        [--losses logits,hidden] [--teacher-cache 10%]

The plan is solved from `directional` scores of `gptq`: half of CALIBRATION fits, the other half scores. All runs start
from that plan's folder; with `--recipe`, from that of a uniform plan instead, whatever its bytes, and with `--plan`
from that of any plan that `qbert-opt solve` wrote from scores of CALIBRATION (then give another `--work`). Training
text is CALIBRATION and the whole sentences of TRAIN (SST-2 lists every phrase of each parse tree; a phrase that lies
inside a longer one is left out; pairs are all kept), or as many of them as `--texts` says; recipe qbert alone reads
labels. TEST is measured after each phase, outside the training's processor time, and decides nothing. One thread. A run
that was stopped goes on where it stopped; rows that OUT.jsonl has are not measured again, and several processes may add
to it. The row of the start is named by the quantizer that wrote its codes: `quantize`'s own, or `--method`.

Minutes depend on the machine, so the row of each folder also has the processor seconds of a plain training step of the
float model on batches of the same text (forward, cross-entropy, backward, AdamW), before and after the training, how
many of those the training took, and the peak memory of the process until then (Python, float model and texts included).
"""

import argparse
import copy
import json
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.records import machine
from qbert_opt.checkpoint.reader import load_quantized
from qbert_opt.checkpoint.record import PLAN, read_record
from qbert_opt.cli.quantities import share, weights
from qbert_opt.data.texts import LabeledTexts, read_texts
from qbert_opt.evaluation.evaluate import evaluate, outputs
from qbert_opt.models.batches import tokenize
from qbert_opt.models.loading import LoadedModel, load_model
from qbert_opt.models.outputs import answers
from qbert_opt.planning.planner import allocate
from qbert_opt.planning.recipes import recipe_allocation
from qbert_opt.quantization.calibration import CalibrationPlan
from qbert_opt.runtime.provenance import code_commit
from qbert_opt.scoring.sensitivity import measure_sensitivity
from qbert_opt.spec.allocation import Allocation, read_allocation
from qbert_opt.spec.grids import default_grid
from qbert_opt.spec.limits import Limits
from qbert_opt.spec.scores import read_scores, write_scores
from qbert_opt.training.recipes import RECIPES
from qbert_opt.training.run_state import PhaseRecord
from qbert_opt.training.settings import RecoverySettings
from qbert_opt.workflows.quantize import quantize_model
from qbert_opt.workflows.recover import recover

PLAIN_STEPS = 12
FIGURES = ("accuracy", "entity_f1", "exact_match", "answer_f1")  # those of the model's kind of answers
RUNS = {
    "ranges": RecoverySettings(steps=("ranges",)),
    "blocks": RecoverySettings(steps=("blocks",)),
    "plain": RecoverySettings(steps=("blocks", "distill")),
    "sensitivity": RecoverySettings(steps=("blocks", "distill"), block_error="sensitivity"),
    "distill": RecoverySettings(steps=("distill",)),
    **RECIPES,
}


def whole_sentences(data: LabeledTexts) -> LabeledTexts:
    """Leave out every text that is part of a longer one, longest first; pairs are kept as they are."""
    if any(len(text) > 1 for text in data.texts):
        return data
    labels = {tuple(text[0].split()): label for text, label in zip(data.texts, data.labels or (), strict=True)}
    kept: list[tuple[str, ...]] = []
    inside: set[tuple[str, ...]] = set()
    for words in sorted(labels, key=lambda words: (-len(words), words)):
        if words not in inside:
            kept.append(words)
            inside.update(words[a:b] for a in range(len(words)) for b in range(a + 1, len(words) + 1))
    texts = tuple((" ".join(words),) for words in kept)
    return LabeledTexts(f"whole sentences of {data.name}", texts, tuple(labels[words] for words in kept))


def some(data: LabeledTexts, count: int | None) -> LabeledTexts:
    """Draw a number of texts; all of them without a number."""
    if count is None:
        return data
    drawn = data.take(sorted(np.random.default_rng(0).permutation(len(data))[:count].tolist()))
    return replace(drawn, name=f"{count} {data.name}")


class Study:
    """The model, the start folder, the texts, and the rows that are measured."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.out = options, Path(options.out)
        self.work = Path(options.work or f"{options.out}.work")
        self.work.mkdir(exist_ok=True)
        self.loaded = load_model(options.model)
        self.calibration, train, self.test = (
            read_texts(source, text_columns=options.text_column, label_column=options.label_column)
            for source in (options.calibration, options.train, options.test)
        )
        self.train = some(whole_sentences(train), options.texts)
        self.truth = outputs(self.loaded, self.test)
        self.start = self.work / "start"
        if not self.start.exists():
            self._quantize()
        named = options.recipe or (Path(options.plan).stem if options.plan else None)
        self.plan = {} if named is None else {"plan": named}
        plan = read_allocation(self.start / PLAN)
        sizes = {"encoder_bytes": plan.encoder_bytes, "total_bytes": plan.total_bytes}
        sizes["predicted_kl"] = round(plan.predicted_loss, 5)
        writer = read_record(self.start).written_by or plan.method
        if options.method not in (None, writer):
            raise SystemExit(f"{self.start}: was written by {writer}, not {options.method}. Give another --work.")
        self._add_new(self.plan | {"run": writer, "phase": "start"}, lambda: load_quantized(self.start)[0], **sizes)

    def _quantize(self) -> None:
        """Score and solve unless there is a plan, and write the start folder."""
        if self.options.plan:
            self._write(read_allocation(self.options.plan))
            return
        scores = self.work / "scores.json"
        if not scores.exists():
            half = len(set(self.calibration.texts)) // 2
            plan = CalibrationPlan(half, half, 0)
            write_scores(measure_sensitivity(self.loaded, self.calibration, default_grid("gptq"), plan=plan), scores)
        table = read_scores(scores)
        limits = Limits(encoder_bytes=int(float(self.options.bits) * table.profile.encoder_elements / 8))
        recipe = self.options.recipe
        plan = recipe_allocation(table, recipe, Limits()) if recipe else allocate(table, limits)
        self._write(plan)

    def _write(self, plan: Allocation) -> None:
        quantize_model(self.loaded, plan, self.calibration, self.start, method=self.options.method)

    def _add_new(self, key: dict[str, object], model: Callable[[], LoadedModel], **more: object) -> None:
        """Measure a row and append it, unless it is there."""
        lines = self.out.read_text().splitlines() if self.out.exists() else []
        if any(key.items() <= json.loads(line).items() for line in lines):
            return
        row = {**key, **self.measured(model()), **more}
        row |= {"commit": code_commit(), "machine": f"{machine()}, {torch.get_num_threads()} thread"}
        with self.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(*row.values(), flush=True)

    def measured(self, model: LoadedModel) -> dict[str, object]:
        """Figures of quality, KL with its interval, paired drop of the first figure, and flips on the unseen text."""
        found = evaluate(model, self.test, self.truth)
        return {
            **{name: round(100 * figure.value, 2) for name in FIGURES if (figure := getattr(found, name)) is not None},
            "drop": [round(100 * x, 2) for x in (found.drop.value, found.drop.low, found.drop.high)],
            "kl": [round(x, 5) for x in (found.kl.value, found.kl.low, found.kl.high)],
            "flipped": found.flipped,
            "lost": found.lost,
            "won": found.won,
        }

    def plain_step_s(self) -> float:
        """Mean processor seconds of a training step of the float model, over batches of all lengths of the text."""
        model = copy.deepcopy(self.loaded.model).requires_grad_(True)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, fused=True)
        batches = tokenize(self.loaded.tokenizer, self.train.texts, batch_size=32, kind=self.loaded.head.kind)
        spread = np.linspace(0, len(batches) - 1, PLAIN_STEPS + 1).round().astype(int)
        begun = 0.0
        for place, index in enumerate((spread[-1], *spread[:-1])):  # the first step is slow
            if place == 1:
                begun = time.process_time()
            values = answers(self.loaded.head, model, batches[index]).values
            torch.nn.functional.cross_entropy(values, values.argmax(-1)).backward()
            optimizer.step()
            optimizer.zero_grad()
        return (time.process_time() - begun) / PLAIN_STEPS

    def run(self, name: str, seed: int) -> None:
        """Train once; a row after each phase, and one of the folder that is written."""
        recipe = RUNS[name]
        epochs = {step: values[0] for step, values in _by_step(self.options.epochs).items() if step in recipe.steps}
        rates = {step: values for step, values in _by_step(self.options.rates).items() if step in recipe.steps}
        key: dict[str, Any] = self.plan | {"run": name, "seed": seed, "epochs": epochs, "rates": rates}
        if self.options.texts is not None:
            key["drawn"] = self.options.texts
        if self.options.from_folder:
            key["from"] = self.options.from_folder
        if self.options.losses:
            recipe = replace(recipe, losses=weights(self.options.losses, "--losses"))
            key["losses"] = dict(recipe.losses)
        if self.options.teacher_cache:
            recipe = replace(recipe, teacher_cache=share(self.options.teacher_cache, "--teacher-cache"))
            key["teacher_cache"] = recipe.teacher_cache
        given = (*epochs.values(), *(rate for pair in rates.values() for rate in pair))
        slug = "-".join(map(str, (name, seed, *given, *key.get("losses", ()))))
        slug += f"-cache-{self.options.teacher_cache.rstrip('%')}" if self.options.teacher_cache else ""
        slug += f"-from-{self.options.from_folder}" if self.options.from_folder else ""
        start = self.work / self.options.from_folder if self.options.from_folder else self.start

        def over(record: PhaseRecord, model: LoadedModel) -> None:
            if self.options.brief:
                return
            more = {"updates": record.updates, "kept": record.kept, "held_back_kl": round(record.held_loss, 5)}
            self._add_new(
                {**key, "phase": record.phase}, lambda: model, cpu_minutes=round(record.cpu_seconds / 60, 2), **more
            )

        told = [0.0]

        def tell(finished: int, total: int, what: str) -> None:
            if time.monotonic() - told[0] > 60:
                told[0] = time.monotonic()
                print(f"{slug}: {finished / total:.0%} {what}", file=sys.stderr, flush=True)

        if (self.work / slug).exists():
            return
        before = self.plain_step_s()
        settings = replace(recipe, epochs=epochs, rates={**recipe.rates, **rates}, seed=seed)
        found = recover(
            self.loaded, start, [self.train, self.calibration], self.work / slug, settings=settings,
            progress=tell, phase_over=over,
        )  # fmt: skip
        more = {
            "texts": found.num_texts,
            "held_back_kl": round(found.best_loss, 5),
            "best_phase": found.best_phase,
            "bytes": found.written.tensor_bytes,
            **({"teacher_bytes": found.teacher_bytes} if found.teacher_bytes else {}),
        }
        steps = [before, self.plain_step_s()]
        more |= {"plain_step_s": [round(step, 3) for step in steps]}
        more |= {"plain_steps": round(2 * found.cpu_seconds / sum(steps))}
        more |= {"peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6)}
        self._add_new(
            {**key, "phase": "folder"}, lambda: load_quantized(self.work / slug)[0],
            cpu_minutes=round(found.cpu_seconds / 60, 2), **more,
        )  # fmt: skip


def _by_step(text: str) -> dict[str, list[float]]:
    """Read `blocks:2,distill:2` or `blocks:1e-4:2e-4,distill:2e-5:4e-5`."""
    parts = [part.split(":") for part in text.split(",") if part]
    return {step: [float(value) for value in values] for step, *values in parts}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "calibration", "train", "test", "out"):
        parser.add_argument(name)
    parser.add_argument("--bits", default="2.05")
    parser.add_argument("--recipe", help="`uniform:CHOICE`: a uniform plan instead of a solved one")
    parser.add_argument("--plan", help="allocation.json of qbert-opt solve, instead of solving here")
    parser.add_argument("--texts", type=int, help="whole sentences of TRAIN that are drawn; by default all")
    parser.add_argument("--label-column", help="of CALIBRATION, TRAIN and TEST; by default common names are tried")
    parser.add_argument("--text-column", action="append", help="of the same; twice for pairs")
    parser.add_argument("--brief", action="store_true", help="measure the start and the end of a run only")
    parser.add_argument("--method", help="quantizer that writes the codes of the start")
    parser.add_argument("--losses", help="of steps ranges and distill, where not the run's own")
    parser.add_argument("--teacher-cache", help="share of the teacher's states that is stored: 10%%")
    parser.add_argument("--runs", default="plain,sensitivity,ranges", help="may be empty: the start alone is measured")
    parser.add_argument("--epochs", default="blocks:2,distill:2,ranges:1")
    parser.add_argument("--rates", default="", help="learning rates of weights and ranges, where not the steps' own")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--from", dest="from_folder", help="folder in --work to go on from, instead of the start")
    parser.add_argument("--work", help="folder of scores, start and results; OUT.jsonl.work by default")
    options = parser.parse_args()
    torch.set_num_threads(1)
    study = Study(options)
    for seed in map(int, options.seeds.split(",")):
        for name in filter(None, options.runs.split(",")):
            study.run(name, seed)


if __name__ == "__main__":
    main()
