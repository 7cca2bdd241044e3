"""Bytes of a matrix, a table and the graph in an engine's own file, which is what fills flash and streams from DRAM.

An engine's file differs from the quantized folder: codes take the next width that the engine has, group-wise ranges are
repeated for each block of a kernel, and the graph itself takes space. Bytes of weights follow from the writers in
`formats` exactly; bytes of the graph are linear in its nodes, with coefficients fitted to written files
(`benchmarks/devices/engine_files.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ..spec.choices import Choice
from ..spec.forms import OFFSET_BYTES, SCALE_BYTES
from ..spec.profiles import OTHER_BYTES, ModelProfile

WIDE_OFFSET_BYTES = 4  # float32: an offset that a zero point was turned into


@dataclass(frozen=True, slots=True)
class GraphLaw:
    """Bytes of nodes, names and shapes in a file.

    Attributes:
        model: of embeddings, head and what every graph has.
        layer: of one encoder layer, its products in the plainest form: symmetric with one range per row.
        more: what one product takes beyond that, by `product_kind`; a kind that is absent takes nothing.
        entry: of each entry of the largest table, where the file holds the vocabulary.
        wide_vectors: whether biases, LayerNorms and a row of token types are float32 in the file; elsewhere such
            tensors are float16.
    """

    model: int = 0
    layer: int = 0
    more: Mapping[str, int] = field(default_factory=dict, hash=False)
    entry: float = 0
    wide_vectors: bool = False


def product_kind(choice: Choice, *, static_input: bool = False) -> str:
    """Return how a graph computes a product: `rows`, `columns` or `static`, then `offset` or `zero-point` if stored.

    Args:
        choice: of the matrix.
        static_input: whether its input has a static range.
    """
    kind = "static" if static_input else choice.grouping.partition(":")[0]
    return f"{kind} {choice.form}" if choice.form in ("offset", "zero-point") else kind


@dataclass(frozen=True, slots=True)
class FilePart:
    """A matrix or table in an engine's file.

    Attributes:
        bits: width of a stored code.
        group_size: inputs that share a stored scale; 0 where each row has one.
        code_bytes: of the codes.
        range_bytes: of scales, offsets and zero points.
    """

    bits: int
    group_size: int
    code_bytes: int
    range_bytes: int

    @property
    def bytes(self) -> int:
        """Codes and ranges together."""
        return self.code_bytes + self.range_bytes


@dataclass(frozen=True, slots=True)
class FileLaw:
    """How an engine's file stores a choice.

    Attributes:
        containers: widths that a code may have, ascending; a code takes the first that holds it.
        blocks: by container, the block sizes of the kernels, largest first. A range is stored once for each block of
            the largest size that divides it; empty stores it once.
        other_blocks: container and block for groups that no block of their own container divides.
        offsets_repeat_scales: whether the correction for a group-wise offset stores the scales a second time.
        blocks_everywhere: whether ranges of whole rows, and tables, are stored once for each block too.
        row_scale_bytes: of the scale of a range that spans a row.
        row_zero_bytes: of the zero point of such a range, which is 0: stored for each table, and once for all matrices
            with as many rows.
        tables_as_matrices: whether a table is stored as a matrix is.
        graph: bytes of the graph.
        decoders: those of a decoder's; None where no writer converts decoders.
    """

    containers: tuple[int, ...] = (2, 3, 4, 5, 6, 7, 8)
    blocks: Mapping[int, tuple[int, ...]] = field(default_factory=dict, hash=False)
    other_blocks: tuple[int, int] | None = None
    offsets_repeat_scales: bool = False
    blocks_everywhere: bool = False
    row_scale_bytes: int = SCALE_BYTES
    row_zero_bytes: int = 0
    tables_as_matrices: bool = False
    graph: GraphLaw = GraphLaw()
    decoders: GraphLaw | None = None

    def stored_bits(self, bits: int) -> int:
        """Return the width that a code has in the file, in bits.

        Args:
            bits: of the code.

        Raises:
            StopIteration: no container is that wide.
        """
        return next(width for width in self.containers if width >= bits)

    def matrix(self, choice: Choice, rows: int, columns: int, *, heads: int, static_input: bool = False) -> FilePart:
        """Return the matrix as stored in the file.

        Args:
            choice: how it is stored.
            rows: outputs.
            columns: inputs.
            heads: attention heads of the model, for `rows:heads`.
            static_input: its inputs have a static range.

        Raises:
            UsageError: the groups do not divide the matrix.
        """
        layout = choice.layout(rows, columns, heads=heads)
        by_rows = layout.axis == "rows"
        size = columns if by_rows else layout.group_size
        groups = columns // size
        zeros = choice.form == "zero-point" and layout.num_groups > 1
        width, blocks = self.stored_bits(choice.bits), groups
        if self.blocks and not static_input:
            width, block = self._block(width, size)
            blocks = columns // block
        each_block = groups > 1 or self.blocks_everywhere
        ranges = rows * (SCALE_BYTES * blocks if each_block else self.row_scale_bytes)
        if choice.form == "offset":
            ranges += rows * groups * OFFSET_BYTES
            if groups > 1 and self.offsets_repeat_scales:
                ranges += rows * groups * SCALE_BYTES
        elif static_input and choice.bits == 8 and choice.form == "zero-point":
            ranges += rows * WIDE_OFFSET_BYTES
        elif zeros and static_input:
            ranges += rows
        elif zeros and self.blocks:
            ranges += rows * _packed(blocks, width)
        elif zeros:
            ranges += _packed(rows * groups, width)
        return FilePart(width, 0 if by_rows else columns // blocks, _packed(rows * columns, width), ranges)

    def table(self, choice: Choice, rows: int, columns: int) -> FilePart:
        """Return the embedding table as stored in the file.

        Args:
            choice: how it is stored.
            rows: entries.
            columns: values of an entry.

        Raises:
            UsageError: the groups do not divide a row.
        """
        if self.blocks_everywhere or self.tables_as_matrices:
            part = self.matrix(choice, rows, columns, heads=1)
            zeros = 0 if part.group_size else rows * self.row_zero_bytes
            return replace(part, range_bytes=part.range_bytes + zeros)
        layout = choice.layout(rows, columns, heads=1)
        grouped = layout.axis == "columns"
        zero = layout.fixed_zero  # a power of two times an fp16 scale is an fp16 number too
        narrow = choice.form == "offset" or (zero is not None and zero & (zero - 1) == 0)
        offset = OFFSET_BYTES if narrow else WIDE_OFFSET_BYTES
        width = self.stored_bits(choice.bits)
        ranges = (layout.num_groups if grouped else rows) * (SCALE_BYTES + offset)
        return FilePart(width, layout.group_size if grouped else 0, _packed(rows * columns, width), ranges)

    def node_bytes(self, choice: Choice, *, static_input: bool = False) -> int:
        """Return the bytes of a product's nodes beyond those that `GraphLaw.layer` counts.

        Args:
            choice: of the matrix.
            static_input: whether its input has a static range.
        """
        return self.graph.more.get(product_kind(choice, static_input=static_input), 0)

    def other_bytes(self, profile: ModelProfile) -> int:
        """Return the bytes of everything but matrices and tables: other tensors, and the rest of the graph.

        Args:
            profile: of the model.
        """
        if profile.causal and self.decoders is not None:
            return _decoder_bytes(profile, self.decoders)
        graph = self.graph.model + self.graph.layer * profile.num_layers
        vocabulary = max((table.rows for table in profile.tables), default=0)
        elements = profile.other_elements - profile.unread_elements
        if self.graph.wide_vectors:  # twice as wide: biases, two norms a layer; norm, types and pooler of the model
            biases = sum(matrix.rows for matrix in profile.matrices)
            elements += biases + profile.hidden * (4 * profile.num_layers + 5)
        zeros = self.row_zero_bytes * sum({matrix.rows for matrix in profile.matrices})
        return OTHER_BYTES * elements + graph + zeros + round(self.graph.entry * vocabulary)

    def _block(self, width: int, size: int) -> tuple[int, int]:
        """Return the container and the block of a group of so many inputs."""
        block = next((block for block in self.blocks[width] if size % block == 0), None)
        if block is not None:
            return width, block
        return self.other_blocks or (width, size)


def _decoder_bytes(profile: ModelProfile, law: GraphLaw) -> int:
    """Bytes of a decoder's norms, biases, output layer and graph."""
    vocabulary = max((table.rows for table in profile.tables), default=0)
    head = sum(spec.rows * spec.columns for spec in profile.head if not spec.tied_to)
    vectors = profile.other_elements - profile.unread_elements - head
    graph = law.model + law.layer * profile.num_layers + round(law.entry * vocabulary)
    return OTHER_BYTES * (head + vectors * (2 if law.wide_vectors else 1)) + graph


def _packed(codes: int, width: int) -> int:
    return -(-codes * width // 8)
