"""An integer-only model as a program: the compiler builds it; executors and emitters go through its operations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .operations import Operation, Value

Constants = Mapping[str, NDArray[Any]]


def last_reads(operations: Sequence[Operation], kept: Iterable[str]) -> dict[int, list[str]]:
    """Return, by operation index, the values that no later operation reads, so their memory can be reused.

    Args:
        operations: operations of a program, in order.
        kept: names of values that are never freed, for example outputs.
    """
    last = {name: index for index, operation in enumerate(operations) for name in operation.operands}
    made = {operation.output.name: index for index, operation in enumerate(operations)}
    free: dict[int, list[str]] = {}
    for name, index in (made | {name: index for name, index in last.items() if name in made}).items():
        if name not in set(kept):
            free.setdefault(index, []).append(name)
    return free


@dataclass(frozen=True, slots=True)
class Output:
    """A named output: `(value - zero) * scale` in real numbers, with the value's scale and zero.

    Attributes:
        name: name of the output, for example `logits`.
        value: name of the value.
        column: index to select on the last axis, which is then removed; None takes the whole value.
    """

    name: str
    value: str
    column: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """An integer-only model.

    Attributes:
        inputs: token arrays `[batch, tokens]`, in the order of the model's arguments.
        operations: operations in execution order: every operand is computed before it is read.
        constants: arrays by name, int8 to int32; codes of weights and embedding tables are int8, however few bits they
            use.
        outputs: outputs of the model.
        max_tokens: tokens of the longest sample for which the intervals are proven.
    """

    inputs: tuple[Value, ...]
    operations: tuple[Operation, ...]
    constants: Constants
    outputs: tuple[Output, ...]
    max_tokens: int

    @property
    def values(self) -> dict[str, Value]:
        """Every input and every operation's output, by name."""
        made = (operation.output for operation in self.operations)
        return {value.name: value for value in (*self.inputs, *made)}

    def answers(self, values: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        """Return the outputs in real numbers, float32 by name.

        Args:
            values: integer arrays of all outputs' values, by the value's name.
        """
        named = self.values
        answers = {}
        for output in self.outputs:
            value, numbers = named[output.value], values[output.value]
            taken = numbers if output.column is None else numbers[..., output.column]
            answers[output.name] = ((taken.astype(np.float64) - value.zero) * (value.scale or 1.0)).astype(np.float32)
        return answers
