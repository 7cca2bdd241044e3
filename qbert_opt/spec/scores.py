"""The table of scores: what each choice of each matrix is predicted to cost in loss, and where that comes from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, FiniteFloat, model_validator

from ..errors import InputFileError
from ..runtime.files import read_document, write_text
from ..runtime.frozen import Frozen
from .choices import Choice, choice
from .profiles import MatrixSpec, ModelProfile, TableSpec

SCHEMA = "qbert-opt/scores@1"

Rows = tuple[tuple[float | None, ...], ...]  # [items, choices], None where masked
Folds = tuple[Rows, ...]


class Provenance(Frozen):
    """Where scores come from.

    Attributes:
        data: name of the data set; `data_sha256` its hash.
        num_scored: samples that score; disjoint from the `num_calibration` samples that fit the quantizer.
        mean_tokens: mean length of the scoring samples in tokens.
        mean_confidence: mean probability of the likeliest class; over-confident text under-predicts.
            None without softmax.
        scored_accuracy: accuracy on the scoring samples, where they have labels.
        max_tokens: tokens at which texts were cut, or windows of a text ended; None where samples came ready, and in
            files of earlier releases.
        num_cut: texts that were cut, of those that fit and score; None in files of earlier releases.
        num_lost: what was cut away from them in all: words of tags, tokens otherwise.
        seed: of every draw.
        commit: of this project's code, with `+` when it had uncommitted changes; `version` its release.
        date: day of the run, ISO.
    """

    data: str
    data_sha256: str
    num_scored: int
    num_calibration: int
    mean_tokens: float
    mean_confidence: float | None
    scored_accuracy: float | None
    max_tokens: int | None = Field(default=None, gt=0)
    num_cut: int | None = Field(default=None, ge=0)
    num_lost: int | None = Field(default=None, ge=0)
    seed: int
    commit: str
    version: str
    date: str


class BlockSensitivity(Frozen):
    """Q-BERT's sensitivity of one encoder layer: Ω = |mean λ| + std λ of the top eigenvalues over data slices."""

    block: int
    omega: float
    eigenvalues: tuple[float, ...]


class CommonScale(Frozen):
    """One factor by which all scores of a table were multiplied to bring them to KL's scale.

    Attributes:
        value: the factor.
        std_error: of the factor, over the scoring text; errors that all scores share, so it is not in theirs.
    """

    value: FiniteFloat = Field(gt=0)
    std_error: FiniteFloat = Field(ge=0)


class TableScores(Frozen):
    """Predicted loss increase of embedding tables under each of their choices.

    Attributes:
        modules: the tables; row order of the arrays. A table of the profile that is not here keeps 8 bits.
        choices: names of the choices; column order of the arrays.
        value: scores [tables, choices]; None where masked; `std_error` and `weight_error` alike.
        fold_value: as `ScoreTable.fold_value`.
        masks: why a choice is not allowed for a table, by module then choice name.
        unseen_rows: share of each table's rows that the scoring text never reads.
        unseen_reads: chance that the next read is of such a row, by Good-Turing: reads of rows read once / all reads.
        unseen_factor: how the score changes when rows read once are replaced by rows never read: 1 where words that
            the text does not have round like those that it has.
        contains: what the scores contain.
    """

    modules: tuple[str, ...]
    choices: tuple[str, ...]
    value: tuple[tuple[float | None, ...], ...]
    std_error: tuple[tuple[float | None, ...], ...]
    weight_error: tuple[tuple[float | None, ...], ...]
    fold_value: Folds = ()
    masks: dict[str, dict[str, str]] = Field(default_factory=dict)
    unseen_rows: tuple[float, ...]
    unseen_reads: tuple[float, ...]
    unseen_factor: tuple[float, ...] = ()
    contains: str

    @model_validator(mode="after")
    def _shapes(self) -> TableScores:
        _check_arrays(self, len(self.modules), len(self.choices))
        if not len(self.modules) == len(self.unseen_rows) == len(self.unseen_reads):
            raise ValueError("tables: modules, unseen_rows and unseen_reads differ in length")
        return self

    def multiplied(self, factor: float) -> TableScores:
        """The same with every score times a factor."""
        folds = tuple(short(_multiplied(rows, factor)) for rows in self.fold_value)
        update = {name: _multiplied(getattr(self, name), factor) for name in ("value", "std_error")}
        return self.model_copy(update={**update, "fold_value": folds})


class MatrixCurvature(Frozen):
    """How sharply the loss bends along one matrix.

    Attributes:
        module: the matrix.
        quantity: what `value` is; a trace is that of the whole block, not the mean over weights.
        value: with its sign: negative curvature says that the model has not converged on this loss.
        std_error: over the text (and over random draws, where there are some).
        eigenvalues: one per slice of the data, where they are taken apart.
        products: Hessian-vector products spent; 0 for what comes from a factor pass.
    """

    module: str
    quantity: str
    value: float
    std_error: float
    eigenvalues: tuple[float, ...] = ()
    products: int = 0


