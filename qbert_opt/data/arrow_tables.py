"""Tables in Arrow's formats: parquet files, and the arrow files of Hugging Face's `save_to_disk`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputFileError
from ..runtime.input_files import check_input
from .tables import Table

if TYPE_CHECKING:
    import pyarrow as pa

MAX_TABLE_BYTES = 4 * 2**30


def read_parquet(path: Path) -> Table:
    """Open a parquet file; only the columns that are asked for are read.

    Args:
        path: a file of up to `MAX_TABLE_BYTES`, unpacked.

    Raises:
        InputFileError: no parquet, damaged, or too large.
    """
    import pyarrow.parquet as pq

    check_input(path, MAX_TABLE_BYTES, "a table")

    def open_file() -> tuple[tuple[str, ...], int, Callable[[str], Any]]:
        file = pq.ParquetFile(path)
        groups = range(file.metadata.num_row_groups)
        size = sum(file.metadata.row_group(group).total_byte_size for group in groups)
        if size > MAX_TABLE_BYTES or file.metadata.num_rows > MAX_TABLE_BYTES:
            raise InputFileError(f"{path}: {size} bytes unpacked; at most {MAX_TABLE_BYTES}. Give a sample of it.")
        return tuple(file.schema_arrow.names), file.metadata.num_rows, lambda name: file.read(columns=[name])

    names, num_rows, read = _refusing(path, "parquet", open_file)
    return _table(path, "parquet", names, num_rows, read)


def read_arrow(path: Path) -> Table:
    """Read an arrow file, in the stream format that `save_to_disk` writes or in the file format.

    Args:
        path: a file of up to `MAX_TABLE_BYTES`.

    Raises:
        InputFileError: no arrow file, damaged, or too large.
    """
    import pyarrow as pa

    check_input(path, MAX_TABLE_BYTES, "a table")

    def read_all() -> Any:
        with pa.OSFile(str(path)) as file:
            try:
                table = pa.ipc.open_stream(file).read_all()
            except pa.ArrowInvalid:
                file.seek(0)
                table = pa.ipc.open_file(file).read_all()
        table.validate(full=True)
        return table

    table = _refusing(path, "arrow", read_all)
    return _table(path, "arrow", tuple(table.column_names), table.num_rows, lambda name: table)


def _table(path: Path, kind: str, names: tuple[str, ...], num_rows: int, read: Callable[[str], Any]) -> Table:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise InputFileError(f"{path}: column {repeated[0]!r} occurs twice. Give every column a name of its own.")

    def values(name: str) -> Sequence[Any]:
        def cells() -> list[Any]:
            found = _cells(read(name).column(name))
            if len(found) != num_rows:
                raise ValueError(f"column {name!r} has {len(found)} values for {num_rows} rows")
            return found

        found: list[Any] = _refusing(path, kind, cells)
        return found

    return Table(path, names, values, range(1, num_rows + 1), "row")


def _cells(column: pa.ChunkedArray) -> list[Any]:
    """Python values; floats of fewer than 64 bits in their own shortest digits, not those of a float64."""
    import pyarrow.types as kinds

    column.validate(full=True)
    if kinds.is_float32(column.type) or kinds.is_float16(column.type):
        return [
            None if value is None else str(short)
            for value, short in zip(column.to_pylist(), column.to_numpy(), strict=True)
        ]
    found: list[Any] = column.to_pylist()
    return found


def _refusing(path: Path, kind: str, work: Callable[[], Any]) -> Any:
    """Do some work of pyarrow's; whatever it raises is said in one line."""
    import pyarrow as pa

    try:
        return work()
    except (pa.ArrowException, OSError, ValueError, KeyError, OverflowError, MemoryError) as error:
        reason = next((line for line in str(error).splitlines() if line), type(error).__name__)
        raise InputFileError(f"{path}: cannot be read as {kind}: {reason.rstrip('.')}.") from None
