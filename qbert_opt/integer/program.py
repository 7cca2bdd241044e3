"""An integer-only model: what the compiler makes and what every executor visits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .operations import Operation, Value

Constants = Mapping[str, NDArray[Any]]


def last_reads(operations: Sequence[Operation], kept: Iterable[str]) -> dict[int, list[str]]:
    """Return the values that nothing reads after each operation, by its index: their memory is free again.

    Args:
        operations: of a program.
        kept: values that are never freed, for example outputs.
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
        name: for example `logits`.
        value: name of the value.
        column: the one of the last axis to take, which then disappears; None takes the whole value.
    """

    name: str
    value: str
    column: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """An integer-only model.

    Attributes:
        inputs: token arrays `[batch, tokens]`, in the order in which the model takes them.
        operations: in an order in which every operand is made before it is read.
        constants: by name, int8 to int32; weights and tables of codes in int8 or uint8, however few bits they use.
        outputs: what the model answers.
        max_tokens: the longest sample for which the intervals are proven.
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
            values: the integers of every output's value, by the value's name.
        """
        named = self.values
        answers = {}
        for output in self.outputs:
            value, numbers = named[output.value], values[output.value]
            taken = numbers if output.column is None else numbers[..., output.column]
            answers[output.name] = ((taken.astype(np.float64) - value.zero) * (value.scale or 1.0)).astype(np.float32)
        return answers
