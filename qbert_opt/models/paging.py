"""Models larger than memory: weights stay in mapped files, and what a pass over text keeps goes to a scratch file.

`pages` has the files. Here is what the rest of the program does with them: each function takes any model, and does
nothing, or answers as in memory, where the model is not paged. Autograd's saved tensors, inputs and gradients of
matrices, and statistics lie in scratch files (`spilled`). Whatever code does not know of this works too, and takes the
memory that it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from ..runtime.scratch import Scratch
from .pages import Pages

Hold = Callable[[torch.Tensor], torch.Tensor]
PART_ELEMENTS = 1 << 20  # of a tensor that is read from one end to the other

_PAGED: WeakKeyDictionary[nn.Module, Pages] = WeakKeyDictionary()


def page(model: nn.Module, pages: Pages) -> None:
    """Page a model from now on.

    Args:
        model: with the tensors of `pages`.
        pages: its own.
    """
    pages.adopt(model)
    _PAGED[model] = pages


def pages_of(model: nn.Module) -> Pages | None:
    """Return the pages of a paged model; None for any other.

    Args:
        model: any.
    """
    return _PAGED.get(model)


def release_pages(model: nn.Module) -> None:
    """Give back the memory of a paged model's weights; nothing for any other.

    Args:
        model: any.
    """
    if (pages := pages_of(model)) is not None:
        pages.release()


def streamed(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield tensors of a model by name, and give back the pages of each afterwards.

    Args:
        model: any.
        tensors: of the model.
    """
    for name, tensor in tensors.items():
        yield name, tensor
        release_pages(model)


def in_parts(model: nn.Module, tensor: torch.Tensor, rows: int = PART_ELEMENTS) -> Iterator[torch.Tensor]:
    """Yield a tensor of a model in parts of consecutive rows, and give back the pages of each afterwards.

    Args:
        model: any.
        tensor: of the model, with at least one dimension.
        rows: of a part.
    """
    for part in tensor.split(rows):
        yield part
        release_pages(model)


def weights_at_home(model: nn.Module, parameter: torch.Tensor) -> torch.Tensor:
    """Return a parameter's weights: of a paged model those in mapped memory, whatever device computes with it.

    Args:
        model: any.
        parameter: of the model.
    """
    pages = pages_of(model)
    return parameter if pages is None else pages.home(parameter)


@contextmanager
def spilled(model: nn.Module) -> Iterator[None]:
    """Keep on disk what autograd keeps of the passes over one batch inside the context, if the model is paged.

    What `batch_hold` returned before is no longer valid afterwards.

    Args:
        model: any.
    """
    pages = pages_of(model)
    if pages is None:
        yield
        return
    with pages.passing(), saved_tensors_hooks(pages.pack, pages.unpack):
        yield


def batch_hold(model: nn.Module) -> Hold | None:
    """Return what puts a tensor of one batch on disk; None if the model is not paged.

    Args:
        model: any.
    """
    pages = pages_of(model)
    return None if pages is None else pages.hold


def result_hold(model: nn.Module) -> Hold:
    """Return what puts results of a pass on disk for as long as they are used; in memory if the model is not paged.

    Args:
        model: any.
    """
    pages = pages_of(model)
    if pages is None:
        return lambda tensor: tensor
    scratch = Scratch(pages.folder)

    def hold(tensor: torch.Tensor) -> torch.Tensor:
        return scratch.hold(tensor)

    return hold


def pass_bytes(model: nn.Module, memory: int) -> int:
    """Return the bytes that the results of one pass may take: of memory, or of the disk if the model is paged.

    Args:
        model: any.
        memory: bytes of memory.
    """
    pages = pages_of(model)
    return memory if pages is None else max(memory, pages.pass_bytes)
