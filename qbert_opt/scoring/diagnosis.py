"""What the true Hessian says about a model: how its eigenvalues lie, and how the loss looks along the top two."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, model_validator

from ..runtime.files import read_document, write_text
from ..runtime.frozen import Frozen

SCHEMA = "qbert-opt/diagnosis@1"


class _Finite(Frozen):
    """A value without infinite or undefined numbers."""

    model_config = ConfigDict(allow_inf_nan=False)


class Spectrum(_Finite):
    """Quadratures of the density of eigenvalues, one for each random vector (stochastic Lanczos).

    Attributes:
        nodes: where each vector sees eigenvalues, ascending `[vectors][steps]`.
        weights: what share of all eigenvalues it sees there, `[vectors][steps]`; each vector's sum to 1.
    """

    nodes: tuple[tuple[float, ...], ...]
    weights: tuple[tuple[float, ...], ...]

    @model_validator(mode="after")
    def _consistent(self) -> Spectrum:
        if len(self.nodes) < 2 or [len(n) for n in self.nodes] != [len(w) for w in self.weights]:
            raise ValueError("nodes and weights are not of the same two or more vectors, and steps")
        return self

    @property
    def least(self) -> float:
        """The least eigenvalue is this or less: it is a Rayleigh quotient, right but for rounding."""
        return min(node for row in self.nodes for node in row)

    @property
    def negative_share(self) -> float:
        """The negative eigenvalues' share of the sum of all squares: 0 at a minimum, ½ where up and down are alike."""
        return self.moment(2, only_negative=True)[0] / max(self.moment(2)[0], 1e-300)

    def density(self, at: NDArray[np.float64], width: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Share of eigenvalues per unit of λ, each spread as a Gaussian, and its standard error over the vectors.

        Args:
            at: eigenvalues λ, `[L]`.
            width: standard deviation of the Gaussian.
        """
        rows = [
            np.exp(-0.5 * ((at[:, None] - np.array(nodes)) / width) ** 2) @ np.array(weights)
            for nodes, weights in zip(self.nodes, self.weights, strict=True)
        ]
        return _mean(np.array(rows) / (width * (2 * np.pi) ** 0.5))

    def moment(self, power: int, *, only_negative: bool = False) -> tuple[float, float]:
        """Mean of λ^power over all eigenvalues, or with positive ones counted 0, and its standard error."""
        rows = []
        for nodes, weights in zip(self.nodes, self.weights, strict=True):
            values = np.minimum(nodes, 0.0) if only_negative else np.array(nodes)
            rows.append(float(values**power @ np.array(weights)))
        value, error = _mean(np.array(rows))
        return float(value), float(error)


class Surface(_Finite):
    """Loss of the model moved along its top two eigenvectors, all else unchanged.

    Attributes:
        first: distances moved along the unit eigenvector of the top eigenvalue, in weights, ascending; 0 is there.
        second: along that of the second.
        loss: loss `[first][second]`.
        slopes: derivative of the loss along each at the model itself.
    """

    first: tuple[float, ...]
    second: tuple[float, ...]
    loss: tuple[tuple[float, ...], ...]
    slopes: tuple[float, float]

    @model_validator(mode="after")
    def _consistent(self) -> Surface:
        if len(self.loss) != len(self.first) or any(len(row) != len(self.second) for row in self.loss):
            raise ValueError("loss is not [first, second]")
        return self


class Descent(_Finite):
    """Loss of the model moved along the direction of least curvature that was found.

    Attributes:
        curvature: vᵀ H v of that unit direction, negative.
        steps: distances moved, ascending; 0 is there.
        loss: loss at each.
    """

    curvature: float
    steps: tuple[float, ...]
    loss: tuple[float, ...]

    @property
    def fall(self) -> float:
        """How far the loss falls along it."""
        return self.loss[len(self.loss) // 2] - min(self.loss)


class Diagnosis(_Finite):
    """What the Hessian of the training loss by a model's searched matrices says on some labelled text.

    Attributes:
        document_schema: which kind of document this is.
        model: its name; `model_sha256` its weights' hash.
        data: name of the text; `data_sha256` its hash.
        num_samples: texts that the loss is over.
        layer: the encoder layer whose matrices are diagnosed, from 1; None is all layers together.
        num_parameters: weights in these matrices: the Hessian's side.
        loss_unit: what losses are in.
        loss: of the model itself on this text.
        gradient_norm: length of its gradient by these weights.
        eigenvalues: the two of largest magnitude, largest first, signs kept.
        spectrum: density of all eigenvalues.
        surface: loss along the two eigenvectors.
        descent: loss along the direction of least curvature; None where no negative curvature was found.
        warnings: what the user should know; the first says so where the model has not converged.
        seed: of every draw.
        commit: of this project's code; `version` its release; `date` of the run.
    """

    document_schema: str = Field(default=SCHEMA, alias="schema")
    model: str
    model_sha256: str
    data: str
    data_sha256: str
    num_samples: int
    layer: int | None
    num_parameters: int
    loss_unit: str
    loss: float
    gradient_norm: float
    eigenvalues: tuple[float, float]
    spectrum: Spectrum
    surface: Surface
    descent: Descent | None
    warnings: tuple[str, ...]
    seed: int
    commit: str
    version: str
    date: str

    @property
    def trace(self) -> tuple[float, float]:
        """Trace of the Hessian and its standard error."""
        value, error = self.spectrum.moment(1)
        return value * self.num_parameters, error * self.num_parameters


def write_diagnosis(found: Diagnosis, path: str | Path) -> None:
    """Write `diagnosis.json`, whole or not at all."""
    write_text(path, found.model_dump_json(by_alias=True, indent=1).replace("\n    ", "").replace("\n   ", " ") + "\n")


def read_diagnosis(path: str | Path) -> Diagnosis:
    """Read `diagnosis.json`.

    Raises:
        InputFileError: missing, malformed, or of another kind.
    """
    return read_document(path, Diagnosis, SCHEMA)


def _mean(rows: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean over the first axis and its standard error."""
    return rows.mean(0), rows.std(0, ddof=1) / len(rows) ** 0.5
