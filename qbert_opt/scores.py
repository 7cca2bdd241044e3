"""The table of scores: what each choice of each matrix is predicted to cost in loss, and where that comes from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from .choices import Choice, choice
from .errors import InputFileError
from .files import read_document, write_text
from .profiles import ModelProfile

SCHEMA = "qbert-opt/scores@1"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)


class Provenance(_Frozen):
    """Where scores come from.

    Attributes:
        data: name of the data set; `data_sha256` its hash.
        num_scored: samples that score; disjoint from the `num_calibration` samples that fit the quantizer.
        mean_tokens: mean length of the scoring samples in tokens.
        mean_confidence: mean probability of the likeliest class; over-confident text under-predicts.
            None without softmax.
        scored_accuracy: accuracy on the scoring samples, where they have labels.
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
    seed: int
    commit: str
    version: str
    date: str


class BlockSensitivity(_Frozen):
    """Q-BERT's sensitivity of one encoder layer: Ω = |mean λ| + std λ of the top eigenvalues over data slices."""

    block: int
    omega: float
    eigenvalues: tuple[float, ...]


class MatrixCurvature(_Frozen):
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


class ScoreTable(_Frozen):
    """Predicted loss increase of each matrix under each choice.

    Attributes:
        metric: which estimator, a file in `metrics/`.
        loss_unit: what the scores are in.
        profile: the model's shapes; row order of the arrays is `profile.matrices`.
        choices: names of the choices; column order of the arrays.
        value: scores [matrices, choices]; None where the choice is masked.
        std_error: standard error of each score over samples; None where masked.
        weight_error: squared Frobenius norm of the rounding error; None where masked.
        masks: why a choice is not allowed for a matrix, by `module` then choice name.
        samples: texts that each matrix' scores are from; 0 for data-free scores, none where a table does not say.
        block_sensitivity: per encoder layer, for metrics that have one.
        curvature: per matrix, for metrics that have one.
        warnings: what a user of these scores should know.
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
    masks: dict[str, dict[str, str]] = {}
    samples: tuple[int, ...] = ()
    block_sensitivity: tuple[BlockSensitivity, ...] = ()
    curvature: tuple[MatrixCurvature, ...] = ()
    warnings: tuple[str, ...] = ()
    provenance: Provenance

    @model_validator(mode="after")
    def _shapes(self) -> ScoreTable:
        expected = (len(self.profile.matrices), len(self.choices))
        for name in ("value", "std_error", "weight_error"):
            rows = getattr(self, name)
            if len(rows) != expected[0] or any(len(row) != expected[1] for row in rows):
                raise ValueError(f"{name} is not [{expected[0]} matrices, {expected[1]} choices]")
            if not np.isfinite([v for row in rows for v in row if v is not None]).all():
                raise ValueError(f"{name} holds NaN or infinite values")
        if self.samples and len(self.samples) != len(self.profile.matrices):
            raise ValueError(f"samples: {len(self.samples)} entries for {len(self.profile.matrices)} matrices")
        return self

    def grid(self) -> tuple[Choice, ...]:
        """Return the choices, in column order."""
        return tuple(choice(name) for name in self.choices)

    def values(self) -> NDArray[np.float64]:
        """Return the scores, float64 [matrices, choices]; NaN where masked."""
        return np.array(self.value, dtype=np.float64)

    def std_errors(self) -> NDArray[np.float64]:
        """Return the standard errors, float64 [matrices, choices]; NaN where masked."""
        return np.array(self.std_error, dtype=np.float64)


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
        table.grid()
    except Exception as error:
        raise InputFileError(f"{path}: choices: {error}") from None
    return table
