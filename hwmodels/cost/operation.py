"""The work: one operation of a network and how its weights are stored, independent of any device.

An operator graph is a `networkx.DiGraph` whose nodes are operation names with the attribute `op`; an edge
is an activation tensor that the first operation makes and the second reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..device.errors import DeviceError
from ..device.units import shown
from ..device.vocabulary import AXES, OPERATION_KINDS

MOST_ROWS = 10**12  # of one size; what follows from larger ones is no longer a number that a double holds exactly
MOST_ELEMENTS = 10**18
_TOO_LARGE = "legal are sizes up to 1e12 and counts up to 1e18; use a smaller batch or a shorter sequence"


@dataclass(frozen=True, slots=True)
class StoredWeight:
    """How a weight matrix [n, k] (n outputs = rows, k inputs = columns) is stored.

    Attributes:
        bits: bits of one code.
        axis: what a group spans: "rows" (consecutive rows), "columns" (consecutive inputs of one row) or "none"
            (floats without groups).
        num_groups: groups in the whole matrix, each with its own scale and offset; 0 for "none".
        group_size: rows per group for "rows", inputs per group for "columns", 0 for "none".
        code_bytes: bytes of the packed codes.
        metadata_bytes: bytes of scales and offsets.
        resident: kept in on-chip scratchpad between inferences; otherwise streamed in every inference.
        stored_elsewhere: the bytes are shared with another operation, which counts them as stored; here they are only
            loaded (a vocabulary head tied to its embedding table).
        loaded_bits: bits of one code in memory while an engine runs that expands codes when it starts; the product is
            then one of that width. None as stored.
    """

    bits: int
    axis: str
    num_groups: int
    group_size: int
    code_bytes: int
    metadata_bytes: int
    resident: bool = False
    stored_elsewhere: bool = False
    loaded_bits: int | None = None

    def __post_init__(self) -> None:
        if self.axis not in AXES:
            raise DeviceError(f"stored weight: found axis {self.axis!r}; legal are {', '.join(AXES)}; correct it")
        counts = (self.num_groups, self.group_size, self.code_bytes, self.metadata_bytes)
        if not 1 <= self.bits <= 64 or min(counts) < 0 or self.group_size < (self.axis != "none"):
            raise DeviceError(
                f"stored weight: found {shown(self.bits)} bits, {shown(self.num_groups)} groups of "
                f"{shown(self.group_size)}, {shown(self.code_bytes)} + {shown(self.metadata_bytes)} bytes; legal are "
                "1 to 64 bits, groups of at least 1 where there is an axis, and no negative size; correct it"
            )
        if self.loaded_bits is not None and not self.bits <= self.loaded_bits <= 64:
            raise DeviceError(
                f"stored weight: found {shown(self.loaded_bits)} bits loaded of {shown(self.bits)} stored; legal are "
                "as many or more, up to 64; correct it"
            )
        if max(counts) > MOST_ELEMENTS:
            raise DeviceError(f"stored weight: found {shown(max(counts))} groups or bytes; {_TOO_LARGE}")

    @property
    def bytes(self) -> int:
        """Codes and metadata together."""
        return self.code_bytes + self.metadata_bytes

    @property
    def run_bits(self) -> int:
        """Bits of one code in memory while the engine runs."""
        return self.bits if self.loaded_bits is None else self.loaded_bits

    @property
    def stored_bytes(self) -> int:
        """Bytes that this weight adds to the stored model."""
        return 0 if self.stored_elsewhere else self.bytes


@dataclass(frozen=True, slots=True)
class IntegerWork:
    """Elementary integer operations of a pointwise function, per element; what a whole row takes is shared out.

    Attributes:
        multiplies: products of two integers.
        additions: additions, shifts, comparisons: one simple instruction each.
        table_reads: reads from a table at computed places.
        divisions: divisions by numbers that are not constant.
        table_bytes: bytes of its tables, all together.
    """

    multiplies: float = 0.0
    additions: float = 0.0
    table_reads: float = 0.0
    divisions: float = 0.0
    table_bytes: int = 0

    def __post_init__(self) -> None:
        counts = (self.multiplies, self.additions, self.table_reads, self.divisions)
        if not (all(0 <= count <= MOST_ROWS for count in counts) and sum(counts) > 0) or self.table_bytes < 0:
            raise DeviceError(
                f"integer work: found {', '.join(map(shown, counts))} operations and {shown(self.table_bytes)} bytes; "
                "legal are counts of at least 0, one of them above, and no negative size; correct it"
            )


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation: `batch` independent copies of an [m, k] x [k, n] product, or of m x n elements.

    Attributes:
        name: its node in the operator graph.
        kind: "gemm" (activation [m, k] times weight [n, k] transposed), "matmul" (two activations, attention),
            "gather" (m rows of n values out of a table of k rows), "append" (m new rows of n values to a state of k
            rows that outlives the inference, such as a cache of keys and values), or a pointwise kind over m x n
            elements (k = 1).
        input_elements: activation elements read, all copies together.
        output_elements: activation elements written, all copies together.
        batch: independent copies (batch size x heads for attention).
        weight: how the weights are stored; None without weights. Of an "append" the state, which is held in memory and
            is no part of the stored model. A "matmul" with a weight reads it as its second operand [k, n], all copies
            together: a state that was stored elsewhere.
        input_bits: width of the integers that a "gemm" reads; None for the device's own activation width.
        repeats: how many times one inference runs it, with the same weights (layers that share them).
        arithmetic: the floating-point type that an engine multiplies in, whatever the unit supports; a unit without
            that type uses its own. None leaves the type to the unit and the format. Rates that the device file
            measured for the format, or for products of activations, are used unchanged. A pointwise kind then runs on
            the first unit with floating point.
        integers: elementary operations of a pointwise kind in integers; None leaves the arithmetic to the unit.
        extra_elements: elements of pointwise passes that come with each repeat of a product, such as the sums over
            inputs of weights with offsets. Formats that the device file measured contain them.
    """

    name: str
    kind: str
    m: int
    k: int
    n: int
    input_elements: int
    output_elements: int
    batch: int = 1
    weight: StoredWeight | None = None
    repeats: int = 1
    input_bits: int | None = None
    arithmetic: Literal["fp32", "fp16"] | None = None
    integers: IntegerWork | None = None
    extra_elements: int = 0

    def __repr__(self) -> str:
        """Return one line."""
        bits = None if self.weight is None else self.weight.bits
        shape = f"m={self.m}, k={self.k}, n={self.n}, batch={self.batch}"
        return f"Operation({self.name!r}, {self.kind!r}, {shape}, weight_bits={bits}, input_bits={self.input_bits})"

    def __post_init__(self) -> None:
        if self.kind not in OPERATION_KINDS:
            raise DeviceError(
                f"{self.name}: found kind {self.kind!r}; legal are {', '.join(OPERATION_KINDS)}; correct it"
            )
        sizes = (self.m, self.k, self.n, self.batch, self.repeats)
        if self.input_bits not in (None, 4, 8, 16):
            raise DeviceError(f"{self.name}: found {self.input_bits} bits of input; legal are 4, 8 and 16; correct it")
        if self.integers is not None and (self.arithmetic is not None or not self.is_pointwise):
            raise DeviceError(
                f"{self.name}: found integer work of a {self.kind} in {self.arithmetic}; legal is integer work of a "
                "pointwise kind, without a floating-point type; correct it"
            )
        if self.extra_elements and self.kind != "gemm" and (self.kind != "matmul" or self.weight is None):
            raise DeviceError(
                f"{self.name}: found {shown(self.extra_elements)} extra elements of a {self.kind}; legal are those of "
                "a product with weights; correct it"
            )
        elements = (self.input_elements, self.output_elements, self.extra_elements)
        if min(sizes) < 1 or min(elements) < 0:
            raise DeviceError(
                f"{self.name}: found m, k, n, batch {', '.join(map(shown, sizes[:4]))}, {shown(self.repeats)} repeats "
                f"and {', '.join(map(shown, elements))} elements; "
                "legal are sizes of at least 1 and no negative count; correct it"
            )
        if max(sizes) > MOST_ROWS or max(elements) > MOST_ELEMENTS:
            raise DeviceError(f"{self.name}: found {shown(max(*sizes, *elements))} rows or elements; {_TOO_LARGE}")

    @property
    def is_pointwise(self) -> bool:
        """Whether it computes element by element, instead of multiplying matrices or gathering rows."""
        return self.kind not in ("gemm", "matmul", "gather", "append")

    @property
    def table_bytes(self) -> int:
        """Bytes of the tables of a function in integers."""
        return 0 if self.integers is None else self.integers.table_bytes

    @property
    def weights(self) -> int:
        """Number of weights: n x k of a matrix or table, m x n never counts."""
        if self.weight is None:
            return 0
        return self.n * self.k if self.kind in ("gemm", "gather") else self.weight.code_bytes * 8 // self.weight.bits

    @property
    def stored_bytes(self) -> int:
        """Bytes that this operation adds to the stored model."""
        return 0 if self.weight is None or self.kind == "append" else self.weight.stored_bytes

    @property
    def holds_weight(self) -> bool:
        """Whether the bytes of its weight in memory count here, not with another operation."""
        return self.weight is not None and not self.weight.stored_elsewhere
