"""OpenVINO: packed 2, 4 and 8-bit weights with integer products."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...formats.affine import AffineMatrix
from ...formats.writers.openvino_ir import graph_file
from ...runtime.native import native_code
from ...spec.forms import Form
from ..file_law import FileLaw, GraphLaw
from ..rules import EngineRules, Speed, TableRules
from ..session import Activations, Arrays, Session

INSTALL = "pip install 'qbert-opt[openvino]'"
FORMAT = "openvino-ir"
_FORMS: tuple[Form, ...] = ("offset", "symmetric", "signed", "zero-point")
_HELD_OUT = "benchmarks/devices/held_out_plans_openvino.json (4 layers x 768, 176 tokens, whole model)"
RULES = EngineRules(
    bits=(2, 3, 4, 5, 6, 7, 8),
    forms=_FORMS,
    tables=TableRules(forms=_FORMS, whole_bytes=True),
    integer_inputs={"gemm": (8,)},
    activation_bits=32,
    integer_groups=(32, 64, 96, 128, 256, 384),
    static_bits=(8,),
    static_needs_rows=True,
    static_expands=True,
    adds_offsets=True,
    static_scores=True,
    saturates=True,
    file=FileLaw(
        containers=(2, 4, 8),
        graph=GraphLaw(
            54677,
            36392,
            {
                "rows offset": 3568,
                "rows zero-point": 280,
                "columns": 567,
                "columns offset": 4155,
                "columns zero-point": 918,
                "static": 772,
                "static offset": 4355,
                "static zero-point": 1004,
            },
        ),
    ),
    speeds=(
        Speed("8 bits, rows:each", 1.75, f"measured: {_HELD_OUT}"),
        Speed("4 bits, columns:64", 1.71, f"measured: {_HELD_OUT}"),
        Speed("2 bits, columns:32", 1.64, f"measured: {_HELD_OUT}"),
        Speed("8 bits, columns:16 (in floats)", 0.84, f"measured: {_HELD_OUT}"),
        Speed("per-row ranges with static input ranges", 2.84, "measured: benchmarks/engines/engines_results.json"),
        Speed("any of these on an Arm processor", None, "assumed: as fast as the device file says of integers"),
    ),
    sources=(
        "bits 2, 4, 8 stay packed: docs.openvino.ai, element types; u3 and u6 are unpacked to float32 when a model is "
        "compiled (seen with 2026.4.1, no result file), so 3 and 5 to 7 bits are widened",
        "column groups of 16 in floats, of 32 and 64 in integers: measured: "
        "benchmarks/devices/held_out_plans_openvino.json; 96, 128, 256 and 384 in integers, 48 in floats: seen with "
        "2026.4.1 on one AVX-512 core, no result file",
        "ranges are float16 scales, row groups repeated per row, offsets a second product: "
        "qbert_opt/formats/openvino_graph.py",
        "8-bit activations in products of weights, float32 elsewhere: DYNAMIC_QUANTIZATION_GROUP_SIZE and "
        "INFERENCE_PRECISION_HINT, docs.openvino.ai, CPU device",
        "with static inputs, codes are expanded to bytes when a model is compiled: "
        "qbert_opt/formats/openvino_graph.py; memory: benchmarks/engines/base_shape_results.json",
        "bytes of the graph: measured: benchmarks/devices/engine_files_results.json",
    ),
)
COARSE = 128  # inputs that share a range when rounded to 8 bits; 32 by default


def usable() -> bool:
    """Whether the package is installed."""
    return importlib.util.find_spec("openvino") is not None


def label() -> str:
    """Name and version."""
    from ...formats.quiet_openvino import ov

    return f"openvino {ov.__version__}"


@native_code()
def open_model(folder: Path, threads: int | None = None, activations: Activations = "int8") -> Session:
    """Compile a written model; weights are memory-mapped. Activations are a setting of the engine, not in the file."""
    from ...formats.quiet_openvino import ov

    model = ov.Core().read_model(graph_file(folder))
    if activations == "float32":
        for node in model.get_ordered_ops():
            if node.get_type_name() == "FakeQuantize":  # planned ranges of inputs
                for reader in node.output(0).get_target_inputs():
                    reader.replace_source_output(node.input_value(0))
    return _Compiled(model, threads, activations)


@native_code()
def product(
    matrix: AffineMatrix | NDArray[np.float32], threads: int | None = None, activations: Activations = "int8"
) -> Session:
    """Compile `x @ weight.T` alone, for a quantized matrix or a float32 array `[rows, columns]`."""
    from ...formats.openvino_graph import Weights
    from ...formats.quiet_openvino import op, ov

    weights = Weights()
    columns = matrix.columns if isinstance(matrix, AffineMatrix) else matrix.shape[1]
    x = op.parameter([-1, columns], np.float32)
    x.output(0).set_names({"x"})
    if isinstance(matrix, AffineMatrix):
        y = weights.linear(x.output(0), replace(matrix, input=None) if activations == "float32" else matrix)
    else:
        y = op.matmul(x, weights.plain(matrix), False, True).output(0)
    y.set_names({"y"})
    return _Compiled(ov.Model([op.result(y)], [x]), threads, activations, alive=weights)


class _Compiled:
    """A compiled model with one request."""

    def __init__(self, model: Any, threads: int | None, activations: Activations, alive: Any = None) -> None:
        from ...formats.quiet_openvino import ov

        # f32: in bf16, which newer processors prefer, u2 products silently return nothing, packed weights are 1.6 times
        # as slow, and planned 8-bit inputs gain nothing but lose accuracy
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = threads
        if activations != "int8":  # planned: the graph rounds inputs that have a range, others stay float
            settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = COARSE if activations == "int8-coarse" else 0
        self._alive = alive
        compiled = ov.Core().compile_model(model, "CPU", settings)
        self._names = [output.get_any_name() for output in compiled.outputs]
        self._request = compiled.create_infer_request()

    @native_code()
    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        self._request.infer(dict(inputs))
        tensors = (self._request.get_output_tensor(index) for index in range(len(self._names)))
        return {name: tensor.data.copy() for name, tensor in zip(self._names, tensors, strict=True)}
