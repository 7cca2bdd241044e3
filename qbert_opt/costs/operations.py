"""A model's profile and its choices as a graph of operations that the hardware model can price.

This is the only place that knows both the model and the hardware model. A block whose weights are shared by several
layers is in the graph once, and its operations repeat.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import networkx as nx

from hwmodels import Operation, StoredWeight

from ..integer.work import activation_work, norm_work, softmax_work
from ..spec.choices import Choice
from ..spec.profiles import OTHER_BYTES, HeadSpec, MatrixSpec, ModelProfile, TableSpec
from ..spec.tables import table_choice
from .block_walk import BlockWalk
from .causal_attention import causal_attention
from .engine_target import EngineTarget
from .stored import Storage as Storage
from .stored import stored_weight
from .workload import FLOAT, Workload, in_phase

INTEGER_BITS = 8  # width of an input that the plan does not round, in an integer-only engine


def matrix_operation(
    matrix: MatrixSpec,
    weight: StoredWeight,
    workload: Workload,
    choice: Choice | None = None,
    target: EngineTarget | None = None,
) -> Operation:
    """Return the product of one searched matrix with all tokens, and with relative positions if it reads them.

    Args:
        matrix: shape and role.
        weight: how it is stored.
        workload: sentences and tokens.
        choice: its choice; None for floating-point weights.
        target: the engine that runs it; None leaves the arithmetic to the device.
    """
    positions = (workload.tokens if matrix.uses else 0) + matrix.fixed_positions
    product = _gemm(matrix.module, positions, matrix.columns, matrix.rows, weight, repeats=max(1, matrix.uses))
    wide = workload.input_bits.get(matrix.module)
    if target is None or choice is None:
        return replace(product, input_bits=wide)
    read = target.read_bits(choice) if wide is None else wide
    extra = target.extra_elements(choice, positions, matrix)
    return replace(product, input_bits=read, arithmetic=target.arithmetic(choice, wide), extra_elements=extra)


def table_operation(table: TableSpec, weight: StoredWeight | None, workload: Workload) -> Operation:
    """Return the gather of a table's rows for all tokens; a table of relative positions is read as a whole.

    Args:
        table: shape, and rows read per token.
        weight: how it is stored.
        workload: sentences and tokens of one inference.
    """
    rows = round(workload.tokens * table.reads_per_token) or table.rows
    return Operation(table.module, "gather", rows, table.rows, table.columns, 0, rows * table.columns, weight=weight)


def head_operation(spec: HeadSpec, weight: StoredWeight, workload: Workload, *, causal: bool) -> Operation:
    """Return the matrix product of a layer outside the blocks.

    Args:
        spec: shape, and what it runs on.
        weight: how it is stored.
        workload: sentences and tokens of one inference.
        causal: whether the model is a decoder, which runs the layer on the last token only.
    """
    every = spec.per_token and (spec.before_blocks or not causal)
    positions = workload.tokens if every else workload.batch_size
    return _gemm(spec.module, positions, spec.columns, spec.rows, weight)


def model_graph(
    profile: ModelProfile,
    storage: Mapping[str, Storage] | None,
    workload: Workload,
    *,
    float_bits: int = 16,
    target: EngineTarget | None = None,
) -> nx.DiGraph:
    """Build the operator graph of one inference.

    Args:
        profile: the model.
        storage: how each searched matrix and table is stored, by module; None stores everything in floating point.
        workload: sentences and tokens.
        float_bits: width of all weights if `storage` is None.
        target: the engine whose file stores the weights and whose arithmetic is priced; None for packed weights.

    Returns:
        A graph whose nodes carry `op`; the weights of all nodes together are the whole stored model.
    """
    return GraphBuilder(profile, storage, workload, float_bits, target).build()


class GraphBuilder:
    """Adds operations one after another; each method returns the name of the resulting tensor."""

    def __init__(
        self,
        profile: ModelProfile,
        storage: Mapping[str, Storage] | None,
        workload: Workload,
        float_bits: int,
        target: EngineTarget | None,
    ) -> None:
        self.profile, self.storage, self.target = profile, storage, target
        self.workload = in_phase(profile, workload)
        self.float_bytes = OTHER_BYTES if storage is not None else float_bits // 8
        self.graph = nx.DiGraph()
        self.matrices_of: dict[int, list[MatrixSpec]] = {block: [] for block in range(profile.num_blocks)}
        for matrix in profile.matrices:
            self.matrices_of.setdefault(matrix.block, []).append(matrix)
        self.norm, self.repeats, self.block = 0, 1, 0

    def build(self) -> nx.DiGraph:
        """Return the graph of the whole model."""
        profile = self.profile
        head = sum(spec.rows * spec.columns for spec in profile.head if not spec.tied_to)
        rest = profile.other_elements - head
        # how small tensors are distributed over the graph does not matter, as long as their bytes add up to the model's
        self.norm = min(2 * profile.hidden, max(0, rest) // (1 + 2 * profile.num_blocks))
        loose = rest - self.norm * (1 + 2 * profile.num_blocks)  # biases and other small tensors
        per_block, extra = divmod(max(0, loose), profile.num_blocks)
        current = self._embeddings(min(0, loose))
        for spec in profile.head:
            if spec.before_blocks:
                current = self._head(spec, current)
        for block in range(profile.num_blocks):
            current = self._block(block, current, per_block + (extra if block == 0 else 0))
        for spec in profile.head:
            if not spec.before_blocks:
                current = self._head(spec, current)
        return self.graph

    def add(self, op: Operation, *inputs: str) -> str:
        """Add an operation.

        Args:
            op: the operation; its name becomes the name of its node in the graph.
            *inputs: names of the tensors that it reads.
        """
        self.graph.add_node(op.name, op=op)
        self.graph.add_edges_from((name, op.name) for name in inputs)
        return op.name

    def _floats(self, elements: int) -> StoredWeight | None:
        if elements <= 0:
            return None
        return StoredWeight(8 * self.float_bytes, "none", 0, 0, elements * self.float_bytes, 0)

    def pointwise(
        self, name: str, kind: str, *inputs: str, elements: int = 0, weight: int = 0, reader: str | None = None
    ) -> str:
        """Add a pointwise operation.

        Args:
            name: name of its node in the graph.
            kind: its kind of operation.
            *inputs: names of the tensors that it reads, all of the same size.
            elements: number of output elements; 0 for tokens × hidden size.
            weight: number of floating-point weights.
            reader: the matrix that reads the result.
        """
        tokens, hidden = self.workload.tokens, self.profile.hidden
        width = elements // tokens if elements else hidden
        size = tokens * width
        read = size * max(1, len(inputs))
        floats, arithmetic = self._floats(weight), self.function_fields(kind, width, reader)
        return self.add(
            Operation(name, kind, tokens, 1, width, read, size, weight=floats, repeats=self.repeats, **arithmetic),
            *inputs,
        )

    def function_fields(self, kind: str, width: int, reader: str | None = None) -> dict[str, Any]:
        """Return the fields of an operation that say how its nonlinear function is computed.

        Args:
            kind: its kind of operation.
            width: elements of a row.
            reader: the matrix that reads the result.
        """
        functions = self.workload.functions
        if functions is None or kind == "elementwise":
            return {}
        if functions == FLOAT:
            return {"arithmetic": "fp32"}
        if kind == "softmax":
            return {"integers": softmax_work(functions.softmax, width)}
        if kind == "layernorm":
            return {"integers": norm_work(functions.norm, width)}
        bits = self.workload.input_bits.get(reader or "", INTEGER_BITS)
        return {"integers": activation_work(functions.activation, bits)}

    def _table(self, table: TableSpec) -> str:
        if self.storage is None:
            weight = self._floats(table.rows * table.columns)
        else:
            stored = Storage(table_choice(self.storage, table.module))
            weight = stored_weight(table, stored, self.profile.heads, self.target)
        return self.add(table_operation(table, weight, self.workload))

    def _embeddings(self, spare: int) -> str:
        current = self.pointwise("embeddings.add", "elementwise", *map(self._table, self.profile.tables))
        return self.pointwise("embeddings.norm", "layernorm", current, weight=self.norm + spare)

    def _block(self, block: int, current: str, biases: int) -> str:
        matrices = self.matrices_of[block]
        self.repeats, self.block = max((1, *(m.uses for m in matrices))), block
        walk = BlockWalk(self, f"block.{block}", current, biases)
        for matrix in matrices:
            walk.step(matrix)
        last = walk.finish()
        self.repeats = 1
        return last

    def matrix(self, matrix: MatrixSpec, *inputs: str) -> str:
        """Add the product of a searched matrix.

        Args:
            matrix: shape and role.
            *inputs: names of the tensors that it reads.
        """
        if self.storage is None:
            weight = self._floats(matrix.elements)
        else:
            weight = stored_weight(matrix, self.storage[matrix.module], self.profile.heads_of(matrix), self.target)
        if weight is None:
            raise ValueError(f"{matrix.module} has no weights")
        choice = None if self.storage is None else self.storage[matrix.module].choice
        return self.add(matrix_operation(matrix, weight, self.workload, choice, self.target), *inputs)

    def attention(
        self, prefix: str, query: str, key: str, value: str, width: int, positioned: Sequence[MatrixSpec], heads: int
    ) -> str:
        """Add scores, softmax and weighted sum; `positioned` matrices add scores of relative positions.

        Args:
            prefix: start of the operations' names.
            query: name of the query tensor.
            key: name of the key tensor.
            value: name of the value tensor.
            width: width of all heads together.
            positioned: matrices of query or key that relative positions pass through.
            heads: attention heads of the layer; ignored for a decoder, whose heads come from the profile.
        """
        if self.profile.causal:
            return causal_attention(self, prefix, query, key, value, width)
        seq, copies = self.workload.seq_len, self.workload.batch_size * heads
        depth = max(1, width // heads)
        side, square = copies * seq * depth, copies * seq * seq
        floats = self.attention_arithmetic()

        def product(name: str, sizes: tuple[int, int, int], read: int, made: int, *inputs: str) -> str:
            kind = "softmax" if name == "softmax" else "matmul"
            m, k, n = sizes
            op = Operation(f"{prefix}.{name}", kind, m, k, n, read, made, batch=copies, repeats=self.repeats)
            how = {"arithmetic": floats} if kind == "matmul" else self.function_fields(kind, n)
            return self.add(replace(op, **how), *dict.fromkeys(inputs))

        relative = []
        for index, matrix in enumerate(positioned):
            by = key if matrix.kind == "query" else query
            span, read = matrix.fixed_positions, side + matrix.fixed_positions * width
            made = copies * seq * matrix.fixed_positions
            relative.append(product(f"positions.{index}", (seq, depth, span), read, made, matrix.module, by))
        scores = product("scores", (seq, depth, seq), 2 * side, square, query, key, *relative)
        weights = product("softmax", (seq, 1, seq), square, square, scores)
        return product("context", (seq, seq, depth), square + side, side, weights, value)

    def attention_arithmetic(self) -> Literal["fp32", "fp16"] | None:
        """Return the floating-point type of products of activations; None leaves it to the device."""
        return None if self.target is None or self.storage is None else self.target.arithmetic(None)

    def _head(self, spec: HeadSpec, source: str) -> str:
        weight = self._tied(spec) if spec.tied_to else self._floats(spec.rows * spec.columns)
        if weight is None:
            raise ValueError(f"{spec.module} has no weights")
        return self.add(head_operation(spec, weight, self.workload, causal=self.profile.causal), source)

    def _tied(self, spec: HeadSpec) -> StoredWeight:
        """The weights of a head as its embedding table stores them."""
        stored: StoredWeight | None = self.graph.nodes[spec.tied_to]["op"].weight
        if stored is None:
            raise ValueError(f"{spec.tied_to} has no weights")
        return replace(stored, stored_elsewhere=True)


def _gemm(name: str, m: int, k: int, n: int, weight: StoredWeight, repeats: int = 1) -> Operation:
    return Operation(name, "gemm", m, k, n, m * k, m * n, weight=weight, repeats=repeats)
