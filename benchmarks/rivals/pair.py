"""A model with its texts: plans are realised by our quantizer and measured on unseen text, each once."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qbert_opt.data.texts import LabeledTexts
from qbert_opt.evaluation.evaluate import evaluation_batches, measure
from qbert_opt.evaluation.intervals import ratio_interval
from qbert_opt.models.heads import KINDS
from qbert_opt.models.heads.protocol import per_text
from qbert_opt.models.loading import LoadedModel
from qbert_opt.models.outputs import collect
from qbert_opt.models.structure import profile_model
from qbert_opt.models.targets import read_targets
from qbert_opt.quantization.calibration import CalibrationPlan, MatrixQuantizer, calibration_texts, weight_of
from qbert_opt.scoring.sensitivity import measure_sensitivity
from qbert_opt.spec.allocation import Allocation
from qbert_opt.spec.grids import grid
from qbert_opt.spec.scores import ScoreTable, read_scores, write_scores

Figures = dict[str, Any]
Weights = Mapping[str, torch.Tensor]
FIGURE = {"classes": "accuracy", "tags": "entity_f1", "spans": "answer_f1", "embeddings": "recall_at_1"}


def digest(*parts: str) -> str:
    """A short name for what these parts determine."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Measured:
    """A plan's loss on each unseen text, as sum and number of rows, and what became of its answers."""

    loss: NDArray[np.float64]
    rows: NDArray[np.float64]
    task: float
    flipped: int

    def figures(self) -> Figures:
        """KL with its interval, task figure, changed answers."""
        kl = ratio_interval(self.loss, self.rows)
        return {"kl": [kl.value, kl.low, kl.high], "task": self.task, "flipped": self.flipped}

    def over(self, other: Measured) -> list[float]:
        """Ratio of this plan's loss to another's on the same texts, drawn in pairs: value and 95 % interval."""
        ratio = ratio_interval(self.loss, other.loss)
        return [ratio.value, ratio.low, ratio.high]


@dataclass
class Pair:
    """A model, the texts that fit and score, and the unseen ones.

    Attributes:
        loaded: the model.
        data: texts to fit and score.
        test: unseen texts.
        sizes: how many fit, how many score, and the seed.
        method: quantizer of every plan.
        work: what was computed before; this pair's is in a folder of its own there.
    """

    loaded: LoadedModel
    data: LabeledTexts
    test: LabeledTexts
    sizes: CalibrationPlan
    method: str
    work: Path
    _weights: dict[tuple[str, str], torch.Tensor] = field(default_factory=dict, repr=False)
    _quantizers: dict[str, MatrixQuantizer] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.work = self.work / digest(self.loaded.sha256, self.data.sha256, repr(self.sizes), self.method)
        self.work.mkdir(parents=True, exist_ok=True)
        self.profile = profile_model(self.loaded)
        self.fit, self.scored = calibration_texts(self.data, self.sizes)
        self._batches = evaluation_batches(self.loaded, self.test)
        self._targets = read_targets(self.loaded, self.test, self._batches)
        self.truth = collect(self.loaded.head, self.loaded.model, self._batches)

    def float_task(self) -> float:
        """The float model's task figure on the unseen texts."""
        return self._task(self.truth)

    def scores(self, metric: str, groupings: tuple[str, ...], bits: tuple[int, ...]) -> tuple[ScoreTable, float]:
        """Scores of a metric on a grid, and the processor time that they took, in seconds; computed once."""
        path = self.work / f"{metric}-{len(groupings)}.json"
        if not path.exists():
            started = time.process_time()
            choices = grid(bits, groupings, self.method)
            table = measure_sensitivity(self.loaded, self.data, choices, metric=metric, plan=self.sizes)
            write_scores(table, path)
            path.with_suffix(".seconds").write_text(str(round(time.process_time() - started, 1)))
        return read_scores(path), float(path.with_suffix(".seconds").read_text())

    def measure(self, plan: Allocation) -> Measured:
        """Run the model with a plan's matrices on the unseen texts; tables and all else are in fp16."""
        parts = [f"{part.module} {part.choice.name}" for part in plan.matrices]
        return self.measure_weights(lambda: self._weights_of(plan), *parts)

    def measure_weights(self, weights: Weights | Callable[[], Weights], *parts: str) -> Measured:
        """Run the model with given weights on the unseen texts.

        Args:
            weights: the weight of each matrix, or what computes them if they were not measured before.
            parts: what determines them.
        """
        path = self.work / f"{digest(self.test.sha256, *parts)}.npz"
        if not path.exists():
            found = self._run(weights() if callable(weights) else weights)
            np.savez(path, loss=found.loss, rows=found.rows, about=json.dumps([found.task, found.flipped]))
        stored = np.load(path)
        task, flipped = json.loads(str(stored["about"]))
        return Measured(stored["loss"], stored["rows"], task, flipped)

    def _weights_of(self, plan: Allocation) -> dict[str, torch.Tensor]:
        """Rounded weights of a plan's matrices; read from the float model, so call it before any weight changes."""
        specs = {m.module: m for m in self.profile.matrices}
        for part in plan.matrices:
            if (part.module, part.choice.name) not in self._weights:
                [quantized] = self._quantizer(part.choice.method).quantize(specs[part.module], [part.choice])
                self._weights[part.module, part.choice.name] = quantized.dequantize()
        return {part.module: self._weights[part.module, part.choice.name] for part in plan.matrices}

    def _quantizer(self, method: str) -> MatrixQuantizer:
        """The quantizer of a method, with the statistics of the texts that fit."""
        if method not in self._quantizers:
            self._quantizers[method] = MatrixQuantizer(self.loaded, self.profile, method, self.fit)
        return self._quantizers[method]

    def _run(self, weights: Weights) -> Measured:
        model, head = self.loaded.model, self.loaded.head
        kept = {name: p.detach().clone() for name, p in model.named_parameters()}
        try:
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.copy_(parameter.half().float())
                for module, weight in weights.items():
                    weight_of(model, module).copy_(weight)
            answers = collect(head, model, self._batches)
        finally:
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    parameter.copy_(kept[name])
        loss = per_text(answers, KINDS[head.kind].loss.of_rows(self.truth.values, answers.values))
        found = measure(answers, self._targets, self.truth.values)
        return Measured(np.asarray(loss.above), np.asarray(loss.below), self._task(answers), found.flipped or 0)

    def _task(self, answers: Any) -> float:
        found = getattr(measure(answers, self._targets, self.truth.values), FIGURE[self.loaded.head.kind])
        return float("nan") if found is None else float(found.value)
