"""How good a model is on labelled text, and how far its answers are from a reference's. What is here is *measured*.

`measure` judges rows of answers and knows no model, so that any engine's answers can be judged.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ..data.texts import LabeledTexts
from ..errors import InputFileError
from ..models.batches import num_cut, num_lost, tokenize
from ..models.heads import KINDS
from ..models.heads.losses import kl_divergence
from ..models.heads.protocol import Ratio, per_text
from ..models.labels import output_order
from ..models.loading import LoadedModel
from ..models.outputs import collect, rows_per_sample
from ..models.samples import OutputKind, Outputs, Targets, TokenBatch
from ..models.targets import read_targets
from .intervals import Interval, ratio_interval

__all__ = [
    "Evaluation", "Interval", "comparable", "evaluate", "evaluation_batches", "kl_divergence", "mean_over_rows",
    "measure", "outputs", "reference_outputs",
]  # fmt: skip

EVALUATION_BATCH = 64


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
        max_tokens: tokens at which texts were cut, or windows of a text ended; None where samples came ready.
        num_cut: texts that were cut.
        num_lost: what was cut away from them in all: words of tags, tokens otherwise.
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
    max_tokens: int | None = None
    num_cut: int = 0
    num_lost: int = 0

    def __repr__(self) -> str:
        """Return one line with what was measured."""
        figures = [(name, getattr(self, name)) for name, _ in self.figures] + [("loss", self.loss)]
        shown = [
            f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value.value:.4g}"
            for name, value in figures
            if value is not None
        ]
        return f"Evaluation({', '.join([f'kind={self.kind!r}', f'num_samples={self.num_samples}', *shown])})"

    @property
    def loss(self) -> Interval | None:
        """Loss against the reference in the unit of the outputs: `kl` or `distance`."""
        return self.distance if self.kl is None else self.kl

    @property
    def figures(self) -> tuple[tuple[str, str], ...]:
        """The figures of quality in a report: fields of this and their titles."""
        return KINDS[self.kind].figures

    @property
    def lost_unit(self) -> str:
        """What `num_lost` counts."""
        return KINDS[self.kind].lost_unit

    @property
    def loss_unit(self) -> str:
        """What `loss` is in."""
        return KINDS[self.kind].loss_unit


def evaluation_batches(loaded: LoadedModel, data: LabeledTexts) -> list[TokenBatch]:
    """Tokenize texts as `evaluate` does."""
    return tokenize(
        loaded.tokenizer,
        data.texts,
        batch_size=EVALUATION_BATCH,
        max_tokens=loaded.longest,
        kind=loaded.head.kind,
    )


def outputs(loaded: LoadedModel, data: LabeledTexts) -> torch.Tensor:
    """Answers of a model to texts, float32 `[rows, columns]`: logits `[N, C]` of a classifier; see `models.outputs`."""
    return collect(loaded.head, loaded.model, evaluation_batches(loaded, data)).values


def comparable(loaded: LoadedModel, reference: LoadedModel) -> tuple[LoadedModel, LoadedModel]:
    """Return a model and its reference so that both read the same part of each text.

    Raises:
        InputFileError: they do not answer the same question.
    """
    if loaded.head.kind != reference.head.kind:
        raise InputFileError(
            f"{loaded.name}: answers with {loaded.head.kind}, its reference {reference.name} with "
            f"{reference.head.kind}. Give a reference of the same kind."
        )
    if loaded.labels is not None and reference.labels is not None:
        output_order(loaded.labels, reference.labels, loaded.name, reference.name)
    shorter = min(loaded.longest, reference.longest)
    return replace(loaded, max_tokens=shorter), replace(reference, max_tokens=shorter)


def reference_outputs(reference: LoadedModel, loaded: LoadedModel, data: LabeledTexts) -> torch.Tensor:
    """Answers of a reference, its columns in the order of another model's: outputs are compared by name.

    Args:
        reference: answers.
        loaded: the model that is compared with it; both as `comparable` returns them.
        data: the texts.

    Returns:
        Float32 `[rows, columns]`.

    Raises:
        InputFileError: they do not answer the same question.
    """
    values = outputs(reference, data)
    if loaded.labels is None or reference.labels is None:
        return values
    return values[:, output_order(loaded.labels, reference.labels, loaded.name, reference.name)]


def evaluate(loaded: LoadedModel, data: LabeledTexts, reference_outputs: torch.Tensor | None = None) -> Evaluation:
    """Measure quality on labels, where there are any, and loss against a reference.

    Args:
        loaded: the model to measure.
        data: texts; with labels for accuracy and F1.
        reference_outputs: `outputs` of the reference on the same texts, see also `reference_outputs`.

    Raises:
        InputFileError: labels that the model does not know, texts without a position that it answers, or a reference
            that reads texts in other pieces.
    """
    batches = evaluation_batches(loaded, data)
    targets = read_targets(loaded, data, batches)  # first: a wrong label is said before a long run
    if not rows_per_sample(loaded.head.kind, batches):
        raise InputFileError(
            f"{data.name}: none of these texts has a position for which {loaded.name} has an output. Give other texts."
        )
    found = collect(loaded.head, loaded.model, batches)
    if reference_outputs is not None and reference_outputs.shape != found.values.shape:
        raise InputFileError(
            f"{loaded.name}: its answers to {data.name} have shape {tuple(found.values.shape)}, the reference's "
            f"{tuple(reference_outputs.shape)}. Give a reference with the same tokenizer and outputs."
        )
    measured = measure(found, targets, reference_outputs)
    if loaded.given_head is not None:
        return measured
    return replace(measured, max_tokens=loaded.longest, num_cut=num_cut(batches), num_lost=num_lost(batches))


def measure(found: Outputs, targets: Targets | None = None, reference: torch.Tensor | None = None) -> Evaluation:
    """Measure answers, whoever gave them.

    Args:
        found: the answers.
        targets: the right ones.
        reference: values `[rows, columns]` of a reference on the same rows.

    Raises:
        ValueError: the reference has another shape.
    """
    spec = KINDS[found.kind]
    quality = Evaluation(found.num_texts, kind=found.kind)
    if targets is not None:
        right = spec.quality(found, targets)
        quality = replace(
            quality,
            accuracy=_interval(right.accuracy),
            macro_f1=right.macro_f1,
            entity_f1=_interval(right.entity_f1),
            exact_match=_interval(right.exact_match),
            answer_f1=_interval(right.answer_f1),
            correlation=right.correlation,
        )
    if reference is None:
        return quality
    if reference.shape != found.values.shape:
        raise ValueError(f"reference has shape {tuple(reference.shape)}, the answers {tuple(found.values.shape)}")
    loss = mean_over_rows(found, spec.loss.of_rows(reference, found.values))
    if not spec.loss.softmax:
        return replace(quality, distance=loss)
    flipped, lost, won = _flips(found, targets, reference)
    return replace(quality, kl=loss, flipped=flipped, lost=lost, won=won)


def mean_over_rows(found: Outputs, rows: torch.Tensor) -> Interval:
    """Mean over rows `[rows]`; its interval draws whole texts, since the rows of one are not independent."""
    ratio = per_text(found, rows)
    return ratio_interval(ratio.above, ratio.below)


def _interval(figure: Ratio | None) -> Interval | None:
    return None if figure is None else ratio_interval(figure.above, figure.below)


def _flips(found: Outputs, targets: Targets | None, reference: torch.Tensor) -> tuple[int, int | None, int | None]:
    """Count rows whose answer differs from the reference's, right ones that became wrong, and the reverse."""
    answers, before = found.values.argmax(-1), reference.argmax(-1)
    flipped = int((answers != before).sum())
    if targets is None:
        return flipped, None, None
    right, was_right = answers == targets.rows, before == targets.rows
    return flipped, int((was_right & ~right).sum()), int((~was_right & right).sum())
