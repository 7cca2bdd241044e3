"""How good a model is on labelled text, and how far its answers are from a reference's. What is here is *measured*."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from .errors import UsageError
from .models.batches import logits, tokenize
from .models.loading import LoadedModel, label_index
from .texts import LabeledTexts

EVALUATION_BATCH = 64
BOOTSTRAPS = 2000


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with the 95 % bootstrap interval over samples."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Measured quality of a model.

    Attributes:
        num_samples: samples measured on.
        accuracy: share of right answers, or None without labels.
        macro_f1: unweighted mean of the classes' F1, or None without labels.
        kl: nats of KL(reference || model) per sample, or None without a reference.
        flipped: answers that differ from the reference's; `lost` right ones that became wrong, `won` the reverse.
    """

    num_samples: int
    accuracy: Interval | None
    macro_f1: float | None
    kl: Interval | None
    flipped: int | None
    lost: int | None
    won: int | None


def outputs(loaded: LoadedModel, data: LabeledTexts) -> torch.Tensor:
    """Logits of a classifier on texts, float32 `[N, C]`.

    Raises:
        UsageError: the model has no classification head.
    """
    if loaded.labels is None:
        raise UsageError(f"{loaded.name}: has no classification head, so it has no answers to measure.")
    return logits(loaded.model, tokenize(loaded.tokenizer, data.texts, batch_size=EVALUATION_BATCH))


def evaluate(loaded: LoadedModel, data: LabeledTexts, reference_outputs: torch.Tensor | None = None) -> Evaluation:
    """Measure accuracy, macro F1 and KL to a reference.

    Args:
        loaded: the model to measure.
        data: texts; with labels for accuracy.
        reference_outputs: logits `[N, C]` of the reference on the same texts.
    """
    found = outputs(loaded, data)
    answers = found.argmax(-1)
    labels = None if data.labels is None else label_index(loaded, data.labels, data.name)
    right = None if labels is None else (answers == labels)
    kl = flipped = lost = won = None
    if reference_outputs is not None:
        kl = interval(kl_divergence(reference_outputs, found).numpy())
        reference_answers = reference_outputs.argmax(-1)
        flipped = int((reference_answers != answers).sum())
        if labels is not None and right is not None:
            was_right = reference_answers == labels
            lost, won = int((was_right & ~right).sum()), int((~was_right & right).sum())
    return Evaluation(
        num_samples=len(data),
        accuracy=None if right is None else interval(right.double().numpy()),
        macro_f1=None if labels is None else macro_f1(answers.numpy(), labels.numpy()),
        kl=kl,
        flipped=flipped,
        lost=lost,
        won=won,
    )


def kl_divergence(reference: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    """KL(softmax(reference) || softmax(found)) of each sample in nats, float64 `[N]`.

    In float64: in float32 small divergences drown in rounding and turn negative.
    """
    log_p, log_q = reference.double().log_softmax(-1), found.double().log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def interval(samples: NDArray[np.float64], *, seed: int = 0) -> Interval:
    """Mean of samples with its 95 % percentile bootstrap interval."""
    generator = np.random.default_rng(seed)
    draws = generator.integers(0, len(samples), (BOOTSTRAPS, len(samples)))
    means = samples[draws].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(samples.mean()), float(low), float(high))


def macro_f1(answers: NDArray[np.int64], labels: NDArray[np.int64]) -> float:
    """Unweighted mean of F1 over the classes that occur in answers or labels."""
    scores = []
    for index in np.union1d(answers, labels):
        hits = int(((answers == index) & (labels == index)).sum())
        scores.append(2 * hits / (int((answers == index).sum()) + int((labels == index).sum())))
    return float(np.mean(scores))
