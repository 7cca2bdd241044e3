"""The result of a calibration, as lines of text."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from hwmodels import MISSED, QUIET, format_bandwidth, format_bytes

if TYPE_CHECKING:
    from ..device_profiling.calibrate import Calibration


def calibration_lines(machine: Calibration, out: str) -> list[str]:
    """Return what was measured, how noisy the machine was, and whether the file may be called calibrated.

    Args:
        machine: the calibration.
        out: path of the device file.
    """
    measured = machine.measurements
    errors = [abs(1 / ratio - 1) for ratio in machine.ratios.values()]
    within = sum(error <= 0.1 for error in errors)
    lowest, highest = measured.held_out or (0.0, 0.0)
    levels = [
        f"{memory.id} {format_bytes(memory.size_bytes * memory.usable)} at {format_bandwidth(memory.read_bytes_per_s)}"
        for memory in measured.memories
    ]
    lines = [
        f"{out}: {measured.name}",
        f"  products   {2e-9 * max(form.most_macs_per_s for form in measured.formats):.0f} GOP/s at best",
        f"  memories   {', '.join(levels)}",
        f"  models     {machine.correction.scale:.2f} x their products + {machine.correction.others:.2f} x the rest + "
        f"{1e6 * machine.correction.launch_s:.1f} us an operation + "
        f"{1e6 * machine.correction.start_s:.0f} us to start; "
        f"weights beyond the near cache stream at {format_bandwidth(measured.memories[-1].read_bytes_per_s)}",
        f"  check      synthetic models left out of the fit: {100 * statistics.mean(errors):.1f} % mean error, "
        f"{within} of {len(errors)} within 10 %; measured / predicted {lowest:.2f} to {highest:.2f}",
        f"  machine    readings spread by {100 * measured.noise:.1f} %; {100 * machine.stolen:.0f} % of "
        f"{machine.elapsed_s:.0f} s went to other processes",
    ]
    if measured.is_calibrated:
        return [*lines, "  calibrated: latency on this device may be promised within that interval"]
    why = (
        f"readings spread by more than {100 * QUIET:.0f} %"
        if measured.noise > QUIET
        else f"predictions of held-out models are off by more than a factor of {MISSED}"
    )
    return [*lines, f"  NOT calibrated ({why}): the file says partly-measured; run again on a quiet machine"]