class ActivationScores(Frozen):
    """Predicted loss increase of rounding each input of the matrices.

    Attributes:
        inputs: the matrices that read each input; row order of the arrays.
        choices: names of the choices; column order of the arrays.
        value: scores [inputs, choices]; `std_error` alike.
        ranges: lower and upper end [inputs, choices]; None where each token has its own.
        contains: what the scores contain.
    """

    inputs: tuple[tuple[str, ...], ...]
    choices: tuple[str, ...]
    value: tuple[tuple[FiniteFloat, ...], ...]
    std_error: tuple[tuple[FiniteFloat, ...], ...]
    ranges: tuple[tuple[tuple[FiniteFloat, FiniteFloat] | None, ...], ...]
    contains: str

    @model_validator(mode="after")
    def _shapes(self) -> ActivationScores:
        for name in ("value", "std_error", "ranges"):
            rows = getattr(self, name)
            if len(rows) != len(self.inputs) or any(len(row) != len(self.choices) for row in rows):
                raise ValueError(f"activations: {name} is not [{len(self.inputs)} inputs, {len(self.choices)} choices]")
        for modules, ranges in zip(self.inputs, self.ranges, strict=True):
            for low, high in filter(None, ranges):
                if not low <= 0 <= high:
                    raise ValueError(f"activations: {modules[0]}: low {low:g}, high {high:g}; a range holds zero")
        return self

    def multiplied(self, factor: float) -> ActivationScores:
        """The same with every score times a factor."""
        return self.model_copy(
            update={name: _multiplied(getattr(self, name), factor) for name in ("value", "std_error")}
        )


