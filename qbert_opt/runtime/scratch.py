"""Tensors that are kept in a file without a name instead of in memory.

The file never has a name, so the system frees it with the process, however that ends: nothing is left to clean. Its
pages are mapped; `release` gives the resident ones of every mapping back, and the next use reads them again.
"""

from __future__ import annotations

import ctypes
import errno
import math
import mmap
import os
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakSet

import torch

from ..errors import FullDiskError, UsageError

ALIGNMENT = 64  # bytes, as of torch's own memory: products of other alignment may round differently
SEGMENT_BYTES = 1 << 30  # of address space that is mapped at a time; the file itself is sparse
ZEROS = 1 << 18  # elements that are written at a time to take room in the file: a full disk is then an error
M_MMAP_THRESHOLD = -3  # of glibc's mallopt
RETURNED_BYTES = 1 << 14  # of a freed block that goes back to the system while a pass runs
CAN_RELEASE = hasattr(mmap, "MADV_DONTNEED")


@dataclass(frozen=True, slots=True)
class Kept:
    """Where a tensor lies in a scratch file, and its layout."""

    offset: int
    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


class Scratch:
    """A file without a name that takes tensors in place of memory."""

    def __init__(self, folder: Path) -> None:
        """Make the file.

        Args:
            folder: on the disk that has room.

        Raises:
            UsageError: the folder does not exist, or nothing can be written there.
        """
        self._folder = folder
        try:
            with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
                self._file = os.dup(file.fileno())
        except OSError as error:
            raise UsageError(f"`scratch` {folder}: cannot be written: {error.strerror}. Give another folder.") from None
        weakref.finalize(self, os.close, self._file)
        self._end = 0
        self._segments: list[tuple[int, mmap.mmap]] = []  # by offset

    def keep(self, tensor: torch.Tensor) -> Kept:
        """Write a tensor, with the layout that it has.

        Args:
            tensor: of any layout and device.

        Raises:
            FullDiskError: the disk has no room.
        """
        flat = _extent(tensor)
        offset = self._append(flat)
        return Kept(offset, tensor.shape, tensor.stride(), tensor.dtype, tensor.device)

    def read(self, kept: Kept) -> torch.Tensor:
        """Read a tensor back into memory, on its device.

        Args:
            kept: what `keep` returned.
        """
        flat = torch.empty(_extent_elements(kept.shape, kept.stride), dtype=kept.dtype)
        view = flat.view(torch.uint8).numpy().data
        done = 0
        while done < len(view):
            done += os.preadv(self._file, [view[done:]], kept.offset + done)
        return flat.to(kept.device).as_strided(kept.shape, kept.stride)

    def hold(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return an equal tensor of the same layout that lies in the file; it stays valid as long as it is used.

        A tensor of another device than the CPU is copied to the CPU.

        Args:
            tensor: of any layout.

        Raises:
            FullDiskError: the disk has no room.
        """
        flat = _extent(tensor)
        if not flat.numel():
            return tensor
        bytes_needed = flat.numel() * flat.element_size()
        start, segment = self._room(bytes_needed)
        offset = self._append(flat)
        held = torch.frombuffer(segment, dtype=flat.dtype, count=flat.numel(), offset=offset - start)
        return held.as_strided(tensor.shape, tensor.stride())

    def empty(self, shape: torch.Size) -> torch.Tensor:
        """Return a float32 tensor of zeros that lies in the file, without the memory for it.

        Args:
            shape: of the tensor.

        Raises:
            FullDiskError: the disk has no room.
        """
        count, zeros = math.prod(shape), torch.zeros(ZEROS)
        if not count:
            return torch.empty(shape)
        start, segment = self._room(count * zeros.element_size())
        offset = self._end
        for done in range(0, count, ZEROS):
            self._append(zeros[: count - done])
        return torch.frombuffer(segment, dtype=zeros.dtype, count=count, offset=offset - start).view(shape)

    def reset(self) -> None:
        """Forget everything: the room in the file is used again. No tensor of it may be in use."""
        self._end = 0

    def holds(self, address: int) -> bool:
        """Return whether memory at an address is of this file.

        Args:
            address: of the first byte.
        """
        return any(contains(segment, address) for _, segment in self._segments)

    @property
    def free_bytes(self) -> int:
        """Bytes that the disk still takes."""
        return shutil.disk_usage(self._folder).free

    def _append(self, flat: torch.Tensor) -> int:
        offset, self._end = self._end, self._end + flat.numel() * flat.element_size()
        self._end += -self._end % ALIGNMENT
        view = flat.view(torch.uint8).numpy().data
        done = 0
        try:
            while done < len(view):
                done += os.pwrite(self._file, view[done:], offset + done)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise FullDiskError(
                    f"`scratch` {self._folder}: the disk is full of what does not fit into memory. Free some space, or "
                    "give a folder on another disk."
                ) from None
            raise UsageError(f"`scratch` {self._folder}: cannot be written: {error.strerror}.") from None
        return offset

    def _room(self, needed: int) -> tuple[int, mmap.mmap]:
        """Return the mapped segment in which the next tensor of a size lies, and its offset."""
        for start, segment in self._segments:
            place = max(self._end, start)
            if place + needed <= start + len(segment):
                self._end = place
                return start, segment
        self._end += -self._end % mmap.ALLOCATIONGRANULARITY
        length = max(SEGMENT_BYTES, needed)
        length += -length % mmap.ALLOCATIONGRANULARITY
        os.ftruncate(self._file, max(os.fstat(self._file).st_size, self._end + length))
        segment = mmap.mmap(self._file, length, offset=self._end)
        _MAPPED.add(segment)
        self._segments.append((self._end, segment))
        return self._end, segment


_MAPPED: WeakSet[mmap.mmap] = WeakSet()


def map_file(path: Path) -> mmap.mmap:
    """Map a file for reading.

    Args:
        path: a file that is not empty.
    """
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    _MAPPED.add(mapped)
    return mapped


def release() -> None:
    """Give back the memory of all pages that were read of mapped files; their contents stay in the files."""
    if CAN_RELEASE:
        for mapped in list(_MAPPED):
            mapped.madvise(mmap.MADV_DONTNEED)


def trim_heap() -> None:
    """Give back the memory of freed blocks that the C library keeps for later ones, where it is glibc."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def freed_memory_returned() -> Iterator[None]:
    """Inside, have the C library give freed blocks back to the system from 16 KiB on, where it is glibc.

    Usually it keeps blocks of up to 32 MiB in its heap. Small objects that stay, such as nodes of a graph, then come to
    lie in what large ones left, and the heap grows with every block of the model: from 256 KiB on was not enough, since
    one text's gradients are smaller.
    """
    _set_mapped_block_bytes(RETURNED_BYTES)
    try:
        yield
    finally:
        _set_mapped_block_bytes(1 << 25)  # glibc's most: outside, new pages for each block would cost more time


def _set_mapped_block_bytes(count: int) -> None:
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, count)


def contains(mapped: mmap.mmap, address: int) -> bool:
    """Return whether an address lies in a mapping.

    Args:
        mapped: the mapping.
        address: of memory.
    """
    start = _address(mapped)
    return start <= address < start + len(mapped)


def _address(mapped: mmap.mmap) -> int:
    return int(read_only_tensor(mapped, torch.uint8, 1, 0).data_ptr())


def read_only_tensor(mapped: mmap.mmap, dtype: torch.dtype, count: int, offset: int) -> torch.Tensor:
    """View a part of a read-only mapping as a tensor `[count]`, which must not be written: that would end the process.

    Args:
        mapped: the mapping.
        dtype: of the tensor.
        count: its elements.
        offset: where it starts, in bytes.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        return torch.frombuffer(mapped, dtype=dtype, count=count, offset=offset)


def _extent(tensor: torch.Tensor) -> torch.Tensor:
    """The part of a tensor's memory between its first and its last element, one-dimensional, on the CPU."""
    count = _extent_elements(tensor.shape, tensor.stride())
    return tensor.detach().as_strided((count,), (1,)).cpu()


def _extent_elements(shape: torch.Size, stride: tuple[int, ...]) -> int:
    if not math.prod(shape):
        return 0
    return 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
