"""A model's encoder blocks, and the arguments of each of them in a forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from ..errors import UsageError
from ..models.batches import TokenBatch, run
from ..spec.allocation import Allocation

HIDDEN = "hidden_states"


@dataclass(frozen=True, slots=True)
class BlockCall:
    """The arguments of one call of a block.

    Attributes:
        args: hidden states `[B, T, d]` first, if they are not given by name; then masks and others.
        kwargs: arguments by name.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @property
    def hidden(self) -> torch.Tensor:
        """The hidden states that the block reads."""
        hidden: torch.Tensor = self.args[0] if self.args else self.kwargs[HIDDEN]
        return hidden

    def reading(self, hidden: torch.Tensor | None) -> BlockCall:
        """Return the same call with other hidden states.

        Args:
            hidden: `[B, T, d]`; None frees their memory.
        """
        if self.args:
            return replace(self, args=(hidden, *self.args[1:]))
        return replace(self, kwargs={**self.kwargs, HIDDEN: hidden})


def block_names(model: nn.Module, plan: Allocation) -> list[str]:
    """Return the names of the encoder blocks that hold the plan's matrices, in order.

    Args:
        model: the model.
        plan: of this model.
    """
    lists = {name for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    blocks: dict[str, None] = {}
    for matrix in plan.matrices:
        parts = matrix.module.split(".")
        prefixes = [".".join(parts[:length]) for length in range(1, len(parts))]
        inside = [name for name in prefixes if name.rpartition(".")[0] in lists]
        if inside:
            blocks[inside[0]] = None  # the outermost list: a block may contain further lists
    return list(blocks)


def hidden_of(output: Any) -> torch.Tensor:
    """Return the hidden states from a block's output.

    Args:
        output: the hidden states themselves, or a tuple that begins with them.
    """
    hidden: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return hidden


@contextmanager
def watched(model: nn.Module, blocks: Sequence[str]) -> Iterator[dict[str, list[tuple[BlockCall, torch.Tensor]]]]:
    """Record each block's calls and returned hidden states during forward passes inside the context.

    Args:
        model: the model.
        blocks: names of its blocks.

    Yields:
        The calls of each block with the hidden states that it returned, filled in as passes run.
    """
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
    """Return the single call of each block in a pass, after checking that each block reads the previous one's output.

    Args:
        seen: what `watched` recorded in one pass.

    Raises:
        UsageError: the blocks do not form a chain, so they cannot be trained one after the other.
    """
    before: torch.Tensor | None = None
    calls = []
    for block, made in seen.items():
        if len(made) != 1:
            raise UsageError(
                f"`steps`: 'blocks' trains block after block, and {block} runs {len(made)} times in a pass. "
                "Use ranges and distill."
            )
        [(call, output)] = made
        if before is not None and call.hidden is not before:
            raise UsageError(
                f"`steps`: 'blocks' trains block after block, and {block} does not read what the block before it "
                "returned. Use ranges and distill."
            )
        before = output
        calls.append(call)
    return calls


class _Reached(Exception):
    """Ends a forward pass at the block of interest."""


def hidden_before(model: nn.Module, block: str, batch: TokenBatch) -> torch.Tensor:
    """Run a model on a batch up to a block, and return the hidden states that the block would read, `[B, T, d]`.

    Args:
        model: the model.
        block: name of the block.
        batch: what it runs on.
    """
    reached: list[torch.Tensor] = []

    def stop(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        reached.append(BlockCall(args, kwargs).hidden)
        raise _Reached

    handle = model.get_submodule(block).register_forward_pre_hook(stop, with_kwargs=True)
    try:
        run(model, batch)
    except _Reached:
        pass
    finally:
        handle.remove()
    return reached[0]
