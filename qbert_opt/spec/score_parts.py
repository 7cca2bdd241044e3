"""The parts of a score table: provenance, scores of tables, inputs and cache, and curvature."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, FiniteFloat, model_validator

from ..runtime.frozen import Amount, Count, Frozen, Share, is_empty
from .activations import ACTIVATION_BITS, activation_grid
from .score_arrays import LARGEST_SCALE, Folds, Loss, Rows, check_arrays, multiplied, once, short

INPUT_CHOICES = {
    item.name: item.range for item in activation_grid(ACTIVATION_BITS)
}  # choices of inputs, with their ranges


class Provenance(Frozen):
    """Where scores come from.

    Attributes:
        data: name of the data set.
        data_sha256: its hash.
        num_scored: number of scoring samples, disjoint from the calibration set.
        num_pool: number of texts from which the scoring samples were drawn, uncertain ones more often; length,
            confidence and accuracy then refer to this pool. 0: no pool.
        num_calibration: number of samples in the calibration set, which fits the quantizer.
        mean_tokens: mean length of the scoring samples, in tokens.
        mean_confidence: mean probability of the most likely class; scores are too low on text where the model is
            over-confident. None without softmax.
        scored_accuracy: accuracy on the scoring samples; None without labels.
        max_tokens: number of tokens to which texts were cut, or that a window of a text holds; None if the samples were
            already tokenized, and in files of earlier releases.
        num_cut: number of calibration and scoring texts that were cut; None in files of earlier releases.
        num_lost: total number of tokens cut off; words for tagging tasks.
        back_propagations: mean number of back-propagations of a scoring sample; None for metrics without any, and in
            files of earlier releases.
        seed: of all random draws.
        commit: of qbert-opt's code, with `+` if it had uncommitted changes.
        version: of qbert-opt.
        date: of the run, ISO 8601.
    """

    data: str
    data_sha256: str
    num_scored: Count
    num_pool: Count = 0
    num_calibration: Count
    mean_tokens: Amount
    mean_confidence: Share | None
    scored_accuracy: Share | None
    max_tokens: int | None = Field(default=None, gt=0)
    num_cut: Count | None = None
    num_lost: Count | None = None
    back_propagations: float | None = Field(default=None, gt=0)
    seed: int = Field(ge=0, lt=2**63)
    commit: str
    version: str
    date: str


class BlockSensitivity(Frozen):
    """Q-BERT's sensitivity of one encoder layer (Shen et al. 2020, equation 1).

    Attributes:
        block: the encoder layer, from 0.
        omega: Ω = |mean λ| + std λ over slices of the data.
        eigenvalues: top eigenvalue λ of the layer's Hessian on each slice.
    """

    block: Count
    omega: Amount
    eigenvalues: tuple[FiniteFloat, ...]


class CommonScale(Frozen):
    """The factor that converts all scores of a table to the scale of KL.

    Attributes:
        value: the factor; the scores in the table are already multiplied by it.
        std_error: of the factor, over the scoring text. All scores share this error; theirs do not include it.
    """

    value: float = Field(ge=1 / LARGEST_SCALE, le=LARGEST_SCALE)
    std_error: float = Field(ge=0, le=LARGEST_SCALE)


class TableScores(Frozen):
    """Predicted loss increase of embedding tables under each of their choices.

    Attributes:
        modules: the tables; row order of the arrays. A table of the profile that is not listed keeps 8 bits.
        choices: names of the choices; column order of the arrays.
        value: scores [tables, choices]; None where masked.
        std_error: standard error of each score over samples; None where masked.
        weight_error: squared Frobenius norm of the quantization error; only in files of earlier releases.
        fold_value: as `ScoreTable.fold_value`.
        masks: why a choice is not allowed for a table, by module then choice name.
        unseen_rows: share of each table's rows that the scoring text never uses.
        unseen_reads: probability that the next read is of such a row, by Good-Turing: rows read once / all reads.
        unseen_factor: ratio of scores when rows read once are replaced by rows never read; about 1 if unseen words
            have the same quantization error as seen ones.
        contains: what the scores include.
    """

    modules: tuple[str, ...]
    choices: tuple[str, ...]
    value: Rows
    std_error: Rows
    weight_error: Rows = Field(default=(), exclude_if=is_empty)
    fold_value: Folds = ()
    masks: dict[str, dict[str, str]] = Field(default_factory=dict)
    unseen_rows: tuple[Share, ...]
    unseen_reads: tuple[Share, ...]
    unseen_factor: tuple[Amount, ...] = ()
    contains: str

    @model_validator(mode="after")
    def _shapes(self) -> TableScores:
        check_arrays(self, self.modules, needs_weight_error=False)
        lengths = {len(self.modules), len(self.unseen_rows), len(self.unseen_reads)}
        if len(lengths | ({len(self.unseen_factor)} if self.unseen_factor else set())) > 1:
            raise ValueError("modules, unseen_rows, unseen_reads and unseen_factor differ in length")
        return self

    def multiplied(self, factor: float) -> TableScores:
        """Return the same table with every score multiplied.

        Args:
            factor: see `CommonScale`.
        """
        folds = tuple(short(multiplied(rows, factor)) for rows in self.fold_value)
        update = {name: multiplied(getattr(self, name), factor) for name in ("value", "std_error")}
        return self.model_copy(update={**update, "fold_value": folds})


class MatrixCurvature(Frozen):
    """The curvature of the loss with respect to one matrix.

    Attributes:
        module: the matrix.
        quantity: what `value` is; a trace is that of the matrix's whole Hessian block, not the mean over weights.
        value: with its sign; negative curvature means that the model has not converged on this loss.
        std_error: over the texts, and over random draws if there are any.
        eigenvalues: one per slice of the data, for metrics that use slices.
        products: number of Hessian-vector products; 0 if the curvature comes from a factor pass.
    """

    module: str
    quantity: str
    value: FiniteFloat
    std_error: Amount
    eigenvalues: tuple[FiniteFloat, ...] = ()
    products: Count = 0


class CacheScores(Frozen):
    """Predicted loss increase of rounding all keys and values of a decoder's cache.

    Attributes:
        bits: of a key or value; below 16, which keeps them as they are.
        value: score of each width.
        std_error: standard error of each score over samples.
        contains: what the scores include.
    """

    bits: tuple[Literal[8, 4], ...]
    value: tuple[Loss, ...]
    std_error: tuple[Loss, ...]
    contains: str

    @model_validator(mode="after")
    def _shapes(self) -> CacheScores:
        if not len(set(self.bits)) == len(self.bits) == len(self.value) == len(self.std_error):
            raise ValueError("bits, value and std_error differ in length, or a width is named twice")
        return self

    def multiplied(self, factor: float) -> CacheScores:
        """Return the same scores, multiplied.

        Args:
            factor: see `CommonScale`.
        """
        update = {name: tuple(factor * x for x in getattr(self, name)) for name in ("value", "std_error")}
        return self.model_copy(update=update)


class ActivationScores(Frozen):
    """Predicted loss increase of quantizing each input of the matrices.

    Attributes:
        inputs: the matrices that read each input; row order of the arrays.
        choices: names of the choices; column order of the arrays.
        value: scores [inputs, choices].
        std_error: standard error of each score over samples.
        ranges: lower and upper end of the static range [inputs, choices]; None if each token has its own range.
        contains: what the scores include.
    """

    inputs: tuple[tuple[str, ...], ...]
    choices: tuple[str, ...]
    value: tuple[tuple[Loss, ...], ...]
    std_error: tuple[tuple[Loss, ...], ...]
    ranges: tuple[tuple[tuple[FiniteFloat, FiniteFloat] | None, ...], ...]
    contains: str

    @model_validator(mode="after")
    def _shapes(self) -> ActivationScores:
        for name in ("value", "std_error", "ranges"):
            rows = getattr(self, name)
            if len(rows) != len(self.inputs) or any(len(row) != len(self.choices) for row in rows):
                raise ValueError(f"{name} is not [{len(self.inputs)} inputs, {len(self.choices)} choices]")
        once("choices", self.choices)
        for name in self.choices:
            if name not in INPUT_CHOICES:
                raise ValueError(f"choice {name!r}; legal: {', '.join(INPUT_CHOICES)}")
        for modules, ranges in zip(self.inputs, self.ranges, strict=True):
            for name, ends in zip(self.choices, ranges, strict=True):
                if (ends is None) != (INPUT_CHOICES[name] is None):
                    raise ValueError(
                        f"{modules[0] if modules else 'an input'}: {name} "
                        f"{'has no range' if ends is None else 'has a range, and each token has its own'}"
                    )
            for low, high in filter(None, ranges):
                if not low <= 0 <= high:
                    raise ValueError(f"{modules[0]}: low {low:g}, high {high:g}: a range must include zero")
        return self

    def multiplied(self, factor: float) -> ActivationScores:
        """Return the same table with every score multiplied.

        Args:
            factor: see `CommonScale`.
        """
        return self.model_copy(
            update={name: multiplied(getattr(self, name), factor) for name in ("value", "std_error")}
        )
