"""ONNX: 2, 4 and 8-bit weights in blocks for ONNX Runtime's operators, standard operators for the rest."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InputFileError, UsageError
from ...runtime.native import native_code
from ..affine import AffineMatrix, affine, with_planned_input
from ..format import Activations

if TYPE_CHECKING:
    from ...quantization.quantized_matrix import StoredMatrix
    from ...spec.planned import PlannedActivation
    from ..onnx_graph import Builder
    from ..traced_model import TracedModel

TITLE = "ONNX"
GRAPH = "onnx/model.onnx"  # where sentence-transformers, optimum and transformers.js look for it
FILES = (GRAPH,)
OPSET = 17
SMALLEST_HALVED = 16  # elements; smaller constants are shapes and indices


@native_code()
def write(
    traced: TracedModel,
    stored: Iterable[StoredMatrix],
    folder: Path,
    activations: Activations = "int8",
    inputs: Mapping[str, PlannedActivation] | None = None,
    scores: Mapping[str, tuple[float, float]] | None = None,
) -> None:
    """Convert the traced model, replace every quantized weight by its codes, and write `onnx/model.onnx`.

    See `Format.write`.

    Raises:
        InputFileError: a stored matrix is missing from the graph, or used neither in a product nor as a table.
        UsageError: the engine cannot run a matrix's form, or `scores` ask to round queries and keys.
    """
    if scores:
        raise UsageError("`scores`: ONNX Runtime multiplies queries and keys in floats.")
    from ..onnx_graph import Builder

    builder = Builder(coarse=activations == "int8-coarse", integers=activations != "planned")
    write_graph(builder, traced, stored, folder, inputs)


def write_graph(
    builder: Builder,
    traced: TracedModel,
    stored: Iterable[StoredMatrix],
    folder: Path,
    inputs: Mapping[str, PlannedActivation] | None,
) -> None:
    """Write the graph of a model with the products that a builder makes.

    Args:
        builder: an empty builder.
        traced: the model with dequantized weights.
        stored: quantized matrices and tables by module, one at a time.
        folder: an existing folder.
        inputs: planned input ranges by module.

    Raises:
        InputFileError: a stored matrix is missing from the graph, or used neither in a product nor as a table.
        UsageError: the builder does not support a matrix's form.
    """
    import onnx
    from onnx import numpy_helper

    from ..onnx_parts import model_of
    from ..onnx_tidying import drop_aliases, drop_guards

    model = _converted(traced)
    drop_aliases(model.graph)
    drop_guards(model.graph)
    arrays = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    names = _names_by_content(arrays)
    matrices: dict[str, tuple[str, AffineMatrix]] = {}
    whole: dict[str, AffineMatrix] = {}
    for matrix in stored:
        quantized = affine(matrix.module, matrix.quantized)
        if matrix.module in (inputs or {}):
            planned, compiled = (inputs or {})[matrix.module], builder.compiled
            widths = (8, 16) if compiled else (8,)
            quantized = with_planned_input(matrix.module, quantized, planned, bits=widths, groups=compiled)
        if matrix.module in traced.tables:
            whole[matrix.module] = quantized
            continue
        weight = matrix.quantized.dequantize().numpy()
        same = [*names.get(_digest(weight), []), *names.get(_digest(weight.T), [])]
        if not same:
            raise InputFileError(f"{matrix.module}: its weight is not in the converted graph. Report this model.")
        matrices |= dict.fromkeys(same, (matrix.module, quantized))
    readers = {name for node in model.graph.node for name in node.input} - set(matrices)
    for name in sorted(readers & set(arrays)):
        _store(builder, name, arrays[name])
    for table in traced.tables:
        builder.rows(builder.constant(np.arange(whole[table].rows)), table, whole[table], table)
    biases = _biases(model.graph, arrays)
    absorbed: set[str] = set()
    for node in model.graph.node:
        replaced = [name for name in node.input if name in matrices]
        if replaced:
            module, quantized = matrices[replaced[0]]
            addition = biases.get(node.output[0]) if quantized.input is not None else None
            absorbed |= {addition.output[0]} if addition else set()
            _replace(builder, node, module, quantized, arrays, addition)
        elif node.output[0] not in absorbed:
            builder.nodes.append(node)
    inputs_left = [port for port in model.graph.input if port.name not in traced.tables]
    (folder / GRAPH).parent.mkdir(exist_ok=True)
    onnx.save(model_of(builder, inputs_left, list(model.graph.output), OPSET), folder / GRAPH)


def graph_file(folder: Path) -> Path:
    """Return the graph of an exported folder, which may be named after its `dtype`; earlier releases had no sub-folder.

    Args:
        folder: a folder that `export` wrote.
    """
    graphs = sorted((folder / GRAPH).parent.glob("*.onnx"))
    return graphs[0] if graphs else folder / Path(GRAPH).name


def _biases(graph: Any, arrays: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Return the nodes that add one constant row to a product that nothing else reads, by the product's name."""
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    final = {port.name for port in graph.output}
    return {
        name: nodes[0]
        for name, nodes in readers.items()
        if len(nodes) == 1 and nodes[0].op_type == "Add" and name not in final
        and any(arrays.get(other, np.empty((0, 0))).ndim == 1 for other in nodes[0].input)
    }  # fmt: skip


