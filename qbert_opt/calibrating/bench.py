"""What a bench of an engine must offer, and the work that it is asked to time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from .timing import Call


@dataclass(frozen=True, slots=True)
class Shape:
    """A BERT-style encoder without a classifier."""

    name: str
    layers: int
    hidden: int
    heads: int
    inner: int
    vocabulary: int = 30_522
    positions: int = 512


@dataclass(frozen=True, slots=True)
class BenchFormat:
    """A way in which weights are stored, and what the engine makes of it.

    Attributes:
        id: name in the device file.
        bits: bits of one stored code.
        axis: "rows", "columns" or "none", as in `StoredWeight`.
        compute: type of the arithmetic.
        kernel: formats of one kernel run alike and are timed once.
        group_sizes: legal inputs per range for "columns".
        loaded_bits: bits of one weight in memory while the engine runs; None where it keeps what is stored.
    """

    id: str
    bits: int
    axis: str
    compute: str
    kernel: str
    group_sizes: tuple[int, ...] = ()
    loaded_bits: int | None = None


class Bench(Protocol):
    """One engine on one thread. Every method returns a call whose CPU time is what the work costs."""

    label: str
    activation_bits: int
    formats: tuple[BenchFormat, ...]

    def product(self, form: BenchFormat, rows: int, inputs: int, outputs: int, pool_bytes: int) -> Call:
        """A product with bias; its weights change from call to call, walking round a pool of so many bytes."""

    def pointwise(self, kind: str, rows: int, width: int) -> Call:
        """`layernorm`, `gelu`, `elementwise` (a sum of two) or `gather` over [rows, width]."""

    def attention(self, seq_len: int, heads: int, depth: int) -> Call:
        """Scores, softmax and context of one sentence, with whatever moves heads to and fro."""

    def model(self, shape: Shape, seq_len: int) -> Call:
        """One inference of a whole encoder with random weights."""
