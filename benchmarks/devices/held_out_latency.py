"""Does a calibration foretell models that it never saw? Torch on one thread, CPU time, on this machine.

    python -m benchmarks.devices.held_out_latency fp32 benchmarks/devices/held_out_latency_fp32.json [SECONDS]

Eight encoders from tiny to base times five lengths, none of which a calibration times, are timed in the same rounds as
what a calibration times, so that both see the same machine. Only the calibration's own readings make the device.
"""

import argparse
import datetime
import json
import statistics
import sys
from pathlib import Path

from scipy.stats import spearmanr

from qbert_opt.device_profiling import fitting
from qbert_opt.device_profiling.bench import Shape, Subject
from qbert_opt.device_profiling.benches import find_bench
from qbert_opt.device_profiling.board.machine import processor_name
from qbert_opt.device_profiling.calibrate import all_calls, as_device, assemble
from qbert_opt.runtime.cpu_timing import time_calls
from qbert_opt.runtime.provenance import code_commit

SHAPES = (
    Shape("tiny", 2, 128, 2, 512),
    Shape("mini", 4, 256, 4, 1024),
    Shape("small", 4, 512, 8, 2048),
    Shape("medium", 8, 512, 8, 2048),
    Shape("MiniLM-L6", 6, 384, 12, 1536),
    Shape("TinyBERT-4", 4, 312, 12, 1200),
    Shape("DistilBERT", 6, 768, 12, 3072),
    Shape("BERT-base", 12, 768, 12, 3072),
)
LENGTHS = (20, 48, 96, 144, 224)


def errors(predicted, measured):
    """Summary of predicted / measured - 1 over all cells."""
    off = [p / m - 1 for p, m in zip(predicted, measured, strict=True)]
    return {
        "mape_percent": 100 * statistics.mean(map(abs, off)),
        "within_10_percent": 100 * sum(abs(x) <= 0.1 for x in off) / len(off),
        "bias_percent": 100 * statistics.mean(off),
        "spearman": float(spearmanr(predicted, measured)[0]),
    }


def main(precision, out, seconds):
    bench = find_bench("torch", precision)
    calls = all_calls(bench)
    num_calibration = len(calls)
    for shape in SHAPES:
        for seq_len in LENGTHS:
            subject = Subject(shape, seq_len)
            calls["held out", subject] = bench.model(subject)
    timings = time_calls(
        calls, rounds=15, limit_s=seconds, warm=True, on_step=lambda done, _: print(f"round {done}", file=sys.stderr)
    )
    held_out = {key[1]: timing for key, timing in timings.items() if key[0] == "held out"}
    own = {key: timing for key, timing in timings.items() if key[0] != "held out"}
    found = assemble(bench, own, elapsed_s=1.0, stolen=0.0)
    device = as_device(found.measurements)
    measured = {cell: timing.median_s for cell, timing in held_out.items()}
    predicted = {cell: fitting.simulated(device, cell, bench.activation_bits).latency_s for cell in measured}
    # for information: one factor per model, learnt from the seven others
    corrected = {}
    for shape in SHAPES:
        others = [measured[c] / predicted[c] for c in measured if c.shape != shape]
        corrected |= {c: predicted[c] * statistics.median(others) for c in measured if c.shape == shape}
    result = {
        "command": f"python -m benchmarks.devices.held_out_latency {precision} OUT {seconds:g}",
        "commit": code_commit(),
        "date": datetime.date.today().isoformat(),
        "machine": processor_name(),
        "engine": bench.label,
        "clock": "CPU time of the process, one thread, medians over rounds that held everything",
        "rounds": len(next(iter(timings.values())).readings_s),
        "timed_by_calibration": num_calibration,
        "spread_of_readings_percent": 100 * found.measurements.noise,
        "spread_of_held_out_percent": 100 * statistics.median(t.spread for t in held_out.values()),
        "called_calibrated": found.measurements.is_calibrated,
        "interval": found.measurements.held_out,
        "correction": {name: getattr(found.correction, name) for name in found.correction.__slots__},
        "held_out": errors(list(predicted.values()), list(measured.values())),
        "with_one_factor_left_out": errors(list(corrected.values()), list(measured.values())),
        "cells": [
            {
                "model": cell.shape.name,
                "seq_len": cell.seq_len,
                "measured_ms": 1e3 * measured[cell],
                "predicted_ms": 1e3 * predicted[cell],
                "spread_percent": 100 * held_out[cell].spread,
            }
            for cell in measured
        ],
    }
    with Path(out).open("w") as file:
        json.dump(result, file, indent=1)
        file.write("\n")
    print(json.dumps({key: value for key, value in result.items() if key != "cells"}, indent=1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("precision")
    parser.add_argument("out")
    parser.add_argument("seconds", nargs="?", type=float, default=180.0)
    main(**vars(parser.parse_args()))
