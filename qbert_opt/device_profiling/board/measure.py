"""Time the models of this folder on one thread, and write the times for `qbert-opt calibrate --from-bundle`.

Run it on the board, with nothing else running there:  python3 measure.py
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from ...runtime.cpu_timing import LEAST_ROUNDS, Call, time_calls
from .machine import ladder_calls, this_machine

RESULT_SCHEMA = "qbert-opt/board-result@1"
TILE = 2**20  # number of values drawn; larger files repeat them


class MeasuringError(Exception):
    """A mistake that prevents the measurement; its message is one line."""


def checked_manifest(folder: Path) -> dict[str, Any]:
    """Check that the models of a bundle match their hashes, and return its manifest.

    Args:
        folder: folder of the bundle.

    Raises:
        MeasuringError: a file is missing or has changed.
    """
    try:
        manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        for name, sha256 in manifest["models"].items():
            if hashlib.sha256((folder / "models" / name).read_bytes()).hexdigest() != sha256:
                raise MeasuringError(f"models/{name}: has changed since the bundle was written. Copy the bundle again.")
    except (OSError, ValueError, KeyError) as error:
        raise MeasuringError(f"{folder}: is not a complete bundle ({error}). Copy the bundle again.") from None
    return manifest


def write_weights(folder: Path, sizes: dict[str, int]) -> None:
    """Write the weight files that all models share, unless they exist.

    Args:
        folder: folder of the models.
        sizes: bytes of each file, by the type of its values.
    """
    draw = np.random.default_rng(0)
    values = {
        "float32": draw.standard_normal(TILE, dtype=np.float32) * np.float32(0.02),
        "float16": draw.uniform(0.005, 0.02, TILE).astype(np.float16),
        "uint8": draw.integers(0, 256, TILE, dtype=np.uint8),
    }
    for kind, size in sizes.items():
        path = folder / f"{kind}.bin"
        if path.exists() and path.stat().st_size == size:
            continue
        tile = values[kind].tobytes()
        with path.open("wb") as file:
            for start in range(0, size, len(tile)):
                file.write(tile[: size - start])


def inputs_of(specs: dict[str, Any]) -> dict[str, Any]:
    """Return input arrays as the manifest describes them for a call.

    Args:
        specs: by input name: type, shape, and for integers the smallest and largest value.
    """
    draw = np.random.default_rng(0)
    arrays = {}
    for name, spec in specs.items():
        if spec["type"] == "float32":
            arrays[name] = draw.standard_normal(spec["shape"], dtype=np.float32)
        else:
            arrays[name] = draw.integers(spec["low"], spec["high"] + 1, spec["shape"], dtype=np.int64)
    return arrays


def all_calls(folder: Path, manifest: dict[str, Any]) -> dict[int, Call]:
    """Return the calls to time, by their position in the manifest.

    Args:
        folder: folder of the bundle.
        manifest: manifest of the bundle.
    """
    import onnxruntime

    ladder = ladder_calls(max([call["bytes"] for call in manifest["calls"] if "bytes" in call]))
    sessions = {}
    calls: dict[int, Call] = {}
    for number, call in enumerate(manifest["calls"]):
        if "bytes" in call:
            calls[number] = ladder[call["bytes"]]
            continue
        model = call["model"]
        if model not in sessions:
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 3
            options.enable_cpu_mem_arena = False  # as in the engine: it would keep memory that only folding needs
            options.intra_op_num_threads = options.inter_op_num_threads = 1
            path = str(folder / "models" / model)
            sessions[model] = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        calls[number] = _run(sessions[model], inputs_of(call["inputs"]))
    return calls


def _run(session: Any, inputs: dict[str, Any]) -> Call:
    return lambda: session.run(None, inputs)


def measured(folder: Path, rounds: int, seconds: float) -> dict[str, Any]:
    """Return the times of every call and the machine as the system describes it.

    Args:
        folder: folder of the bundle.
        rounds: maximum number of timings per call.
        seconds: wall-clock time after which no new round begins; three rounds are always done.

    Raises:
        MeasuringError: the bundle is not complete, or onnxruntime is not installed.
    """
    started, cpu_started = time.monotonic(), time.process_time()
    manifest = checked_manifest(folder)
    try:
        import onnxruntime
    except ImportError as error:
        raise MeasuringError(f"onnxruntime cannot be imported ({error}). Install it: pip install onnxruntime") from None
    print(f"writing weights, opening {len(manifest['models'])} models", file=sys.stderr)
    write_weights(folder / "models", manifest["weights"])
    calls = all_calls(folder, manifest)
    print(f"timing {len(calls)} calls", file=sys.stderr)
    timings = time_calls(
        calls,
        rounds=rounds,
        limit_s=max(1.0, seconds - (time.monotonic() - started)),
        warm=True,
        on_step=lambda done, total: print(f"round {done} of at most {total}", file=sys.stderr),
    )
    elapsed_s, cpu_s = time.monotonic() - started, time.process_time() - cpu_started
    machine = this_machine()
    return {
        "schema": RESULT_SCHEMA,
        "bundle": manifest["bundle"],
        "precision": manifest["precision"],
        "engine_label": f"onnxruntime {onnxruntime.__version__}",
        "date": time.strftime("%Y-%m-%d"),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "machine": {
            "name": machine.name,
            "caches": [{"level": cache.level, "size_bytes": cache.size_bytes} for cache in machine.caches],
            "memory_bytes": machine.memory_bytes,
        },
        "elapsed_s": elapsed_s,
        "stolen": min(1.0, max(0.0, 1 - cpu_s / elapsed_s)),
        "readings_s": [list(timings[number].readings_s) for number in range(len(calls))],
    }


def main() -> int:
    """Measure and write the result; the exit code is 0, or 1 with one line on stderr."""
    parser = argparse.ArgumentParser(description="Time the models of this bundle.")
    parser.add_argument("-o", "--output", default="result.json", help="file to write (default: result.json)")
    parser.add_argument("--rounds", type=int, default=15, help="maximum number of timings per call (default: 15)")
    parser.add_argument("--seconds", type=float, default=600.0, help="time to spend; three rounds are always done")
    given = parser.parse_args()
    try:
        if given.rounds < LEAST_ROUNDS:
            raise MeasuringError(f"rounds {given.rounds}: give {LEAST_ROUNDS} or more.")
        found = measured(Path(__file__).resolve().parent, given.rounds, given.seconds)
        temporary = f"{given.output}.part"
        Path(temporary).write_text(json.dumps(found, allow_nan=False) + "\n", encoding="utf-8")
        Path(temporary).replace(given.output)
    except (MeasuringError, OSError) as error:
        print(f"measure.py: {error}", file=sys.stderr)
        return 1
    print(f"wrote {given.output}; on your computer: qbert-opt calibrate --from-bundle {given.output} -o board.yaml")
    return 0


if __name__ == "__main__":
    sys.exit(main())
