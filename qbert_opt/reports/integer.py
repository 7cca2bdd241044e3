"""What `integer` prints: widths, values close to 32 bits, errors of the nonlinear functions, and the agreement."""

from __future__ import annotations

from rich.table import Table

from ..integer.summary import ProgramSummary
from ..workflows.integer import IntegerModel
from .printing import TextTable, both


def integer_lines(written: IntegerModel) -> list[str | Table]:
    """Return the report of a written program.

    Args:
        written: the program.
    """
    summary, record = written.summary, written.record
    ways = ", ".join(f"{function} by {way}" for function, way in summary.ways.items())
    lines: list[str | Table] = [
        f"{written.folder}: {summary.operations} integer operations; {ways}",
        f"constants {both(summary.constant_bytes)}, tables of functions {summary.table_bytes:,} of them",
        f"every value is proven to fit 32 bits, for samples of up to {record.max_tokens} tokens; ranges from "
        f"{written.num_texts} texts",
        f"the int32 executor equals the int64 reference on {written.narrow_tokens} tokens; a factor m/2^e is off by "
        f"{summary.rounding:.2g} units at most",
        f"against torch with real functions, {record.agreement.answers} answers to {record.checked_on}: "
        f"{record.agreement}",
    ]
    for item in summary.emitted:
        memory = "" if item.ram_bytes is None else f", static memory {both(item.ram_bytes)}"
        lines.append(
            f"{item.emitter}: {', '.join(item.files)}; constants {both(item.constant_bytes)}{memory}; texts of up to "
            f"{item.max_tokens} tokens"
        )
    for module, bits in summary.narrowed.items():
        lines.append(f"{module}: its input has {bits} bits instead of the plan's, or 32 bits could overflow")
    return [*lines, widths_table(summary), tight_table(summary), errors_table(summary)]


def widths_table(summary: ProgramSummary) -> Table:
    """Return the widest value of each kind of operation.

    Args:
        summary: of a program.
    """
    table = TextTable("operation", "count", "bits", "widest", title="widths")
    for row in summary.widths:
        table.add_row(row.kind, str(row.count), str(row.bits), row.widest)
    return table


def tight_table(summary: ProgramSummary) -> Table:
    """Return the values that come nearest to 32 bits.

    Args:
        summary: of a program.
    """
    table = TextTable("value", "made by", "largest", "of 2^31 - 1", title="where 32 bits are tight")
    for row in summary.tight:
        table.add_row(row.name, row.kind, f"{row.largest:,}", f"{100 * row.share:.1f} %")
    return table


def errors_table(summary: ProgramSummary) -> Table:
    """Return the errors of the nonlinear functions.

    Args:
        summary: of a program.
    """
    table = TextTable(
        "function", "by", "inputs", "largest error", "mean error", title="nonlinear functions, every input"
    )
    for row in summary.errors:
        table.add_row(row.function, row.way, f"{row.inputs:,}", f"{row.largest:.2g}", f"{row.mean:.2g}")
    return table
