"""How good a model is on labelled text, and how far its answers are from a reference's. What is here is *measured*.

`measure` judges rows of answers and knows no model, so that any engine's answers can be judged.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from ..data.texts import LabeledTexts
from ..models.batches import TokenBatch, tokenize
from ..models.loading import LoadedModel
from ..models.outputs import LOSS_UNITS, SOFTMAX_KINDS, OutputKind, Outputs, collect
from ..models.targets import Targets, read_targets
from .task_metrics import answer_f1, entity_counts, exact_match, spans_of, tags_of

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
    """Measured quality of a model; None is what the kind of outputs, the data or the lack of a reference rules out.

    Attributes:
        num_samples: samples measured on.
        accuracy: share of right answers: samples, words or masked tokens.
        macro_f1: unweighted mean of the classes' F1.
        kl: nats of KL(reference || model), mean over labelled positions.
        flipped: answers that differ from the reference's: of samples, words, masked tokens, starts and ends; `lost`
            right ones that became wrong, `won` the reverse.
        kind: what the model answers with.
        entity_f1: F1 of whole entities with their types, over all samples (CoNLL's; entities as `seqeval` reads tags).
        exact_match: share of answers equal to an accepted one, as SQuAD's official script compares them.
        answer_f1: F1 of the words of answer and accepted answer, the same script's.
        distance: squared distance to the reference, relative to its squared length for embeddings, absolute for
            regressions.
        correlation: Pearson's, of regressions with the labels.
    """

    num_samples: int
    accuracy: Interval | None = None
    macro_f1: float | None = None
    kl: Interval | None = None
    flipped: int | None = None
    lost: int | None = None
    won: int | None = None
    kind: OutputKind = "classes"
    entity_f1: Interval | None = None
    exact_match: Interval | None = None
    answer_f1: Interval | None = None
    distance: Interval | None = None
    correlation: float | None = None

    @property
    def loss(self) -> Interval | None:
        """Loss against the reference in the unit of the outputs: `kl` or `distance`."""
        return self.distance if self.kl is None else self.kl

    @property
    def loss_unit(self) -> str:
        """What `loss` is in."""
        return LOSS_UNITS[self.kind]


def evaluation_batches(loaded: LoadedModel, data: LabeledTexts) -> list[TokenBatch]:
    """Tokenize texts as `evaluate` does."""
    return tokenize(loaded.tokenizer, data.texts, batch_size=EVALUATION_BATCH, kind=loaded.head.kind)


def outputs(loaded: LoadedModel, data: LabeledTexts) -> torch.Tensor:
    """Answers of a model to texts, float32 `[rows, columns]`: logits `[N, C]` of a classifier; see `models.outputs`."""
    return collect(loaded.head, loaded.model, evaluation_batches(loaded, data)).values


def evaluate(loaded: LoadedModel, data: LabeledTexts, reference_outputs: torch.Tensor | None = None) -> Evaluation:
    """Measure quality on labels, where there are any, and loss against a reference.

    Args:
        loaded: the model to measure.
        data: texts; with labels for accuracy and F1.
        reference_outputs: `outputs` of the reference on the same texts.
    """
    batches = evaluation_batches(loaded, data)
    targets = read_targets(loaded, data, batches)  # first: a wrong label is said before a long run
    return measure(collect(loaded.head, loaded.model, batches), targets, reference_outputs)


def measure(found: Outputs, targets: Targets | None = None, reference: torch.Tensor | None = None) -> Evaluation:
    """Measure answers, whoever gave them.

    Args:
        found: the answers.
        targets: the right ones.
        reference: values `[rows, columns]` of a reference on the same rows.
    """
    quality = Evaluation(found.num_samples, kind=found.kind)
    if targets is not None:
        quality = _quality(quality, found, targets)
    if reference is None:
        return quality
    if reference.shape != found.values.shape:
        raise ValueError(f"reference has shape {tuple(reference.shape)}, the answers {tuple(found.values.shape)}")
    if found.kind not in SOFTMAX_KINDS:
        distance = squared_distance(found.kind, reference, found.values)
        return replace(quality, distance=interval(distance.numpy()))
    kl = mean_over_rows(kl_divergence(reference, found.values).numpy(), found.samples.numpy())
    flipped, lost, won = _flips(found, targets, reference)
    return replace(quality, kl=kl, flipped=flipped, lost=lost, won=won)


def kl_divergence(reference: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    """KL(softmax(reference) || softmax(found)) of each row in nats, float64 `[rows]`.

    In float64: in float32 small divergences drown in rounding and turn negative.
    """
    parts = zip(reference.split(1024), found.split(1024), strict=True)  # a vocabulary's rows are long
    return torch.cat([_kl(p.double().log_softmax(-1), q.double().log_softmax(-1)) for p, q in parts])


def squared_distance(kind: OutputKind, reference: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    """Squared distance of each row, float64 `[rows]`; relative to the reference's squared length for embeddings."""
    distance = (reference.double() - found.double()).square().sum(-1)
    return distance / reference.double().square().sum(-1) if kind == "embeddings" else distance


def interval(samples: NDArray[np.float64], *, seed: int = 0) -> Interval:
    """Mean of samples with its 95 % percentile bootstrap interval."""
    generator = np.random.default_rng(seed)
    draws = generator.integers(0, len(samples), (BOOTSTRAPS, len(samples)))
    means = samples[draws].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(samples.mean()), float(low), float(high))


