"""A model's profile and its choices as a graph of operations that a device can be asked to price.

The only place where what BERT computes meets what hardware runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import networkx as nx

from hwmodels.operation import Operation, StoredWeight

from .choices import Choice
from .profiles import OTHER_BYTES, TABLE_BITS, HeadSpec, Kind, MatrixSpec, ModelProfile, TableSpec

ATTENTION_KINDS: tuple[Kind, ...] = ("query", "key", "value", "attention_output", "intermediate", "output")


@dataclass(frozen=True, slots=True)
class Workload:
    """What one inference is: `batch_size` sentences of `seq_len` tokens."""

    seq_len: int = 128
    batch_size: int = 1

    @property
    def tokens(self) -> int:
        """Tokens of one inference."""
        return self.seq_len * self.batch_size


@dataclass(frozen=True, slots=True)
class Storage:
    """How one matrix is stored, and whether it stays on chip between inferences."""

    choice: Choice
    resident: bool = False


def stored_weight(matrix: MatrixSpec, storage: Storage, heads: int) -> StoredWeight:
    """Describe a stored matrix to the hardware model; its bytes are the choice's price."""
    layout = storage.choice.layout(matrix.rows, matrix.columns, heads=heads)
    return StoredWeight(
        bits=layout.bits,
        axis=layout.axis,
        num_groups=layout.num_groups,
        group_size=layout.group_size,
        code_bytes=storage.choice.code_bytes(matrix.rows, matrix.columns),
        metadata_bytes=storage.choice.metadata_bytes(matrix.rows, matrix.columns, heads=heads),
        resident=storage.resident,
    )


def matrix_operation(matrix: MatrixSpec, weight: StoredWeight, workload: Workload) -> Operation:
    """The product of one searched matrix with all tokens."""
    return _gemm(matrix.module, workload.tokens, matrix.columns, matrix.rows, weight)


def model_graph(
    profile: ModelProfile, storage: Mapping[str, Storage] | None, workload: Workload, *, float_bits: int = 16
) -> nx.DiGraph:
    """Build the operator graph of one inference.

    Args:
        profile: the model.
        storage: how each searched matrix is stored, by module; None stores everything in floats.
        workload: sentences and tokens.
        float_bits: width of the floats where `storage` is None; tables and the rest have it too.

    Returns:
        A graph whose nodes carry `op`; the weights of all nodes together are the whole stored model.
    """
    return _Builder(profile, storage, workload, float_bits).build()


