"""The operations of one encoder block, in order; a matrix's role or width determines the tensor that it reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..spec.profiles import Kind, MatrixSpec

if TYPE_CHECKING:
    from .operations import GraphBuilder

ATTENTION_KINDS: tuple[Kind, ...] = ("query", "key", "value", "attention_output", "intermediate", "output")


class BlockWalk:
    """One block, matrix by matrix: each reads the latest tensor of its width, unless its role names another."""

    def __init__(self, builder: GraphBuilder, prefix: str, current: str, biases: int) -> None:
        self.builder, self.prefix = builder, prefix
        self.stream = current
        self.latest = {builder.profile.hidden: current}  # by width
        self.unread: dict[str, int] = {}  # results of layers without a role, with their widths
        self.heads: dict[Kind, MatrixSpec] = {}  # the matrices that attention reads
        self.positioned: list[MatrixSpec] = []  # those of them that relative positions pass through
        self.wide: list[str] = []  # results of intermediate layers
        self.biases, self.norms_left, self.pairs, self.last = biases, 2, 0, current

    def step(self, matrix: MatrixSpec) -> None:
        """Add one matrix, and the operations between it and the next.

        Args:
            matrix: the next matrix in order of execution.
        """
        if matrix.kind in ("query", "key", "value", "query_key_value", "position"):
            self.heads[matrix.kind] = matrix
            self.positioned += [matrix] if matrix.fixed_positions else []
            self.builder.matrix(matrix, *([self._source(matrix.columns)] if matrix.uses else []))
        elif matrix.kind == "intermediate":
            self.wide.append(self.builder.matrix(matrix, self._source(matrix.columns)))
        elif matrix.kind == "attention_output":
            made = self.builder.matrix(matrix, self._context(matrix.columns))
            self._residual("attention", made, matrix.rows)
        elif matrix.kind == "output":
            name = f"{self.prefix}.activation" + (f".{self.pairs}" if self.pairs else "")
            elements = self.builder.workload.tokens * matrix.columns
            active = self.builder.pointwise(name, "gelu", *self.wide, elements=elements, reader=matrix.module)
            self.wide = []
            self._residual(
                f"output{f'.{self.pairs}' if self.pairs else ''}", self.builder.matrix(matrix, active), matrix.rows
            )
            self.pairs += 1
        else:
            self.last = self.builder.matrix(matrix, self._source(matrix.columns))
            self.unread[self.last] = matrix.rows
            self.latest[matrix.rows] = self.last

    def finish(self) -> str:
        """Return the block's result; a block that lacks a norm, or ends in a layer without a role, gets a norm."""
        if not self.unread and not self.norms_left and not self.biases:
            return self.last
        weight = self.biases + self.norms_left * self.builder.norm
        # layers that return to the full width end in a residual sum too
        inputs = dict.fromkeys((*self.unread, *self.wide, self.last, *([self.stream] if self.pairs else [])))
        return self.builder.pointwise(f"{self.prefix}.norm", "layernorm", *inputs, weight=weight)

    def _source(self, width: int) -> str:
        tensor = self.latest.get(width, self.last)
        self.unread.pop(tensor, None)
        return tensor

    def _context(self, width: int) -> str:
        """Add attention over query, key and value, which may be one fused tensor."""
        fused = self.heads.get("query_key_value")
        query, key, value = (self.heads.get(kind, fused) for kind in ATTENTION_KINDS[:3])
        if query is None or key is None or value is None:
            return self._source(width)
        modules = (query.module, key.module, value.module)
        heads = self.builder.profile.heads if fused is query else self.builder.profile.heads_of(query)
        return self.builder.attention(self.prefix, *modules, width, self.positioned, heads)

    def _residual(self, name: str, made: str, width: int) -> None:
        others = [tensor for tensor, columns in self.unread.items() if columns == width]
        inputs = dict.fromkeys((made, *others, *([self.latest[width]] if width in self.latest else [])))
        self.unread = {tensor: columns for tensor, columns in self.unread.items() if columns != width}
        elements = self.builder.workload.tokens * width
        prefix = f"{self.prefix}.{name}"
        added = self.builder.pointwise(f"{prefix}.add", "elementwise", *inputs, elements=elements, weight=self.biases)
        self.biases = 0
        weight = self.builder.norm if self.norms_left else 0
        self.norms_left = max(0, self.norms_left - 1)
        self.last = self.builder.pointwise(f"{prefix}.norm", "layernorm", added, elements=elements, weight=weight)
        self.latest[width] = self.last
