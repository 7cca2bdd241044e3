"""Where torch computes: the CPU, or a GPU when there is one. Not the target hardware, which is `--device`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ..errors import UsageError
from .loading import LoadedModel


def pick_device(asked: str) -> torch.device:
    """Return the torch device that was asked for; `auto` is a GPU if there is one, each process its own.

    Args:
        asked: `auto`, `cpu`, `cuda` or `cuda:N`.

    Raises:
        UsageError: no such device, or not on this machine.
    """
    local = os.environ.get("LOCAL_RANK", "0")  # torchrun's number of this process on its machine
    if asked == "auto":
        asked = f"cuda:{int(local) % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(asked)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(f"`torch_device` {asked}: {reason} Legal: auto, cpu, cuda, cuda:N.") from None
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"`torch_device` {asked}: is neither a CPU nor a CUDA GPU. Legal: auto, cpu, cuda, cuda:N.")
    return device


@contextmanager
def on_device(loaded: LoadedModel, asked: str) -> Iterator[LoadedModel]:
    """Compute on a device inside: the model moves there and back, its inputs follow it at every call.

    Args:
        loaded: computes there inside the block.
        asked: `auto`, `cpu`, `cuda` or `cuda:N`.

    Raises:
        UsageError: no such device.
    """
    device = pick_device(asked)

    def follow(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        return tuple(map(move, args)), {key: move(value) for key, value in kwargs.items()}

    def move(value: Any) -> Any:
        return value.to(device) if isinstance(value, torch.Tensor) else value

    model: nn.Module = loaded.model
    model.to(device)
    handle = model.register_forward_pre_hook(follow, with_kwargs=True)
    try:
        yield loaded
    finally:
        handle.remove()
        model.to("cpu")