class _Builder:
    """Adds operations one after the other; each method returns the name of the tensor it made."""

    def __init__(
        self, profile: ModelProfile, storage: Mapping[str, Storage] | None, workload: Workload, float_bits: int
    ) -> None:
        self.profile, self.storage, self.workload = profile, storage, workload
        self.float_bytes = OTHER_BYTES if storage is not None else float_bits // 8
        self.graph = nx.DiGraph()

    def build(self) -> nx.DiGraph:
        profile = self.profile
        norms = 1 + 2 * profile.num_blocks
        head = sum(spec.rows * spec.columns for spec in profile.head)
        loose = profile.other_elements - head - norms * 2 * profile.hidden  # biases and whatever else is small
        per_add, extra = divmod(max(0, loose), profile.num_blocks)
        current = self._embeddings(min(0, loose))
        for block in range(profile.num_blocks):
            biases = per_add + (extra if block == 0 else 0)
            current = self._block(block, current, biases)
        for spec in profile.head:
            current = self._head(spec, current)
        return self.graph

    def _add(self, op: Operation, *inputs: str) -> str:
        self.graph.add_node(op.name, op=op)
        self.graph.add_edges_from((name, op.name) for name in inputs)
        return op.name

    def _floats(self, elements: int) -> StoredWeight | None:
        if elements <= 0:
            return None
        return StoredWeight(8 * self.float_bytes, "none", 0, 0, elements * self.float_bytes, 0)

    def _pointwise(self, name: str, kind: str, *inputs: str, elements: int = 0, weight: int = 0) -> str:
        tokens, hidden = self.workload.tokens, self.profile.hidden
        width = elements // tokens if elements else hidden
        size = tokens * width
        op = Operation(name, kind, tokens, 1, width, size * max(1, len(inputs)), size, weight=self._floats(weight))
        return self._add(op, *inputs)

    def _table(self, table: TableSpec) -> str:
        # a table that is no row gather (relative positions) is small and read whole
        rows = round(self.workload.tokens * table.reads_per_token) or table.rows
        if self.storage is None:
            weight = self._floats(table.rows * table.columns)
        else:
            codes = table.rows * table.columns * TABLE_BITS // 8
            weight = StoredWeight(TABLE_BITS, "rows", table.rows, 1, codes, table.bytes - codes)
        return self._add(
            Operation(table.module, "gather", rows, table.rows, table.columns, 0, rows * table.columns, weight=weight)
        )

    def _embeddings(self, spare: int) -> str:
        current = self._pointwise("embeddings.add", "elementwise", *map(self._table, self.profile.tables))
        return self._pointwise("embeddings.norm", "layernorm", current, weight=2 * self.profile.hidden + spare)

    def _block(self, block: int, current: str, biases: int) -> str:
        matrices = {m.kind: m for m in self.profile.matrices if m.block == block}
        if set(matrices) != set(ATTENTION_KINDS):
            return self._chain(block, current, biases)
        prefix = f"block.{block}"
        query, key, value = (self._matrix(matrices[kind], current) for kind in ATTENTION_KINDS[:3])
        context = self._attention(prefix, query, key, value, matrices["query"].rows)
        attended = self._matrix(matrices["attention_output"], context)
        added = self._pointwise(f"{prefix}.attention.add", "elementwise", attended, current, weight=biases)
        middle = self._pointwise(f"{prefix}.attention.norm", "layernorm", added, weight=2 * self.profile.hidden)
        wide = self._matrix(matrices["intermediate"], middle)
        size = self.workload.tokens * matrices["intermediate"].rows
        active = self._pointwise(f"{prefix}.gelu", "gelu", wide, elements=size)
        narrow = self._matrix(matrices["output"], active)
        added = self._pointwise(f"{prefix}.output.add", "elementwise", narrow, middle)
        return self._pointwise(f"{prefix}.output.norm", "layernorm", added, weight=2 * self.profile.hidden)

    def _chain(self, block: int, current: str, biases: int) -> str:
        """A block that is no plain transformer layer: its matrices one after the other, then a norm."""
        for matrix in (m for m in self.profile.matrices if m.block == block):
            current = self._matrix(matrix, current)
        weight = biases + 4 * self.profile.hidden
        return self._pointwise(f"block.{block}.norm", "layernorm", current, weight=weight)

    def _matrix(self, matrix: MatrixSpec, source: str) -> str:
        if self.storage is None:
            weight = self._floats(matrix.elements)
        else:
            weight = stored_weight(matrix, self.storage[matrix.module], self.profile.heads)
        if weight is None:
            raise ValueError(f"{matrix.module} has no weights")
        return self._add(matrix_operation(matrix, weight, self.workload), source)

    def _attention(self, prefix: str, query: str, key: str, value: str, width: int) -> str:
        seq, copies = self.workload.seq_len, self.workload.batch_size * self.profile.heads
        depth = width // self.profile.heads
        side, square = copies * seq * depth, copies * seq * seq
        scores = self._add(
            Operation(f"{prefix}.scores", "matmul", seq, depth, seq, 2 * side, square, batch=copies), query, key
        )
        weights = self._add(
            Operation(f"{prefix}.softmax", "softmax", seq, 1, seq, square, square, batch=copies), scores
        )
        return self._add(
            Operation(f"{prefix}.context", "matmul", seq, seq, depth, square + side, side, batch=copies),
            weights,
            value,
        )

    def _head(self, spec: HeadSpec, source: str) -> str:
        weight = self._floats(spec.rows * spec.columns)
        if weight is None:
            raise ValueError(f"{spec.module} has no weights")
        return self._add(_gemm(spec.module, self.workload.batch_size, spec.columns, spec.rows, weight), source)


def _gemm(name: str, m: int, k: int, n: int, weight: StoredWeight) -> Operation:
    return Operation(name, "gemm", m, k, n, m * k, m * n, weight=weight)
