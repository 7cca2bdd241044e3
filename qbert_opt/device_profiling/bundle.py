"""A folder that calibrates a board on which this project is not installed: small ONNX models and one script.

The models are the ones that a local calibration of ONNX Runtime times. Their weights are not in the folder: the script
draws random ones on the board, because times do not depend on their values.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..engines.session import Activations
from ..formats.affine import AffineMatrix
from ..runtime import cpu_timing
from ..runtime.cpu_timing import Call
from ..runtime.files import atomic_folder
from ..runtime.progress import Progress, silent
from .bench import Subject
from .board import machine, measure
from .engine_bench import EngineBench, container
from .kernels import Key, kernel_makers

MANIFEST_SCHEMA = "qbert-opt/board-bundle@1"
ENGINE = "onnxruntime"
LEAST_DRAWN_BYTES = 512  # smaller tensors are shapes and indices, whose values matter
ALIGNED = 4096  # so that the engine can map a tensor of a weight file
README = """Calibrate this board for qbert-opt
==================================

Needs Python 3.10 or newer, onnxruntime (numpy comes with it) and about 2 GB of free memory. Nothing else is installed.

1. Copy this folder to the board.
2. pip install onnxruntime
3. Stop other work, fix the clock if you can (cpupower frequency-set -g performance), and run, about ten minutes:
       python3 measure.py
4. Copy result.json back to your computer and run:
       qbert-opt calibrate --from-bundle result.json -o board.yaml
