"""The loss near a model: along two eigenvectors, and along the direction of most negative curvature."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..curvature.hessian import EigenPair
from ..runtime.resumable import Jobs
from .diagnosis import Descent, Surface

RISE_NATS = 1.0  # points extend to where the second-order change of the loss is this large
DESCENT, DESCENT_POINTS = "descent", 17


def line_keys(points: int) -> list[str]:
    """Return the names of a surface's jobs, one for each line of the grid.

    Args:
        points: number of points per direction.
    """
    return [f"line {index}" for index in range(points)]


class Walk:
    """Moves the weights, evaluates the loss there, and restores them."""

    def __init__(self, parameters: Sequence[nn.Parameter], loss: Callable[[], float], tell: Callable[[], None]) -> None:
        self.parameters, self._loss, self._tell = parameters, loss, tell

    def loss_at(self, distances: Sequence[float], pairs: Sequence[EigenPair]) -> float:
        """Return the loss at a point near the model, in nats; the weights are restored exactly afterwards.

        Args:
            distances: distance along each direction.
            pairs: the directions; their vectors have unit length.
        """
        step = sum(distance * pair.vector for distance, pair in zip(distances, pairs, strict=True))
        parts = torch.from_numpy(step).split([p.numel() for p in self.parameters])
        before = [p.detach().clone() for p in self.parameters]
        try:
            for parameter, part in zip(self.parameters, parts, strict=True):
                parameter.data.add_(part.view_as(parameter).to(parameter))
            with torch.no_grad():
                return self._loss()
        finally:
            for parameter, weight in zip(self.parameters, before, strict=True):
                parameter.data.copy_(weight)
            self._tell()

    def distances(self, curvature: float, points: int) -> tuple[float, ...]:
        """Return distances up to a second-order change of `RISE_NATS`, at most the norm of the weights.

        Args:
            curvature: vᵀ H v of the direction.
            points: number of distances, odd.

        Returns:
            Evenly spaced distances, ascending, with 0 in the middle.
        """
        length = float(sum(p.detach().double().square().sum() for p in self.parameters)) ** 0.5
        reach = min(length, (2 * RISE_NATS / max(abs(curvature), 1e-300)) ** 0.5)
        half = points // 2
        return tuple((reach * np.arange(-half, half + 1) / half).tolist())


def surface_of(
    jobs: Jobs, walk: Walk, pairs: tuple[EigenPair, EigenPair], gradient: NDArray[np.float64], points: int
) -> Surface:
    """Return the loss on a grid along two eigenvectors.

    Args:
        jobs: each line of the grid is a job, so that an interrupted run can resume.
        walk: evaluates the loss.
        pairs: the top two eigenpairs.
        gradient: gradient of the loss, float64 `[weights]`.
        points: number of points per direction, odd.
    """
    first, second = (walk.distances(pair.value, points) for pair in pairs)

    def line(key: str) -> list[float]:
        return [walk.loss_at((first[int(key.split()[1])], distance), pairs) for distance in second]

    return Surface(
        first=first,
        second=second,
        loss=tuple(tuple(row) for row in jobs.run(line_keys(points), line).values()),
        slopes=(float(pairs[0].vector @ gradient), float(pairs[1].vector @ gradient)),
    )


def descent_of(jobs: Jobs, walk: Walk, down: EigenPair | None) -> Descent | None:
    """Return the loss along the direction of most negative curvature; None without such a direction.

    Args:
        jobs: the line is a job, so that an interrupted run can resume.
        walk: evaluates the loss.
        down: the direction and its curvature; None if there is no negative curvature.
    """

    def line(_key: str) -> list[float]:
        if down is None:
            return []
        steps = walk.distances(down.value, DESCENT_POINTS)
        return [down.value, *steps, *(walk.loss_at((step,), (down,)) for step in steps)]

    row = jobs.run([DESCENT], line)[DESCENT]
    if not row:
        return None
    return Descent(curvature=row[0], steps=tuple(row[1 : 1 + DESCENT_POINTS]), loss=tuple(row[1 + DESCENT_POINTS :]))
