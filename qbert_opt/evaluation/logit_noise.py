"""How much quantization changes the logits of a row, by its margin: measured with noise on the float weights.

The error of a row's logits depends on the model's confidence. A fine-tuned encoder maps confident texts to a region
where the head's input hardly changes: from undecided to confident texts of MiniLM/SST-2 the error of the pooler's input
falls by a third, that of its product 3.7-fold, and that of the logits, after the flat part of its tanh, 8-fold
(`benchmarks/predictions/README.md`). On a classifier that is confident on nearly every text, most of the KL comes from
confident texts, so noise of the same size for all texts is far too small where answers can flip.

No plan is needed to see this, since the error is linear in small errors of the weights: a few draws of white noise on
every encoder matrix show the variance of a margin's error in relation to the mean KL. Only the ratio matters; the level
follows from a plan's predicted KL.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ..data.texts import LabeledTexts
from ..models.heads.losses import kl_divergence
from ..models.layers import matrix_of
from ..models.loading import LoadedModel
from ..models.outputs import collect
from ..models.samples import Outputs
from ..models.structure import profile_model
from .evaluate import evaluation_batches

PROBES = 4  # draws of noise
RELATIVE_NOISE = 0.02  # on a weight, in standard deviations of its row: about the error of 5 bits, far from saturation
NEAREST = 8  # rows of similar margin whose errors are averaged


@dataclass(frozen=True, slots=True, eq=False)
class LogitNoise:
    """Relative size of the errors of logits, by margin, and the loss that goes with it.

    Attributes:
        margins: ascending distances between the two largest logits, `[knots]`.
        deviations: standard deviation σ of the noise on each logit at these margins; in between it is interpolated.
        kl: mean KL of noise with these deviations on the scoring texts, nats per row.
    """

    margins: NDArray[np.float64]
    deviations: NDArray[np.float64]
    kl: float

    def at(self, margins: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return σ at each margin, interpolated; beyond the ends it is that of the end.

        Args:
            margins: distances between the two largest logits, of any shape.
        """
        return np.interp(margins, self.margins, self.deviations)


def even_noise(scored: Outputs) -> LogitNoise:
    """Return independent noise of σ = 1 on every logit of every row, whose KL is half of mean(1 - Σ p²).

    Args:
        scored: the float model's answers to the scoring texts.
    """
    p = scored.values.double().softmax(-1)
    return LogitNoise(np.zeros(1), np.ones(1), float((1 - p.square().sum(-1)).mean()) / 2)


def probed_noise(loaded: LoadedModel, seen: LabeledTexts, scored: LabeledTexts, *, seed: int = 0) -> LogitNoise:
    """Measure errors of logits under white noise on the encoder's matrices.

    Args:
        loaded: the float model, with answers that can flip.
        seen: texts to run: calibration and scoring texts.
        scored: the texts over which the predicted loss is averaged.
        seed: of the noise.
    """
    seen = seen.take(sorted(range(len(seen)), key=lambda i: sum(map(len, seen.texts[i]))))  # little padding in batches
    batches = evaluation_batches(loaded, seen)
    truth = collect(loaded.head, loaded.model, batches)
    chosen = set(scored.texts)
    scores = torch.tensor([text in chosen for text in seen.texts])[truth.by_text]
    modules = [matrix.module for matrix in profile_model(loaded).matrices]
    noisy, generator = copy.deepcopy(loaded.model), torch.Generator().manual_seed(seed)
    squares, losses = torch.zeros(len(truth.values), dtype=torch.float64), 0.0
    for _ in range(PROBES):
        _disturb(loaded, noisy, modules, generator)
        answers = collect(loaded.head, noisy, batches)
        squares += margin_errors(truth.values, answers.values).square() / 2 / PROBES  # of two logits with σ² each
        losses += float(kl_divergence(truth.values[scores], answers.values[scores]).mean()) / PROBES
    return smoothed(margins_of(truth.values), squares.numpy(), losses)


def smoothed(margins: NDArray[np.float64], squares: NDArray[np.float64], kl: float) -> LogitNoise:
    """Average squared errors over rows of similar margin, in units of their overall mean.

    Args:
        margins: of each row.
        squares: σ² of each row, from a few draws.
        kl: mean KL that goes with them.
    """
    order, width = np.argsort(margins), min(NEAREST, len(margins))
    window = np.full(width, 1 / width)
    near, mean = (np.convolve(part[order], window, mode="valid") for part in (margins, squares))
    level = max(float(squares.mean()), 1e-300)
    return LogitNoise(near, np.sqrt(np.maximum(mean / level, 1e-12)), kl / level)


def margins_of(values: torch.Tensor) -> NDArray[np.float64]:
    """Return the distance between the two largest logits of each row, float64 `[rows]`.

    Args:
        values: logits, `[rows, columns]`, at least two columns.
    """
    top = values.double().topk(2, dim=-1).values
    margins: NDArray[np.float64] = (top[:, 0] - top[:, 1]).numpy()
    return margins


def margin_errors(reference: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Return the change of the distance between the reference's two largest logits, float64 `[rows]`.

    Args:
        reference: logits, `[rows, columns]`, at least two columns.
        values: logits of the changed model, of the same shape.
    """
    places = reference.topk(2, dim=-1).indices
    change = (values.double() - reference.double()).gather(-1, places)
    return change[:, 0] - change[:, 1]


@torch.no_grad()
def _disturb(loaded: LoadedModel, noisy: torch.nn.Module, modules: list[str], generator: torch.Generator) -> None:
    """Give each matrix of `noisy` the float model's values plus new noise."""
    for module in modules:
        weight = matrix_of(loaded.model.get_submodule(module))
        scale = RELATIVE_NOISE * weight.std(1, keepdim=True)
        noise = torch.randn(weight.shape, generator=generator) * scale.cpu()
        matrix_of(noisy.get_submodule(module)).copy_(weight + noise.to(weight))
