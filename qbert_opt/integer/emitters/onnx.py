"""An ONNX graph of integer operators only, whose results in ONNX Runtime equal the reference's bit for bit.

    integer.onnx       inputs int64, outputs int32; scale and zero point of each output are in the model's metadata

No tensor is floating point. Values are int32; the products inside a requantization and before the shift of a group are
int64. `BitShift` takes unsigned types only, so a constant makes a number positive before a floor shift and is
subtracted after it. 8-bit products use `MatMulInteger` with both operands unsigned: ONNX Runtime's kernels for mixed
signs saturate on some processors.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import UsageError
from ..emitter import Emitted
from ..operations import Lookup
from ..program import Program

if TYPE_CHECKING:
    from ..onnx_nodes import Nodes

FILE = "integer.onnx"
OPSET, IR_VERSION = 18, 10


def check_usable() -> None:
    """Check that the package onnx is installed.

    Raises:
        UsageError: it is not installed.
    """
    if importlib.util.find_spec("onnx") is None:
        raise UsageError("`emit` onnx: needs the package onnx. Install it: pip install 'qbert-opt[onnxruntime]'.")


def emit(program: Program, folder: Path, max_tokens: int) -> Emitted:
    """Write the model.

    Args:
        program: the program to write.
        folder: an existing folder for `integer.onnx`.
        max_tokens: tokens of the longest text; only stated in the model's metadata, the graph does not check it.
    """
    from onnx import save

    from ..onnx_nodes import Nodes

    nodes = Nodes(program)
    save(_model(program, nodes, max_tokens), folder / FILE)
    stored = nodes.builder.initializers
    tables = {step.table for step in program.operations if isinstance(step, Lookup)}
    sizes = {name: len(tensor.raw_data) for name, tensor in stored.items()}
    return Emitted(
        emitter="onnx", files=(FILE,), constant_bytes=sum(sizes.values()),
        table_bytes=sum(sizes[name] for name in tables), ram_bytes=None, max_tokens=max_tokens,
    )  # fmt: skip


def _model(program: Program, nodes: Nodes, max_tokens: int) -> Any:
    from onnx import TensorProto, helper

    values = program.values
    inputs = [helper.make_tensor_value_info(value.name, TensorProto.INT64, list(value.shape))
              for value in program.inputs]  # fmt: skip
    outputs, metadata = [], {"max_tokens": str(max_tokens)}
    for output in program.outputs:
        value = values[output.value]
        shape = list(value.shape if output.column is None else value.shape[:-1])
        outputs.append(helper.make_tensor_value_info(output.name, TensorProto.INT32, shape))
        nodes.answer(output)
        metadata |= {f"{output.name}.scale": repr(value.scale or 1.0), f"{output.name}.zero": str(value.zero)}
    graph = helper.make_graph(nodes.builder.nodes, "encoder", inputs, outputs,
                              list(nodes.builder.initializers.values()))  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION,
                              producer_name="qbert-opt")  # fmt: skip
    helper.set_model_props(model, metadata)
    return model
