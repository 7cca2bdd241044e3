"""Operator graphs and weights that the tests of this leaf share."""

import math
from collections.abc import Callable

import networkx as nx
import pytest
import yaml

from hwmodels import Device, load_device
from hwmodels.cost.operation import Operation, StoredWeight

SafeDumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # the compiled one takes a quarter of the time


def stored(n, k, bits, axis="rows", groups=1, size=0, resident=False):
    """Describe a stored matrix as the planner does: packed codes, one fp16 scale and one fp16 offset per range."""
    if axis == "none":
        return StoredWeight(bits, axis, 0, 0, math.ceil(n * k * bits / 8), 0, resident)
    number = groups if axis == "rows" else n * k // size
    span = n // groups if axis == "rows" else size
    return StoredWeight(bits, axis, number, span, math.ceil(n * k * bits / 8), 4 * number, resident)


def gemm(name, m, k, n, weight):
    return Operation(name, "gemm", m, k, n, input_elements=m * k, output_elements=m * n, weight=weight)


def pointwise(name, kind, m, n, inputs=1, weight=None):
    return Operation(name, kind, m, 1, n, input_elements=inputs * m * n, output_elements=m * n, weight=weight)


def encoder(bits=8, axis="rows", groups=1, size=0, layers=12, seq=128, width=768, ffn=3072, heads=12, resident=False):
    """Return a BERT encoder with its embeddings as an operator graph; all matrices are stored the same way."""
    graph = nx.DiGraph()

    def add(op, *sources):
        graph.add_node(op.name, op=op)
        graph.add_edges_from((source, op.name) for source in sources)
        return op.name

    def matrix(name, k, n, source):
        weight = stored(n, k, bits, axis, groups, size, resident)
        product = add(gemm(name, seq, k, n, weight), *source)
        bias = stored(n, 1, 16, "none")
        return add(pointwise(name + ".bias", "elementwise", seq, n, weight=bias), product)

    def attention(name, k, n, left, right):
        inputs, outputs = heads * seq * k + heads * k * n, heads * seq * n
        return add(Operation(name, "matmul", seq, k, n, inputs, outputs, batch=heads), left, right)

    table = Operation(
        "embed", "gather", seq, 30522, width, seq, seq * width, weight=stored(30522, width, 8, groups=30522)
    )
    hidden = add(table)
    for layer in range(layers):
        q, k, v = (matrix(f"{layer}.{part}", width, width, [hidden]) for part in "qkv")
        scores = attention(f"{layer}.scores", width // heads, seq, q, k)
        soft = add(pointwise(f"{layer}.softmax", "softmax", heads * seq, seq), scores)
        mixed = attention(f"{layer}.context", seq, width // heads, soft, v)
        out = matrix(f"{layer}.out", width, width, [mixed])
        first = add(pointwise(f"{layer}.add1", "elementwise", seq, width, inputs=2), out, hidden)
        norm = add(pointwise(f"{layer}.norm1", "layernorm", seq, width, weight=stored(width, 2, 16, "none")), first)
        up = matrix(f"{layer}.up", width, ffn, [norm])
        act = add(pointwise(f"{layer}.gelu", "gelu", seq, ffn), up)
        down = matrix(f"{layer}.down", ffn, width, [act])
        second = add(pointwise(f"{layer}.add2", "elementwise", seq, width, inputs=2), down, norm)
        weight = stored(width, 2, 16, "none")
        hidden = add(pointwise(f"{layer}.norm2", "layernorm", seq, width, weight=weight), second)
    return graph


@pytest.fixture(scope="session")
def car_soc() -> Device:
    return load_device("car-soc")


@pytest.fixture(scope="session")
def make_encoder() -> Callable[..., nx.DiGraph]:
    return encoder
