"""What whole models add to the sum of their kernels, fitted on small synthetic models.

A kernel timed alone finds its inputs in the nearest cache and its caller's code warm; inside a model neither holds.
So whole inferences of a few synthetic encoders are timed too, and

    time = scale × kernels + launch × operations + start

is fitted to them with non-negative terms and least squared relative error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.optimize import lsq_linear

from hwmodels.device import Device
from hwmodels.simulate import simulate

from ..operations import Workload, model_graph
from .bench import Shape
from .shapes import profile_of

SYNTHETIC = (
    Shape("narrow", 3, 96, 3, 384),
    Shape("slim", 2, 320, 5, 1280),
    Shape("middle", 4, 448, 7, 1792),
    Shape("wide", 2, 640, 10, 2560),
    Shape("broad", 2, 960, 15, 3840),
)
SYNTHETIC_LENGTHS = (16, 64, 160, 256)
Cell = tuple[Shape, int]


@dataclass(frozen=True, slots=True)
class Correction:
    """What turns a sum of kernels into the time of a model."""

    scale: float
    launch_s: float
    start_s: float


def predicted_s(device: Device, shape: Shape, seq_len: int, float_bits: int) -> float:
    """Return the simulated time of one inference of a float model."""
    graph = model_graph(profile_of(shape), None, Workload(seq_len), float_bits=float_bits)
    return simulate(graph, device).latency_s


def num_operations(shape: Shape) -> int:
    """Return the operations of one inference."""
    return len(model_graph(profile_of(shape), None, Workload(8)))


def fit(kernels_s: Mapping[Cell, float], measured_s: Mapping[Cell, float]) -> Correction:
    """Fit the three terms.

    Args:
        kernels_s: predicted without any of them.
        measured_s: of the same cells.
    """
    rows = [[kernels_s[cell], num_operations(cell[0]), 1.0] for cell in measured_s]
    times = np.array(list(measured_s.values()))
    # columns of like size keep the search well conditioned; a kernel inside a model never takes less than half
    units = np.array([1.0, 1e-6, 1e-6])
    found = lsq_linear(
        np.array(rows) * units / times[:, None], np.ones(len(times)), bounds=([0.5, 0.0, 0.0], [np.inf] * 3)
    )
    scale, launch, start = found.x * units
    return Correction(float(scale), float(launch), float(start))


def left_out(kernels_s: Mapping[Cell, float], measured_s: Mapping[Cell, float]) -> dict[Cell, float]:
    """Return measured / predicted of every cell, predicted with its own model left out of the fit."""
    ratios: dict[Cell, float] = {}
    for shape in dict.fromkeys(shape for shape, _ in measured_s):
        others = {cell: time for cell, time in measured_s.items() if cell[0] != shape}
        terms = fit(kernels_s, others)
        for cell in (cell for cell in measured_s if cell[0] == shape):
            predicted = terms.scale * kernels_s[cell] + terms.launch_s * num_operations(shape) + terms.start_s
            ratios[cell] = measured_s[cell] / predicted
    return ratios
