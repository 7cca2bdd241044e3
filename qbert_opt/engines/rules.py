"""What an engine can run: the rules that planning and export read."""

from __future__ import annotations

from dataclasses import dataclass

from ..spec.choices import Choice, Form


@dataclass(frozen=True, slots=True)
class EngineRules:
    """Which choices an engine can run. An empty tuple allows everything.

    Attributes:
        bits: bit widths of weights.
        forms: what a range stores.
        group_multiple: the size of a column group must be a multiple of this many inputs.
        row_groups: whether per-row ranges (`rows:N`) are supported.
        column_groups: whether group-wise ranges (`columns:G`) are supported.
        static_bits: widths of static input ranges that it runs as the plan has them.
        static_needs_rows: whether a matrix whose inputs have a static range needs one range per output row.
    """

    bits: tuple[int, ...] = ()
    forms: tuple[Form, ...] = ()
    group_multiple: int = 1
    row_groups: bool = True
    column_groups: bool = True
    static_bits: tuple[int, ...] = ()
    static_needs_rows: bool = False

    def refusal(self, choice: Choice) -> str | None:
        """Return why the engine cannot run a matrix stored by a choice; None if it can."""
        if self.bits and choice.bits not in self.bits:
            return f"{choice.bits} bits; it supports {', '.join(map(str, self.bits))}"
        if self.forms and choice.form not in self.forms:
            return f"form {choice.form}; it supports {', '.join(self.forms)}"
        axis, _, size = choice.grouping.partition(":")
        if axis == "rows" and not self.row_groups:
            return f"{choice.grouping}; it supports column groups only"
        if axis == "columns":
            if not self.column_groups:
                return f"{choice.grouping}; it supports row groups only"
            if int(size) % self.group_multiple:
                return f"{choice.grouping}; its blocks are multiples of {self.group_multiple} inputs"
        return None
