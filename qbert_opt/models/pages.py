"""The memory-mapped files of a model whose weights stay on disk; `paging` has the functions that use such a model.

A float32 model is mapped from its own safetensors files; weights of other types are converted once, tensor by tensor,
into a scratch file that is mapped too. The tensors are ordinary ones, so results are bit for bit the same as in memory.
After each block, its pages are given back to the system, which reads them from the file when they are needed again.
"""

from __future__ import annotations

import json
import logging
import math
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn

from ..errors import InputFileError
from ..runtime.memory_budget import available_bytes
from ..runtime.scratch import (
    Kept,
    Scratch,
    contains,
    freed_memory_returned,
    map_file,
    read_only_tensor,
    release,
    trim_heap,
)
from .folder_files import ModelFiles, file_stamp, weight_paths
from .layers import largest_module_list

logger = logging.getLogger(__name__)

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
SMALL_BYTES = 1 << 14  # tensors below this size stay in memory
DISK_SHARE = 1 / 2  # share of the free disk that one pass over the text may fill


@dataclass(frozen=True, slots=True)
class Paging:
    """Whether a model is paged, and where its scratch files are.

    Attributes:
        folder: folder of the scratch files, on a disk and not in memory.
        wanted: True or False; None pages a model if its float32 weights do not fit into the available memory.
        told: whether the user was told already.
    """

    folder: Path
    wanted: bool | None = None
    told: bool = False

    def applies(self, weight_bytes: int, name: str) -> bool:
        """Decide for a model, and tell the user if it is paged.

        Args:
            weight_bytes: bytes of its weights in float32.
            name: what the user called it.
        """
        available = available_bytes()
        paged = weight_bytes > available if self.wanted is None else self.wanted
        if paged and not self.told:
            reason = "" if self.wanted else f", more than the {available / 2**20:,.0f} MiB that are available"
            logger.warning(
                "%s: %.0f MiB of float32 weights%s: paged from disk block by block, scratch files in %s",
                name, weight_bytes / 2**20, reason, self.folder,
            )  # fmt: skip
        return paged


@dataclass(frozen=True, slots=True)
class LentWeight:
    """A view of a weight that was copied to another device; it is copied there again when autograd needs it."""

    home: torch.Tensor
    device: torch.device
    shape: torch.Size
    stride: tuple[int, ...]
    offset: int


