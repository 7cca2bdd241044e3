"""Hashes of what a sweep reads: the same content has the same hash, wherever it lies."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from ..errors import InputFileError
from ..models.folder_files import find_folder
from ..runtime.manifest import IGNORED_SUFFIXES, file_sha256

if TYPE_CHECKING:
    from hwmodels import Device


def folder_sha256(model: str) -> str:
    """Return the hash of a model folder: every file in it by name, and the settings in its sub-folders.

    Notes to people and hidden files do not count, nor do other files of sub-folders, such as a trainer's checkpoints.

    Args:
        model: a folder, or a hub model as owner/name.

    Raises:
        InputFileError: no model folder, or a file that cannot be read.
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
    """Return the hash of a device as it is read, with what it inherits.

    Args:
        device: a loaded device.
    """
    return hashlib.sha256(device.model_dump_json().encode()).hexdigest()
