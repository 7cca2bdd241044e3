"""The mapped files of a model whose weights stay on disk; `paging` has what passes over such a model use.

A float32 model is mapped from its own safetensors files; weights of other types are converted once, tensor by tensor,
into a scratch file that is mapped likewise. The tensors are ordinary ones, so every computation is the one that it
would be in memory, bit for bit; after each block its pages are given back to the system, which reads them again from
the file.
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
SMALL_BYTES = 1 << 14  # of a tensor that stays in memory
DISK_SHARE = 1 / 2  # of the free disk, which one pass over the text may fill


@dataclass(frozen=True, slots=True)
class Paging:
    """Whether a model is paged, and where its scratch files lie.

    Attributes:
        folder: on a disk, not in memory.
        wanted: True or False; None pages a model whose float32 weights do not fit into the memory that is available.
        told: whether the user knows already.
    """

    folder: Path
    wanted: bool | None = None
    told: bool = False

    def applies(self, weight_bytes: int, name: str) -> bool:
        """Decide for a model, and tell the user if it is paged.

        Args:
            weight_bytes: of its weights in float32.
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
    """A view of a weight that was copied to another device, where it is copied again when autograd needs it."""

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
            folder: on a disk that has room.

        Raises:
            UsageError: nothing can be written there.
        """
        self.folder = folder
        self.batch = Scratch(folder)
        self._weights = Scratch(folder)
        self._files: list[mmap.mmap] = []
        self._stamps: dict[Path, tuple[int, ...] | None] = {}  # of the same, when they were mapped
        self._window, self._touched = 1 << 24, 0
        self._homes: dict[torch.Tensor, torch.Tensor] = {}  # of parameters and buffers that are on another device
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
        """Return an equal tensor in mapped memory, to be a weight of the model.

        Args:
            tensor: float32.
        """
        return self._weights.hold(tensor)

    def empty_weight(self, shape: torch.Size) -> torch.Tensor:
        """Return a float32 tensor in mapped memory that is to be filled, and then to be a weight of the model.

        Args:
            shape: of the tensor.
        """
        return self._weights.empty(shape)

    def adopt(self, model: nn.Module) -> None:
        """Give a model's pages back after each block, and move what is not yet mapped into a file.

        Args:
            model: with the tensors of `state` or `weight`.
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
            tensor: of any device.
        """
        address = tensor.untyped_storage().data_ptr()
        return self._weights.holds(address) or any(contains(file, address) for file in self._files)

    def release(self) -> None:
        """Give back the memory of all pages that were read, and that of blocks that were freed.

        Raises:
            InputFileError: a file of the model was written to after it was mapped.
        """
        self._drop()
        trim_heap()  # in a pass too: otherwise the graph's freed nodes are holes that stay until the pass ends

    def _drop(self) -> None:
        """Give back pages only, as often as once for each block: the heap is used again by the next one."""
        self._touched = 0
        release()
        if changed := [path for path, stamp in self._stamps.items() if file_stamp(path) not in (None, stamp)]:
            raise InputFileError(f"{changed[0]}: was changed while it was in use. Run again when it is complete.")

    def touch(self, count: int) -> None:
        """Note that pages are about to be read, and give back earlier ones when half a block has been.

        Args:
            count: bytes.
        """
        self._touched += count
        if self._touched > self._window:
            self._drop()

    def hold(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return an equal tensor on disk that is valid until the batch ends; one of another device stays there.

        Args:
            tensor: of any layout.
        """
        if tensor.device.type != "cpu":
            return tensor
        self.touch(tensor.nbytes)
        return self.batch.hold(tensor)

    def pack(self, tensor: torch.Tensor) -> torch.Tensor | Kept | LentWeight:
        """What autograd keeps of a tensor: weights are there anyway, anything else goes to disk."""
        home = self._lent.get(tensor.untyped_storage().data_ptr())
        if home is not None:
            return LentWeight(home, tensor.device, tensor.shape, tensor.stride(), int(tensor.storage_offset()))
        if tensor.nbytes <= SMALL_BYTES or self.owns(tensor):
            return tensor
        return self.batch.keep(tensor)

    def unpack(self, kept: torch.Tensor | Kept | LentWeight) -> torch.Tensor:
        """Return a tensor that autograd needs again."""
        if isinstance(kept, Kept):
            return self.batch.read(kept)
        if isinstance(kept, LentWeight):
            self.touch(kept.home.nbytes)
            return kept.home.to(kept.device, copy=True).as_strided(kept.shape, kept.stride, kept.offset)
        self.touch(kept.nbytes)
        return kept

    def home(self, parameter: torch.Tensor) -> torch.Tensor:
        """Return the weights of a parameter in mapped memory, wherever it is computed with.

        Args:
            parameter: of the model.
        """
        return self._homes.get(parameter, parameter)

    @contextmanager
    def passing(self) -> Iterator[None]:
        """Freed blocks go back at once inside, and tensors that were held for the batch are no longer valid after."""
        try:
            with freed_memory_returned():
                yield
        finally:
            self.batch.reset()
            self.release()

    @contextmanager
    def lent(self, model: nn.Module, device: torch.device) -> Iterator[None]:
        """Compute on another device inside the context: it has one block's weights at a time, and all outside blocks.

        Args:
            model: whose pages these are.
            device: its memory has to hold the largest block, and the activations of one batch.
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
        """Map a safetensors file that was checked; returns where in it each tensor starts, in bytes."""
        self._stamps[path] = file_stamp(path)
        mapped = map_file(path)
        self._files.append(mapped)
        size = int.from_bytes(mapped[:8], "little")
        header = json.loads(mapped[8 : 8 + size])
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        return mapped, {name: 8 + size + entry["data_offsets"][0] for name, entry in entries.items()}
