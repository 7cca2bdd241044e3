"""Reads strictly what a bundle's script measured on a board, and fits it like a calibration of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from ..engines.session import ACTIVATIONS
from ..errors import InputFileError
from ..runtime.cpu_timing import LEAST_ROUNDS, Timing
from ..runtime.files import read_document
from .board.machine import Cache, Machine
from .board.measure import RESULT_SCHEMA
from .bundle import ENGINE, bundle_hash, call_makers
from .calibrate import Calibration, assemble
from .engine_bench import EngineBench, container, label

LONGEST_S = 3600.0  # a longer reading cannot be the time of one call
Text = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[ -~]*$")]
Reading = Annotated[FiniteFloat, Field(gt=0, le=LONGEST_S)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Cache(_Part):
    level: int = Field(ge=1, le=9)
    size_bytes: int = Field(ge=2**10, le=2**40)


class _Machine(_Part):
    name: Text
    caches: tuple[_Cache, ...] = Field(max_length=9)
    memory_bytes: int = Field(ge=2**20, le=2**50)


class BoardResult(_Part):
    """The content of the file that `measure.py` writes.

    Attributes:
        bundle: hash of what the bundle times, see `bundle_hash`.
        precision: how inputs of products were rounded.
        engine_label: engine and version on the board.
        date: date of the measurement.
        system: operating system, architecture and Python.
        machine: processor, caches and memory.
        elapsed_s: wall-clock time of the measurement.
        stolen: share of `elapsed_s` in which the script did not run.
        readings_s: CPU seconds of each call, in the order of the bundle's list.
    """

    document_schema: str = Field(alias="schema")
    bundle: str
    precision: str
    engine_label: Text
    date: Text
    system: Text
    machine: _Machine
    elapsed_s: FiniteFloat = Field(gt=0)
    stolen: FiniteFloat = Field(ge=0, le=1)
    readings_s: tuple[Annotated[tuple[Reading, ...], Field(min_length=LEAST_ROUNDS)], ...]


def calibration_from(path: str | Path, device_id: str = "board") -> Calibration:
    """Return the calibration of the board on which a result was measured.

    Args:
        path: path of the result.
        device_id: id of the device.

    Raises:
        InputFileError: the file is missing, malformed, or was measured with a bundle of another version.
        UsageError: ONNX Runtime or onnx is not installed.
    """
    result = read_document(path, BoardResult, RESULT_SCHEMA)
    precision = next((name for name in ACTIVATIONS if name == result.precision), None)
    if precision is None:
        raise InputFileError(
            f"{path}: precision: found {result.precision!r}; legal are {', '.join(ACTIVATIONS)}. Measure again with a "
            "new bundle."
        )
    bench = EngineBench(ENGINE, precision, container)
    keys = list(call_makers(bench))
    if result.bundle != bundle_hash(keys, precision):
        raise InputFileError(
            f"{path}: bundle: was measured with a bundle of another version ({result.bundle[:12]!r}). Write a "
            "new bundle and measure again."
        )
    if len(result.readings_s) != len(keys):
        raise InputFileError(
            f"{path}: readings_s: found {len(result.readings_s)} calls; the bundle has {len(keys)}. Measure again."
        )
    bench.label = label(result.engine_label, precision)
    timings = {key: Timing(readings) for key, readings in zip(keys, result.readings_s, strict=True)}
    caches = tuple(Cache(cache.level, cache.size_bytes) for cache in result.machine.caches)
    machine = Machine(result.machine.name, caches, result.machine.memory_bytes)
    return assemble(
        bench, timings, elapsed_s=result.elapsed_s, stolen=result.stolen, machine=machine, device_id=device_id
    )
