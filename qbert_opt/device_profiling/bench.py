"""The interface of an engine's bench, and the work that it times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ..runtime.cpu_timing import Call

if TYPE_CHECKING:
    from transformers import BertConfig


@dataclass(frozen=True, slots=True)
class Shape:
    """The shape of a BERT-style encoder without a classifier.

    Attributes:
        name: of the model.
        layers: number of blocks.
        hidden: width of the hidden states.
        heads: attention heads of each block.
        inner: width between the two matrices of a feed-forward layer.
        vocabulary: rows of the table of words.
        positions: rows of the table of positions.
    """

    name: str
    layers: int
    hidden: int
    heads: int
    inner: int
    vocabulary: int = 30_522
    positions: int = 512

    def config(self) -> BertConfig:
        """Return the shape as a configuration of transformers."""
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
        shape: shape of the encoder.
        seq_len: tokens of its single sentence.
        choices: names of choices, assigned to the matrices in turn; empty for a float model.
    """

    shape: Shape
    seq_len: int
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Grid:
    """Sizes at which matrix products are timed.

    Attributes:
        rows: rows m of the input.
        sizes: inputs k and outputs n.
        largest: largest k·n.
    """

    rows: tuple[int, ...]
    sizes: tuple[int, ...]
    largest: int


FINE = Grid((1, 8, 16, 32, 64, 128, 256, 512), (128, 256, 512, 1024, 2048, 4096), 4096 * 2048)
COARSE = Grid((1, 16, 32, 64, 128, 256), (256, 1024, 4096), 4096 * 1024)


@dataclass(frozen=True, slots=True)
class BenchFormat:
    """A format of stored weights, and how the engine runs it.

    Attributes:
        id: name in the device file.
        bits: width of a stored code.
        axis: "rows", "columns" or "none", as in `StoredWeight`.
        compute: type of the arithmetic.
        kernel: name of the kernel; formats with the same kernel are timed once.
        group_sizes: legal inputs per group for "columns".
        loaded_bits: bits per weight in memory while the engine runs; None if weights stay as stored.
    """

    id: str
    bits: int
    axis: str
    compute: str
    kernel: str
    group_sizes: tuple[int, ...] = ()
    loaded_bits: int | None = None


class Bench(Protocol):
    """One engine on one thread. Every method returns a call whose CPU time is then measured.

    Attributes:
        engine: name of the engine, i.e. of a file in `engines/backends`; None if it is not one of them.
        label: engine, version and precision.
        activation_bits: width of activations between operations.
        formats: formats of stored weights.
        grid: sizes at which matrix products are timed.
        subjects: small models that are timed to correct the sum of kernels.
    """

    engine: str | None
    label: str
    activation_bits: int
    formats: tuple[BenchFormat, ...]
    grid: Grid
    subjects: tuple[Subject, ...]

    def nothing(self) -> Call:
        """Return a call with almost no work, to measure the overhead that is part of every other call."""

    def product(self, form: BenchFormat, rows: int, inputs: int, outputs: int, pool_bytes: int) -> Call:
        """Return a matrix product with bias.

        Args:
            form: how the weights are stored.
            rows: rows of the input.
            inputs: columns of the input.
            outputs: columns of the output.
            pool_bytes: size of the pool of weights that successive calls cycle through.
        """

    def pointwise(self, kind: str, rows: int, width: int) -> Call:
        """Return a pointwise operation on `[rows, width]`.

        Args:
            kind: `layernorm`, `gelu`, `elementwise` (a sum of two tensors) or `gather`.
            rows: number of rows.
            width: elements of a row.
        """

    def attention(self, seq_len: int, heads: int, depth: int) -> Call:
        """Return the attention of one sentence: scores, softmax and weighted sum, with heads split and joined.

        Args:
            seq_len: tokens of the sentence.
            heads: number of heads.
            depth: width of a head.
        """

    def model(self, subject: Subject) -> Call:
        """Return one inference of a whole encoder with random weights.

        Args:
            subject: the encoder and its input.
        """


class BenchModule(Protocol):
    """A file of `device_profiling/benches`, which says how to time an engine.

    Attributes:
        PRECISIONS: supported arithmetic, the default first.
    """

    PRECISIONS: tuple[str, ...]

    def bench(self, precision: str) -> Bench:
        """Return the bench for one precision.

        Args:
            precision: one of `PRECISIONS`.
        """
        ...
