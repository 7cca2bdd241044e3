"""The correction from the sum of kernels to the latency of a whole model, fitted on small synthetic models.

A kernel that is timed alone finds its inputs in the nearest cache and its code warm. Inside a model neither is so, and
the engine may fuse it with another kernel. Whole inferences of a few synthetic encoders are therefore timed too, and

    time = scale × products + others × other kernels + launch × operations + start + streamed bytes / stream

is fitted to them by least squares on the relative error, with non-negative coefficients. Weights of a model, and
activations of an operation, are streamed if they do not fit into the near cache.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import cycle

import numpy as np
from scipy.optimize import nnls

from hwmodels import CostReport, Device, simulate

from ..costs.operations import Storage, model_graph
from ..costs.workload import Workload
from ..spec.choices import choice
from .bench import Subject
from .shapes import profile_of


@dataclass(frozen=True, slots=True)
class Work:
    """The terms of a simulated inference.

    Attributes:
        products_s: seconds of matrix products with weights, timed alone.
        others_s: seconds of all other kernels, timed alone.
        operations: number of operations.
        streamed_bytes: bytes from far memory; 0 if the model stays in the cache.
    """

    products_s: float
    others_s: float
    operations: int
    streamed_bytes: int

    @property
    def terms(self) -> list[float]:
        """The amounts that the coefficients of a `Correction` are multiplied by."""
        return [self.products_s, self.others_s, self.operations, 1.0, self.streamed_bytes]


@dataclass(frozen=True, slots=True)
class Correction:
    """Coefficients from the terms of `Work` to the latency of a model.

    Attributes:
        scale: of `products_s`.
        others: of `others_s`.
        launch_s: seconds per operation.
        start_s: seconds per inference.
        stream_s_per_byte: 1 / bandwidth of far memory.
    """

    scale: float = 1.0
    others: float = 1.0
    launch_s: float = 0.0
    start_s: float = 0.0
    stream_s_per_byte: float = 0.0

    def seconds(self, work: Work) -> float:
        """Return the predicted time of an inference, in seconds.

        Args:
            work: terms of the inference.
        """
        terms = (self.scale, self.others, self.launch_s, self.start_s, self.stream_s_per_byte)
        return sum(term * amount for term, amount in zip(terms, work.terms, strict=True))


def simulated(device: Device, subject: Subject, float_bits: int) -> CostReport:
    """Simulate one inference of a synthetic model.

    Args:
        device: with measured kernels.
        subject: the synthetic model.
        float_bits: bits per weight if the model has no choices.
    """
    profile = profile_of(subject.shape)
    assigned = zip(profile.matrices, cycle(subject.choices), strict=False)
    storage = {matrix.module: Storage(choice(name)) for matrix, name in assigned} or None
    return simulate(model_graph(profile, storage, Workload(subject.seq_len), float_bits=float_bits), device)


def work_of(device: Device, subject: Subject, float_bits: int) -> Work:
    """Return the terms of an inference on a device without a correction.

    Args:
        device: with measured kernels.
        subject: the synthetic model.
        float_bits: bits per weight if the model has no choices.
    """
    report = simulated(device, subject, float_bits)
    times = [(row.cost.weight_bytes > 0 and row.cost.macs > 0, row.cost) for row in report.operations]
    products_s = math.fsum(cost.compute_s + cost.launch_s for is_product, cost in times if is_product)
    others_s = math.fsum(cost.compute_s + cost.launch_s for is_product, cost in times if not is_product)
    return Work(products_s, others_s, len(report.operations), 0 if report.cached else report.dram_bytes)


def fit(work: Mapping[Subject, Work], measured_s: Mapping[Subject, float]) -> Correction:
    """Fit the correction to measured models.

    Args:
        work: terms of at least the measured models.
        measured_s: time of whole inferences, in seconds.
    """
    times = np.array(list(measured_s.values()))
    rows = np.array([work[subject].terms for subject in measured_s]) / times[:, None]
    # scaled columns keep the problem well conditioned; a product inside a model takes at least half its time alone
    sizes = np.array([1.0, 1.0, 1e-6, 1e-6, 1e-10])
    minimum = np.array([0.5, 0.1, 0.0, 0.0, 0.0])
    above, _ = nnls(rows * sizes, 1.0 - rows @ (minimum * sizes))
    return Correction(*(float(term) for term in (minimum + above) * sizes))


def left_out(work: Mapping[Subject, Work], measured_s: Mapping[Subject, float]) -> dict[Subject, float]:
    """Return measured / predicted latency of every model, predicted by a fit without the models of its shape.

    Args:
        work: terms of at least the measured models.
        measured_s: time of whole inferences, in seconds.
    """
    ratios: dict[Subject, float] = {}
    for shape in dict.fromkeys(subject.shape for subject in measured_s):
        terms = fit(work, {subject: time_s for subject, time_s in measured_s.items() if subject.shape != shape})
        own = {subject: time_s for subject, time_s in measured_s.items() if subject.shape == shape}
        ratios |= {subject: time_s / terms.seconds(work[subject]) for subject, time_s in own.items()}
    return ratios