class ScoreTable(Frozen):
    """Predicted loss increase of each matrix under each choice.

    Attributes:
        metric: which estimator, a file in `metrics/`.
        loss_unit: what the scores are in.
        profile: the model's shapes; row order of the arrays is `profile.matrices`.
        choices: names of the choices; column order of the arrays.
        value: scores [matrices, choices]; None where the choice is masked.
        std_error: standard error of each score over samples; None where masked.
        weight_error: squared Frobenius norm of the rounding error; None where masked.
        fold_value: the scores on each of a few equal parts of the scoring text, [folds, matrices, choices], by which a
            plan is judged on text that did not choose it; empty for metrics that are no mean over samples.
        masks: why a choice is not allowed for a matrix, by `module` then choice name.
        scale: the factor that all scores, those of tables too, were multiplied by; None where there was none.
        samples: texts that each matrix' scores are from; 0 for data-free scores, none where a table does not say.
        effective_samples: how many texts carry the scores, (Σ loss)² / Σ loss² in the median; None where unknown.
        block_sensitivity: per encoder layer, for metrics that have one.
        tables: the embedding tables' scores; None keeps them all at 8 bits.
        curvature: per matrix, for metrics that have one.
        warnings: what a user of these scores should know.
        activations: scores of rounded inputs; None leaves them in floats.
    """

    document_schema: str = Field(default=SCHEMA, alias="schema")
    metric: str
    method: str
    loss_unit: str
    contains: str
    profile: ModelProfile
    choices: tuple[str, ...]
    value: tuple[tuple[float | None, ...], ...]
    std_error: tuple[tuple[float | None, ...], ...]
    weight_error: tuple[tuple[float | None, ...], ...]
    fold_value: Folds = ()
    masks: dict[str, dict[str, str]] = Field(default_factory=dict)
    scale: CommonScale | None = None
    samples: tuple[int, ...] = ()
    effective_samples: FiniteFloat | None = None
    block_sensitivity: tuple[BlockSensitivity, ...] = ()
    tables: TableScores | None = None
    curvature: tuple[MatrixCurvature, ...] = ()
    warnings: tuple[str, ...] = ()
    activations: ActivationScores | None = None
    provenance: Provenance

    @model_validator(mode="after")
    def _shapes(self) -> ScoreTable:
        _check_arrays(self, len(self.profile.matrices), len(self.choices))
        known = {table.module for table in self.profile.tables}
        unknown = [] if self.tables is None else [name for name in self.tables.modules if name not in known]
        if unknown:
            raise ValueError(f"tables: {unknown[0]} is no table of the profile")
        if self.samples and len(self.samples) != len(self.profile.matrices):
            raise ValueError(f"samples: {len(self.samples)} entries for {len(self.profile.matrices)} matrices")
        return self

    def __str__(self) -> str:
        """Return the table in one line."""
        p = self.provenance
        return (
            f"{len(self.items)} matrices and tables × {len(self.choices)} choices of {self.profile.name}: metric "
            f"{self.metric}, method {self.method}, {p.num_scored} texts of {p.data}, in {self.loss_unit}"
        )

    def __repr__(self) -> str:
        """Return one line."""
        return (
            f"ScoreTable({self.profile.name!r}, metric={self.metric!r}, method={self.method!r}, "
            f"items={len(self.items)}, choices={len(self.choices)})"
        )

    @property
    def loss_scale(self) -> float:
        """The factor in every score: 1 without a common scale."""
        return 1.0 if self.scale is None else self.scale.value

    def grid(self) -> tuple[Choice, ...]:
        """Return the choices, in column order."""
        return tuple(choice(name) for name in self.choices)

    def values(self) -> NDArray[np.float64]:
        """Return the scores, float64 [matrices, choices]; NaN where masked."""
        return np.array(self.value, dtype=np.float64)

    def std_errors(self) -> NDArray[np.float64]:
        """Return the standard errors, float64 [matrices, choices]; NaN where masked."""
        return np.array(self.std_error, dtype=np.float64)

    @property
    def items(self) -> tuple[MatrixSpec | TableSpec, ...]:
        """What a plan chooses for: the matrices, then the tables that were scored."""
        specs = {table.module: table for table in self.profile.tables}
        return self.profile.matrices + tuple(specs[name] for name in (self.tables.modules if self.tables else ()))

    def item_choices(self) -> tuple[Choice, ...]:
        """Return the choices of all items: the matrices' in column order, then what only tables have."""
        names = self.choices + (self.tables.choices if self.tables else ())
        return tuple(choice(name) for name in dict.fromkeys(names))

    def item_values(self) -> NDArray[np.float64]:
        """Return the scores of all items, float64 [items, item choices]; NaN where an item has no such choice."""
        return self._item_array("value")

    def item_folds(self) -> NDArray[np.float64]:
        """Return the scores of all items on each part of the scoring text, float64 [folds, items, item choices]."""
        tables = () if self.tables is None else self.tables.fold_value
        empty = np.empty((0, len(self.items), len(self.item_choices())))
        if not self.fold_value or (self.tables is not None and len(tables) != len(self.fold_value)):
            return empty
        return np.stack(
            [self._joined(rows, tables[k] if self.tables is not None else ()) for k, rows in enumerate(self.fold_value)]
        )

    def _item_array(self, name: str) -> NDArray[np.float64]:
        return self._joined(getattr(self, name), () if self.tables is None else getattr(self.tables, name))

    def _joined(self, matrices: Rows, tables: Rows) -> NDArray[np.float64]:
        """Matrices' rows above the tables', each under its own choices."""
        columns = [c.name for c in self.item_choices()]
        found = np.full((len(self.items), len(columns)), np.nan)
        found[: len(self.profile.matrices), : len(self.choices)] = np.array(matrices, dtype=np.float64)
        if self.tables is not None:
            places = [columns.index(c) for c in self.tables.choices]
            found[len(self.profile.matrices) :, places] = np.array(tables, dtype=np.float64)
        return found


def short(rows: Rows) -> Rows:
    """Six significant digits: more would only make a file of many folds long."""
    return tuple(tuple(None if v is None else float(f"{v:.6g}") for v in row) for row in rows)


def _multiplied(rows: Rows, factor: float) -> Rows:
    return tuple(tuple(None if v is None else factor * v for v in row) for row in rows)


def _check_arrays(scores: ScoreTable | TableScores, num_items: int, num_choices: int) -> None:
    """Raise ValueError where an array has another shape or holds NaN."""
    named = [(name, getattr(scores, name)) for name in ("value", "std_error", "weight_error")]
    for name, rows in named + [("fold_value", rows) for rows in scores.fold_value]:
        if len(rows) != num_items or any(len(row) != num_choices for row in rows):
            raise ValueError(f"{name} is not [{num_items} items, {num_choices} choices]")
        if not np.isfinite([v for row in rows for v in row if v is not None]).all():
            raise ValueError(f"{name} holds NaN or infinite values")


def write_scores(table: ScoreTable, path: str | Path) -> None:
    """Write `scores.json`, whole or not at all."""
    write_text(path, table.model_dump_json(by_alias=True, indent=1).replace("\n   ", "") + "\n")


def read_scores(path: str | Path) -> ScoreTable:
    """Read `scores.json`.

    Raises:
        InputFileError: missing, malformed, or with choices this version does not know.
    """
    table = read_document(path, ScoreTable, SCHEMA)
    try:
        table.item_choices()
    except Exception as error:
        raise InputFileError(f"{path}: choices: {error}") from None
    return table
