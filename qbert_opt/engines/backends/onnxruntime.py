"""ONNX Runtime: 2, 4 and 8-bit weights in blocks, and int8 products for matrices with per-row ranges."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import QbertOptWarning
from ...formats.affine import AffineMatrix
from ...formats.writers.onnx import OPSET, graph_file
from ...runtime.native import native_code
from ...runtime.processor import has_vnni
from ...spec.forms import Form
from ..file_law import FileLaw, GraphLaw
from ..rules import EngineRules, Speed, TableRules
from ..session import Activations, Arrays, Session

INSTALL = "pip install 'qbert-opt[onnxruntime]'"
FORMAT = "onnx"
_FORMS: tuple[Form, ...] = ("offset", "symmetric", "signed", "zero-point")
_HELD_OUT = "benchmarks/devices/held_out_plans_onnxruntime.json (4 layers x 768, 176 tokens, whole model)"
GRAPH_LAW = GraphLaw(
    21405,
    25681,
    {
        "rows offset": 462,
        "rows zero-point": 101,
        "columns": -259,
        "columns offset": 493,
        "columns zero-point": -157,
        "static": -109,
        "static offset": 396,
        "static zero-point": 21,
    },
)
RULES = EngineRules(
    bits=(2, 3, 4, 5, 6, 7, 8),
    forms=_FORMS,
    group_multiple=16,
    columns_multiple=16,
    tables=TableRules(forms=_FORMS, whole_bytes=True),
    integer_inputs={"gemm": (8,)},
    activation_bits=32,
    static_bits=(8,),
    static_needs_rows=True,
    static_expands=True,
    adds_offsets=True,
    file=FileLaw(
        containers=(2, 4, 8),
        blocks={2: (128, 64, 32), 4: (256, 128, 64, 32, 16), 8: (256, 128, 64, 32, 16)},
        other_blocks=(4, 16),
        offsets_repeat_scales=True,
        graph=GRAPH_LAW,
    ),
    speeds=(
        Speed("8 bits, rows:each", 1.24, f"measured: {_HELD_OUT}"),
        Speed("4 bits, columns:64", 0.79, f"measured: {_HELD_OUT}"),
        Speed("2 bits, columns:32", 0.37, f"measured: {_HELD_OUT}"),
        Speed("per-row ranges with static input ranges", 2.30, "measured: benchmarks/engines/engines_results.json"),
        Speed("any of these on an Arm processor", None, "assumed: as fast as the device file says of integers"),
    ),
    sources=(
        "bits 2, 4, 8; 3 and 5 to 7 widened: onnxruntime docs/ContribOperators.md, com.microsoft.MatMulNBits; "
        "1.31.1 refuses 3 bits when a session starts",
        "blocks of 16 to 256 inputs, at 2 bits 32 to 128 in integers: onnxruntime docs/ContribOperators.md; 2 bits in "
        "blocks of 16 and 256 run in floats (seen with 1.31.1, no result file); blocks of 512 compute zeros: "
        "microsoft/onnxruntime issue 28551",
        "ranges are float16 scales, offsets a second product: qbert_opt/formats/onnx_graph.py",
        "8-bit activations in products of weights, float32 elsewhere: accuracy_level 4 of MatMulNBits; "
        "DynamicQuantizeLinear and MatMulInteger, onnxruntime.ai/docs/performance/model-optimizations/quantization",
        "with static inputs, codes are expanded to bytes when a session starts: qbert_opt/formats/onnx_graph.py",
        "bytes of the graph: measured: benchmarks/devices/engine_files_results.json",
    ),
)


def usable() -> bool:
    """Whether the packages are installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("onnxruntime", "onnx"))


def label() -> str:
    """Name and version."""
    import onnxruntime

    return f"onnxruntime {onnxruntime.__version__}"


@native_code()
def open_model(folder: Path, threads: int | None = None, activations: Activations = "int8") -> Session:
    """Start a session on a written model; with float32 activations it is no faster than a float32 model."""
    if activations != "float32":
        return _Running(str(graph_file(folder)), threads)
    return _Running(model_proto(folder, activations).SerializeToString(), threads)


def model_proto(folder: Path, activations: Activations = "int8") -> Any:
    """Return the graph that `open_model` runs, as an `onnx.ModelProto`."""
    import onnx

    from ...formats.onnx_floats import in_float

    model = onnx.load(graph_file(folder))
    return in_float(model) if activations == "float32" else model


@native_code()
def product(
    matrix: AffineMatrix | NDArray[np.float32],
    threads: int | None = None,
    activations: Activations = "int8",
    blocks: Mapping[int, tuple[int, ...]] | None = None,
) -> Session:
    """Start a session on `x @ weight.T` alone, for a quantized matrix or a float32 array `[rows, columns]`."""
    return _Running(product_proto(matrix, activations, blocks).SerializeToString(), threads)


def product_proto(
    matrix: AffineMatrix | NDArray[np.float32],
    activations: Activations = "int8",
    blocks: Mapping[int, tuple[int, ...]] | None = None,
) -> Any:
    """Return the graph that `product` runs, as an `onnx.ModelProto`."""
    from onnx import TensorProto, helper

    from ...formats.onnx_floats import in_float
    from ...formats.onnx_graph import BLOCKS, Builder
    from ...formats.onnx_parts import model_of

    builder = Builder(
        coarse=activations == "int8-coarse",
        integers=activations != "planned",
        blocks=BLOCKS if blocks is None else blocks,
    )
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
    return in_float(model) if activations == "float32" else model


class _Running:
    """A session; `source` is a path or a serialized model."""

    def __init__(self, source: str | bytes, threads: int | None) -> None:
        import onnxruntime
        from onnxruntime.capi.onnxruntime_pybind11_state import Fail

        def opened(exact: str) -> Any:
            options.add_session_config_entry("session.x64quantprecision", exact)
            return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.enable_cpu_mem_arena = False  # the arena would keep memory that only constant folding needs
        # products of weights that the file dequantizes stay in floats: by default their inputs are rounded to 8 bits
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        if threads is not None:
            options.intra_op_num_threads = threads
            options.inter_op_num_threads = 1
        # without VNNI, sums of two products of bytes would overflow 16 bits and be cut off; ONNX Runtime avoids that by
        # kernels that take three times as long, and would take them with VNNI too
        exact = "0" if has_vnni() else "1"
        try:
            self._session = opened(exact)
        except Fail:  # what ONNX Runtime 1.31 raises where two products read one weight; a bad file fails again
            if exact == "0":
                raise
            self._session = opened("0")
            warnings.warn(
                "this processor has no VNNI, and ONNX Runtime cannot compute layers that share weights exactly there: "
                "sums of 8-bit products may saturate.",
                QbertOptWarning,
                stacklevel=2,
            )
        self._names = [output.name for output in self._session.get_outputs()]

    @native_code()
    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        return dict(zip(self._names, self._session.run(None, dict(inputs)), strict=True))
