"""Models larger than memory: weights stay in mapped files, and whatever a pass over text keeps is in a scratch file.

`pages` manages the files; the rest of the program uses them through the functions here. Each function accepts any
model: if the model is not paged, it does nothing, or the same as in memory. Autograd's saved tensors, inputs and
gradients of matrices, and statistics are kept in scratch files (`spilled`). Code that does not use these functions
works too, but keeps its results in memory.
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
PART_ELEMENTS = 1 << 20  # elements of a part of a tensor that is read from one end to the other

_PAGED: WeakKeyDictionary[nn.Module, Pages] = WeakKeyDictionary()


def page(model: nn.Module, pages: Pages) -> None:
    """Page a model from now on.

    Args:
        model: a model whose weights are tensors of `pages`.
        pages: the model's mapped files.
    """
    pages.adopt(model)
    _PAGED[model] = pages


def pages_of(model: nn.Module) -> Pages | None:
    """Return the pages of a paged model; None for any other.

    Args:
        model: any model.
    """
    return _PAGED.get(model)


def release_pages(model: nn.Module) -> None:
    """Give back the memory of a paged model's weights; do nothing for any other model.

    Args:
        model: any model.
    """
    if (pages := pages_of(model)) is not None:
        pages.release()


def streamed(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield tensors of a model by name, and give back the pages of each afterwards.

    Args:
        model: any model.
        tensors: tensors of the model.
    """
    for name, tensor in tensors.items():
        yield name, tensor
        release_pages(model)


def in_parts(model: nn.Module, tensor: torch.Tensor, rows: int = PART_ELEMENTS) -> Iterator[torch.Tensor]:
    """Yield a tensor of a model in parts of consecutive rows, and give back the pages of each afterwards.

    Args:
        model: any model.
        tensor: a tensor of the model, with at least one dimension.
        rows: rows of a part.
    """
    for part in tensor.split(rows):
        yield part
        release_pages(model)


def weights_at_home(model: nn.Module, parameter: torch.Tensor) -> torch.Tensor:
    """Return a parameter's weights; for a paged model, those in mapped memory, whatever device computes with it.

    Args:
        model: any model.
        parameter: a parameter of the model.
    """
    pages = pages_of(model)
    return parameter if pages is None else pages.home(parameter)


@contextmanager
def spilled(model: nn.Module) -> Iterator[None]:
    """If the model is paged, keep on disk what autograd saves in passes over one batch inside the context.

    Tensors that `batch_hold` put on disk are invalid afterwards.

    Args:
        model: any model.
    """
    pages = pages_of(model)
    if pages is None:
        yield
        return
    with pages.passing(), saved_tensors_hooks(pages.pack, pages.unpack):
        yield


def batch_hold(model: nn.Module) -> Hold | None:
    """Return a function that puts a tensor of one batch on disk; None if the model is not paged.

    Args:
        model: any model.
    """
    pages = pages_of(model)
    return None if pages is None else pages.hold


def result_hold(model: nn.Module) -> Hold:
    """Return a function that keeps a pass's result on disk while it is used; in memory if the model is not paged.

    Args:
        model: any model.
    """
    pages = pages_of(model)
    if pages is None:
        return lambda tensor: tensor
    scratch = Scratch(pages.folder)

    def hold(tensor: torch.Tensor) -> torch.Tensor:
        return scratch.hold(tensor)

    return hold


def pass_bytes(model: nn.Module, memory: int) -> int:
    """Return how many bytes the results of one pass may take: in memory, or on disk if the model is paged.

    Args:
        model: any model.
        memory: bytes that they may take in memory.
    """
    pages = pages_of(model)
    return memory if pages is None else max(memory, pages.pass_bytes)
