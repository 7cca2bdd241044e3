"""What is to be known of an integer-only program: widths, where 32 bits are tight, errors, and how it answers."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from pydantic import Field, FiniteFloat

from ..checkpoint.bits import packed_bytes
from ..runtime.frozen import Frozen
from .compiler import Compiled
from .emitter import Emitted
from .folder import code_names
from .operations import INT32, Lookup, Value, width
from .program import Program
from .ways import Ways

SCHEMA = "qbert-opt/integer-summary@1"
SUMMARY = "integer.json"
TIGHTEST = 8


class Width(Frozen):
    """Values made by one kind of operation.

    Attributes:
        kind: of operation.
        count: how many there are.
        bits: width of the widest.
        widest: its name.
    """

    kind: str
    count: int
    bits: int
    widest: str


class Tight(Frozen):
    """A value that needs most of 32 bits.

    Attributes:
        name: of the value.
        kind: of the operation that makes it.
        largest: greatest magnitude that it can have for any input.
        share: that, relative to 2**31 - 1.
    """

    name: str
    kind: str
    largest: int
    share: FiniteFloat


class ErrorRow(Frozen):
    """Error of a nonlinear function over every input; see `errors.FunctionError`."""

    function: str
    way: str
    inputs: int
    largest: FiniteFloat
    mean: FiniteFloat


class ProgramSummary(Frozen):
    """Facts about a program.

    Attributes:
        ways: way by function.
        operations: how many there are.
        constant_bytes: of all constants, codes below 8 bits packed.
        table_bytes: of the tables of nonlinear functions among them.
        widths: by kind of operation.
        tight: the values that need most of 32 bits.
        narrowed: bits of inputs that the plan gives more, by module.
        errors: of the nonlinear functions.
        rounding: units that a requantization is off at most because its factor is dyadic.
        emitted: artifacts beside the program.
    """

    document_schema: str = Field(default=SCHEMA, alias="schema")
    ways: dict[str, str]
    operations: int
    constant_bytes: int
    table_bytes: int
    widths: tuple[Width, ...]
    tight: tuple[Tight, ...]
    narrowed: dict[str, int]
    errors: tuple[ErrorRow, ...]
    rounding: FiniteFloat
    emitted: tuple[Emitted, ...] = ()


def summary_of(compiled: Compiled, ways: Ways, emitted: tuple[Emitted, ...] = ()) -> ProgramSummary:
    """Return the facts about a program.

    Args:
        compiled: the program.
        ways: that it was compiled with.
        emitted: artifacts beside it.
    """
    program = compiled.program
    by_kind: dict[str, list[Value]] = {}
    for operation in program.operations:
        by_kind.setdefault(type(operation).__name__, []).append(operation.output)
    widths = []
    for kind, values in sorted(by_kind.items()):
        widest = max(values, key=lambda value: value.width)
        widths.append(Width(kind=kind, count=len(values), bits=widest.width, widest=widest.name))
    tight = sorted(program.operations, key=lambda step: -_largest(step.output))[:TIGHTEST]
    tables = {step.table for step in program.operations if isinstance(step, Lookup)}
    return ProgramSummary(
        ways=asdict(ways),
        operations=len(program.operations),
        constant_bytes=sum(stored_bytes(program).values()),
        table_bytes=sum(program.constants[name].nbytes for name in tables),
        widths=tuple(widths),
        tight=tuple(
            Tight(name=step.output.name, kind=type(step).__name__, largest=_largest(step.output),
                  share=_largest(step.output) / INT32)
            for step in tight
        ),
        narrowed=compiled.narrowed,
        errors=tuple(ErrorRow(**asdict(error)) for error in compiled.errors),
        rounding=compiled.rounding,
        emitted=emitted,
    )  # fmt: skip


def stored_bytes(program: Program) -> dict[str, int]:
    """Return the bytes of each constant, packed to the bits that its codes use.

    Args:
        program: the program.
    """
    codes = code_names(program.operations)
    sizes = {}
    for name, array in program.constants.items():
        bits = width(int(array.min()), int(array.max())) if name in codes else 8
        sizes[name] = packed_bytes(array.size, bits) if bits < 8 else array.nbytes
    return sizes


def write_summary(summary: ProgramSummary, folder: Path) -> None:
    """Write `integer.json`.

    Args:
        summary: what to write.
        folder: of the program.
    """
    (folder / SUMMARY).write_text(summary.model_dump_json(by_alias=True, indent=1) + "\n", encoding="utf-8")


def _largest(value: Value) -> int:
    return max(-value.low - 1, value.high)
