"""A fresh process that opens and runs one model and reports time and memory.

Run as `python -m qbert_opt.engines.child_process`. Reads a JSON request from stdin and writes one JSON line to stdout.
It imports only what serving needs, since memory and load time would mean nothing in a process that has imported torch
for another purpose.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from .session import engine

WARM_UP = 3


def main() -> None:
    """Answer one request."""
    request = json.loads(sys.stdin.read())
    inputs = load_file(request["inputs"])
    module = engine(request["engine"])
    floor = private_bytes()
    before = time.perf_counter()
    session = module.open_model(Path(request["folder"]), request["threads"], request["activations"])
    load_s = time.perf_counter() - before
    for _ in range(WARM_UP):
        outputs = session.run(inputs)
    cpu, wall = [], []
    for _ in range(request["runs"]):
        started, clock = time.process_time(), time.perf_counter()
        session.run(inputs)
        cpu.append(time.process_time() - started)
        wall.append(time.perf_counter() - clock)
    answer = {
        "engine_label": module.label(),
        "load_s": load_s,
        "cpu_s": cpu,
        "wall_s": wall,
        "median_cpu_s": statistics.median(cpu),
        "floor_bytes": floor,
        "private_bytes": private_bytes(),
        "peak_bytes": peak_bytes(),
        "finite": all(bool(np.isfinite(array).all()) and array.size > 0 for array in outputs.values()),
    }
    print(json.dumps(answer))


def private_bytes() -> int | None:
    """Return this process's private memory (anonymous pages) in bytes; None if the system does not report it."""
    path = Path("/proc/self/smaps_rollup")
    if not path.exists():
        return None
    line = re.search(r"^Anonymous:\s+(\d+) kB", path.read_text(), re.MULTILINE)
    return None if line is None else int(line[1]) * 1024


def peak_bytes() -> int | None:
    """Return the peak resident size in bytes, mapped files included; None if the system does not report it."""
    path = Path("/proc/self/status")
    line = re.search(r"^VmHWM:\s+(\d+) kB", path.read_text(), re.MULTILINE) if path.exists() else None
    return None if line is None else int(line[1]) * 1024


if __name__ == "__main__":
    main()
