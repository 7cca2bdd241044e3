"""Removes from ONNX graphs what PyTorch's exporter writes and nothing needs."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import numpy_helper

MASKED = np.float32(-1e30)  # score of a masked token: its softmax is exactly 0 beside any real score


def drop_aliases(graph: Any) -> None:
    """Replace `Identity(initializer)`, by which the exporter shares weights of repeated layers, by the initializer.

    Args:
        graph: an ONNX graph; changed in place.
    """
    aliases = {initializer.name: initializer.name for initializer in graph.initializer}
    kept = []
    for node in graph.node:
        if node.op_type == "Identity" and node.input[0] in aliases:
            aliases[node.output[0]] = aliases[node.input[0]]
            continue
        for index, name in enumerate(node.input):
            node.input[index] = aliases.get(name, name)
        kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)


def drop_guards(graph: Any) -> None:
    """Drop the nodes that replace NaN by 0 for queries that see no token: two passes over all scores of each layer.

    With finite scores for masked tokens there is no NaN: such queries weight all tokens equally. Only padding and texts
    without any token have such queries, and nothing reads their results.

    Args:
        graph: an ONNX graph; changed in place.
    """
    makers = {name: node for node in graph.node for name in node.output}
    guarded = {
        node.output[0]: node.input[2]
        for node in graph.node
        if node.op_type == "Where" and node.input[0] in makers and makers[node.input[0]].op_type == "IsNaN"
        and makers[node.input[0]].input[0] == node.input[2]
    }  # fmt: skip
    if not guarded:
        return
    kept = []
    for node in graph.node:
        if node.op_type == "IsNaN" or node.output[0] in guarded:
            continue
        for index, name in enumerate(node.input):
            node.input[index] = guarded.get(name, name)
        value = next((a for a in node.attribute if node.op_type == "Constant" and a.name == "value"), None)
        array = None if value is None else numpy_helper.to_array(value.t)
        if value is not None and array is not None and array.dtype == np.float32 and np.isneginf(array).all():
            value.t.CopyFrom(numpy_helper.from_array(np.full_like(array, MASKED)))
        kept.append(node)
    read = {name for node in kept for name in node.input}
    del graph.node[:]
    graph.node.extend(node for node in kept if node.op_type != "Constant" or node.output[0] in read)
