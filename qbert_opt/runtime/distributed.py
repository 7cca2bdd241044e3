"""The processes that share one piece of work: one, or as many as `torchrun` started (torch.distributed).

Nothing is pickled between them: what travels are sums of arrays of numbers, to which each process adds its own part,
and bytes whose meaning all processes know.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError

if TYPE_CHECKING:
    import torch

CLOSED = ("connection", "broken pipe")  # in torch's message where another process has ended
T = TypeVar("T")
Numbers = TypeVar("Numbers", bound=NDArray[np.floating[Any]])


@dataclass(frozen=True, slots=True)
class Processes:
    """Which process this is, of how many.

    Attributes:
        rank: 0 writes and reports.
        count: processes in all.
        device: torch device on which sums travel: the GPU for nccl, the CPU for gloo.
    """

    rank: int = 0
    count: int = 1
    device: str = "cpu"

    def sum(self, array: Numbers) -> Numbers:
        """Sum an array over all processes; every process gets the sum.

        Args:
            array: of the same shape and type in all processes.

        Raises:
            UsageError: another process has ended.
        """
        if self.count == 1:
            return array
        import torch
        from torch import distributed

        total = array.copy()
        tensor = torch.from_numpy(total).to(self.device)
        with _while_all_run():
            distributed.all_reduce(tensor)
        total[...] = tensor.cpu().numpy()
        return total

    def handed_to(self, receiver: int, content: Callable[[], torch.Tensor]) -> list[torch.Tensor]:
        """Hand bytes to one process; all of them must call this alike.

        Args:
            receiver: rank of the process that gets them.
            content: gives the bytes of this process, uint8 `[bytes]`; not called in the receiver.

        Returns:
            In the receiver, what each other process handed to it, by rank; in the others nothing.

        Raises:
            UsageError: another process has ended.
        """
        import torch
        from torch import distributed

        if self.rank != receiver:
            given = content().to(self.device)
            with _while_all_run():
                distributed.send(torch.tensor([len(given)], device=self.device), receiver)
                distributed.send(given, receiver)
            return []
        found = []
        for rank in (rank for rank in range(self.count) if rank != receiver):
            length = torch.zeros(1, dtype=torch.int64, device=self.device)
            with _while_all_run():
                distributed.recv(length, rank)
                received = torch.empty(int(length), dtype=torch.uint8, device=self.device)
                distributed.recv(received, rank)
            found.append(received)
        return found

    def wait(self) -> None:
        """Wait until every process is here."""
        self.sum(np.zeros(1))

    def share(self, costs: list[float]) -> list[int]:
        """Share work between the processes: the dearest piece first, each to the least loaded process (Graham 1969).

        Args:
            costs: of each piece of work in any unit; the same ones in all processes.

        Returns:
            Positions of the pieces that are this process's, ascending.
        """
        loads = [0.0] * self.count
        mine = []
        for position in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
            owner = loads.index(min(loads))
            loads[owner] += costs[position]
            if owner == self.rank:
                mine.append(position)
        return sorted(mine)

    def each(
        self, items: Sequence[T], work: Callable[[T], NDArray[np.floating[Any]]]
    ) -> list[NDArray[np.floating[Any]]]:
        """Do a piece of work for each item, each in one process; every process gets all results.

        Args:
            items: the same ones in all processes.
            work: gives an array of two axes.
        """
        if self.count == 1:
            return [work(item) for item in items]
        mine = {place: work(items[place]) for place in self.share([1.0] * len(items))}
        forms = np.zeros((len(items), 3))
        for place, array in mine.items():
            forms[place] = *array.shape, array.itemsize
        found = []
        for place, (rows, columns, itemsize) in enumerate(self.sum(forms).astype(int).tolist()):
            own = mine.pop(place, None)
            found.append(self.sum(np.zeros((rows, columns), f"f{itemsize}") if own is None else own))
        return found


ALONE = Processes()


@contextmanager
def _while_all_run() -> Iterator[None]:
    """Say that another process has ended where torch says that its connection is closed."""
    try:
        yield
    except RuntimeError as error:
        if not any(word in str(error).lower() for word in CLOSED):
            raise
        raise UsageError("another process of this run has ended; its own message says why.") from None


@contextmanager
def processes(torch_device: str = "cpu") -> Iterator[Processes]:
    """Join the processes that `torchrun` started (it sets RANK and WORLD_SIZE), or be alone.

    Args:
        torch_device: `cpu` or `cuda`; says which backend the processes talk by.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Processes()
        return
    import torch
    from torch import distributed

    on_gpu = torch_device.startswith("cuda")
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    distributed.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield Processes(distributed.get_rank(), distributed.get_world_size(), torch_device if on_gpu else "cpu")
    finally:
        distributed.destroy_process_group()
