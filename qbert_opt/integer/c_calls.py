"""The function calls of a C encoder, operation by operation, and the functions and constants that they need."""

from __future__ import annotations

from dataclasses import dataclass, field
from string import Template
from typing import Any

from ..errors import UsageError
from . import c_kernels as kernels
from .c_constants import Constant, constant_of
from .memory import HeadLoop, Memory, head_loops, one_head
from .operations import (
    BATCH,
    MASK,
    TOKENS,
    Axis,
    Binary,
    Embed,
    Linear,
    Lookup,
    Mask,
    MatMul,
    Operation,
    Positions,
    Rearrange,
    Reduce,
    Relative,
    Requantize,
    Shift,
    SquareRoot,
    Value,
)
from .program import Program


@dataclass(slots=True)
class Calls:
    """Collects the calls of a program, and the functions and constants that they need.

    Args:
        program: the program to write.
        memory: where its values are stored.
        prefix: prefix of external identifiers.
    """

    program: Program
    memory: Memory
    prefix: str
    lines: list[str] = field(default_factory=list)
    functions: dict[str, str] = field(default_factory=dict)
    constants: dict[str, Constant] = field(default_factory=dict)
    row_bytes: int = 0
    sums: tuple[int, int] = (0, 0)  # most group sums of a linear layer: per token, and of one without a token axis
    loop: HeadLoop | None = None  # the loop over heads that contains the current operation
    values: dict[str, Value] = field(init=False)
    arguments: dict[str, tuple[str, str]] = field(init=False)

    def __post_init__(self) -> None:
        """Name inputs and outputs, and write every operation's call."""
        self.values = self.program.values
        self.arguments = {
            value.name: (argument(value.name), "uint8_t" if value.name == MASK else "int32_t")
            for value in self.program.inputs
        }
        for output in self.program.outputs:
            self.arguments[output.value] = (argument(output.value), "int32_t")
        loops = {loop.start: loop for loop in head_loops(self.program)}
        for index, operation in enumerate(self.program.operations):
            if index in loops:
                self.loop = loops[index]
                self.lines.append(f"    for (int h = 0; h < {self.loop.heads}; h++) {{ /* one head after the other */")
            self._add(operation)
            if self.loop is not None and index + 1 == self.loop.stop:
                self.lines.append("    }")
                self.loop = None

    def _shape(self, name: str) -> tuple[Axis, ...]:
        """Return the shape of a value, or of one head's part inside a loop over heads."""
        shape = self.values[name].shape
        return one_head(shape) if self.loop is not None and len(shape) == 4 else shape

    def _add(self, step: Operation) -> None:
        match step:
            case Positions(ids=ids, padding=padding):
                counts = padding is not None
                self._call("positions", step, [ids], ["n", padding or 0, int(counts)])
            case Embed():
                self._embed(step)
            case Relative(table=table):
                reach = self.program.max_tokens - 1
                self._call("relative", step, [table], ["n", f"h * {2 * reach + 1} + {reach}"])
            case Linear():
                self._linear(step)
            case MatMul(a=a, b=b, transposed=transposed):
                rows, inner = self._shape(a)[-2:]
                sizes = [self._rows(self._shape(a)[:-1]), _axis(rows), _axis(inner), _axis(step.output.shape[-1])]
                self._call("matmul_transposed" if transposed else "matmul", step, [a, b], sizes)
            case Binary(function=function, a=a, b=b):
                self._pair(function, step, a, b)
            case Shift(a=a, by=by):
                self._pair("shift", step, a, by)
            case Requantize(a=a, multiplier=multiplier, shift=shift):
                y = step.output
                self._pair("requantize", step, a, multiplier, [shift, y.zero, literal(y.low), literal(y.high)])
            case Lookup(table=table, a=a, start=start):
                self._call(
                    "lookup", step, [a, table], [self._rows((*self._shape(step.output.name), 1)), literal(start)]
                )
            case Reduce(function=function, a=a):
                shape = self._shape(a)
                self._call(function, step, [a], [self._rows(shape), _axis(shape[-1])])
            case Mask(a=a, mask=mask, fill=fill):
                self._call("mask", step, [a, mask], [self._rows(self._shape(step.output.name)), "n", literal(fill)])
            case SquareRoot(a=a, start=start, steps=steps):
                self._call(
                    "square_root", step, [a], [self._rows((*self._shape(step.output.name), 1)), start or 0, steps]
                )
            case Rearrange(how=how, a=a):
                self._rearrange(how, step, a)
            case _:
                raise TypeError(f"{type(step).__name__} is not an operation of a program")

    def _rearrange(self, how: str, step: Operation, a: str) -> None:
        split = self.values[a].shape if how == "merge" else step.output.shape
        sizes = [split[-1]] if how == "first" else ["n", split[1], split[3]]
        self._call(how, step, [a], sizes)

    def _pair(self, kind: str, step: Operation, a: str, b: str, numbers: list[Any] | None = None) -> None:
        """Call a function of two operands, element by element; either can be broadcast along the last axis."""
        saturating = kind == "requantize"
        shape = self._shape(step.output.name)
        spread_a, spread_b = self._spread(a, shape), self._spread(b, shape)
        expression = None if saturating else kernels.BINARY[kind]
        self._call(
            kind, step, [a, b], [self._rows(shape), _axis(shape[-1]), *(numbers or [])],
            template=kernels.PAIR, variant=f"{spread_a[0]}{spread_b[0]}", at_a=spread_a[1], at_b=spread_b[1],
            parameters=kernels.REQUANTIZE_PARAMETERS if saturating else "",
            prepared=kernels.REQUANTIZE_PREPARED if saturating else "",
            result=kernels.SATURATING if saturating else f"y[r * columns + c] = ($Y)({expression});",
        )  # fmt: skip

    def _spread(self, name: str, shape: tuple[Axis, ...]) -> tuple[str, str]:
        """Return a letter for how an operand is broadcast, and the index of its element for row r and column c in C."""
        if name in self.program.constants:
            return ("s", "0") if self.program.constants[name].size == 1 else ("v", "c")
        own = self.values[name].shape
        return ("f", "r * columns + c") if own[-1] == shape[-1] else ("r", "r")

    def _embed(self, step: Embed) -> None:
        codes = self._constant(step.codes)
        groups = self.program.constants[step.factors].shape[1]
        columns = self.program.constants[step.codes].shape[1]
        self._call(
            "embed", step, [step.index, step.codes, step.factors, step.offsets],
            ["n", columns, codes.array.shape[1], groups, step.shift],
            variant=str(codes.bits or ""), row=self._row(codes, "index[t]", columns), source="index[t]",
        )  # fmt: skip

    def _linear(self, step: Linear) -> None:
        codes = self._constant(step.weights)
        rows, columns = self.program.constants[step.weights].shape
        grouped = step.factors or step.sums
        groups = 1 if grouped is None else self.program.constants[grouped].shape[1]
        tokens = self._rows(self.values[step.x].shape)
        sizes: list[Any] = [tokens, rows, columns, codes.array.shape[1], groups]
        operands: list[str | None] = [step.x, step.weights, step.factors, step.bias]
        if step.sums is not None:
            sizes.append(self._constant(step.sums).identifier)
            self.sums = max(self.sums[0], groups * (tokens == "n")), max(self.sums[1], groups)
        if step.shift:
            sizes.append(step.shift)
            scaled = kernels.SHIFTED.substitute(and_sums=kernels.WIDE_GROUP_SUMS if step.sums else "")
        else:
            scaled = kernels.SCALED + (kernels.USE_GROUP_SUMS if step.sums else "")
        parameters = (kernels.SUMS_PARAMETER if step.sums else "") + (kernels.SHIFT_PARAMETER if step.shift else "")
        self._call(
            "linear", step, operands, sizes,
            variant=f"{codes.bits or ''}{'s' if step.sums else ''}{'w' if step.shift else ''}",
            row=self._row(codes, "r", columns), parameters=parameters,
            added=kernels.GROUP_SUMS.substitute() if step.sums else "", scaled=scaled,
        )  # fmt: skip

    def _row(self, codes: Constant, index: str, columns: int) -> str:
        """Return a C expression for a row of codes, which unpacks it if the codes are packed."""
        row = f"codes + (int)({index}) * row_bytes"
        if not codes.bits:
            return row
        self.row_bytes = max(self.row_bytes, columns)
        self.functions[f"unpacked{codes.bits}"] = kernels.UNPACK.substitute(
            bits=codes.bits, per_byte=8 // codes.bits, mask=2**codes.bits - 1, middle=2 ** (codes.bits - 1)
        )
        return f"unpacked{codes.bits}({row}, columns)"

    def _call(
        self,
        kind: str,
        step: Operation,
        operands: list[Any],
        sizes: list[Any],
        *,
        template: Template | None = None,
        variant: str = "",
        **text: Any,
    ) -> None:
        """Add a call; its function is written only once for all calls with the same types."""
        pointers = [("0", "") if name is None else self._pointer(name) for name in operands]
        target, result = self._pointer(step.output.name)
        types = dict(zip("AB", (ctype for _, ctype in pointers), strict=False)) | {"Y": result}
        suffix = "_".join(filter(None, (variant, *(_short(ctype) for ctype in types.values()))))
        name = f"{kind}_{suffix}"
        if "result" in text:
            text["result"] = Template(text["result"]).substitute(types)
        self.functions[name] = (template or kernels.KERNELS[kind]).substitute(types, name=name, **text)
        arguments = ", ".join(map(str, [*(pointer for pointer, _ in pointers), target, *sizes]))
        self.lines.append(f"    {name}({arguments}); {comment(step.output.name)}")

    def _pointer(self, name: str) -> tuple[str, str]:
        """Return a C expression for the address of an operand or result, and the type of its elements."""
        if name in self.arguments:
            return self.arguments[name]
        if name in self.memory.places:
            place = self.memory.places[name]
            return f"arena{place.bits} + {place.start}{self._head(name)}", f"int{place.bits}_t"
        constant = self._constant(name)
        return constant.identifier, constant.ctype

    def _head(self, name: str) -> str:
        """Return what to add to an address inside a loop over heads to reach the current head; else an empty text."""
        shape = self.values[name].shape
        if self.loop is None or name in self.loop.local or len(shape) != 4:
            return ""
        return f" + h * {' * '.join(_axis(axis) for axis in shape[2:])}"

    def _constant(self, name: str) -> Constant:
        if name not in self.constants:
            self.constants[name] = constant_of(self.program, name, f"{self.prefix}_c{len(self.constants)}")
        return self.constants[name]

    def _rows(self, shape: tuple[Axis, ...]) -> str:
        """Return a C expression for the product of all axes but the last."""
        axes = [_axis(axis) for axis in shape[:-1] if axis != BATCH and axis != 1]
        return " * ".join(axes) or "1"


def comment(text: str) -> str:
    """Return a C comment; delimiters of comments inside the text are broken up."""
    return f"/* {text.replace('*/', '* /').replace('/*', '/ *')} */"


def argument(name: str) -> str:
    """Return the C name of an argument of the entry function.

    Args:
        name: name of the input or output in the program.

    Raises:
        UsageError: the name is empty or starts with a digit.
    """
    legal = "".join(letter if letter.isalnum() and letter.isascii() else "_" for letter in name)
    if not legal or legal[0].isdigit():
        raise UsageError(f"{name!r} cannot be the name of an argument in C.")
    return {"input_ids": "ids", "attention_mask": "mask", "token_type_ids": "types"}.get(legal, legal)


def _axis(axis: Axis) -> str:
    return "n" if axis == TOKENS else "1" if axis == BATCH else str(axis)


def literal(value: int) -> str:
    """Return a C literal; the least 32-bit number has none of its own type and is written `INT32_MIN`."""
    return "INT32_MIN" if value == -(2**31) else str(value)


def _short(ctype: str) -> str:
    return ctype.removesuffix("_t").replace("uint", "u").replace("int", "i")
