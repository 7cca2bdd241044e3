"""What an engine supports, what it multiplies in integers, and how its file stores it.

The one place that planning, export and the simulator read; each backend states its own as `RULES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ..spec.activations import ActivationChoice
from ..spec.choices import Choice
from ..spec.forms import Form
from .file_law import FileLaw

Product = Literal["gemm", "matmul"]  # of a weight matrix, and of two activations (attention)


@dataclass(frozen=True, slots=True)
class Speed:
    """Throughput of a kernel relative to the engine's own in float32.

    Attributes:
        what: the kernel and the workload.
        times_float32: relative throughput; None where nobody measured it.
        source: result file, or `assumed` and on what ground.
    """

    what: str
    times_float32: float | None
    source: str

    @property
    def measured(self) -> bool:
        """Whether a committed result states it."""
        return self.source.startswith("measured: ")


@dataclass(frozen=True, slots=True)
class TableRules:
    """Which choices an embedding table may have. An empty tuple allows everything.

    Attributes:
        bits: widths of codes.
        forms: what a range stores.
        column_groups: whether a row may have several ranges.
        whole_bytes: whether the codes of a row must fill whole bytes.
        tiers: whether a table may be in tiers, each with a width of its own.
    """

    bits: tuple[int, ...] = ()
    forms: tuple[Form, ...] = ()
    column_groups: bool = True
    whole_bytes: bool = False
    tiers: bool = True


@dataclass(frozen=True, slots=True)
class EngineRules:
    """Which choices an engine can run, and at what price. An empty tuple allows everything.

    Attributes:
        bits: bit widths of weights.
        forms: what a range stores.
        group_multiple: the size of a column group must be a multiple of this many inputs.
        row_groups: whether per-row ranges (`rows:N`) are supported.
        column_groups: whether group-wise ranges (`columns:G`) are supported.
        row_bits: widths of matrices with per-row ranges, where not all of `bits`.
        column_bits: widths of matrices with group-wise ranges, where not all of `bits`.
        signed_bits: widths of matrices of form `signed`, whose lowest code not every kernel computes right, where not
            all of `bits`.
        group_sizes: sizes of column groups.
        columns_multiple: the inputs of a matrix (the feed-forward width, for one) must be a multiple of this, unless
            its inputs have a static range.
        fewest_rows: by width, the fewest outputs that a matrix may have.
        tables: which choices an embedding table may have.
        integer_inputs: by kind of product, widths of activations that it multiplies in integers; a kind that is absent
            runs in floating point with its weights unpacked.
        integer_groups: sizes of column groups whose products run in integers; others run in floating point.
        anywhere: whether it runs on every device, whatever engines the device lists: as C without dependencies.
        integer_functions: whether it computes softmax, LayerNorm and GELU in integers.
        float_type: type of everything that does not run in integers.
        activation_bits: width of the tensors between operations; None for what the device keeps.
        static_bits: widths of static input ranges that it runs as the plan has them.
        token_bits: widths of inputs with one range per token that it runs as the plan has them.
        other_inputs: why it runs no others as planned, for messages; empty where that needs no reason.
        static_needs_rows: whether a matrix whose inputs have a static range needs one range per output row.
        static_expands: whether it expands the codes of matrices whose inputs have a static range to bytes when it
            starts, and then multiplies them as 8-bit ones.
        static_scores: whether it multiplies queries and keys in 8-bit integers where inputs have static ranges.
        adds_offsets: whether the offsets of form `offset` are added beside the product: a sum over its inputs, and two
            more passes over its outputs.
        saturates: whether sums of 8-bit products with static ranges saturate where `sums_bytes_exactly` is False.
        fewer_heads: whether layers may have fewer attention heads than others, as where a plan leaves some out.
        float_difference: largest |difference| of its float32 answers from torch's, relative to the largest answer;
            more means a wrong graph. Where only the order of sums differs, 1e-3 is ample.
        file: how its file stores a choice; None where the quantized folder itself is opened.
        speeds: relative throughput of its kernels.
        planning_only: what to do instead of exporting; empty if the engine can be exported to or runs the folder.
        checked_on: what runs and checks its files in place of the hardware that they are for; empty where that is here.
        sources: where the rules come from, one `rule: source` each.
    """

    bits: tuple[int, ...] = ()
    forms: tuple[Form, ...] = ()
    group_multiple: int = 1
    row_groups: bool = True
    column_groups: bool = True
    row_bits: tuple[int, ...] = ()
    column_bits: tuple[int, ...] = ()
    signed_bits: tuple[int, ...] = ()
    group_sizes: tuple[int, ...] = ()
    columns_multiple: int = 1
    fewest_rows: Mapping[int, int] = field(default_factory=dict, hash=False)
    tables: TableRules = TableRules()
    integer_inputs: Mapping[Product, tuple[int, ...]] = field(default_factory=dict, hash=False)
    integer_groups: tuple[int, ...] = ()
    anywhere: bool = False
    integer_functions: bool = False
    float_type: Literal["fp32", "fp16"] = "fp32"
    activation_bits: Literal[8, 16, 32] | None = None
    static_bits: tuple[int, ...] = ()
    token_bits: tuple[int, ...] = ()
    other_inputs: str = ""
    static_needs_rows: bool = False
    static_expands: bool = False
    static_scores: bool = False
    adds_offsets: bool = False
    saturates: bool = False
    fewer_heads: bool = True
    float_difference: float = 1e-3
    file: FileLaw | None = None
    speeds: tuple[Speed, ...] = ()
    planning_only: str = ""
    checked_on: str = ""
    sources: tuple[str, ...] = ()

    def takes(self, *, decoder: bool, fewer_heads: bool = False) -> bool:
        """Return whether the engine accepts the model at all: few writers convert decoders.

        Args:
            decoder: whether the model is one.
            fewer_heads: whether its layers have fewer attention heads than others.
        """
        if fewer_heads and not self.fewer_heads:
            return False
        return not decoder or self.file is None or self.file.decoders is not None

    def refusal(
        self, choice: Choice, shape: tuple[int, int] | None = None, *, static_input: bool = False
    ) -> str | None:
        """Return why the engine cannot run a matrix stored by a choice; None if it can.

        Args:
            choice: how the matrix is stored.
            shape: its rows and columns; None leaves rules about widths out.
            static_input: its inputs have a static range.
        """
        if self.bits and choice.bits not in self.bits:
            return f"{choice.bits} bits; it supports {_and(self.bits)}"
        if self.forms and choice.form not in self.forms:
            return f"form {choice.form}; it supports {_and(self.forms)}"
        if choice.form == "signed" and self.signed_bits and choice.bits not in self.signed_bits:
            return f"{choice.bits} bits of form signed; it supports {_and(self.signed_bits)} there"
        reason = self._grouping_refusal(choice)
        if reason is None and static_input and self.static_needs_rows and choice.grouping.startswith("columns:"):
            reason = f"{choice.grouping} with a static input range; it needs one range per output row for that"
        if reason is not None or shape is None:
            return reason
        rows, columns = shape
        reason = self.width_refusal(columns, static_input=static_input)
        fewest = self.fewest_rows.get(choice.bits, 1)
        if reason is None and rows < fewest:
            reason = f"{rows} outputs at {choice.bits} bits; it needs at least {fewest}"
        return reason

    def width_refusal(self, columns: int, *, static_input: bool = False) -> str | None:
        """Return why the engine cannot run a matrix of so many inputs, however it is stored; None if it can.

        Args:
            columns: inputs of the matrix.
            static_input: its inputs have a static range.
        """
        if static_input or columns % self.columns_multiple == 0:
            return None
        return f"{columns} inputs; it needs a multiple of {self.columns_multiple}"

    def table_refusal(self, choice: Choice, columns: int) -> str | None:
        """Return why the engine cannot hold an embedding table stored by a choice; None if it can.

        Args:
            choice: how the table is stored.
            columns: values of an entry.
        """
        rules = self.tables
        if rules.bits and choice.bits not in rules.bits:
            return f"a table of {choice.bits} bits; it supports {_and(rules.bits)}"
        if rules.forms and choice.form not in rules.forms:
            return f"a table of form {choice.form}; it supports {_and(rules.forms)}"
        if not rules.column_groups and choice.grouping.startswith("columns:"):
            return f"a table in {choice.grouping}; it supports one range per row"
        width = choice.bits if self.file is None else self.file.stored_bits(choice.bits)
        if rules.whole_bytes and columns * width % 8:
            return f"a table of {columns} codes of {width} bits a row; they must fill whole bytes"
        return None

    def runs_in_integers(self, choice: Choice, input_bits: int | None = None) -> bool:
        """Return whether the product of a matrix runs in integers.

        Args:
            choice: how the matrix is stored.
            input_bits: width of its inputs; None for what the engine rounds them to by itself.
        """
        widths = self.integer_inputs.get("gemm", ())
        axis, _, size = choice.grouping.partition(":")
        fits = not self.integer_groups or axis == "rows" or int(size) in self.integer_groups
        return bool(widths) and fits and (input_bits is None or input_bits in widths)

    def input_refusal(self, bits: int) -> str | None:
        """Return why the engine cannot multiply inputs of a width; None if it can, or if it multiplies floats.

        Args:
            bits: of a planned input.
        """
        held = self.integer_inputs.get("gemm", ())
        return None if not held or bits in held else f"inputs of {bits} bits; it multiplies those of {_and(held)} bits"

    def runs_input(self, choice: ActivationChoice) -> bool:
        """Return whether inputs are rounded as a plan has them.

        Args:
            choice: how they are rounded.
        """
        return choice.bits in (self.token_bits if choice.range is None else self.static_bits)

    @property
    def held(self) -> str:
        """What matrices may be, in a few words."""
        widths = f"{_and(self.bits)} bits" if self.bits else "every width"
        forms = f"form {_and(self.forms)}" if self.forms else "every form"
        forms += f" (signed: {_and(self.signed_bits)} bits)" if self.signed_bits else ""
        multiple = f" with N a multiple of {self.group_multiple}" if self.group_multiple > 1 else ""
        sizes = f"columns:{_and(self.group_sizes)}" if self.group_sizes else f"columns:N{multiple}"
        sizes += f" ({_and(self.column_bits)} bits)" if self.column_bits else ""
        axes = [name for name, held in (("rows:N", self.row_groups), (sizes, self.column_groups)) if held]
        return f"{widths}, {forms}, {' or '.join(axes)}"

    def _grouping_refusal(self, choice: Choice) -> str | None:
        axis, _, size = choice.grouping.partition(":")
        if axis == "rows":
            if not self.row_groups:
                return f"{choice.grouping}; it supports column groups only"
            if self.row_bits and choice.bits not in self.row_bits:
                return f"{choice.bits} bits in {choice.grouping}; it supports {_and(self.row_bits)} there"
            return None
        if not self.column_groups:
            return f"{choice.grouping}; it supports row groups only"
        if int(size) % self.group_multiple:
            return f"{choice.grouping}; its blocks are multiples of {self.group_multiple} inputs"
        if self.group_sizes and int(size) not in self.group_sizes:
            return f"{choice.grouping}; it supports groups of {_and(self.group_sizes)} inputs"
        if self.column_bits and choice.bits not in self.column_bits:
            return f"{choice.bits} bits in {choice.grouping}; it supports {_and(self.column_bits)} there"
        return None


def _and(values: tuple[object, ...]) -> str:
    return ", ".join(map(str, values))
