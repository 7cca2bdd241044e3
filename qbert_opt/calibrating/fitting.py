"""What whole models add to the sum of their kernels, fitted on small synthetic models.

A kernel timed alone finds its inputs in the nearest cache and its caller's code warm; inside a model neither holds.
So whole inferences of a few synthetic encoders are timed too, and

    time = scale × kernels + launch × operations + start + streamed bytes / stream

is fitted to them with non-negative terms and least squared relative error. Streamed are the weights of a model that
the near cache does not hold, and activations of operations that it does not hold.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.optimize import lsq_linear

from hwmodels.device import Device
from hwmodels.simulate import CostReport, simulate

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
class Work:
    """What a simulated inference consists of: seconds of kernels timed alone, operations, bytes from far memory."""

    kernels_s: float
    operations: int
    streamed_bytes: int

    @property
    def terms(self) -> list[float]:
        """What the four terms of a `Correction` are multiplied with."""
        return [self.kernels_s, self.operations, 1.0, self.streamed_bytes]


@dataclass(frozen=True, slots=True)
class Correction:
    """What turns a sum of kernels into the time of a model; `stream_s_per_byte` is 1 / the speed of far memory."""

    scale: float = 1.0
    launch_s: float = 0.0
    start_s: float = 0.0
    stream_s_per_byte: float = 0.0

    def seconds(self, work: Work) -> float:
        """Return the time of an inference."""
        terms = (self.scale, self.launch_s, self.start_s, self.stream_s_per_byte)
        return sum(term * amount for term, amount in zip(terms, work.terms, strict=True))


def simulated(device: Device, shape: Shape, seq_len: int, float_bits: int) -> CostReport:
    """Simulate one inference of a float model."""
    return simulate(model_graph(profile_of(shape), None, Workload(seq_len), float_bits=float_bits), device)


def work_of(device: Device, shape: Shape, seq_len: int, float_bits: int) -> Work:
    """Return what an inference consists of on a device that knows its kernels only."""
    report = simulated(device, shape, seq_len, float_bits)
    kernels_s = math.fsum(row.cost.compute_s + row.cost.launch_s for row in report.operations)
    return Work(kernels_s, len(report.operations), 0 if report.cached else report.dram_bytes)


def fit(work: Mapping[Cell, Work], measured_s: Mapping[Cell, float]) -> Correction:
    """Fit the four terms to the cells that were measured.

    Args:
        work: of at least these cells.
        measured_s: time of whole inferences.
    """
    times = np.array(list(measured_s.values()))
    rows = np.array([work[cell].terms for cell in measured_s]) / times[:, None]
    # columns of like size keep the search well conditioned; a kernel inside a model never takes less than half
    sizes = np.array([1.0, 1e-6, 1e-6, 1e-10])
    found = lsq_linear(rows * sizes, np.ones(len(times)), bounds=([0.5, 0.0, 0.0, 0.0], [np.inf] * 4)).x * sizes
    return Correction(*(float(term) for term in found))


def left_out(work: Mapping[Cell, Work], measured_s: Mapping[Cell, float]) -> dict[Cell, float]:
    """Return measured / predicted of every cell, predicted with its own model left out of the fit."""
    ratios: dict[Cell, float] = {}
    for shape in dict.fromkeys(shape for shape, _ in measured_s):
        terms = fit(work, {cell: time for cell, time in measured_s.items() if cell[0] != shape})
        ratios |= {cell: time / terms.seconds(work[cell]) for cell, time in measured_s.items() if cell[0] == shape}
    return ratios
