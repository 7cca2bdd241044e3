"""How a bound on memory is shared out, and how much a piece of work really took.

The bound is on what the process holds above the model itself. Its parts are live at different times; each gets a fixed
share, so that their sum stays below the bound at every moment.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef

from ..errors import UsageError

MEMORY = Path("/proc/meminfo")
GROUP = Path("/sys/fs/cgroup")
STATUS = Path("/proc/self/status")
RESET = Path("/proc/self/clear_refs")


@dataclass(frozen=True, slots=True)
class MemoryShares:
    """What each part of a run may hold, in bytes; a sixteenth is left for what libraries hold besides.

    Attributes:
        limit: of everything together.

    Raises:
        UsageError: it is not positive.
    """

    limit: int

    def __post_init__(self) -> None:
        if self.limit <= 0:
            raise UsageError(f"`memory_limit_bytes` {self.limit}: must be positive.")

    @property
    def graph(self) -> int:
        """What autograd keeps of a batch; gone before rounding errors are made."""
        return self.limit // 4

    @property
    def factors(self) -> int:
        """Back-propagated factors of a group of matrices."""
        return self.limit * 5 // 16

    @property
    def jacobians(self) -> int:
        """Per-sample gradients that are formed at a time; more than 128 MiB leaves every cache and gains nothing."""
        return min(1 << 27, self.limit // 8)

    @property
    def statistics(self) -> int:
        """Second moments of inputs that a quantizer needs."""
        return self.limit // 8

    @property
    def rounding(self) -> int:
        """Rounding errors of a few choices, and the quantizer's working memory for them."""
        return self.limit // 4

    def refuse_less(self, part: int, needed: int, what: str) -> None:
        """Refuse a limit whose part cannot hold its smallest piece.

        Args:
            part: bytes that the part may hold under this limit.
            needed: bytes of its smallest piece.
            what: the piece, for the message.

        Raises:
            UsageError: says which limit would do.
        """
        if needed > part:
            whole = -(-needed * self.limit // part)
            raise UsageError(
                f"`memory_limit_bytes` {self.limit / 2**20:.0f}MiB: {what} alone needs {needed / 2**20:.0f} MiB of it. "
                f"Give at least {-(-whole // 2**20)}MiB."
            )


class PeakMemory:
    """Largest resident memory since it was made, above what was resident then (Linux; elsewhere since the start)."""

    def __init__(self) -> None:
        self._before = _status("VmRSS")
        try:
            RESET.write_text("5")  # sets the high-water mark back to the present
        except OSError:
            self._before = 0

    @property
    def bytes(self) -> int:
        """Bytes above the start."""
        return max(0, _status("VmHWM") - self._before)


def saved_bytes(model: torch.nn.Module, work: Callable[[], Any], *, forward_only: bool = False) -> int:
    """Bytes that autograd keeps for a backward pass through `work`, every storage counted once, weights not at all.

    Args:
        model: whose weights are not counted.
        work: runs a forward pass.
        forward_only: `work` asks for no gradient itself: then nothing is kept, and all of it need not fit into memory.
    """
    storages: dict[int, tuple[StorageWeakRef, int, int]] = {}  # a reference keeps the number, not the memory
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor | None:
        storage = tensor.untyped_storage()
        reference = StorageWeakRef(storage)
        storages.setdefault(reference.cdata, (reference, storage.data_ptr(), storage.nbytes()))
        return None if forward_only else tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = work()
    del kept
    return sum(size for _, address, size in storages.values() if address not in weights)


def available_bytes() -> int:
    """Bytes of memory that this process may still take: the machine's, or its control group's if that is less.

    Cached files that the system would drop count as free in both.
    """
    found = []
    with suppress(OSError, ValueError):
        limit = int((GROUP / "memory.max").read_text())  # "max" without a limit
        stat = dict(line.split() for line in (GROUP / "memory.stat").read_text().splitlines())
        found.append(limit - int((GROUP / "memory.current").read_text()) + int(stat.get("inactive_file", 0)))
    with suppress(OSError):
        lines = dict(line.split(":", 1) for line in MEMORY.read_text().splitlines())
        found.append(int(lines["MemAvailable"].split()[0]) * 1024)
    return min(found) if found else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _status(field: str) -> int:
    """A field of the process' status in bytes; the peak so far where there is no such file."""
    try:
        for line in STATUS.read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
