"""OpenVINO IR: packed 2, 4 and 8-bit weights as `u2`, `u4`, `u8` constants that are unpacked in the graph."""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InputFileError
from ...runtime.native import native_code
from ..affine import AffineMatrix, affine, with_planned_input
from ..format import Activations

if TYPE_CHECKING:
    from ...quantization.quantized_matrix import StoredMatrix
    from ...spec.planned import PlannedActivation
    from ..openvino_graph import Weights
    from ..traced_model import TracedModel

TITLE = "OpenVINO IR"
GRAPH = "openvino/openvino_model.xml"  # where sentence-transformers and optimum look for it
FILES = (GRAPH, "openvino/openvino_model.bin")
EARLIER_GRAPH = "model.xml"
PREFIX = "__module.model."  # what the converter puts before the names of modules
SMALL_BYTES = 64


@native_code()
def write(
    traced: TracedModel,
    stored: Iterable[StoredMatrix],
    folder: Path,
    activations: Activations = "int8",
    inputs: Mapping[str, PlannedActivation] | None = None,
    scores: Mapping[str, tuple[float, float]] | None = None,
) -> None:
    """Convert the traced model, replace every quantized weight by its codes, and write it into `openvino/`.

    See `Format.write`. The graph comes from the converter's library functions, because its usual entry point,
    `convert_model`, sends telemetry.

    Raises:
        InputFileError: a stored matrix is missing from the graph, or used neither in a product nor as a table.
        UsageError: the engine cannot run a matrix's form.
    """
    from ..openvino_attention import finite_scores
    from ..openvino_graph import Weights
    from ..quiet_openvino import ov

    model = _converted(traced)
    weights = Weights()
    constants = _large_constants(model)
    for matrix in stored:
        quantized = affine(matrix.module, matrix.quantized)
        if matrix.module in (inputs or {}):
            quantized = with_planned_input(matrix.module, quantized, (inputs or {})[matrix.module])
        if matrix.module in traced.tables:
            _insert(model, matrix.module, weights.table(quantized))
            continue
        same = constants.get(_digest(matrix.quantized.dequantize().numpy()), [])
        if not same:
            raise InputFileError(f"{matrix.module}: its weight is not in the converted graph. Report this model.")
        for constant in same:
            ends = (scores or {}).get(matrix.module)
            _replace(constant, quantized, weights, matrix.module, traced.tables, ends)
    finite_scores(model)
    _halve(model, weights)
    _tidy(model)
    model.validate_nodes_and_infer_types()
    graph = folder / GRAPH
    graph.parent.mkdir(exist_ok=True)
    try:
        ov.save_model(model, graph, compress_to_fp16=False)
    except RuntimeError as error:
        if "iostream" not in str(error):
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(graph)) from None  # its writer gives no reason
    graph.write_bytes(re.sub(rb">\s+<", b"><", graph.read_bytes()))  # a third of the graph's text is indentation


def graph_file(folder: Path) -> Path:
    """Return the graph of an exported folder; earlier releases had no sub-folder.

    Args:
        folder: a folder that `export` wrote.
    """
    return folder / GRAPH if (folder / GRAPH).exists() else folder / EARLIER_GRAPH


def _converted(traced: TracedModel) -> Any:
    from openvino._offline_transformations import apply_moc_transformations
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    from ..traced_model import converting

    with converting("OpenVINO"):
        frontend = FrontEndManager().load_by_framework("pytorch")
        # without running and tracing the model again to compare: the export's answers are compared with the model's
        how = {"check_trace": False}
        decoder = TorchScriptPythonDecoder(traced.module, example_input=traced.with_tables, trace_kwargs=how)
        model = frontend.convert(frontend.load(decoder))
    for port, name in zip(
        [*model.inputs, *model.outputs], [*traced.inputs, *traced.tables, *traced.outputs], strict=True
    ):
        port.get_tensor().set_names({name})
    apply_moc_transformations(model, cf=False)  # as convert_model does: the same graph with 40 % fewer nodes
    return model


