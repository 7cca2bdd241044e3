"""Quality of a model on labelled text, and loss relative to a reference. Everything here is *measured*.

`measure` works on outputs alone, so it applies to any engine.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from ..data.texts import LabeledTexts
from ..errors import InputFileError, UsageError
from ..models.batches import num_cut, num_lost, num_windows, tokenize
from ..models.heads import KINDS
from ..models.heads.losses import kl_divergence
from ..models.heads.protocol import Quality, Ratio, per_text
from ..models.loading import LoadedModel, check_evaluation_mode
from ..models.outputs import collect, rows_per_sample
from ..models.samples import OutputKind, Outputs, Targets, TokenBatch
from ..models.targets import read_targets
from .counts import flipped_rows
from .intervals import Interval, drop_interval, exponential, ratio_interval, share_interval, spearman_interval
from .retrieval import cosines, recalls

__all__ = [
    "Evaluation", "Interval", "evaluate", "evaluation_batches", "kl_divergence", "mean_over_rows",
    "measure", "outputs",
]  # fmt: skip

EVALUATION_BATCH = 64


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Measured quality of a model; figures that do not apply to the kind of outputs, or lack labels, are None.

    Attributes:
        num_samples: number of samples.
        accuracy: share of correct answers over samples, words, masked or next tokens.
        macro_f1: unweighted mean of the classes' F1.
        kl: KL(reference || model) in nats, mean over labelled positions.
        flipped: number of answers (samples, words, masked tokens, starts and ends) that differ from the reference's;
            `lost` counts correct ones that became wrong, `won` the reverse.
        drop: the first of `figures` (accuracy, entity F1, exact match) of the reference less that of the model, paired
            over the same texts.
        kind: of the outputs.
        entity_f1: F1 of entities with their types over all samples (as in CoNLL; entities are read as in `seqeval`).
        exact_match: share of answers equal to an accepted one, as in SQuAD's official script.
        answer_f1: F1 of the words of answer and accepted answer, as in the same script.
        distance: squared distance to the reference, relative to its squared length for embeddings, absolute for
            regressions.
        correlation: Pearson correlation of regression outputs with the labels.
        cosine: cosine between an embedding and the reference's, mean over texts.
        recall_at_1: share of texts whose nearest other text by embeddings is the reference's; see `retrieval`.
        recall_at_5: share of the reference's five nearest texts that are among the five nearest.
        recall_at_10: the same of ten.
        spearman: rank correlation between the cosines of pairs and their labels.
        perplexity: exponential of the cross-entropy of a text's own next tokens, mean over tokens.
        agreement: share of next tokens of which the most probable one is the reference's.
        max_tokens: length at which texts were truncated, or of windows; None for ready samples of a plain module.
        num_cut: number of truncated texts.
        num_lost: total amount lost by truncation: words for tags, tokens otherwise.
        num_windows: number of windows in which next tokens of all texts were predicted; None if each text fits one.
    """

    num_samples: int
    accuracy: Interval | None = None
    macro_f1: float | None = None
    kl: Interval | None = None
    flipped: int | None = None
    lost: int | None = None
    won: int | None = None
    drop: Interval | None = None
    kind: OutputKind = "classes"
    entity_f1: Interval | None = None
    exact_match: Interval | None = None
    answer_f1: Interval | None = None
    distance: Interval | None = None
    correlation: float | None = None
    cosine: Interval | None = None
    recall_at_1: Interval | None = None
    recall_at_5: Interval | None = None
    recall_at_10: Interval | None = None
    spearman: Interval | None = None
    perplexity: Interval | None = None
    agreement: Interval | None = None
    max_tokens: int | None = None
    num_cut: int = 0
    num_lost: int = 0
    num_windows: int | None = None

    def __repr__(self) -> str:
        """Return one line with the measured figures."""
        figures = [(name, getattr(self, name)) for name, _ in self.figures] + [("loss", self.loss)]
        shown = [
            f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value.value:.4g}"
            for name, value in figures
            if value is not None
        ]
        return f"Evaluation({', '.join([f'kind={self.kind!r}', f'num_samples={self.num_samples}', *shown])})"

    @property
    def loss(self) -> Interval | None:
        """Loss relative to the reference: `kl` or `distance`."""
        return self.distance if self.kl is None else self.kl

    @property
    def figures(self) -> tuple[tuple[str, str], ...]:
        """The figures of quality in a report: field and title of each."""
        return KINDS[self.kind].figures

    @property
    def lost_unit(self) -> str:
        """Unit of `num_lost`."""
        return KINDS[self.kind].lost_unit

    @property
    def loss_unit(self) -> str:
        """Unit of `loss`."""
        return KINDS[self.kind].loss_unit


def evaluation_batches(loaded: LoadedModel, data: LabeledTexts) -> list[TokenBatch]:
    """Tokenize texts as `evaluate` does: cut at the model's longest text, in batches of `EVALUATION_BATCH`.

    Args:
        loaded: the model, for its tokenizer, longest text and kind of output.
        data: the texts; labels are not read.

    Raises:
        UsageError: there are none.
    """
    if not data.texts:
        raise UsageError(f"{data.name}: holds no `texts`. Give at least one.")
    return tokenize(
        loaded.tokenizer,
        data.texts,
        batch_size=EVALUATION_BATCH,
        max_tokens=loaded.longest,
        kind=loaded.head.kind,
    )