def ratio_interval(above: NDArray[np.float64], below: NDArray[np.float64], *, seed: int = 0) -> Interval:
    """Ratio of two sums over samples with its 95 % percentile bootstrap interval; 0 where the sum below is 0."""
    generator = np.random.default_rng(seed)
    draws = generator.integers(0, len(above), (BOOTSTRAPS, len(above)))
    ratios = _ratio(above[draws].sum(1), below[draws].sum(1))
    low, high = np.quantile(ratios, [0.025, 0.975])
    return Interval(float(_ratio(above.sum(), below.sum())), float(low), float(high))


def mean_over_rows(values: NDArray[np.float64], samples: NDArray[np.int64]) -> Interval:
    """Mean over rows; its interval draws whole samples, since the rows of one are not independent."""
    present, where = np.unique(samples, return_inverse=True)
    if len(present) == len(values):
        return interval(values)
    sums, counts = np.zeros(len(present)), np.zeros(len(present))
    np.add.at(sums, where, values)
    np.add.at(counts, where, 1.0)
    return ratio_interval(sums, counts)


def macro_f1(answers: NDArray[np.int64], labels: NDArray[np.int64]) -> float:
    """Unweighted mean of F1 over the classes that occur in answers or labels."""
    scores = []
    for index in np.union1d(answers, labels):
        hits = int(((answers == index) & (labels == index)).sum())
        scores.append(2 * hits / (int((answers == index).sum()) + int((labels == index).sum())))
    return float(np.mean(scores))


def _kl(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def _ratio(above: NDArray[np.float64], below: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(above, below, out=np.zeros_like(above, dtype=np.float64), where=below > 0)


def _quality(known: Evaluation, found: Outputs, targets: Targets) -> Evaluation:
    """Add what can be said by the labels alone."""
    if found.kind == "regression":
        numbers = found.values[:, 0].double().numpy()
        return replace(known, correlation=float(np.corrcoef(numbers, targets.rows.numpy())[0, 1]))
    if found.kind == "spans":
        texts = spans_of(found, targets.spans)
        pairs = [(text, span.accepted) for text, span in zip(texts, targets.spans, strict=True)]
        exact = np.array([exact_match(text, right) for text, right in pairs], dtype=np.float64)
        f1 = np.array([answer_f1(text, right) for text, right in pairs])
        return replace(known, exact_match=interval(exact), answer_f1=interval(f1))
    answers = found.values.argmax(-1)
    right = (answers == targets.rows).double().numpy()
    known = replace(known, accuracy=mean_over_rows(right, found.samples.numpy()))
    if found.kind == "classes":
        return replace(known, macro_f1=macro_f1(answers.numpy(), targets.rows.numpy()))
    if found.kind == "tags":
        counts = entity_counts(tags_of(found, targets), targets.tags)
        return replace(known, entity_f1=ratio_interval(2 * counts[:, 0], counts[:, 1] + counts[:, 2]))
    return known


def _flips(found: Outputs, targets: Targets | None, reference: torch.Tensor) -> tuple[int, int | None, int | None]:
    """Count rows whose answer differs from the reference's, right ones that became wrong, and the reverse."""
    answers, before = found.values.argmax(-1), reference.argmax(-1)
    flipped = int((answers != before).sum())
    if targets is None:
        return flipped, None, None
    right, was_right = answers == targets.rows, before == targets.rows
    return flipped, int((was_right & ~right).sum()), int((~was_right & right).sum())
