"""ONNX Runtime: 2, 4 and 8-bit weights in blocks, and int8 products for matrices with per-row ranges."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...formats.affine import AffineMatrix
from ...formats.writers.onnx import GRAPH, OPSET
from ..rules import EngineRules
from ..session import Activations, Arrays, Session

INSTALL = "pip install 'qbert-opt[onnxruntime]'"
FORMAT = "onnx"
RULES = EngineRules(
    bits=(2, 3, 4, 5, 6, 7, 8), forms=("offset", "symmetric", "signed", "zero-point"), group_multiple=16,
    static_bits=(8,), static_needs_rows=True,
)  # fmt: skip


def usable() -> bool:
    """Whether the packages are installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("onnxruntime", "onnx"))


def label() -> str:
    """Name and version."""
    import onnxruntime

    return f"onnxruntime {onnxruntime.__version__}"


def open_model(folder: Path, threads: int | None = None, activations: Activations = "int8") -> Session:
    """Start a session on a written model; with float32 activations it is no faster than a float32 model."""
    if activations != "float32":
        return _Running(str(folder / GRAPH), threads)
    import onnx

    from ...formats.onnx_graph import in_float

    return _Running(in_float(onnx.load(folder / GRAPH)).SerializeToString(), threads)


def product(
    matrix: AffineMatrix | NDArray[np.float32], threads: int | None = None, activations: Activations = "int8"
) -> Session:
    """Start a session on `x @ weight.T` alone, for a quantized matrix or a float32 array `[rows, columns]`."""
    from onnx import TensorProto, helper

    from ...formats.onnx_graph import Builder, in_float, model_of

    builder = Builder(coarse=activations == "int8-coarse", integers=activations != "planned")
    rows, columns = matrix.codes.shape if isinstance(matrix, AffineMatrix) else matrix.shape
    one = builder.constant(np.array([0]))
    batched = builder.node("Unsqueeze", ["x", one])
    if isinstance(matrix, AffineMatrix):
        builder.linear(batched, "weight", matrix, "batched")
    else:
        builder.node("MatMul", [batched, builder.constant(matrix.T)], ["batched"])
    builder.node("Squeeze", ["batched", one], ["y"])
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, columns])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, rows])
    model = model_of(builder, [x], [y], OPSET)
    return _Running((in_float(model) if activations == "float32" else model).SerializeToString(), threads)


class _Running:
    """A session; `source` is a path or a serialized model."""

    def __init__(self, source: str | bytes, threads: int | None) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.enable_cpu_mem_arena = False  # the arena would keep memory that only constant folding needs
        if threads is not None:
            options.intra_op_num_threads = threads
            options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        self._names = [output.name for output in self._session.get_outputs()]

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        return dict(zip(self._names, self._session.run(None, dict(inputs)), strict=True))
