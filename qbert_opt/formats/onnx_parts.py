"""The nodes and initializers of an ONNX graph while it is built. Needs only numpy and onnx.

Tensors that are float16 in the quantized folder stay float16 in the file; the session widens them when it starts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper


class Parts:
    """Collects nodes and initializers. Names are unique; equal arrays under one name are written once."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.initializers: dict[str, Any] = {}
        self._arrays: dict[str, NDArray[Any]] = {}
        self._shared: dict[tuple[str, ...], str] = {}
        self._count = 0

    def node(self, kind: str, inputs: list[str], outputs: int | list[str] = 1, **attributes: Any) -> str:
        """Add a node and return the name of its first output.

        Args:
            kind: its operator.
            inputs: names of its inputs.
            outputs: names of its outputs, or their number.
            **attributes: attributes of the operator.
        """
        self._count += 1
        if isinstance(outputs, int):
            outputs = [f"q{self._count}_{index}" for index in range(outputs)]
        domain = attributes.pop("domain", "")
        name = f"q{self._count}_{kind}"
        self.nodes.append(helper.make_node(kind, inputs, outputs, name=name, domain=domain, **attributes))
        return outputs[0]

    def constant(self, array: NDArray[Any] | Any, name: str | None = None) -> str:
        """Add an initializer and return its name.

        A weight may be read as a table and in a product (tied masked-LM heads). If both need the same bytes in another
        shape, the second is a view of the first; if they need other bytes, each has its own initializer.

        Args:
            array: values of the initializer.
            name: its name; None makes one.
        """
        array = np.ascontiguousarray(array)
        if name is None:
            self._count += 1
            name = f"q{self._count}_value"
        if name not in self._arrays:
            self._arrays[name] = array
            self.initializers[name] = numpy_helper.from_array(array, name)
            return name
        first = self._arrays[name]
        if first.dtype != array.dtype or first.size != array.size or first.tobytes() != array.tobytes():
            return self.constant(array, f"{name}.{'x'.join(map(str, array.shape))}.{array.dtype}")
        if first.shape == array.shape:
            return name
        key = ("view", name, str(array.shape))
        if key not in self._shared:
            self._shared[key] = self.node("Reshape", [name, self.constant(np.array(array.shape))])
        return self._shared[key]

    def widened(self, array: NDArray[np.float16], name: str) -> str:
        """Add a float16 initializer, and return the name of its float32 values, which a session computes once.

        Args:
            array: values of the initializer.
            name: its name.
        """
        key = ("widened", name, str(array.shape))
        if key not in self._shared:
            self._shared[key] = self.node("Cast", [self.constant(array, name)], to=TensorProto.FLOAT)
        return self._shared[key]


def model_of(parts: Parts, inputs: list[Any], outputs: list[Any], opset: int) -> Any:
    """Return the ONNX model of these parts.

    Args:
        parts: nodes and initializers.
        inputs: value infos of the graph's inputs.
        outputs: value infos of its outputs.
        opset: version of the default operator set.
    """
    graph = helper.make_graph(parts.nodes, "qbert_opt", inputs, outputs, list(parts.initializers.values()))
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, producer_name="qbert-opt")
