"""What an engine can hold: the rules that planning, export and simulation read."""

from __future__ import annotations

from dataclasses import dataclass

from ..spec.choices import Choice, Form


@dataclass(frozen=True, slots=True)
class EngineRules:
    """Which stored forms an engine runs. An empty tuple allows everything.

    Attributes:
        bits: bit widths of weights.
        forms: what a range stores.
        group_multiple: column groups must be a multiple of so many inputs.
        row_groups: whether ranges over whole output rows are held.
        column_groups: whether ranges over groups of inputs are held.
        activation_bits: widths of planned inputs that products take.
        planned_row_groups_only: planned inputs need one range per output row or coarser.
    """

    bits: tuple[int, ...] = ()
    forms: tuple[Form, ...] = ()
    group_multiple: int = 1
    row_groups: bool = True
    column_groups: bool = True
    activation_bits: tuple[int, ...] = (8,)
    planned_row_groups_only: bool = True

    def refusal(self, choice: Choice) -> str | None:
        """Return why the engine cannot hold a matrix under a choice; None where it can."""
        if self.bits and choice.bits not in self.bits:
            return f"{choice.bits} bits; it holds {', '.join(map(str, self.bits))}"
        if self.forms and choice.form not in self.forms:
            return f"form {choice.form}; it holds {', '.join(self.forms)}"
        axis, _, size = choice.grouping.partition(":")
        if axis == "rows" and not self.row_groups:
            return f"{choice.grouping}; it holds column groups only"
        if axis == "columns":
            if not self.column_groups:
                return f"{choice.grouping}; it holds row groups only"
            if int(size) % self.group_multiple:
                return f"{choice.grouping}; its blocks are multiples of {self.group_multiple} inputs"
        return None
