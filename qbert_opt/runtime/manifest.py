"""What a folder of ours must hold: its record lists every file with a hash, and carries a seal over itself.

Hashes find accidents and files that do not belong together; they are no signature, since who changes a file on purpose
can change its hash too.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputFileError, QbertOptWarning

IGNORED_SUFFIXES = (".md",)  # notes to people; hidden files are not looked at either
SEAL = "sha256"
NAME = "[A-Za-z0-9][A-Za-z0-9_-]{0,63}"
IN_SUBFOLDER = re.compile(rf"{NAME}/(?:config\.json|{NAME}\.(?:onnx|xml|bin))")  # settings of modules, and graphs


class OlderFolderWarning(QbertOptWarning):
    """A folder of an older format, whose record does not cover everything that is read from it."""


def file_sha256(path: Path) -> str:
    """Hash of a file's bytes.

    Args:
        path: read in pieces, whatever its size.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_hashes(folder: Path, record: str) -> dict[str, str]:
    """Return the sha256 of every file of a folder by name, except its record's.

    Args:
        folder: with at most one level of sub-folders.
        record: name of the file that will hold the hashes.
    """
    return {name: file_sha256(folder / name) for name in _names(folder) if name != record}


def _names(folder: Path) -> list[str]:
    """Return everything in a folder: files by name, those of sub-folders as `SUBFOLDER/NAME`, empty sub-folders."""
    names = []
    for path in sorted(folder.iterdir()):
        inside = sorted(path.iterdir()) if path.is_dir() else []
        names += [f"{path.name}/{inner.name}" for inner in inside] or [path.name]
    return names


def seal(document: Mapping[str, Any]) -> str:
    """Return the sha256 of a JSON document, whatever its layout and the order of its keys; its own seal is left out.

    Args:
        document: what will be written as JSON.
    """
    unsealed = {key: value for key, value in document.items() if key != SEAL}
    return hashlib.sha256(json.dumps(unsealed, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def check_files(folder: Path, expected: Mapping[str, str], remedy: str) -> None:
    """Compare files of a folder with their hashes.

    Args:
        folder: where they are.
        expected: sha256 by name; plain names, or `IN_SUBFOLDER`.
        remedy: what to do, as the end of the message.

    Raises:
        InputFileError: a name is no plain file name, or a file is missing, elsewhere, or differs.
    """
    for name, digest in expected.items():
        if not is_plain_name(name) and not IN_SUBFOLDER.fullmatch(name):
            raise InputFileError(f"{folder}: its record lists {name!r}, which is no plain file name. {remedy}")
        path = folder / name
        if not path.is_file():
            raise InputFileError(f"{path}: is missing, and the folder's record lists it. {remedy}")
        if not _is_inside(path, folder, name):
            raise InputFileError(f"{path}: is a link to {path.resolve()}, outside the folder. {remedy}")
        if file_sha256(path) != digest:
            raise InputFileError(f"{path}: is not the file that was written (sha256). {remedy}")


def check_complete(
    folder: Path, listed: Mapping[str, str], record: str, required: tuple[str, ...], remedy: str
) -> None:
    """Refuse a folder whose record does not list every file, since what is not listed is not checked.

    Args:
        folder: where the files are.
        listed: sha256 by name, as in the record.
        record: name of the record's own file.
        required: names that the record must list.
        remedy: what to do, as the end of the message.

    Raises:
        InputFileError: names the first file that is not listed.
    """
    for name in required:
        if name not in listed:
            raise InputFileError(f"{folder / record}: lists no hash of {name}. {remedy}")
    known = {record, *listed, *(name.rpartition("/")[0] for name in listed)}
    for name in _names(folder):
        is_note = name.startswith(".") or Path(name).suffix in IGNORED_SUFFIXES
        if name not in known and not is_note:
            raise InputFileError(
                f"{folder / name}: is not listed in {record}, so it was not written with the folder. Move it elsewhere."
            )


def is_plain_name(name: str) -> bool:
    """Tell whether a name means a file of the folder itself: no path, no drive, no control character.

    Args:
        name: as a document has it.
    """
    return name not in ("", ".", "..") and name.isprintable() and not any(part in name for part in "/\\:")


def _is_inside(path: Path, folder: Path, name: str) -> bool:
    """Tell whether a file, or what it links to, lies in its folder; in the hub's cache, files link to `blobs`."""
    home, root = path.resolve().parent, folder.resolve()
    return home == (root / name).parent or (home.name == "blobs" and home.parent == root.parent.parent)
