"""Measure this machine with one engine and describe it as a device.

All calls are timed in rounds, each call once per round, so that a temporary slowdown affects all of them equally.
"""

from __future__ import annotations

import datetime
import math
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from hwmodels import Device, MeasuredFormat, MeasuredMemory, Measurements, device_file, load_device

from ..errors import UsageError
from ..runtime.cpu_timing import LEAST_ROUNDS, Call, TimeTooShortError, Timing, time_calls
from ..runtime.progress import Progress, silent
from . import bandwidth, fitting, kernels
from .bench import Bench, Subject
from .board import machine as board
from .fitting import Correction
from .kernels import KernelTable, Key

TOTAL_PER_PREPARATION = 2.5  # shortest calibration / time to make its calls: 2.2 with torch, 1.8 with OpenVINO
FASTEST_BYTES_PER_S = 500e9  # used if the time of far memory is negligible next to that of the kernels


@dataclass(frozen=True, slots=True)
class Calibration:
    """A measured machine.

    Attributes:
        measurements: the measured figures.
        correction: coefficients from the sum of kernels to the time of whole models.
        ratios: measured / predicted latency of each synthetic model, predicted by a fit without models of its shape.
        stolen: share of the wall-clock time in which this process did not run.
        elapsed_s: wall-clock time of the calibration.
    """

    measurements: Measurements
    correction: Correction
    ratios: Mapping[Subject, float]
    stolen: float
    elapsed_s: float

    @property
    def text(self) -> str:
        """The device file."""
        return device_file(self.measurements)


def all_calls(bench: Bench, *, limit_s: float = math.inf) -> dict[Key, Call]:
    """Return all calls that a calibration times, in the order of a round.

    Args:
        bench: the engine.
        limit_s: wall-clock time that making the calls may take, in seconds.

    Raises:
        TimeTooShortError: making them takes longer.
    """
    started = time.monotonic()
    makers = dict(kernels.kernel_makers(bench))
    # all memory calls share one array, which is allocated here
    ready: dict[Key, Call] = {("ladder", size): call for size, call in board.ladder_calls().items()}
    makers |= {key: partial(ready.__getitem__, key) for key in ready}
    makers |= {("model", subject): partial(bench.model, subject) for subject in bench.subjects}
    calls: dict[Key, Call] = {}
    for key, make in makers.items():
        calls[key] = make()
        used_s = time.monotonic() - started
        if used_s > limit_s:
            raise TimeTooShortError(TOTAL_PER_PREPARATION * used_s * len(makers) / len(calls))
    return calls


def calibrate(bench: Bench, *, rounds: int = 15, limit_s: float = 150.0, on_step: Progress = silent) -> Calibration:
    """Time kernels, memories and small synthetic models, and fit the latency model.

    Args:
        bench: the engine.
        rounds: maximum number of timings per call.
        limit_s: wall-clock time in seconds, including preparation; it is exceeded by at most a tenth.
        on_step: called with rounds done, number of rounds, and the current step.

    Returns:
        The measured machine.

    Raises:
        UsageError: `limit_s` is too short for `LEAST_ROUNDS` timings of every call; the message says what is needed.
    """
    started, cpu_started = time.monotonic(), time.process_time()
    prepared_s = 0.0
    try:
        calls = all_calls(bench, limit_s=limit_s)
        prepared_s = time.monotonic() - started
        timings = time_calls(
            calls,
            rounds=rounds,
            limit_s=limit_s - prepared_s,
            strict=True,
            warm=True,
            on_step=lambda done, total: on_step(done, total, "rounds"),
        )
    except TimeTooShortError as error:
        needed_s = math.ceil(1.1 * (prepared_s + error.needed_s))
        raise UsageError(
            f"`limit_s` = {limit_s:g} s: too short on this machine, where preparation and {LEAST_ROUNDS} rounds of "
            f"timings take about {needed_s} s. Allow at least {needed_s}."
        ) from None
    elapsed_s, cpu_s = time.monotonic() - started, time.process_time() - cpu_started
    return assemble(bench, timings, elapsed_s=elapsed_s, stolen=max(0.0, 1 - cpu_s / elapsed_s))


