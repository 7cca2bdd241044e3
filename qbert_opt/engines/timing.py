"""Measured latency and memory of a model in an engine."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from ..errors import InputFileError
from .record import is_exported, read_record
from .session import Activations, engine

RUNS = 20
SECONDS = 600


@dataclass(frozen=True, slots=True)
class Timing:
    """Times of repeated runs in a fresh process, and the memory of that process.

    Attributes:
        engine_label: engine and version.
        threads: processor threads; None if the engine chose.
        shape: samples and tokens of one run.
        load_s: time to open the model, seconds.
        cpu_s: CPU time of each run, seconds; with one thread on an idle machine this is the latency.
        wall_s: wall-clock time of each run, seconds; includes the effect of other work on the machine.
        private_bytes: private memory of the process after the runs; None if the system does not report it.
        floor_bytes: the same before the model was opened: interpreter and imports.
        peak_bytes: peak resident size, mapped files included.
    """

    engine_label: str
    threads: int | None
    shape: tuple[int, int]
    load_s: float
    cpu_s: tuple[float, ...]
    wall_s: tuple[float, ...]
    private_bytes: int | None
    floor_bytes: int | None
    peak_bytes: int | None

    @property
    def median_cpu_s(self) -> float:
        """Median CPU time of a run, seconds."""
        return float(np.median(self.cpu_s))

    @property
    def median_wall_s(self) -> float:
        """Median wall-clock time of a run, seconds."""
        return float(np.median(self.wall_s))

    @property
    def spread(self) -> float:
        """Interquartile range of the CPU time divided by its median."""
        low, high = np.quantile(self.cpu_s, [0.25, 0.75])
        return float((high - low) / self.median_cpu_s)


def time_model(
    folder: str | Path,
    *,
    engine_name: str | None = None,
    seq_len: int = 128,
    batch_size: int = 1,
    threads: int | None = 1,
    runs: int = RUNS,
    inputs: Mapping[str, NDArray[Any]] | None = None,
) -> Timing:
    """Time a folder in a fresh process: an exported folder in its engine, a quantized or float one in torch.

    Args:
        folder: an exported, quantized or float model folder.
        engine_name: if given, the engine that the folder must be for.
        seq_len: tokens per sample, none of them padding.
        batch_size: samples per run.
        threads: processor threads.
        runs: number of timed runs, after a few warm-up runs.
        inputs: token arrays `[batch_size, seq_len]`; random ones by default.

    Returns:
        Times in seconds and memory in bytes.

    Raises:
        InputFileError: the folder is broken, or the process that opens it dies.
        UsageError: the engine is not installed.
    """
    activations: Activations = "float32"
    name = "torch"
    names: tuple[str, ...] = ("input_ids", "attention_mask", "token_type_ids")
    if is_exported(folder):
        record = read_record(folder)
        name, names, activations = record.engine, record.inputs, record.activations
    if engine_name not in (None, name):
        raise InputFileError(f"{folder}: runs in {name}, not in {engine_name}. Export it first.")
    engine(name)
    if inputs is None:
        inputs = made_up_inputs(names, batch_size, seq_len)
    return time_files(name, folder, inputs, threads=threads, runs=runs, activations=activations)


def time_files(
    name: str,
    folder: str | Path,
    inputs: Mapping[str, NDArray[Any]],
    *,
    threads: int | None,
    runs: int,
    activations: Activations,
) -> Timing:
    """Time an engine's files in a fresh process, without reading `engine.json`.

    Args:
        name: the engine.
        folder: holds the files.
        inputs: token arrays `[B, T]` by name.
        threads: processor threads; None lets the engine choose.
        runs: number of timed runs.
        activations: how matrix products round their inputs.

    Raises:
        InputFileError: the process dies or takes too long.
    """
    with tempfile.TemporaryDirectory(prefix="qbert-opt-") as scratch:
        path = Path(scratch) / "inputs.safetensors"
        save_file({key: np.ascontiguousarray(value) for key, value in inputs.items()}, path)
        request = {
            "engine": name, "folder": str(Path(folder).absolute()), "inputs": str(path), "threads": threads,
            "runs": runs, "activations": activations,
        }  # fmt: skip
        command = [sys.executable, "-m", "qbert_opt.engines.child_process"]
        try:
            done = subprocess.run(
                command, input=json.dumps(request), capture_output=True, text=True, timeout=SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            raise InputFileError(f"{folder}: did not run within {SECONDS} s in {name}.") from None
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise InputFileError(f"{folder}: {name} died while running it: {last[0]}")
    answer = json.loads(done.stdout.splitlines()[-1])
    if not answer["finite"]:
        raise InputFileError(f"{folder}: {name} returned no output, or NaN or infinite values. Use another engine.")
    shape = next(iter(inputs.values())).shape
    return Timing(
        answer["engine_label"], threads, (shape[0], shape[1]), answer["load_s"], tuple(answer["cpu_s"]),
        tuple(answer["wall_s"]), answer["private_bytes"], answer["floor_bytes"], answer["peak_bytes"],
    )  # fmt: skip


def median_cpu_in_turns(timed: Mapping[str, Callable[[], Timing]]) -> dict[str, float]:
    """Return the median CPU time of a run of each, seconds, to be compared with each other.

    All are timed in order and then in reverse, so that what else the machine does falls on all of them.

    Args:
        timed: times one of them; by name.
    """
    names = list(timed)
    times: dict[str, list[float]] = {name: [] for name in names}
    for name in (*names, *names[::-1]):
        times[name].extend(timed[name]().cpu_s)
    return {name: float(np.median(found)) for name, found in times.items()}


def made_up_inputs(names: tuple[str, ...], batch_size: int, seq_len: int) -> dict[str, NDArray[np.int64]]:
    """Return random token arrays `[batch_size, seq_len]` without padding; ids are small enough for any vocabulary.

    Args:
        names: inputs of the model, for example `input_ids` and `attention_mask`.
        batch_size: samples.
        seq_len: tokens of each.
    """
    ids = np.random.default_rng(0).integers(5, 30, (batch_size, seq_len), dtype=np.int64)
    ones, zeros = np.ones_like(ids), np.zeros_like(ids)
    arrays = {"input_ids": ids, "attention_mask": ones, "token_type_ids": zeros}
    return {name: arrays[name] for name in names}
