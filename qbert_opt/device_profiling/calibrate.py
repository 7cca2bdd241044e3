"""Measure this machine under one engine and describe it as a device.

Everything is timed in rounds, each call once a round, so that a slow minute of the machine falls on all calls alike.
"""

from __future__ import annotations

import datetime
import platform
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from hwmodels import Device, MeasuredFormat, MeasuredMemory, Measurements, device_file, load_device

from ..runtime.cpu_timing import Call, Timing, time_calls
from ..runtime.progress import Progress, silent
from . import bandwidth, fitting, kernels
from .bench import Bench, Subject
from .fitting import Correction
from .kernels import KernelTable, Key

FASTEST_BYTES_PER_S = 500e9  # stands for far memory whose time drowns in that of the kernels


@dataclass(frozen=True, slots=True)
class Calibration:
    """A measured machine.

    Attributes:
        measurements: what was found.
        correction: what whole models add to the sum of kernels.
        ratios: measured / predicted of the synthetic models, each left out of the fit that predicts it.
        stolen: share of the wall-clock time in which this process did not run.
        elapsed_s: wall-clock time that it took.
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


def all_calls(bench: Bench) -> dict[Key, Call]:
    """Return everything that a calibration times, in the order of a round."""
    calls: dict[Key, Call] = dict(kernels.kernel_calls(bench))
    calls |= {("ladder", size): call for size, call in bandwidth.ladder_calls().items()}
    calls |= {("model", subject): bench.model(subject) for subject in bench.subjects}
    return calls


def calibrate(bench: Bench, *, rounds: int = 15, limit_s: float = 150.0, on_step: Progress = silent) -> Calibration:
    """Time kernels, memories and small synthetic models, and fit what one says about the other.

    Args:
        bench: the engine.
        rounds: readings of each call, at most.
        limit_s: wall-clock time, that of making the calls included, after which no further round begins.
        on_step: told about rounds done, rounds in all and what goes on.
    """
    started, cpu_started = time.monotonic(), time.process_time()
    calls = all_calls(bench)
    left_s = limit_s - (time.monotonic() - started)
    timings = time_calls(calls, rounds=rounds, limit_s=left_s, warm=True, on_step=lambda d, n: on_step(d, n, "rounds"))
    elapsed_s, cpu_s = time.monotonic() - started, time.process_time() - cpu_started
    return assemble(bench, timings, elapsed_s=elapsed_s, stolen=max(0.0, 1 - cpu_s / elapsed_s))


def assemble(bench: Bench, timings: Mapping[Key, Timing], *, elapsed_s: float, stolen: float) -> Calibration:
    """Turn readings into a description: grids, memories, the correction, and what models left out of it say."""
    table = kernels.kernel_table(timings, bench.grid)
    ladder = {int(str(key[1])): timing for key, timing in timings.items() if key[0] == "ladder"}
    memories = bandwidth.memories_of(ladder)
    noise = statistics.median(timing.spread for timing in timings.values())
    device = as_device(_measurements(bench, table, memories, Correction(), noise))
    measured_s = {subject: timings["model", subject].median_s for subject in bench.subjects}
    work = {subject: fitting.work_of(device, subject, bench.activation_bits) for subject in measured_s}
    correction = fitting.fit(work, measured_s)
    ratios = fitting.left_out(work, measured_s)
    final = _measurements(bench, table, memories, correction, noise)
    # the interval leaves out the most extreme one on either side: it is where nine of ten measurements lie
    lowest, *_, highest = sorted(ratios.values())[1:-1]
    return Calibration(replace(final, held_out=(lowest, highest)), correction, ratios, stolen, elapsed_s)


def as_device(measurements: Measurements) -> Device:
    """Read measurements back as the device that their file describes."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "measured.yaml"
        path.write_text(device_file(measurements), encoding="utf-8")
        return load_device(str(path))


def _measurements(
    bench: Bench,
    table: KernelTable,
    memories: tuple[MeasuredMemory, ...],
    correction: Correction,
    noise: float,
) -> Measurements:
    slowed = table.slower(correction.scale, correction.others)
    softmax, gather = slowed.elements["softmax"], slowed.elements["gather"]
    elements = dict(slowed.elements)
    # the fixed part of an inference is its start: three tables are read at the beginning of every one
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
    # of the caches the second, or the only one, is a core's own: what exceeds it streams, at the speed found in models
    near = memories[min(1, len(memories) - 2)]
    stream = 1 / max(correction.stream_s_per_byte, 1 / FASTEST_BYTES_PER_S)
    return Measurements(
        id="host",
        name=f"{processor_name()}, {bench.label}",
        cores=1,
        clock_hz=1e9,  # nominal: what is measured is work per second, and a clock is not
        activation_bits=bench.activation_bits,
        memories=(*memories[:-1], replace(memories[-1], read_bytes_per_s=stream)),
        path=(near.id, memories[-1].id),
        formats=formats,
        elements_per_s=elements,
        launch_s=correction.launch_s,
        noise=noise,
        how=f"qbert-opt calibrate, {bench.label}, {datetime.date.today().isoformat()}",
    )


def processor_name() -> str:
    """Return the processor's name as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()[:100]
    except OSError:
        pass
    return platform.processor() or platform.machine() or "this machine"
