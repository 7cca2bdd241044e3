"""What a bench of an engine must offer, and the work that it is asked to time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ..runtime.cpu_timing import Call

if TYPE_CHECKING:
    from transformers import BertConfig


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

    def config(self) -> BertConfig:
        """The same as transformers' configuration."""
        from transformers import BertConfig

        return BertConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            intermediate_size=self.inner,
            max_position_embeddings=self.positions,
        )


@dataclass(frozen=True, slots=True)
class Subject:
    """A whole model to time.

    Attributes:
        shape: of the encoder.
        seq_len: tokens of its one sentence.
        choices: names of choices, dealt to the matrices in turn; none for a model of floats.
    """

    shape: Shape
    seq_len: int
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Grid:
    """Sizes at which products are timed: rows m, and inputs k and outputs n as far as k n is at most `largest`."""

    rows: tuple[int, ...]
    sizes: tuple[int, ...]
    largest: int


FINE = Grid((1, 8, 16, 32, 64, 128, 256, 512), (128, 256, 512, 1024, 2048, 4096), 4096 * 2048)
COARSE = Grid((1, 16, 32, 64, 128, 256), (256, 1024, 4096), 4096 * 1024)


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
    """One engine on one thread. Every method returns a call whose CPU time is what the work costs.

    Attributes:
        label: engine, version and precision.
        activation_bits: width of what operations hand on.
        formats: how weights may be stored.
        grid: where products are timed.
        subjects: small models whose time says what a sum of kernels does not.
    """

    label: str
    activation_bits: int
    formats: tuple[BenchFormat, ...]
    grid: Grid
    subjects: tuple[Subject, ...]

    def nothing(self) -> Call:
        """A call of next to no work: what every other call of one operation pays for being a call."""

    def product(self, form: BenchFormat, rows: int, inputs: int, outputs: int, pool_bytes: int) -> Call:
        """A product with bias; its weights change from call to call, walking round a pool of so many bytes."""

    def pointwise(self, kind: str, rows: int, width: int) -> Call:
        """`layernorm`, `gelu`, `elementwise` (a sum of two) or `gather` over [rows, width]."""

    def attention(self, seq_len: int, heads: int, depth: int) -> Call:
        """Scores, softmax and context of one sentence, with whatever moves heads to and fro."""

    def model(self, subject: Subject) -> Call:
        """One inference of a whole encoder with random weights."""


class BenchModule(Protocol):
    """One file of `device_profiling/benches`: how an engine is timed.

    Attributes:
        PRECISIONS: arithmetic that it can be timed in, the usual one first.
    """

    PRECISIONS: tuple[str, ...]

    def bench(self, precision: str) -> Bench:
        """Return what is timed in one precision."""
        ...