class Pages:
    """The mapped files of one paged model, and scratch for one batch at a time."""

    def __init__(self, folder: Path) -> None:
        """Make the scratch files.

        Args:
            folder: a folder on a disk with enough space.

        Raises:
            UsageError: the folder cannot be written.
        """
        self.folder = folder
        self.batch = Scratch(folder)
        self._weights = Scratch(folder)
        self._files: list[mmap.mmap] = []
        self._stamps: dict[Path, tuple[int, ...] | None] = {}  # stamps of these files when they were mapped
        self._window, self._touched = 1 << 24, 0
        self._homes: dict[torch.Tensor, torch.Tensor] = {}  # parameter or buffer elsewhere -> its weights
        self._lent: dict[int, torch.Tensor] = {}  # by address of the copy

    @property
    def pass_bytes(self) -> int:
        """Bytes of factors or statistics that one pass over the text may keep on disk."""
        return int(DISK_SHARE * self.batch.free_bytes)

    def state(self, files: ModelFiles) -> dict[str, torch.Tensor]:
        """Return the tensors of a model's files in float32, by name, in mapped memory.

        Args:
            files: the model folder.
        """
        state: dict[str, torch.Tensor] = {}
        for path in weight_paths(files):
            mapped, offsets = self._mapped(path)
            for name, offset in offsets.items():
                stored = files.tensors[name]
                dtype, count = DTYPES.get(stored.dtype), math.prod(stored.shape)
                if dtype is None or not count or offset % dtype.itemsize:
                    with safe_open(path, framework="pt") as file:
                        tensor = file.get_tensor(name).clone()
                else:
                    tensor = read_only_tensor(mapped, dtype, count, offset).view(stored.shape)
                if dtype not in (None, torch.float32):
                    tensor = self.weight(tensor.float())
                    self.release()
                state[name] = tensor
        return state

    def weight(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a copy of a tensor in mapped memory, to be used as a weight of the model.

        Args:
            tensor: a float32 tensor.
        """
        return self._weights.hold(tensor)

    def empty_weight(self, shape: torch.Size) -> torch.Tensor:
        """Return an empty float32 tensor in mapped memory; the caller fills it and uses it as a weight of the model.

        Args:
            shape: shape of the tensor.
        """
        return self._weights.empty(shape)

    def adopt(self, model: nn.Module) -> None:
        """Set a model up to give its pages back after each block, and move weights that are not mapped into a file.

        Args:
            model: a model whose weights are tensors of `state` or `weight`.
        """
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.nbytes > SMALL_BYTES and not self.owns(tensor):
                tensor.data = self.weight(tensor.data)
        blocks = [model.get_submodule(name) for name in largest_module_list(model)]
        largest = max((sum(p.nbytes for p in block.parameters()) for block in blocks), default=0)
        self._window = max(self._window, largest // 2)
        for block in blocks:
            block.register_forward_hook(lambda *_: self._drop())
        self.release()

    def owns(self, tensor: torch.Tensor) -> bool:
        """Return whether a tensor is a weight in mapped memory.

        Args:
            tensor: a tensor on any device.
        """
        address = tensor.untyped_storage().data_ptr()
        return self._weights.holds(address) or any(contains(file, address) for file in self._files)

    def release(self) -> None:
        """Give back the memory of all pages that were read, and of freed heap memory.

        Raises:
            InputFileError: a file of the model was written to after it was mapped.
        """
        self._drop()
        trim_heap()  # during a pass too: otherwise the graph's freed nodes leave holes that stay until the pass ends

    def _drop(self) -> None:
        """Give back pages only, as is done after every block: the next block reuses the heap."""
        self._touched = 0
        release()
        if changed := [path for path, stamp in self._stamps.items() if file_stamp(path) not in (None, stamp)]:
            raise InputFileError(f"{changed[0]}: was changed while it was in use. Run again when it is complete.")

    def touch(self, count: int) -> None:
        """Record that pages are about to be read; after half a block, give back the pages read before.

        Args:
            count: number of bytes to be read.
        """
        self._touched += count
        if self._touched > self._window:
            self._drop()

    def hold(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a copy of a tensor on disk, valid until the batch ends; a tensor on another device stays there.

        Args:
            tensor: a tensor of any layout.
        """
        if tensor.device.type != "cpu":
            return tensor
        self.touch(tensor.nbytes)
        return self.batch.hold(tensor)

    def pack(self, tensor: torch.Tensor) -> torch.Tensor | Kept | LentWeight:
        """Return what autograd keeps instead of a tensor: weights are on disk anyway, all else is written there.

        Args:
            tensor: a tensor that autograd saves for the backward pass.
        """
        home = self._lent.get(tensor.untyped_storage().data_ptr())
        if home is not None:
            return LentWeight(home, tensor.device, tensor.shape, tensor.stride(), int(tensor.storage_offset()))
        if tensor.nbytes <= SMALL_BYTES or self.owns(tensor):
            return tensor
        return self.batch.keep(tensor)

    def unpack(self, kept: torch.Tensor | Kept | LentWeight) -> torch.Tensor:
        """Return a tensor that autograd needs again, from what `pack` returned for it."""
        if isinstance(kept, Kept):
            return self.batch.read(kept)
        if isinstance(kept, LentWeight):
            self.touch(kept.home.nbytes)
            return kept.home.to(kept.device, copy=True).as_strided(kept.shape, kept.stride, kept.offset)
        self.touch(kept.nbytes)
        return kept

    def home(self, parameter: torch.Tensor) -> torch.Tensor:
        """Return the weights of a parameter in mapped memory, whatever device computes with it.

        Args:
            parameter: a parameter of the model.
        """
        return self._homes.get(parameter, parameter)

    @contextmanager
    def passing(self) -> Iterator[None]:
        """Return freed memory at once inside the context; tensors that were held for the batch are invalid after it."""
        try:
            with freed_memory_returned():
                yield
        finally:
            self.batch.reset()
            self.release()

    @contextmanager
    def lent(self, model: nn.Module, device: torch.device) -> Iterator[None]:
        """Compute on another device inside the context: it holds one block at a time, and all weights outside blocks.

        Args:
            model: the model that these pages belong to.
            device: its memory must hold the largest block, the weights outside the blocks, and one batch's activations.
        """
        blocks = [model.get_submodule(name) for name in largest_module_list(model)]
        inside = {parameter for block in blocks for parameter in block.parameters()}
        self._homes = {tensor: tensor.data for tensor in [*model.parameters(), *model.buffers()]}

        def lend(block: nn.Module, _args: object) -> None:
            for parameter in block.parameters():
                parameter.data = self._homes[parameter].to(device, copy=True)
                self._lent[parameter.untyped_storage().data_ptr()] = self._homes[parameter]

        def take_back(block: nn.Module, *_: object) -> None:
            self._lent.clear()  # the address is free for any other tensor
            for parameter in block.parameters():
                parameter.data = self._homes[parameter]

        for tensor in self._homes.keys() - inside:
            tensor.data = tensor.data.to(device)
        handles = [block.register_forward_pre_hook(lend) for block in blocks]
        handles += [block.register_forward_hook(take_back) for block in blocks]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            for tensor, home in self._homes.items():
                tensor.data = home
            self._homes = {}
            self._lent.clear()

    def _mapped(self, path: Path) -> tuple[mmap.mmap, dict[str, int]]:
        """Map a checked safetensors file; return the map and the position of each tensor in it, in bytes."""
        self._stamps[path] = file_stamp(path)
        mapped = map_file(path)
        self._files.append(mapped)
        size = int.from_bytes(mapped[:8], "little")
        header = json.loads(mapped[8 : 8 + size])
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        return mapped, {name: 8 + size + entry["data_offsets"][0] for name, entry in entries.items()}
