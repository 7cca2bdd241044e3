"""Tables in text files: tab-separated, comma-separated, JSON records.

- `.tsv`: fields are separated by tabs, rows by line ends; quotes have no special meaning.
- `.csv`: RFC 4180: fields are separated by commas; quoted fields may contain commas, line ends and doubled quotes.
- `.jsonl`, `.ndjson`: one JSON object per line; empty lines are skipped.
- `.json`: a list of objects, or one object per line.

Every row must have as many fields as the header. Empty lines at the end of a file are ignored.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputFileError
from ..runtime.input_files import JSON_BLANKS, parse_json, parse_json_at, quoted, text_lines
from .tables import RowFault, Table, refuse_rows, shown_names

Row = tuple[int, list[str]]  # line and fields; no fields where the line is empty


def read_tsv(text: str, path: Path) -> Table:
    """Read tab-separated rows with a header.

    Args:
        text: the whole file.
        path: the file, for messages.

    Raises:
        InputFileError: no header, a duplicate column name, or a row with another number of fields.
    """
    rows = [(number, line.split("\t") if line else []) for number, line in enumerate(text_lines(text, path), 1)]
    return _delimited(rows, path, "Give every row as many fields as the header; a field must not hold a tab.")


def read_csv(text: str, path: Path) -> Table:
    """Read comma-separated rows with a header.

    Args:
        text: the whole file.
        path: the file, for messages.

    Raises:
        InputFileError: as for `read_tsv`, or a malformed quoted field.
    """
    rows = _csv_rows(text, path)
    return _delimited(rows, path, "Give every row as many fields as the header, and quote a field that holds a comma.")


def read_json_lines(text: str, path: Path) -> Table:
    """Read one object per line.

    Args:
        text: the whole file.
        path: the file, for messages.

    Raises:
        InputFileError: a line is not a JSON object.
    """
    records: list[tuple[int, dict[str, Any]]] = []
    faults: list[RowFault] = []
    for number, line in enumerate(text_lines(text, path), 1):
        if not line.strip(JSON_BLANKS):
            continue
        try:
            value = parse_json(line, path, literal_numbers=True, first_line=number)
        except InputFileError as error:
            reason = str(error).removeprefix(f"{path}: line {number}: ").removesuffix(".")
            faults.append(RowFault(number, reason))
            continue
        if isinstance(value, dict):
            records.append((number, value))
        else:
            faults.append(RowFault(number, f"is {_kind(value)}, not an object"))
    refuse_rows(path, "line", faults, len(records) + len(faults), 'Give one object a line, such as {"text": "…"}.')
    return _records(records, path)


def read_json(text: str, path: Path) -> Table:
    """Read a list of objects, or one object per line.

    Args:
        text: the whole file.
        path: the file, for messages.

    Raises:
        InputFileError: the file is neither.
    """
    begin = next((i for i, character in enumerate(text) if character not in JSON_BLANKS), len(text))
    if text.startswith("[", begin):
        return _records(_array(text, begin, path), path)
    if text.startswith("{", begin):
        first, end = parse_json_at(text, 0, path, literal_numbers=True)
        if text[end:].strip(JSON_BLANKS):
            return read_json_lines(text, path)
        if not any(isinstance(value, (list, dict)) for value in first.values()):
            return _records([(1 + text.count("\n", 0, begin), first)], path)
        raise InputFileError(
            f"{path}: holds one object with fields {shown_names(list(first))}. "
            "Give a list of records, or one record on each line."
        )
    raise InputFileError(
        f"{path}: cannot be read as json: holds no records. Give a list of objects, or one object on each line."
    )


def _csv_rows(text: str, path: Path) -> list[Row]:
    # the module's own limit of 131,072 characters is shorter than some texts; it holds for the whole process
    csv.field_size_limit(max(csv.field_size_limit(), len(text) + 1))
    ends = "\n" if "\n" in text else "\r"
    reader = csv.reader(io.StringIO(text, newline=ends), strict=True)
    rows: list[Row] = []
    begin = 1
    try:
        for fields in reader:
            rows.append((begin, fields))
            begin = reader.line_num + 1
    except csv.Error as error:
        raise InputFileError(
            f"{path}: line {begin}: cannot be read as csv: {error}. Close every quoted field, double the quotes inside "
            "it, and end all lines alike."
        ) from None
    return rows


def _delimited(rows: list[Row], path: Path, remedy: str) -> Table:
    while rows and not rows[-1][1]:
        rows.pop()
    if not rows:
        raise InputFileError(f"{path}: is empty. Give a file with a header and at least one row.")
    (header_line, header), body = rows[0], rows[1:]
    if not header:
        raise InputFileError(f"{path}: line {header_line}: is empty; the first line names the columns.")
    repeated = sorted({name for name in header if name and header.count(name) > 1})
    if repeated:
        raise InputFileError(
            f"{path}: line {header_line}: column {quoted(repeated[0])} occurs {header.count(repeated[0])} times. "
            "Give the columns different names."
        )
    expected = f"the header has {len(header)} ({shown_names(header)})"
    faults = [
        RowFault(line, f"has {_count(len(fields))}; {expected}" if fields else "is empty")
        for line, fields in body
        if len(fields) != len(header)
    ]
    refuse_rows(path, "line", faults, len(body), remedy)
    index = {name: position for position, name in enumerate(header)}

    def values(name: str) -> Sequence[str]:
        return [fields[index[name]] for _, fields in body]

    return Table(path, tuple(header), values, [line for line, _ in body])


def _count(fields: int) -> str:
    return "1 field" if fields == 1 else f"{fields} fields"


def _array(text: str, begin: int, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects of a JSON list with the numbers of the lines they begin on."""
    place, line = begin + 1, 1 + text.count("\n", 0, begin)

    def skip_blanks() -> str:
        nonlocal place, line
        start = place
        while place < len(text) and text[place] in JSON_BLANKS:
            place += 1
        line += text.count("\n", start, place)
        return text[place : place + 1]

    mark = skip_blanks()
    while mark != "]":
        value, end = parse_json_at(text, place, path, literal_numbers=True, line=line)
        if not isinstance(value, dict):
            raise InputFileError(f"{path}: line {line}: is {_kind(value)}, not an object. Give a list of records.")
        yield line, value
        line += text.count("\n", place, end)
        place = end
        mark = skip_blanks()
        if mark not in ("]", ","):
            raise InputFileError(f"{path}: line {line}: Invalid JSON: Expecting ',' or ']' after a record.")
        if mark == ",":
            place += 1
            skip_blanks()
    place += 1
    if skip_blanks():
        raise InputFileError(f"{path}: line {line}: Invalid JSON: text after the end of the list.")


def _records(records: Iterable[tuple[int, dict[str, Any]]], path: Path) -> Table:
    numbered = list(records)
    columns = tuple(dict.fromkeys(name for _, record in numbered for name in record))

    def values(name: str) -> Sequence[Any]:
        return [record.get(name) for _, record in numbered]

    return Table(path, columns, values, [line for line, _ in numbered])


def _kind(value: object) -> str:
    kinds = {list: "a list", dict: "an object", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number" if type(value) is not str else "a text")