def assemble(
    bench: Bench,
    timings: Mapping[Key, Timing],
    *,
    elapsed_s: float,
    stolen: float,
    machine: board.Machine | None = None,
    device_id: str = "host",
) -> Calibration:
    """Convert timings to a calibration: grids, memories, the correction, and its error on held-out models.

    Args:
        bench: the engine that was timed.
        timings: timings of all calls.
        elapsed_s: wall-clock time of the measurement, in seconds.
        stolen: share of `elapsed_s` in which the timing process did not run.
        machine: the machine that was timed; None is this one.
        device_id: id of the described device.
    """
    machine = machine or board.this_machine()
    table = kernels.kernel_table(timings, bench.grid)
    ladder = {int(str(key[1])): timing for key, timing in timings.items() if key[0] == "ladder"}
    memories = bandwidth.memories_of(ladder, machine)
    noise = statistics.median(timing.spread for timing in timings.values())
    described = partial(_measurements, bench, table, memories, noise=noise, name=machine.name, device_id=device_id)
    device = as_device(described(Correction()))
    measured_s = {subject: timings["model", subject].median_s for subject in bench.subjects}
    work = {subject: fitting.work_of(device, subject, bench.activation_bits) for subject in measured_s}
    correction = fitting.fit(work, measured_s)
    ratios = fitting.left_out(work, measured_s)
    final = described(correction)
    # without the most extreme ratio on either side, the interval contains nine of ten measurements
    lowest, *_, highest = sorted(ratios.values())[1:-1]
    return Calibration(replace(final, held_out=(lowest, highest)), correction, ratios, stolen, elapsed_s)


def as_device(measurements: Measurements) -> Device:
    """Return measurements as a device, by writing a device file and reading it back.

    Args:
        measurements: the measured figures.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder) / "measured.yaml"
        path.write_text(device_file(measurements), encoding="utf-8")
        return load_device(str(path))


def _measurements(
    bench: Bench,
    table: KernelTable,
    memories: tuple[MeasuredMemory, ...],
    correction: Correction,
    *,
    noise: float,
    name: str,
    device_id: str,
) -> Measurements:
    slowed = table.slower(correction.scale, correction.others)
    softmax, gather = slowed.elements["softmax"], slowed.elements["gather"]
    elements = dict(slowed.elements)
    # the start of an inference is attributed to gathers, because each inference begins with three table lookups
    elements["gather"] = replace(gather, launch_s=correction.launch_s + correction.start_s / 3)
    elements["softmax"] = replace(softmax, launch_s=(softmax.launch_s or 0.0) + correction.launch_s)
    elements["matmul"] = replace(elements["matmul"], launch_s=correction.launch_s)
    formats = tuple(
        MeasuredFormat(
            form.id,
            form.bits,
            form.axis,
            form.compute,
            slowed.products[form.kernel],
            group_sizes=form.group_sizes,
            loaded_bits=form.loaded_bits,
        )
        for form in bench.formats
    )
    # the second cache, or the only one, is private to a core; data that exceeds it streams at the fitted bandwidth
    near = memories[min(1, len(memories) - 2)]
    stream = 1 / max(correction.stream_s_per_byte, 1 / FASTEST_BYTES_PER_S)
    return Measurements(
        id=device_id,
        name=f"{name}, {bench.label}",
        cores=1,
        clock_hz=1e9,  # nominal: only work per second is measured
        activation_bits=bench.activation_bits,
        memories=(*memories[:-1], replace(memories[-1], read_bytes_per_s=stream)),
        path=(near.id, memories[-1].id),
        formats=formats,
        elements_per_s=elements,
        launch_s=correction.launch_s,
        noise=noise,
        engine=bench.engine,
        how=f"qbert-opt calibrate, {bench.label}, {datetime.date.today().isoformat()}",
    )
