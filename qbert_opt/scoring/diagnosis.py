"""The diagnosis of a model from its true Hessian: spectral density, and loss along the top two eigenvectors."""

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
    """Quadratures of the spectral density, one for each random vector (stochastic Lanczos quadrature).

    Attributes:
        nodes: approximate eigenvalues, ascending, `[vectors][steps]`.
        weights: share of all eigenvalues at each node, `[vectors][steps]`; the sum over a vector is 1.
    """

    nodes: tuple[tuple[float, ...], ...]
    weights: tuple[tuple[float, ...], ...]

    @model_validator(mode="after")
    def _consistent(self) -> Spectrum:
        if len(self.nodes) < 2 or [len(n) for n in self.nodes] != [len(w) for w in self.weights]:
            raise ValueError("nodes and weights must have the same shape, with at least two vectors")
        return self

    @property
    def least(self) -> float:
        """An upper bound on the smallest eigenvalue: a Rayleigh quotient, exact up to rounding."""
        return min(node for row in self.nodes for node in row)

    @property
    def negative_share(self) -> float:
        """Share of negative eigenvalues in the sum of squares: 0 at a minimum, ½ if the spectrum is symmetric."""
        return self.moment(2, only_negative=True)[0] / max(self.moment(2)[0], 1e-300)

    def density(self, at: NDArray[np.float64], width: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the density of eigenvalues, smoothed by a Gaussian, and its standard error over the vectors.

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
        """Return a moment of the spectral density and its standard error over the random vectors.

        Args:
            power: k of the mean of λ^k.
            only_negative: set positive λ to 0.
        """
        rows = []
        for nodes, weights in zip(self.nodes, self.weights, strict=True):
            values = np.minimum(nodes, 0.0) if only_negative else np.array(nodes)
            rows.append(float(values**power @ np.array(weights)))
        value, error = _mean(np.array(rows))
        return float(value), float(error)


class Surface(_Finite):
    """Loss when the model is moved along its top two eigenvectors.

    Attributes:
        first: distances along the unit eigenvector of the top eigenvalue, ascending, with 0 among them.
        second: distances along that of the second eigenvalue.
        loss: loss `[first][second]`.
        slopes: directional derivatives of the loss at the model itself.
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
    """Loss when the model is moved along the direction of most negative curvature that was found.

    Attributes:
        curvature: vᵀ H v of that unit direction, negative.
        steps: distances, ascending, with 0 among them.
        loss: loss at each distance.
    """

    curvature: float
    steps: tuple[float, ...]
    loss: tuple[float, ...]

    @property
    def fall(self) -> float:
        """Largest decrease of the loss along the direction."""
        return self.loss[len(self.loss) // 2] - min(self.loss)


class Diagnosis(_Finite):
    """Diagnosis of the Hessian of the training loss with respect to a model's searched matrices.

    Attributes:
        document_schema: kind and version of the document.
        model: name of the model.
        model_sha256: hash of its weights.
        data: name of the text.
        data_sha256: its hash.
        num_samples: number of texts for the loss.
        layer: the encoder layer that was diagnosed, counting from 1; None for all layers together.
        num_parameters: number of weights, the side of the Hessian.
        loss_unit: unit of all losses.
        loss: loss of the model itself on this text.
        gradient_norm: norm of the gradient with respect to these weights.
        eigenvalues: the two of largest magnitude, largest first, with signs.
        spectrum: density of all eigenvalues.
        surface: loss along the top two eigenvectors.
        descent: loss along the direction of most negative curvature; None if no negative curvature was found.
        warnings: for the user, for example that the model has not converged.
        seed: of all random draws.
        commit: of qbert-opt's code.
        version: of qbert-opt.
        date: of the run.
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

    @property
    def least_eigenvalue(self) -> float:
        """An upper bound on the smallest eigenvalue: the least of the spectral density's and the top two."""
        return min(self.spectrum.least, *self.eigenvalues)


def write_diagnosis(diagnosis: Diagnosis, path: str | Path) -> None:
    """Write `diagnosis.json`, completely or not at all.

    Args:
        diagnosis: what to write.
        path: of the file.
    """
    write_text(
        path, diagnosis.model_dump_json(by_alias=True, indent=1).replace("\n    ", "").replace("\n   ", " ") + "\n"
    )


def read_diagnosis(path: str | Path) -> Diagnosis:
    """Read `diagnosis.json`.

    Args:
        path: of the file.

    Raises:
        InputFileError: missing, malformed, or of another kind.
    """
    return read_document(path, Diagnosis, SCHEMA)


def _mean(rows: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean over the first axis and its standard error."""
    return rows.mean(0), rows.std(0, ddof=1) / len(rows) ** 0.5
