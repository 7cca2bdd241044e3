"""Where torch computes: the CPU, or a GPU when there is one. Not the target hardware, which is `--device`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from ..errors import UsageError
from .loading import LoadedModel
from .paging import pages_of


def pick_device(name: str) -> torch.device:
    """Return a torch device by name; `auto` is a GPU if there is one, a different one for each process.

    Args:
        name: `auto`, `cpu`, `cuda` or `cuda:N`.

    Raises:
        UsageError: the name is invalid, or this machine has no such device.
    """
    local = os.environ.get("LOCAL_RANK", "0")  # set by torchrun
    if name == "auto":
        name = f"cuda:{int(local) % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(f"`torch_device` {name}: {reason.rstrip('.')}. Legal: auto, cpu, cuda, cuda:N.") from None
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"`torch_device` {name}: is neither a CPU nor a CUDA GPU. Legal: auto, cpu, cuda, cuda:N.")
    return device


@contextmanager
def on_device(loaded: LoadedModel, name: str) -> Iterator[LoadedModel]:
    """Run a model on a device inside the context: it is moved there and back, and its inputs are moved at every call.

    A paged model has one block at a time on the device; its matrices are rounded and scored on the CPU.

    Args:
        loaded: the model.
        name: `auto`, `cpu`, `cuda` or `cuda:N`.

    Raises:
        UsageError: there is no such device.
    """
    device = pick_device(name)

    def follow(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        return tuple(map(move, args)), {key: move(value) for key, value in kwargs.items()}

    def move(value: Any) -> Any:
        return value.to(device) if isinstance(value, torch.Tensor) else value

    model: nn.Module = loaded.model
    pages = pages_of(model)
    if pages is None:
        model.to(device)
    handle = model.register_forward_pre_hook(follow, with_kwargs=True)
    try:
        with nullcontext() if pages is None or device.type == "cpu" else pages.lent(model, device):
            yield loaded
    finally:
        handle.remove()
        if pages is None:
            model.to("cpu")
