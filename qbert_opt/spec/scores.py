"""The score table (`scores.json`): the predicted loss increase of each matrix under each choice, with provenance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from ..errors import InputFileError
from ..runtime.files import read_document, write_text
from ..runtime.frozen import Amount, Count, Frozen, is_none
from .cache import CACHE_BITS
from .choices import Choice, choice
from .profiles import MatrixSpec, ModelProfile, TableSpec
from .score_arrays import Folds, Rows, check_arrays, once
from .score_parts import (
    ActivationScores,
    BlockSensitivity,
    CacheScores,
    CommonScale,
    MatrixCurvature,
    Provenance,
    TableScores,
)

SCHEMA = "qbert-opt/scores@1"


class ScoreTable(Frozen):
    """Predicted loss increase of each matrix under each choice.

    Attributes:
        metric: the estimator, a file in `scoring/metrics`.
        method: name of the quantizer whose errors were scored.
        loss_unit: unit of the scores.
        contains: which quantization errors the scores include.
        profile: the model's shapes; row order of the arrays is `profile.matrices`.
        choices: names of the choices; column order of the arrays.
        value: scores [matrices, choices]; None where the choice is masked.
        std_error: standard error of each score over samples; None where masked.
        weight_error: squared Frobenius norm of the quantization error; None where masked.
        fold_value: the scores on each of a few nearly equal parts of the scoring text, [folds, matrices, choices], for
            cross-fitting; empty for metrics that are not a mean over samples. Samples that share text (windows of one
            text, questions about one paragraph) are in one part; in files of earlier releases they may not be.
        masks: why a choice is not allowed for a matrix, by module then choice name.
        scale: the factor by which all scores were multiplied, also those of tables and inputs; None if there is none.
        samples: number of texts behind each matrix's scores; 0 for data-free scores; empty in files of earlier
            releases.
        effective_samples: effective sample size (Σ loss)² / Σ loss², median over choices and matrices; None if unknown.
        block_sensitivity: of each encoder layer, for metrics that compute one.
        tables: scores of the embedding tables; None keeps them all at 8 bits.
        curvature: of each matrix, for metrics that compute one.
        warnings: for the user of the scores.
        activations: scores of quantized inputs; None leaves the inputs in floating point.
        cache: scores of a decoder's cache; None, and not written, if there are none.
    """

    document_schema: str = Field(default=SCHEMA, alias="schema")
    metric: str
    method: str
    loss_unit: str
    contains: str
    profile: ModelProfile
    choices: tuple[str, ...]
    value: Rows
    std_error: Rows
    weight_error: Rows
    fold_value: Folds = ()
    masks: dict[str, dict[str, str]] = Field(default_factory=dict)
    scale: CommonScale | None = None
    samples: tuple[Count, ...] = ()
    effective_samples: Amount | None = None
    block_sensitivity: tuple[BlockSensitivity, ...] = ()
    tables: TableScores | None = None
    curvature: tuple[MatrixCurvature, ...] = ()
    warnings: tuple[str, ...] = ()
    activations: ActivationScores | None = None
    cache: CacheScores | None = Field(default=None, exclude_if=is_none)
    provenance: Provenance

    @model_validator(mode="after")
    def _shapes(self) -> ScoreTable:
        matrices = [matrix.module for matrix in self.profile.matrices]
        check_arrays(self, matrices)
        _known("tables", self.tables.modules if self.tables else (), [t.module for t in self.profile.tables], "table")
        read = [name for modules in (self.activations.inputs if self.activations else ()) for name in modules]
        _known("activations", read, matrices, "matrix")
        if len(set(read)) < len(read):
            twice = next(name for number, name in enumerate(read) if name in read[:number])
            raise ValueError(f"activations: {twice} is named twice; a matrix reads one input")
        _known("curvature", [item.module for item in self.curvature], matrices, "matrix")
        layers = [item.block for item in self.block_sensitivity]
        once("block_sensitivity", [f"block {layer}" for layer in layers])
        if (last := max(layers, default=0)) >= self.profile.num_blocks:
            raise ValueError(f"block_sensitivity: block is {last}; the profile has {self.profile.num_blocks}, from 0")
        if self.samples and len(self.samples) != len(matrices):
            raise ValueError(f"samples: {len(self.samples)} entries for {len(matrices)} matrices")
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
        """The common factor in every score; 1 if there is none."""
        return 1.0 if self.scale is None else self.scale.value

    def cache_loss(self, bits: int) -> tuple[float, float] | None:
        """Return the score of a cache and its standard error; None if it was not scored, zeros for 16 bits.

        Args:
            bits: of a key or value.
        """
        if bits == CACHE_BITS[0]:
            return 0.0, 0.0
        known = {} if self.cache is None else dict(zip(self.cache.bits, range(len(self.cache.bits)), strict=True))
        at = known.get(bits)  # type: ignore[call-overload]
        return None if self.cache is None or at is None else (self.cache.value[at], self.cache.std_error[at])

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
        """The items of a plan: the matrices, then the scored tables."""
        specs = {table.module: table for table in self.profile.tables}
        return self.profile.matrices + tuple(specs[name] for name in (self.tables.modules if self.tables else ()))

    def item_choices(self) -> tuple[Choice, ...]:
        """Return the choices of all items: those of matrices in column order, then those of tables only."""
        names = self.choices + (self.tables.choices if self.tables else ())
        return tuple(choice(name) for name in dict.fromkeys(names))

    def item_values(self) -> NDArray[np.float64]:
        """Return the scores of all items, float64 [items, item choices]; NaN where not scored."""
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
        """Stack the rows of matrices and tables, each in the columns of its own choices."""
        columns = [c.name for c in self.item_choices()]
        joined = np.full((len(self.items), len(columns)), np.nan)
        joined[: len(self.profile.matrices), : len(self.choices)] = np.array(matrices, dtype=np.float64)
        if self.tables is not None:
            places = [columns.index(c) for c in self.tables.choices]
            joined[len(self.profile.matrices) :, places] = np.array(tables, dtype=np.float64)
        return joined


def _known(part: str, names: Sequence[str], known: Sequence[str], what: str) -> None:
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"{part}: {unknown[0]} is not a {what} of the profile")


def write_scores(table: ScoreTable, path: str | Path) -> None:
    """Write `scores.json`, completely or not at all.

    Args:
        table: the scores.
        path: of the file.
    """
    write_text(path, table.model_dump_json(by_alias=True, indent=1).replace("\n   ", "") + "\n")


def read_scores(path: str | Path) -> ScoreTable:
    """Read `scores.json`.

    Args:
        path: of the file.

    Raises:
        InputFileError: missing, malformed, or with choices that this version does not know.
    """
    table = read_document(path, ScoreTable, SCHEMA)
    try:
        table.item_choices()
    except Exception as error:
        raise InputFileError(f"{path}: choices: {error}") from None
    return table
