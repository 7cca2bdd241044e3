"""Write files whole or not at all, and read JSON documents with one clear line when they are wrong."""

from __future__ import annotations

import errno
import fcntl
import glob
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import FullDiskError, InputFileError, UsageError
from .input_files import decode_text, parse_json, read_bytes
from .locks import sole_writer

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

MAX_JSON_BYTES = 256 * 2**20
PART = ".part"
PROGRESS = ".partial"  # ends the names of files that a rerun goes on from
MAX_SHOWN = 120  # characters of a path in a message
RANDOM_CHARACTERS = 8  # in the names that `tempfile` makes
Document = TypeVar("Document", bound="BaseModel")
Upgrade = Callable[[dict[str, Any]], dict[str, Any]]
"""What turns a document of an earlier schema into one of today's."""
_written: list[Path] = []  # by this process, in order


def forget_written() -> None:
    """Start a new list of what was written: a process may run several verbs."""
    _written.clear()


def written() -> list[Path]:
    """Return the outputs that were written since and are still there, without progress files and parts of a folder."""
    there = [path for path in dict.fromkeys(_written) if not is_progress(path) and path.exists()]
    return [path for path in there if not any(other in path.parents for other in there)]


def is_progress(path: Path) -> bool:
    """Return whether a file keeps progress; that of a further process of a run ends in its number.

    Args:
        path: only its name is read.
    """
    name = path.stem if path.suffix[1:].isdigit() else path.name
    return name.endswith(PROGRESS)


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Give a temporary name beside `path`; rename it at the end, remove it if anything goes wrong.

    What killed processes left of the same file is removed first.

    Args:
        path: the file that appears when everything went well; an earlier one is replaced.

    Raises:
        UsageError: `path` is no regular file, its folder does not exist or may not be written, or the disk is full.
    """
    target = Path(path)
    check_folder(target)
    if target.exists() and not target.is_file():
        raise UsageError(f"{target}: is a folder or a device, which a file cannot replace. Give a file name.")
    try:
        for left in _unfinished(target):
            _remove_unless_in_use(left)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=PART, dir=target.parent)
    except OSError as error:
        raise disk_error(target, error) from None
    temporary = Path(name)
    try:
        with suppress(OSError):  # a file system without locks: what is left there stays
            fcntl.flock(handle, fcntl.LOCK_EX)  # the system drops it with this process: then the file is nobody's
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(target)
        _written.append(target)
    except OSError as error:
        raise disk_error(target, error) from None
    finally:
        os.close(handle)
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Give a temporary folder beside `path`; rename it at the end, remove it if anything goes wrong.

    Until then no other process can write the same folder. What a killed process left of it is removed first.

    Args:
        path: the folder that appears when everything went well; may exist, but must be empty.

    Raises:
        UsageError: `path` holds something already or is being written, its parent does not exist, or the disk is full.
    """
    target = Path(path)
    check_free(target)
    with sole_writer(target):
        for left in _unfinished(target):
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left, ignore_errors=True)
        try:
            temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=PART, dir=target.parent))
        except OSError as error:
            raise disk_error(target, error) from None
        try:
            yield temporary
            temporary.chmod(0o777 & ~_umask())
            if target.exists():
                target.rmdir()
            temporary.replace(target)
            _written.append(target)
        except OSError as error:
            raise disk_error(target, error) from None
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file whole or not at all.

    Args:
        path: file to write.
        text: written as UTF-8.
    """
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_document(
    path: str | Path,
    kind: type[Document],
    schema: str,
    *,
    older: Mapping[str, Upgrade] | None = None,
) -> Document:
    """Read a JSON document of a known schema.

    Args:
        path: file to read.
        kind: what the document holds.
        schema: that this version writes.
        older: earlier schemas, each with what turns such a document into one of `schema`.

    Raises:
        InputFileError: missing, too large, no strict JSON, another schema, or a wrong field (names the first).
    """
    content = read_bytes(Path(path), MAX_JSON_BYTES, f"a {schema} document")
    try:
        text = decode_text(content, path)
        parsed = parse_json(text, path)
    except InputFileError as error:
        raise InputFileError(f"{error} Expected a {schema} document.") from None
    written = parsed.get("schema", schema) if isinstance(parsed, dict) else schema
    upgrades = older or {}
    if written not in (schema, *upgrades):
        raise InputFileError(
            f"{path}: schema is {_shown(written)}; this version reads {schema!r}. Make the file again."
        )
    if written in upgrades:
        text = json.dumps(upgrades[written](parsed))
    from pydantic import ValidationError  # not above: `--help` reads no document

    try:
        return kind.model_validate_json(text, strict=True)  # strict: "5" and true are no numbers
    except ValidationError as error:
        raise InputFileError(f"{path}: {first_fault(error)}. Expected a {schema} document.") from None


def first_fault(error: ValidationError) -> str:
    """Say the first thing that is wrong with a document: which field, what it should be, and what it is.

    Args:
        error: what pydantic found.
    """
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"])) or "document"
    message = first["msg"].removeprefix("Value error, ").replace("\n", " ").rstrip(".")
    message = re.sub(r"\d{20,}", lambda digits: f"{float(digits[0]):g}", message)  # 1e+100 in full
    is_scalar = first["input"] is None or isinstance(first["input"], (str, int, float, bool))
    told = first["type"] in ("missing", "value_error") or not is_scalar
    return f"{where}: {message}" + ("" if told else f", found {_shown(first['input'])}")


def _shown(value: object) -> str:
    text = json.dumps(value) if isinstance(value, (bool, type(None))) else repr(value)
    return text if len(text) <= 60 else text[:60] + "…"


def check_free(target: Path) -> None:
    """Refuse a folder that cannot be written, before the work that would go into it.

    Args:
        target: the folder that will be written.

    Raises:
        UsageError: it holds something already, or as `check_folder`.
    """
    check_folder(target)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target}: exists and is not an empty folder. Give a new folder, or remove it first.")


def check_folder(target: Path) -> None:
    """Refuse a target that cannot be written where it is to lie: making its folder would hide a typing error.

    Args:
        target: the file or folder that will be written.

    Raises:
        UsageError: its folder does not exist or may not be written, or its name is too long for the file system.
    """
    folder = target.absolute().parent
    try:
        if not folder.is_dir():
            raise UsageError(f"{_shortened(target)}: its folder {_shortened(folder)} does not exist. Create it first.")
        most = os.pathconf(folder, "PC_NAME_MAX") - len(f".{PART}") - RANDOM_CHARACTERS - 1  # of its temporary name
        target.exists()  # asks the system whether it takes the name and the path as a whole
    except OSError as error:
        raise disk_error(target, error) from None
    if (size := len(os.fsencode(target.name))) > most:
        raise UsageError(f"{_shortened(target)}: the name has {size} bytes; at most {most} can be written here.")
    if not os.access(folder, os.W_OK):
        raise UsageError(f"{_shortened(target)}: its folder {_shortened(folder)} is not writable. Give another one.")


def folder_bytes(folder: Path) -> int:
    """Return the bytes of all files in a folder and its subfolders.

    Args:
        folder: an existing folder.
    """
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def disk_error(target: Path, error: OSError) -> UsageError:
    """What the system said while writing, as one line.

    Args:
        target: what was being written.
        error: as raised.
    """
    if error.errno == errno.ENOSPC:
        return FullDiskError(f"{target}: was not written: the disk is full. Free some space and run again.")
    return UsageError(f"{_shortened(target)}: cannot be written: {error.strerror or error}.")


def _shortened(path: Path) -> str:
    """Write a path without the middle of a very long one."""
    text = str(path)
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN // 2]}…{text[-MAX_SHOWN // 2 :]}"


def _unfinished(target: Path) -> list[Path]:
    """Temporary files and folders of the same output, of this process or of others."""
    return list(target.parent.glob(f".{glob.escape(target.name)}.{'?' * RANDOM_CHARACTERS}{PART}"))


def _remove_unless_in_use(left: Path) -> None:
    """Remove a temporary file that no living process writes."""
    if left.is_symlink() or not left.is_file():
        return
    with suppress(OSError), left.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        left.unlink()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
