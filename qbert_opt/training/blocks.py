"""A model's encoder blocks, and what each of them is called with in a forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from ..errors import UsageError
from ..models.batches import TokenBatch
from ..spec.allocation import Allocation

HIDDEN = "hidden_states"


@dataclass(frozen=True, slots=True)
class BlockCall:
    """One call of a block: its hidden states `[B, T, d]` come first, or by name; masks and the like are the rest."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @property
    def hidden(self) -> torch.Tensor:
        """The hidden states that the block reads."""
        found: torch.Tensor = self.args[0] if self.args else self.kwargs[HIDDEN]
        return found

    def reading(self, hidden: torch.Tensor | None) -> BlockCall:
        """The same call with other hidden states; None keeps none, so that their memory is free."""
        if self.args:
            return replace(self, args=(hidden, *self.args[1:]))
        return replace(self, kwargs={**self.kwargs, HIDDEN: hidden})


def block_names(model: nn.Module, plan: Allocation) -> list[str]:
    """Names of the encoder blocks that hold the plan's matrices, in order."""
    lists = {name for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    found: dict[str, None] = {}
    for matrix in plan.matrices:
        parts = matrix.module.split(".")
        prefixes = [".".join(parts[:length]) for length in range(1, len(parts))]
        inside = [name for name in prefixes if name.rpartition(".")[0] in lists]
        if inside:
            found[inside[0]] = None  # the outermost list: a block may hold lists of its own
    return list(found)


def hidden_of(output: Any) -> torch.Tensor:
    """The hidden states that a block returned, alone or first of several."""
    found: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return found


@contextmanager
def watched(model: nn.Module, blocks: Sequence[str]) -> Iterator[dict[str, list[tuple[BlockCall, torch.Tensor]]]]:
    """Collect each call of each block with the hidden states that it returned, in every forward pass inside."""
    seen: dict[str, list[tuple[BlockCall, torch.Tensor]]] = {block: [] for block in blocks}

    def hook(block: str) -> Callable[..., None]:
        def keep(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            seen[block].append((BlockCall(args, kwargs), hidden_of(output)))

        return keep

    handles = [model.get_submodule(b).register_forward_hook(hook(b), with_kwargs=True) for b in blocks]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def chained_calls(seen: Mapping[str, Sequence[tuple[BlockCall, torch.Tensor]]]) -> list[BlockCall]:
    """Return the one call of each block of a pass, each of which reads what the one before returned.

    Raises:
        UsageError: the blocks are no such chain, so they cannot be trained one after the other.
    """
    before: torch.Tensor | None = None
    calls = []
    for block, made in seen.items():
        if len(made) != 1:
            raise UsageError(
                f"steps: 'blocks' trains block after block, and {block} runs {len(made)} times in a pass. "
                "Use ranges and distill."
            )
        [(call, output)] = made
        if before is not None and call.hidden is not before:
            raise UsageError(
                f"steps: 'blocks' trains block after block, and {block} does not read what the block before returned. "
                "Use ranges and distill."
            )
        before = output
        calls.append(call)
    return calls


class _Reached(Exception):
    """A forward pass came to the block that it was to come to."""


def hidden_before(model: nn.Module, block: str, batch: TokenBatch) -> torch.Tensor:
    """Run a model on a batch up to a block; returns the hidden states that the block would read."""
    found: list[torch.Tensor] = []

    def stop(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.append(BlockCall(args, kwargs).hidden)
        raise _Reached

    handle = model.get_submodule(block).register_forward_pre_hook(stop, with_kwargs=True)
    try:
        model(**batch.inputs)
    except _Reached:
        pass
    finally:
        handle.remove()
    return found[0]
