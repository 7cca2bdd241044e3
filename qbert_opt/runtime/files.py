"""Write files whole or not at all, and read JSON documents with one clear line when they are wrong."""

from __future__ import annotations

import errno
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from ..errors import InputFileError, UsageError
from .locks import sole_writer

MAX_JSON_BYTES = 256 * 2**20
RANDOM_CHARACTERS = 8  # in the names that `tempfile` makes
Document = TypeVar("Document", bound=BaseModel)


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Give a temporary name beside `path`; rename it at the end, remove it if anything goes wrong.

    Raises:
        UsageError: `path` is no regular file, its folder does not exist or may not be written, or the disk is full.
    """
    target = Path(path)
    if target.exists() and not target.is_file():
        raise UsageError(f"{target}: is a folder or a device, which a file cannot replace. Give a file name.")
    check_folder(target)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
    except OSError as error:
        raise disk_error(target, error) from None
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(target)
    except OSError as error:
        raise disk_error(target, error) from None
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Give a temporary folder beside `path`; rename it at the end, remove it if anything goes wrong.

    Until then no other process can write the same folder. What a killed process left of it is removed first.

    Raises:
        UsageError: `path` holds something already or is being written, its parent does not exist, or the disk is full.
    """
    target = Path(path)
    check_new_folder(target)
    with sole_writer(target):
        for left in target.parent.glob(f".{glob.escape(target.name)}.{'?' * RANDOM_CHARACTERS}.part"):
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left, ignore_errors=True)
        try:
            temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent))
        except OSError as error:
            raise disk_error(target, error) from None
        try:
            yield temporary
            temporary.chmod(0o777 & ~_umask())
            if target.exists():
                target.rmdir()
            temporary.replace(target)
        except OSError as error:
            raise disk_error(target, error) from None
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_document(path: str | Path, kind: type[Document], schema: str, *, older: tuple[str, ...] = ()) -> Document:
    """Read a JSON document of a known schema.

    Args:
        path: file to read.
        kind: what the document holds.
        schema: that this version writes.
        older: schemas that it reads too.

    Raises:
        InputFileError: missing, too large, no JSON, another schema, or a wrong field (names the first).
    """
    file = Path(path)
    if not file.is_file():
        raise InputFileError(f"{path}: no such file.")
    if file.stat().st_size > MAX_JSON_BYTES:
        raise InputFileError(f"{path}: {file.stat().st_size} bytes; a {schema} document has at most {MAX_JSON_BYTES}.")
    try:
        document = kind.model_validate_json(file.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "document"
        raise InputFileError(f"{path}: {where}: {first['msg']}. Expected a {schema} document.") from None
    except OSError as error:
        raise InputFileError(f"{path}: cannot be read: {error.strerror}.") from None
    found = getattr(document, "document_schema", None)
    if found not in (schema, *older):
        raise InputFileError(f"{path}: schema is {found!r}; this version reads {schema!r}. Make the file anew.")
    return document


def check_folder(target: Path) -> None:
    """Refuse a target whose folder does not exist: making it would hide a typing error.

    Raises:
        UsageError: names the folder.
    """
    if not target.absolute().parent.is_dir():
        raise UsageError(f"{target}: its folder {target.absolute().parent} does not exist. Create it first.")


def check_new_folder(target: Path) -> None:
    """Refuse a folder to write that holds something already, or whose own folder does not exist.

    Raises:
        UsageError: names the folder.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target}: exists and is not an empty folder. Give a new folder, or remove it first.")
    check_folder(target)


def disk_error(target: Path, error: OSError) -> UsageError:
    """What the system said while writing, as one line."""
    if error.errno == errno.ENOSPC:
        return UsageError(f"{target}: the disk is full; nothing was written. Free some space and run again.")
    return UsageError(f"{target}: cannot be written: {error.strerror or error}.")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
