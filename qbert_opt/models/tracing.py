"""The data flow of one forward pass: linear layers, and the softmaxes of attention between them.

It is read from the autograd graph, independently of the layers' names and the attention implementation: fused attention
is run in its unfused form, in which scores, softmax and weighted sum are separate nodes.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from .attention import UnfusedAttention
from .layers import MatrixLayer, is_matrix, width_read
from .paging import spilled


@dataclass(frozen=True, slots=True, eq=False)
class LinearCall:
    """One call of a linear layer.

    Attributes:
        module: its name.
        layer: the layer.
        positions: number of rows of its input, for example tokens, or 1 if it is applied once per sample.
        input_id: identical for calls that read the same tensor.
        reads: linear layers that feed its input without another linear layer or a softmax in between.
        scores: linear layers that feed the attention scores by which its input is weighted; empty without attention.
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
        calls: calls of linear layers, in order of execution.
        table_reads: number of rows read from each embedding table.
        block_outputs: output width of each module of a list, by name.
        heads: attention heads, from the shape of the first softmax; None without one.
        read_weights: identities of the parameters that the result depends on.
    """

    calls: tuple[LinearCall, ...]
    table_reads: dict[str, int]
    block_outputs: dict[str, int]
    heads: int | None
    read_weights: frozenset[int]


@dataclass(slots=True)
class _Raw:
    """A call as its hook sees it; nodes and input are kept alive so that their identity stays unique."""

    module: str
    layer: MatrixLayer
    input: torch.Tensor
    before: Any
    after: Any


def trace(model: nn.Module, run: Callable[[], torch.Tensor]) -> Trace:
    """Record the data flow of one forward pass of a model.

    Args:
        model: the model.
        run: calls the model once, on one sample without padding, and returns its outputs.
    """
    with spilled(model):
        return _trace(model, run)


def _trace(model: nn.Module, run: Callable[[], torch.Tensor]) -> Trace:
    raw: list[_Raw] = []
    reads: Counter[str] = Counter()
    widths: dict[str, int] = {}
    with unfrozen(model), _hooks(model, raw, reads, widths), torch.enable_grad(), UnfusedAttention():
        output = run()
    makers = {id(call.after): call.module for call in raw}
    calls, first_softmax = [], None
    for call in raw:
        layers, softmaxes = _upstream([call.before], makers)
        scores: set[str] = set()
        for node in softmaxes:
            first_softmax = first_softmax or node
            scores |= _upstream([n for n, _ in node.next_functions], makers)[0]
        positions = call.input.numel() // width_read(call.layer)
        calls.append(
            LinearCall(call.module, call.layer, positions, id(call.input), frozenset(layers), frozenset(scores))
        )
    return Trace(tuple(calls), dict(reads), widths, _num_heads(first_softmax), _read_weights(output))


def _read_weights(output: torch.Tensor) -> frozenset[int]:
    """Return the identities of the parameters upstream of a tensor."""
    found: set[int] = set()
    seen: set[Any] = set()
    stack = [output.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        stack += [before for before, _ in node.next_functions]
    return frozenset(found)


def _upstream(starts: list[Any], makers: dict[int, str]) -> tuple[set[str], list[Any]]:
    """Return the nearest linear layers and softmax nodes upstream of some nodes."""
    layers: set[str] = set()
    softmaxes: list[Any] = []
    seen: set[int] = set()
    stack = [node for node in starts if node is not None]
    while stack:
        node = stack.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if id(node) in makers:
            layers.add(makers[id(node)])
        elif "softmax" in node.name().lower():
            softmaxes.append(node)
        else:
            stack += [before for before, _ in node.next_functions if before is not None]
    return layers, softmaxes


def _num_heads(softmax: Any) -> int | None:
    """Return the number of heads from the shape of attention weights, `[1, heads, tokens, tokens]`."""
    weights = getattr(softmax, "_saved_result", None)
    if weights is None or weights.dim() < 3:
        return None
    return int(weights.shape[-3])


_GUARD = threading.Lock()
_IN_USE: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()


@contextmanager
def unfrozen(model: nn.Module) -> Iterator[None]:
    """Make all parameters require gradients inside the context, because frozen ones do not appear in the graph.

    A second thread waits for the same model: otherwise the first to leave would freeze the other's parameters.

    Args:
        model: the model.
    """
    with _GUARD:
        in_use = _IN_USE.setdefault(model, threading.RLock())
    with in_use:
        frozen = [p for p in model.parameters() if not p.requires_grad and p.is_floating_point()]
        for parameter in frozen:
            parameter.requires_grad_(True)
        try:
            yield
        finally:
            for parameter in frozen:
                parameter.requires_grad_(False)


def of_this_thread(hook: Callable[..., Any]) -> Callable[..., Any]:
    """Return a hook that ignores calls by other threads, which may run the same model meanwhile.

    Args:
        hook: a forward hook or pre-hook.
    """
    owner = threading.get_ident()
    return lambda *args: hook(*args) if threading.get_ident() == owner else None


@contextmanager
def _hooks(model: nn.Module, raw: list[_Raw], reads: Counter[str], widths: dict[str, int]) -> Iterator[None]:
    handles = []
    listed = {id(child) for module in model.modules() if isinstance(module, nn.ModuleList) for child in module}

    def watch(module: nn.Module, hook: Callable[..., None]) -> None:
        handles.append(module.register_forward_hook(of_this_thread(hook)))

    for name, module in model.named_modules():
        if is_matrix(module):
            watch(
                module,
                lambda layer, args, out, name=name: raw.append(
                    _Raw(name, layer, args[0], args[0].grad_fn, out.grad_fn)
                ),
            )
        elif isinstance(module, nn.Embedding):
            watch(module, lambda _layer, args, _out, name=name: reads.update({name: args[0].numel()}))
        elif id(module) in listed:
            watch(module, lambda _m, _args, out, name=name: widths.update({name: _width(out)}))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _width(output: Any) -> int:
    tensor = output[0] if isinstance(output, (tuple, list)) else output
    return int(tensor.shape[-1]) if isinstance(tensor, torch.Tensor) and tensor.dim() else 0