def outputs(loaded: LoadedModel, data: LabeledTexts) -> torch.Tensor:
    """Run a model on texts.

    Args:
        loaded: the model, in evaluation mode.
        data: the texts; labels are not read.

    Returns:
        The outputs, float32 `[rows, columns]` (logits `[N, C]` of a classifier), in the order of the texts.

    Raises:
        UsageError: there are no texts, or the model is in training mode.
    """
    check_evaluation_mode(loaded)
    return collect(loaded.head, loaded.model, evaluation_batches(loaded, data)).values


def evaluate(loaded: LoadedModel, data: LabeledTexts, reference_outputs: torch.Tensor | None = None) -> Evaluation:
    """Measure quality if there are labels, and loss if there are outputs of a reference.

    Args:
        loaded: the model to measure.
        data: texts; with labels for accuracy and F1.
        reference_outputs: outputs of the reference on the same texts, see `references.reference_outputs`.

    Raises:
        InputFileError: labels that the model does not know, texts without any labelled position, or reference outputs
            of another shape.
        UsageError: there are no texts, or the model is in training mode.
    """
    check_evaluation_mode(loaded)
    batches = evaluation_batches(loaded, data)
    targets = read_targets(loaded, data, batches)  # first, to report invalid labels before a long run
    if not rows_per_sample(loaded.head.kind, batches):
        raise InputFileError(
            f"{data.name}: none of these texts has a position for which {loaded.name} has an output. Give other texts."
        )
    answers = collect(loaded.head, loaded.model, batches)
    if reference_outputs is not None and reference_outputs.shape != answers.values.shape:
        raise InputFileError(
            f"{loaded.name}: its answers to {data.name} have shape {tuple(answers.values.shape)}, the reference's "
            f"{tuple(reference_outputs.shape)}. Give a reference with the same tokenizer and outputs."
        )
    measured = measure(answers, targets, reference_outputs)
    if loaded.given_head is not None:
        return measured
    windows = num_windows(batches) if loaded.head.kind == "next_tokens" else None
    return replace(
        measured, max_tokens=loaded.longest, num_cut=num_cut(batches), num_lost=num_lost(batches), num_windows=windows
    )


def measure(answers: Outputs, targets: Targets | None = None, reference: torch.Tensor | None = None) -> Evaluation:
    """Measure outputs of any model or engine.

    Args:
        answers: the outputs.
        targets: the correct answers.
        reference: values `[rows, columns]` of a reference for the same rows.

    Raises:
        ValueError: the reference has another shape.
    """
    spec = KINDS[answers.kind]
    quality = Evaluation(answers.num_texts, kind=answers.kind)
    right = None if targets is None else spec.quality(answers, targets)
    if right is not None:
        quality = replace(
            quality,
            accuracy=_interval(right.accuracy),
            perplexity=_perplexity(right.cross_entropy),
            macro_f1=right.macro_f1,
            entity_f1=_interval(right.entity_f1),
            exact_match=_interval(right.exact_match),
            answer_f1=_interval(right.answer_f1),
            correlation=right.correlation,
            spearman=None if right.spearman is None else spearman_interval(right.spearman.found, right.spearman.given),
        )
    if reference is None:
        return quality
    if reference.shape != answers.values.shape:
        raise ValueError(f"reference has shape {tuple(reference.shape)}, the answers {tuple(answers.values.shape)}")
    loss = mean_over_rows(answers, spec.loss.of_rows(reference, answers.values))
    if right is not None and targets is not None:
        was = spec.quality(replace(answers, values=reference), targets)
        quality = replace(quality, drop=_drop(was, right, spec.figures[0][0]))
    if spec.retrieves:
        quality = replace(quality, **_retrieval(answers, reference))
    if not spec.loss.softmax:
        return replace(quality, distance=loss)
    flipped, lost, won = flipped_rows(answers, targets, reference)
    if "agreement" in dict(spec.figures):
        same = (answers.values.argmax(-1) == reference.argmax(-1)).double()
        quality = replace(quality, agreement=_interval(per_text(answers, same)))
    return replace(quality, kl=loss, flipped=flipped, lost=lost, won=won)


def mean_over_rows(answers: Outputs, rows: torch.Tensor) -> Interval:
    """Return the mean over rows; the bootstrap draws whole texts, since rows of one text are not independent.

    Args:
        answers: outputs, which say to which text each row belongs.
        rows: a figure of each row, `[rows]`.
    """
    ratio = per_text(answers, rows)
    return ratio_interval(ratio.above, ratio.below)


def _retrieval(answers: Outputs, reference: torch.Tensor) -> dict[str, Any]:
    """Return cosine and recalls by the fields of `Evaluation`; recalls for which there are too few texts are absent."""
    figures = {"cosine": mean_over_rows(answers, cosines(reference, answers.values))}
    for k, shares in recalls(reference, answers.values).items():
        ratio = per_text(answers.first(len(shares)), shares)
        figures[f"recall_at_{k}"] = share_interval(ratio.above, ratio.below)
    return figures


def _drop(reference: Quality, quality: Quality, figure: str) -> Interval | None:
    """Return how far a figure of quality is below the reference's, if it is a ratio over texts."""
    was, now = (getattr(side, figure, None) for side in (reference, quality))
    if not isinstance(was, Ratio) or not isinstance(now, Ratio):
        return None
    return drop_interval((was.above, was.below), (now.above, now.below))


def _perplexity(nats: Ratio | None) -> Interval | None:
    return None if nats is None else exponential(ratio_interval(nats.above, nats.below))


def _interval(figure: Ratio | None) -> Interval | None:
    return None if figure is None else share_interval(figure.above, figure.below)