"""


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """A call that is recorded, not made: which model of the bundle to run, and with which inputs."""

    model: str
    inputs: dict[str, Any]

    def __call__(self) -> object:
        """Refuse to run.

        Raises:
            RuntimeError: always; it runs on the board.
        """
        raise RuntimeError(f"{self.model} runs on the board, not here")


class _Recorded:
    """A placeholder for a session, which knows the file of its model."""

    def __init__(self, model: str) -> None:
        self.model = model

    def run(self, inputs: object) -> dict[str, NDArray[Any]]:
        raise RuntimeError(f"{self.model} runs on the board, not here")


class _Recorder:
    """An opener that writes each model into the bundle, without its weights, instead of opening it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.hashes: dict[str, str] = {}
        self.weight_bytes = {"float32": 0, "float16": 0, "uint8": 0}

    def open_model(self, folder: Path, threads: int | None = None, activations: Activations = "int8") -> _Recorded:
        from ..engines.backends.onnxruntime import model_proto

        return self._saved(model_proto(folder, activations))

    def product(
        self,
        matrix: AffineMatrix | NDArray[np.float32],
        threads: int | None = None,
        activations: Activations = "int8",
    ) -> _Recorded:
        from ..engines.backends.onnxruntime import product_proto

        return self._saved(product_proto(matrix, activations))

    def _saved(self, model: Any) -> _Recorded:
        self._strip(model)
        content = model.SerializeToString(deterministic=True)
        name = f"{len(self.hashes):03d}.onnx"
        (self._folder / name).write_bytes(content)
        self.hashes[name] = hashlib.sha256(content).hexdigest()
        return _Recorded(name)

    def _strip(self, model: Any) -> None:
        """Point large tensors to weight files made on the board; tensors of one model never share bytes of a file."""
        from onnx import TensorProto, numpy_helper

        kinds = {
            TensorProto.FLOAT: "float32", TensorProto.FLOAT16: "float16", TensorProto.UINT8: "uint8",
            TensorProto.INT8: "uint8",
        }  # fmt: skip
        used = dict.fromkeys(self.weight_bytes, 0)
        for tensor in model.graph.initializer:
            kind = kinds.get(tensor.data_type)
            size = numpy_helper.to_array(tensor).nbytes
            if kind is None or size < LEAST_DRAWN_BYTES:
                continue
            for field in ("raw_data", "float_data", "int32_data"):
                tensor.ClearField(field)
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (("location", f"{kind}.bin"), ("offset", used[kind]), ("length", size)):
                tensor.external_data.add(key=key, value=str(value))
            used[kind] += -(-size // ALIGNED) * ALIGNED
        for kind, size in used.items():
            self.weight_bytes[kind] = max(self.weight_bytes[kind], size)


class BundleBench(EngineBench):
    """ONNX Runtime's bench, whose calls are recorded instead of made."""

    def __init__(self, activations: Activations, folder: Path) -> None:
        self.recorder = _Recorder(folder)
        super().__init__(ENGINE, activations, container, self.recorder)

    def _run(self, session: Any, **inputs: np.ndarray) -> Call:
        return RecordedCall(session.model, {name: _spec(array) for name, array in inputs.items()})


def write_bundle(output: str | Path, activations: Activations = "int8", *, on_step: Progress = silent) -> Path:
    """Write the folder to copy to the board.

    Args:
        output: folder to write; must be empty or not exist.
        activations: how inputs of products are rounded, as in `export_model`.
        on_step: called with the number of models of a kind that are made, the number of all, and the kind.

    Returns:
        The folder.

    Raises:
        UsageError: the folder cannot be written, or ONNX Runtime or onnx is not installed.
    """
    with atomic_folder(output) as folder:
        models = folder / "models"
        models.mkdir()
        bench = BundleBench(activations, models)
        makers = call_makers(bench)
        calls: list[dict[str, Any]] = []
        # whole models come last and take a hundred times as long, so the time left is estimated for each kind
        kinds = ["whole models" if key[0] == "model" else "kernels" for key in makers]
        for number, (kind, (key, make)) in enumerate(zip(kinds, makers.items(), strict=True), 1):
            if key[0] == "ladder":
                calls.append({"bytes": key[1]})
            else:
                call = make()
                calls.append({"model": call.model, "inputs": call.inputs})
            on_step(number - kinds.index(kind), kinds.count(kind), kind)
        manifest = {
            "schema": MANIFEST_SCHEMA,
            "bundle": bundle_hash(list(makers), activations),
            "precision": activations,
            "weights": bench.recorder.weight_bytes,
            "models": bench.recorder.hashes,
            "calls": calls,
        }
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        (folder / "measure.py").write_text(script(), encoding="utf-8")
        (folder / "README.txt").write_text(README, encoding="utf-8")
    return Path(output)


def call_makers(bench: EngineBench) -> dict[Key, Any]:
    """Return functions that make the calls of a calibration, in the order in which a bundle lists them.

    Args:
        bench: bench of ONNX Runtime.
    """
    makers: dict[Key, Any] = dict(kernel_makers(bench))
    makers |= {("ladder", size): None for size in machine.STEPS}
    makers |= {("model", subject): _model_maker(bench, subject) for subject in bench.subjects}
    return makers


def bundle_hash(keys: Sequence[Key], activations: str) -> str:
    """Return the hash of what a bundle times; bundles with the same hash give comparable results.

    Args:
        keys: keys of the calls, in order.
        activations: how inputs of products are rounded.
    """
    return hashlib.sha256(repr((MANIFEST_SCHEMA, activations, list(keys))).encode()).hexdigest()


def script() -> str:
    """Return the script that runs on the board: the timing code of a local calibration as one file."""
    head = inspect.getdoc(measure) or ""
    parts = [f'"""{head}\n"""\n\nfrom __future__ import annotations\n']
    for module in (cpu_timing, machine, measure):
        lines = inspect.getsource(module).split("\n")
        end = next(number for number, line in enumerate(lines) if line.startswith("from __future__"))
        parts.append("\n".join(line for line in lines[end + 1 :] if not line.startswith("from .")))
    return "\n".join(parts)


def _model_maker(bench: EngineBench, subject: Subject) -> Any:
    return lambda: bench.model(subject)


def _spec(array: NDArray[Any]) -> dict[str, Any]:
    """Return type and shape of an input, and for integers the range of its values."""
    if array.dtype == np.float32:
        return {"type": "float32", "shape": list(array.shape)}
    return {"type": "int64", "shape": list(array.shape), "low": int(array.min()), "high": int(array.max())}
