"""What feeds what in one forward pass: linear layers, and the softmaxes of attention between them.

The autograd graph knows, whatever the layers are called and whichever attention implementation runs: fused attention is
asked for its plain form, in which scores, softmax and weighted sum are nodes of their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from .layers import MatrixLayer, is_matrix, width_read


@dataclass(frozen=True, slots=True, eq=False)
class LinearCall:
    """One call of a linear layer.

    Attributes:
        module: its name.
        layer: the layer.
        positions: rows of its input: tokens, or one for a sample, or whatever else it is applied to.
        input_id: the same for calls that read the very same tensor.
        reads: linear layers whose outputs reach its input past no other linear layer and no softmax.
        scores: linear layers that make the attention scores its input was weighted by; empty unless attention lies
            between.
    """

    module: str
    layer: MatrixLayer
    positions: int
    input_id: int
    reads: frozenset[str]
    scores: frozenset[str]


@dataclass(frozen=True, slots=True)
class Trace:
    """A forward pass.

    Attributes:
        calls: of linear layers, in order of execution.
        table_reads: rows read of each embedding table.
        block_outputs: width of what each module of a list returned, by name.
        heads: attention heads by the shape of the first softmax, or None without one.
    """

    calls: tuple[LinearCall, ...]
    table_reads: dict[str, int]
    block_outputs: dict[str, int]
    heads: int | None


@dataclass(slots=True)
class _Raw:
    """A call as its hook sees it; nodes and input are kept alive so that their identity stays unique."""

    module: str
    layer: MatrixLayer
    input: torch.Tensor
    before: Any
    after: Any


def trace(model: nn.Module, run: Callable[[], object]) -> Trace:
    """Watch one forward pass of a model.

    Args:
        model: what is watched.
        run: calls the model once, on one sample without padding.
    """
    raw: list[_Raw] = []
    reads: Counter[str] = Counter()
    widths: dict[str, int] = {}
    with unfrozen(model), _hooks(model, raw, reads, widths), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        output = run()
    makers = {id(call.after): call.module for call in raw}
    calls, first_softmax = [], None
    for call in raw:
        found, softmaxes = _upstream([call.before], makers)
        scores: set[str] = set()
        for node in softmaxes:
            first_softmax = first_softmax or node
            scores |= _upstream([n for n, _ in node.next_functions], makers)[0]
        positions = call.input.numel() // width_read(call.layer)
        calls.append(
            LinearCall(call.module, call.layer, positions, id(call.input), frozenset(found), frozenset(scores))
        )
    del output
    return Trace(tuple(calls), dict(reads), widths, _num_heads(first_softmax))


def _upstream(starts: list[Any], makers: dict[int, str]) -> tuple[set[str], list[Any]]:
    """Linear layers and softmax nodes reached backwards from some nodes, not going past either."""
    found: set[str] = set()
    softmaxes: list[Any] = []
    seen: set[int] = set()
    stack = [node for node in starts if node is not None]
    while stack:
        node = stack.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if id(node) in makers:
            found.add(makers[id(node)])
        elif "softmax" in node.name().lower():
            softmaxes.append(node)
        else:
            stack += [before for before, _ in node.next_functions if before is not None]
    return found, softmaxes


def _num_heads(softmax: Any) -> int | None:
    """Heads by the shape of attention weights, `[samples, heads, tokens, tokens]` for one sample."""
    weights = getattr(softmax, "_saved_result", None)
    if weights is None or weights.dim() < 3:
        return None
    return int(weights.shape[-3])


@contextmanager
def unfrozen(model: nn.Module) -> Iterator[None]:
    """Let all parameters require gradients for a while: frozen ones leave no trace in the graph.

    Args:
        model: whose weights get gradients inside the block.
    """
    frozen = [p for p in model.parameters() if not p.requires_grad and p.is_floating_point()]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


@contextmanager
def _hooks(model: nn.Module, raw: list[_Raw], reads: Counter[str], widths: dict[str, int]) -> Iterator[None]:
    handles = []
    listed = {id(child) for module in model.modules() if isinstance(module, nn.ModuleList) for child in module}
    for name, module in model.named_modules():
        if is_matrix(module):
            handles.append(
                module.register_forward_hook(
                    lambda layer, args, out, name=name: raw.append(
                        _Raw(name, layer, args[0], args[0].grad_fn, out.grad_fn)
                    )
                )
            )
        elif isinstance(module, nn.Embedding):
            handles.append(
                module.register_forward_hook(
                    lambda _layer, args, _out, name=name: reads.update({name: args[0].numel()})
                )
            )
        elif id(module) in listed:
            handles.append(
                module.register_forward_hook(lambda _m, _args, out, name=name: widths.update({name: _width(out)}))
            )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _width(output: Any) -> int:
    tensor = output[0] if isinstance(output, (tuple, list)) else output
    return int(tensor.shape[-1]) if isinstance(tensor, torch.Tensor) and tensor.dim() else 0
