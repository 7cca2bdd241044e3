"""ONNX graphs of quantized matrices with float32 activations, to check that a graph computes what it should."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper


def in_float(model: Any) -> Any:
    """Return the same graph without integer products: activations stay in float32.

    Args:
        model: an ONNX model; changed in place.
    """
    unit = numpy_helper.from_array(np.ones((), np.float32), "q_unit")
    model.graph.initializer.append(unit)
    quantized: dict[str, str] = {}
    casts: dict[str, str] = {}
    nodes = []
    planned: dict[str, str] = {}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            quantized[node.output[0]] = node.input[0]
            planned[node.input[1]] = "q_unit"
        elif node.op_type == "DequantizeLinear" and node.input[0] in quantized:  # an input; weights stay
            nodes.append(helper.make_node("Identity", [quantized[node.input[0]]], list(node.output)))
        elif node.op_type == "DynamicQuantizeLinear":
            quantized[node.output[0]] = node.input[0]
            nodes.append(helper.make_node("Identity", ["q_unit"], [node.output[1]]))
        elif node.op_type == "MatMulIntegerToFloat":
            nodes += _float_product(node, quantized[node.input[0]])
        elif node.op_type == "MatMulInteger":
            weight = f"{node.output[0]}_weight"
            nodes.append(helper.make_node("Cast", [node.input[1]], [weight], to=TensorProto.FLOAT))
            casts[node.output[0]] = f"{node.output[0]}_float"
            nodes.append(helper.make_node("MatMul", [quantized[node.input[0]], weight], [casts[node.output[0]]]))
        elif node.op_type == "Cast" and node.input[0] in casts:
            nodes.append(helper.make_node("Identity", [casts[node.input[0]]], list(node.output)))
        else:
            if node.op_type == "MatMulNBits":
                next(a for a in node.attribute if a.name == "accuracy_level").i = 0
            for index, name in enumerate(node.input):
                node.input[index] = planned.get(name, name)
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def _float_product(node: Any, x: str) -> list[Any]:
    """Return nodes for `x @ (codes - zeros) * scale + bias` with float x, to replace a `MatMulIntegerToFloat`."""
    zeros, bias = [*node.input[5:7], "", ""][:2]
    output = node.output[0]
    wide, zero, weight, product, scaled = (f"{output}_{part}" for part in ("wide", "zero", "weight", "float", "scaled"))
    last = scaled if bias else output
    nodes = [helper.make_node("Cast", [node.input[1]], [wide], to=TensorProto.FLOAT)]
    if zeros:
        nodes.append(helper.make_node("Cast", [zeros], [zero], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("Sub", [wide, zero], [weight]))
    nodes.append(helper.make_node("MatMul", [x, weight if zeros else wide], [product]))
    nodes.append(helper.make_node("Mul", [product, node.input[3]], [last]))
    return [*nodes, helper.make_node("Add", [last, bias], [output])] if bias else nodes