def _converted(traced: TracedModel) -> Any:
    import onnx
    import torch

    from ..traced_model import converting

    axes: dict[str, dict[int, str]] = {name: {0: "batch", 1: "tokens"} for name in traced.inputs}
    for name, rank in zip(traced.outputs, traced.output_ranks, strict=True):
        varying = rank > 2 or name in ("start_logits", "end_logits")
        axes[name] = {0: "batch", 1: "tokens"} if varying else {0: "batch"}
    with tempfile.TemporaryDirectory() as scratch, converting("torch.onnx"):
        path = Path(scratch) / "model.onnx"
        torch.onnx.export(
            traced.module, traced.with_tables, path, dynamo=False, opset_version=OPSET, dynamic_axes=axes,
            input_names=[*traced.inputs, *traced.tables], output_names=list(traced.outputs), verbose=False,
        )  # fmt: skip
        return onnx.load(path)


def _names_by_content(arrays: Mapping[str, NDArray[Any]]) -> dict[str, list[str]]:
    """Return names of 2-D float initializers by hash of their values, since exporters rename and transpose them."""
    names: dict[str, list[str]] = {}
    for name, array in arrays.items():
        if array.ndim == 2 and array.dtype == np.float32:
            names.setdefault(_digest(array), []).append(name)
    return names


def _digest(array: NDArray[Any]) -> str:
    return f"{array.shape}{hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()}"


def _store(builder: Any, name: str, array: NDArray[Any]) -> None:
    """Add a constant, in float16 if that represents it exactly, as in the quantized folder."""
    from onnx import TensorProto

    half = array.astype(np.float16) if array.dtype == np.float32 and array.size >= SMALLEST_HALVED else None
    if half is not None and np.array_equal(half.astype(np.float32), array):
        builder.node("Cast", [builder.constant(half, f"{name}.half")], [name], to=TensorProto.FLOAT)
    else:
        builder.constant(array, name)


def _replace(
    builder: Any,
    node: Any,
    module: str,
    matrix: AffineMatrix,
    arrays: Mapping[str, NDArray[Any]],
    addition: Any | None,
) -> None:
    attributes = {a.name: a for a in node.attribute}
    if node.op_type == "MatMul" and arrays.get(node.input[1], np.empty(0)).shape == (matrix.columns, matrix.rows):
        last = node if addition is None else addition
        bias = None if addition is None else next(name for name in addition.input if name in arrays)
        builder.linear(node.input[0], module, matrix, last.output[0], bias)
    elif (
        node.op_type == "Gather" and node.input[0] in arrays and ("axis" not in attributes or not attributes["axis"].i)
    ):
        builder.rows(node.input[1], module, matrix, node.output[0])
    else:
        raise InputFileError(
            f"{module}: the converted graph uses it in {node.op_type}; only products and tables are supported."
        )