def _large_constants(model: Any) -> dict[str, list[Any]]:
    """Return 2-D float constants by hash of their values, since the graph may not keep names."""
    constants: dict[str, list[Any]] = {}
    for node in model.get_ordered_ops():
        if node.get_type_name() == "Constant" and len(node.shape) == 2 and node.get_element_type().is_real():
            constants.setdefault(_digest(node.data), []).append(node)
    return constants


def _halve(model: Any, weights: Weights) -> None:
    """Store constants in float16 if that is exact, as in the quantized folder; the compiler widens them again."""
    from ..quiet_openvino import op

    for node in model.get_ordered_ops():
        if node.get_type_name() != "Constant" or node.get_element_type().to_string() != "f32" or node.data.size < 16:
            continue
        half = node.data.astype(np.float16)
        if not np.array_equal(half.astype(np.float32), node.data):
            continue
        readers = node.output(0).get_target_inputs()
        wide = op.convert(weights.plain(half), "f32").output(0)
        for reader in readers:
            reader.replace_source_output(wide)


def _tidy(model: Any) -> None:
    """Merge equal small constants and shorten names: at 2 bits per weight the size of the graph's text matters."""
    first: dict[tuple[str, str, bytes], Any] = {}
    for index, node in enumerate(model.get_ordered_ops()):
        kind, name = node.get_type_name(), node.get_friendly_name()
        if kind not in ("Parameter", "Result"):
            plain = kind in ("Constant", "Convert", "ShapeOf", "Unsqueeze")
            node.set_friendly_name(f"{index}" if plain else f"{index}.{name.removeprefix(PREFIX)}")
        if kind != "Constant" or node.get_byte_size() > SMALL_BYTES:
            continue
        key = (node.get_element_type().to_string(), str(node.shape), np.array(node.data).tobytes())
        if (same := first.setdefault(key, node)) is not node:
            for reader in node.output(0).get_target_inputs():
                reader.replace_source_output(same.output(0))


def _digest(array: NDArray[Any]) -> str:
    return f"{array.shape}{hashlib.sha256(np.ascontiguousarray(array, dtype=np.float32).tobytes()).hexdigest()}"


def _insert(model: Any, table: str, weight: Any) -> None:
    """Replace the input that a weight was traced as by the weight."""
    node = next(parameter for parameter in model.get_parameters() if table in parameter.output(0).get_names())
    for reader in node.output(0).get_target_inputs():
        reader.replace_source_output(weight)
    model.remove_parameter(node)


def _is_constant(output: Any, tables: tuple[str, ...]) -> bool:
    """Whether no token array reaches an output; weights that were traced as inputs are constants."""
    seen: set[str] = set()
    stack = [output.get_node()]
    while stack:
        node = stack.pop()
        if node.get_friendly_name() in seen:
            continue
        seen.add(node.get_friendly_name())
        if node.get_type_name() == "Parameter" and not set(tables) & node.output(0).get_names():
            return False
        stack += [node.input_value(index).get_node() for index in range(node.get_input_size())]
    return True


def _replace(
    constant: Any,
    matrix: AffineMatrix,
    weights: Any,
    module: str,
    tables: tuple[str, ...],
    ends: tuple[float, float] | None,
) -> None:
    from ..openvino_attention import rounded_output

    for port in constant.output(0).get_target_inputs():
        node = port.get_node()
        kind = node.get_type_name()
        if kind == "MatMul" and port.get_index() == 1 and node.get_attributes()["transpose_b"]:
            x = node.input_value(0)
            new = weights.linear(x, matrix, constant=bool(tables) and _is_constant(x, tables))
        elif kind == "Gather" and port.get_index() == 0:
            new = weights.rows(node.input_value(1), matrix)
        else:
            raise InputFileError(
                f"{module}: the converted graph uses it in {kind}; only products and tables are supported."
            )
        for reader in node.output(0).get_target_inputs():
            reader.replace_source_output(new)
        if ends is not None and kind == "MatMul":
            rounded_output(new, ends)
