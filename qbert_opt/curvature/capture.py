"""Capture inputs and outputs of linear layers in a forward pass, without padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from ..errors import InputFileError
from ..models.batches import TokenBatch, run
from ..models.layers import is_matrix, table_scale, windows
from ..models.paging import batch_hold, release_pages, result_hold, spilled
from ..models.tracing import of_this_thread


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a module.

    Attributes:
        inputs: the input of the matrix, detached, `[B, T, columns]` or any shape that a linear layer accepts.
        shape: shape of the output.
        edge: the output's place in the autograd graph; None without a graph.
        channels_first: whether the output is `[B, rows, T]`, as for a convolution.
        factor: scale of the output after the matrix or table, see `layers.table_scale`.
    """

    inputs: torch.Tensor
    shape: torch.Size
    edge: GradientEdge | None
    channels_first: bool = False
    factor: float = 1.0

    def gradient(self, raw: torch.Tensor | None) -> torch.Tensor:
        """Return the gradient before `factor`, `[B, T, rows]`.

        Args:
            raw: the gradient at the module's output, shaped as the output; None, if nothing depends on it, gives zeros.
        """
        gradient = self.inputs.new_zeros(self.shape) if raw is None else raw
        gradient = gradient if self.factor == 1.0 else gradient * self.factor
        return gradient.transpose(1, 2) if self.channels_first else gradient


Calls = list[Call]


@contextmanager
def captured(model: nn.Module, modules: Sequence[str]) -> Iterator[dict[str, Calls]]:
    """Record every call of the named modules during forward passes inside the context.

    Modules of the same kind that share their weight with a named one count as calls of it. The input of a convolution
    is its windows, `[B, T, columns]`, and the input of an embedding table is the row numbers, `[B, T, 1]`. Positions
    that all samples share are looked up once per batch; they are expanded so that each sample has its own gradient.
    Calls by other threads are not recorded. Inputs and gradients of a paged model stay on disk until the batch ends.

    Args:
        model: contains the modules.
        modules: their names.

    Yields:
        Calls by module name, filled during each forward pass; clear it between batches.
    """
    store: dict[str, Calls] = {}
    samples = 0
    hold = batch_hold(model)

    def see_batch(_module, args, kwargs):  # type: ignore[no-untyped-def]
        nonlocal samples
        samples = len(next(value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)))

    def hook(name: str):  # type: ignore[no-untyped-def]
        def keep(module, args, output):  # type: ignore[no-untyped-def]
            inputs, calls = args[0].detach(), store.setdefault(name, [])
            if hold is not None:
                inputs = hold(inputs)
            if isinstance(module, nn.Embedding):
                output = output.expand(samples, -1, -1)
                rows = inputs.expand(samples, -1).unsqueeze(-1)
                calls.append(Call(rows, output.shape, _edge(output), factor=table_scale(module)))
            elif isinstance(module, nn.Conv1d):
                calls.append(Call(windows(module, inputs), output.shape, _edge(output), channels_first=True))
            else:
                calls.append(Call(inputs, output.shape, _edge(output)))
            # the model continues with a copy: an in-place write to a view would bypass the recorded edge
            copy = output.clone() if output.requires_grad else output
            if hold is not None and copy.requires_grad:
                copy.register_hook(hold)  # its gradient is handed on to the edge as it is
            return copy

        return keep

    owners = {(id(module.weight), isinstance(module, nn.Embedding)): name for name, module in _named(model, modules)}
    handles = [model.register_forward_pre_hook(of_this_thread(see_batch), with_kwargs=True)]
    handles += [
        module.register_forward_hook(of_this_thread(hook(owners[id(module.weight), isinstance(module, nn.Embedding)])))
        for module in model.modules()
        if (is_matrix(module) or isinstance(module, nn.Embedding))
        and (id(module.weight), isinstance(module, nn.Embedding)) in owners
    ]
    try:
        yield store
    finally:
        for handle in handles:
            handle.remove()


def _edge(output: torch.Tensor) -> GradientEdge | None:
    return get_gradient_edge(output) if output.requires_grad else None


def _named(model: nn.Module, modules: Sequence[str]) -> list[tuple[str, nn.Module]]:
    return [(name, model.get_submodule(name)) for name in modules]


def is_per_sample(tensor: torch.Tensor, mask: torch.Tensor) -> bool:
    """Return whether the rows of a tensor belong to samples; relative positions, for example, belong to the batch.

    Args:
        tensor: `[..., d]`.
        mask: bool `[B, T]`, True at real tokens.
    """
    return _is_per_token(tensor, mask) or len(tensor) == len(mask)


def sample_rows(tensor: torch.Tensor, mask: torch.Tensor) -> list[torch.Tensor]:
    """Split a tensor into the rows `[T, d]` of each sample, without padding.

    Args:
        tensor: `[B, T, d]`, `[B * T, d]` or `[B, d]`; with one sample, any `[..., d]`.
        mask: bool `[B, T]`, True at real tokens.
    """
    if _is_per_token(tensor, mask):
        return list(real_tokens(tensor, mask).split(mask.sum(1).tolist()))
    return list(tensor.reshape(len(mask), -1, tensor.shape[-1]))


def real_tokens(tensor: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Remove padding: the result is `[real tokens, d]`; a view if there is none to remove.

    Args:
        tensor: `[B, T, d]` or `[B * T, d]`; of any other `[..., d]` all rows are kept.
        mask: bool `[B, T]`, True at real tokens.
    """
    rows = tensor.reshape(-1, tensor.shape[-1])
    return rows[mask.flatten()] if _is_per_token(tensor, mask) and not bool(mask.all()) else rows


def finite_tokens(name: str, inputs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the real tokens of a module's input, see `real_tokens`.

    Args:
        name: of the module, for the message.
        inputs: its input.
        mask: bool `[B, T]`, True at real tokens.

    Raises:
        InputFileError: one is NaN or infinite; names the module.
    """
    tokens = real_tokens(inputs, mask)
    if not torch.isfinite(tokens).all():
        raise InputFileError(f"{name}: its input holds NaN or infinite values on the calibration text.")
    return tokens


@torch.no_grad()
def input_grams(model: nn.Module, batches: Sequence[TokenBatch], modules: Sequence[str]) -> dict[str, torch.Tensor]:
    """Return the mean of `x xᵀ` over real tokens for the input x of each module.

    Args:
        model: in evaluation mode.
        batches: calibration texts.
        modules: names of linear layers.

    Returns:
        float32 `[columns, columns]` by module.

    Raises:
        InputFileError: an activation is NaN or infinite; names the module.
    """
    sums: dict[str, torch.Tensor] = {}
    counts = dict.fromkeys(modules, 0)
    hold = result_hold(model)
    with captured(model, modules) as seen:
        for batch in batches:
            seen.clear()
            with spilled(model):
                run(model, batch)
                for name, calls in seen.items():
                    for inputs in (call.inputs for call in calls):
                        tokens = finite_tokens(name, inputs, batch.mask)
                        times = 1 if is_per_sample(inputs, batch.mask) else len(batch.indices)
                        gram = tokens.T @ tokens
                        if times > 1:
                            gram *= times
                        sums[name] = sums[name].add_(gram.to(sums[name].device)) if name in sums else hold(gram)
                        counts[name] += times * len(tokens)
                    release_pages(model)
    for name, gram in sums.items():
        gram /= counts[name]
        release_pages(model)
    return sums


def _is_per_token(tensor: torch.Tensor, mask: torch.Tensor) -> bool:
    return tensor.shape[:-1] in (mask.shape, (mask.numel(),))
