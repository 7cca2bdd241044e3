"""Does a calibration of an engine foretell plans and shapes that it never saw? One thread, CPU time, on this machine.

    python -m benchmarks.devices.held_out_plans openvino benchmarks/devices/held_out_plans_openvino.json [SECONDS]

Eight plans (floats, int8, uniform ones with slow groups, mixed 2, 3, 4 and 8 bits) of three encoders at three lengths
are timed in the same rounds as what a calibration times, so that both see the same machine. Only the calibration's own
readings make the device. The regret is what the plan that the simulator calls fastest loses to the fastest measured.
"""

import argparse
import datetime
import json
import random
import statistics
import sys
from itertools import combinations, pairwise
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
    Shape("MiniLM-L6", 6, 384, 12, 1536, 5000, 256),
    Shape("small", 4, 512, 8, 2048, 5000, 256),
    Shape("a third of BERT-base", 4, 768, 12, 3072, 5000, 256),
)
LENGTHS = (24, 96, 176)
UNIFORM = {
    "fp32": (),
    "8bit/rows:each": ("8bit/rows:each/rtn",),
    "4bit/columns:64": ("4bit/columns:64/rtn",),
    "2bit/columns:32": ("2bit/columns:32/rtn",),
    "8bit/columns:16": ("8bit/columns:16/rtn",),
}
MIXED = 3


def plans(shape):
    """Name -> choices of every matrix."""
    groupings = ("rows:each", "columns:32", "columns:64", "columns:128")
    found = dict(UNIFORM)
    for seed in range(MIXED):
        draw = random.Random(f"{shape.name} {seed}")
        names = [f"{draw.choice((2, 3, 4, 8))}bit/{draw.choice(groupings)}/rtn" for _ in range(6 * shape.layers)]
        found[f"mixed {seed}"] = tuple(names)
    return found


def subjects():
    """(shape, length, name of the plan) -> what is timed."""
    return {
        (shape, seq_len, name): Subject(shape, seq_len, choices)
        for shape in SHAPES
        for name, choices in plans(shape).items()
        for seq_len in LENGTHS
    }


def merged(measured, predicted, spread):
    """Let plans share a rank whose measured times, in order, lie closer than three times the spread."""
    order = sorted(measured, key=measured.get)
    groups = [[order[0]]]
    for before, name in pairwise(order):
        if measured[name] <= measured[before] * (1 + 3 * spread):
            groups[-1].append(name)
        else:
            groups.append([name])
    times = [statistics.mean(predicted[name] for name in group) for group in groups]
    spread_out = [(rank, times[rank]) for rank, group in enumerate(groups) for _ in group]
    return zip(*spread_out, strict=True)


def summary(measured, predicted, spread):
    """Errors over all cells; ranking and regret within each shape and length."""
    off = {cell: predicted[cell] / measured[cell] - 1 for cell in measured}
    correlations, right, pairs, regrets, random_regrets, spans = [], 0, 0, [], [], []
    for place in dict.fromkeys(cell[:2] for cell in measured):
        m = {cell[2]: measured[cell] for cell in measured if cell[:2] == place}
        p = {name: predicted[(*place, name)] for name in m}
        correlations.append(float(spearmanr(*merged(m, p, spread))[0]))
        for a, b in combinations(m, 2):
            if abs(m[a] - m[b]) > 3 * spread * min(m[a], m[b]):
                pairs += 1
                right += (m[a] < m[b]) == (p[a] < p[b])
        best = min(m.values())
        regrets.append(m[min(p, key=p.get)] / best - 1)
        random_regrets.append(statistics.mean(m.values()) / best - 1)
        spans.append(max(m.values()) / best)
    return {
        "cells": len(off),
        "mape_percent": 100 * statistics.mean(map(abs, off.values())),
        "within_15_percent": 100 * sum(abs(x) <= 0.15 for x in off.values()) / len(off),
        "bias_percent": 100 * statistics.mean(off.values()),
        "spearman_all": float(spearmanr(list(measured.values()), [predicted[c] for c in measured])[0]),
        "spearman_of_plans_mean": statistics.mean(correlations),
        "spearman_of_plans_least": min(correlations),
        "pairs_beyond_the_spread": pairs,
        "pairs_ordered_right_percent": 100 * right / pairs,
        "regret_percent_mean": 100 * statistics.mean(regrets),
        "regret_percent_most": 100 * max(regrets),
        "regret_of_a_random_plan_percent_mean": 100 * statistics.mean(random_regrets),
        "slowest_to_fastest_plan": [min(spans), max(spans)],
    }


def assembled(bench, timings):
    """The device from the calibration's own readings, and measured and predicted seconds of the rest."""
    own = {key: timing for key, timing in timings.items() if key[0] != "held out"}
    found = assemble(bench, own, elapsed_s=1.0, stolen=0.0)
    device = as_device(found.measurements)
    measured = {key[1:]: timing.median_s for key, timing in timings.items() if key[0] == "held out"}
    made = subjects()
    predicted = {cell: fitting.simulated(device, made[cell], bench.activation_bits).latency_s for cell in measured}
    return found, measured, predicted


def main(engine, out, seconds):
    bench = find_bench(engine, None)
    calls = all_calls(bench)
    num_calibration = len(calls)
    calls |= {("held out", *cell): bench.model(subject) for cell, subject in subjects().items()}
    timings = time_calls(
        calls, rounds=15, limit_s=seconds, warm=True, on_step=lambda done, _: print(f"round {done}", file=sys.stderr)
    )
    found, measured, predicted = assembled(bench, timings)
    spread = statistics.median(timing.spread for key, timing in timings.items() if key[0] == "held out")
    result = {
        "command": f"python -m benchmarks.devices.held_out_plans {engine} OUT {seconds:g}",
        "commit": code_commit(),
        "date": datetime.date.today().isoformat(),
        "machine": processor_name(),
        "engine": bench.label,
        "clock": "CPU time of the process, one thread, medians over rounds that held everything",
        "rounds": len(next(iter(timings.values())).readings_s),
        "timed_by_calibration": num_calibration,
        "spread_of_readings_percent": 100 * found.measurements.noise,
        "spread_of_held_out_percent": 100 * spread,
        "called_calibrated": found.measurements.is_calibrated,
        "correction": {name: getattr(found.correction, name) for name in found.correction.__slots__},
        "held_out": summary(measured, predicted, spread),
        "cells": [
            {
                "model": shape.name,
                "seq_len": seq_len,
                "plan": name,
                "measured_ms": round(1e3 * measured[shape, seq_len, name], 3),
                "predicted_ms": round(1e3 * predicted[shape, seq_len, name], 3),
            }
            for shape, seq_len, name in measured
        ],
    }
    with Path(out).open("w") as file:
        json.dump(result, file, indent=1)
        file.write("\n")
    print(json.dumps({key: value for key, value in result.items() if key != "cells"}, indent=1))
    return timings


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine")
    parser.add_argument("out")
    parser.add_argument("seconds", nargs="?", type=float, default=120.0)
    main(**vars(parser.parse_args()))
