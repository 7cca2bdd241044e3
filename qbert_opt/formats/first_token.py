"""Classifiers that read one token: after the last attention, only this token is computed.

BERT's pooler reads the first token of the last layer. Everything after that layer's attention, three quarters of its
products, is needed for this token only. This saves an eighth of the products of six layers and changes no output.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

SAME = 1e-5  # largest difference relative to the largest output: sums of products in another order
SHAPE = 3  # batch, tokens, width


@contextmanager
def first_token_from(model: nn.Module, name: str | None) -> Iterator[None]:
    """Inside this context, a module gets only the first token of all its inputs.

    Args:
        model: the model that contains the module.
        name: name of the module; None changes nothing.
    """
    if name is None:
        yield
        return
    handle = model.get_submodule(name).register_forward_pre_hook(_first_of_all, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def first_token_module(model: nn.Module, module: nn.Module, example: tuple[torch.Tensor, ...]) -> str | None:
    """Return the module from which on all outputs depend only on the first token; None if there is none.

    Candidates are the modules after attention that read its result and the layer's input, like BERT's `SelfOutput`. A
    candidate counts only if the outputs stay the same, so models of other architectures or poolings have none.

    Args:
        model: the model.
        module: the same model wrapped by `traceable`; its attribute `first_only` is the same afterwards.
        example: token arrays of texts of several tokens.
    """
    names = [name for name, part in model.named_modules() if type(part).__name__.endswith("SelfOutput")]
    if not names:
        return None
    before, wanted = module.first_only, module(*example)
    module.first_only = names[-1]
    try:
        found = module(*example)
    except (RuntimeError, TypeError, ValueError, IndexError):  # the layer after it needs the other tokens
        return None
    finally:
        module.first_only = before
    same = all(
        a.shape == b.shape and (a - b).abs().max() <= SAME * a.abs().max() for a, b in zip(wanted, found, strict=True)
    )
    return names[-1] if same else None


def _first_of_all(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    def first(value: Any) -> Any:
        return value[:, :1] if isinstance(value, torch.Tensor) and value.ndim == SHAPE else value

    return tuple(map(first, args)), {key: first(value) for key, value in kwargs.items()}
