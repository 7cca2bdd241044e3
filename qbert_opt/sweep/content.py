"""Hashes of what a sweep reads: the same content has the same hash, wherever it is stored."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from ..errors import InputFileError
from ..models.folder_files import find_folder
from ..runtime.manifest import IGNORED_SUFFIXES, file_sha256

if TYPE_CHECKING:
    from hwmodels import Device


def folder_sha256(model: str) -> str:
    """Return the hash of a model folder: of all its files by name, and of the settings in its sub-folders.

    Documentation, hidden files and other files in sub-folders, such as a trainer's checkpoints, are ignored.

    Args:
        model: a folder, or a hub model as owner/name.

    Raises:
        InputFileError: it is not a model folder, or a file cannot be read.
    """
    folder = find_folder(model)
    digest = hashlib.sha256()
    try:
        files = [path for path in folder.iterdir() if path.is_file()] + list(folder.glob("*/config.json"))
        for path in sorted(files):
            if path.name.startswith(".") or path.suffix in IGNORED_SUFFIXES:
                continue
            digest.update(f"{path.relative_to(folder)}\0{file_sha256(path)}\n".encode())
    except OSError as error:
        raise InputFileError(f"{error.filename}: cannot be read: {error.strerror}.") from None
    return digest.hexdigest()


def device_sha256(device: Device) -> str:
    """Return the hash of a device as loaded, including what its file inherits.

    Args:
        device: a loaded device.
    """
    return hashlib.sha256(device.model_dump_json().encode()).hexdigest()
