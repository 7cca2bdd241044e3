"""Shared by all training loops: the order of batches, and the gradient of an update over all processes.

An update averages the losses of `per_update` batches. Several processes started by `torchrun` compute a part of them
each and add up their gradients, so their number changes the result only by rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from ..errors import UsageError
from ..runtime.distributed import Processes


def check_shared(per_update: int, team: Processes) -> None:
    """Check that every process has the same number of batches in an update.

    Args:
        per_update: batches per update.
        team: the processes that share them.

    Raises:
        UsageError: they cannot be shared equally.
    """
    if per_update < 1 or per_update % team.count:
        raise UsageError(
            f"batches_per_update: {per_update}; {team.count} processes need a multiple of {team.count}, at least "
            f"{team.count}."
        )


def num_updates(epochs: float, count: int, per_update: int) -> int:
    """Return the number of updates that make this many passes over the text, at least 1.

    Args:
        epochs: passes over the text.
        count: number of batches.
        per_update: batches per update.
    """
    return max(1, round(epochs * count / per_update))


def batches_of(update: int, per_update: int, count: int, seed: int) -> list[int]:
    """Return the batches of an update; each pass over the text has its own order.

    Args:
        update: its number, from 0.
        per_update: batches per update.
        count: number of batches.
        seed: of the orders.
    """
    places = [divmod(place, count) for place in range(update * per_update, (update + 1) * per_update)]
    orders = {epoch: np.random.default_rng([seed, epoch]).permutation(count) for epoch, _ in places}
    return [int(orders[epoch][place]) for epoch, place in places]


def ends_pass(update: int, per_update: int, count: int) -> bool:
    """Return whether an update finishes a pass over the text.

    Args:
        update: its number, from 0.
        per_update: batches per update.
        count: number of batches.
    """
    return (update + 1) * per_update // count > update * per_update // count


def set_gradients(
    loss: Callable[[int], torch.Tensor], batches: Sequence[int], learned: Sequence[nn.Parameter], team: Processes
) -> float:
    """Set the gradients of the mean loss of some batches, and return that loss.

    Args:
        loss: maps a batch's number to its loss, in the graph.
        batches: of this update, for all processes together.
        learned: the parameters; gradients of earlier updates are replaced.
        team: the processes, of which each takes every `team.count`-th batch.
    """
    for parameter in learned:
        parameter.grad = None
    total = 0.0
    for index in batches[team.rank :: team.count]:
        part = loss(index) / len(batches)
        part.backward()
        total += part.item()
    if team.count == 1:
        return total
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in learned]
    together = torch.cat([gradient.flatten() for gradient in gradients])
    torch.distributed.all_reduce(together)
    for parameter, gradient in zip(learned, together.split([p.numel() for p in learned]), strict=True):
        parameter.grad = gradient.view_as(parameter)
    return float(team.sum(np.array([total]))[0])
