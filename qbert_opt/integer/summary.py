"""Summary of an integer-only program: widths, values close to the limit of 32 bits, errors, and emitted files."""

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
    """Widths of the results of one kind of operation.

    Attributes:
        kind: kind of operation.
        count: number of its results.
        bits: width of the widest result.
        widest: name of the widest result.
    """

    kind: str
    count: int
    bits: int
    widest: str


class Tight(Frozen):
    """A value close to the limit of 32 bits.

    Attributes:
        name: name of the value.
        kind: kind of the operation that computes it.
        largest: the greater of its greatest number and -1 less its least number, for any input.
        share: `largest`, relative to 2**31 - 1.
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
        ways: method by function.
        operations: number of operations.
        constant_bytes: bytes of all constants, with codes below 8 bits packed.
        table_bytes: bytes of the tables of nonlinear functions, which are part of `constant_bytes`.
        widths: widths of results by kind of operation.
        tight: the eight values closest to the limit of 32 bits, the closest first.
        narrowed: bits of inputs that have fewer than planned, by module.
        errors: errors of the nonlinear functions.
        rounding: largest error of a requantization, in units of its result, because its factor is dyadic.
        emitted: artifacts that were written beside the program.
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
        ways: methods that it was compiled with.
        emitted: artifacts that were written beside it.
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
    """Return the bytes of each constant by name, with codes packed to the bits that they use.

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
        summary: the summary to write.
        folder: folder of the program.
    """
    (folder / SUMMARY).write_text(summary.model_dump_json(by_alias=True, indent=1) + "\n", encoding="utf-8")


def _largest(value: Value) -> int:
    return max(-value.low - 1, value.high)
