"""What flows through linear layers in one forward pass, real tokens only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from ..errors import InputFileError
from ..models.batches import TokenBatch
from ..models.layers import is_matrix, windows


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a module.

    Attributes:
        inputs: what its matrix was multiplied with, detached, `[B, T, columns]` or as a linear layer takes it.
        shape: of what it made.
        edge: where in the graph it was made; None without a graph.
        channels_first: what it made is `[B, rows, T]`, a convolution's.
    """

    inputs: torch.Tensor
    shape: torch.Size
    edge: GradientEdge | None
    channels_first: bool = False

    def gradient(self, found: torch.Tensor | None) -> torch.Tensor:
        """Lay a gradient by what was made as `[B, T, rows]`; None, where nothing depends on it, is zero."""
        gradient = self.inputs.new_zeros(self.shape) if found is None else found
        return gradient.transpose(1, 2) if self.channels_first else gradient


Calls = list[Call]


@contextmanager
def captured(model: nn.Module, modules: Sequence[str]) -> Iterator[dict[str, Calls]]:
    """Collect input and place in the graph of each call of each named module at a forward pass inside.

    Modules of the same kind that share their weight with a named one count as calls of it. The input of a convolution
    is its windows, `[B, T, columns]`; that of an embedding table the rows it reads, `[B, T, 1]`. Positions that all
    samples share are read once for the whole batch; they are spread over it, so that each sample has a gradient of its
    own.
    """
    store: dict[str, Calls] = {}
    samples = 0

    def see_batch(_module, args, kwargs):  # type: ignore[no-untyped-def]
        nonlocal samples
        samples = len(next(value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)))

    def hook(name: str):  # type: ignore[no-untyped-def]
        def keep(module, args, output):  # type: ignore[no-untyped-def]
            given, calls = args[0].detach(), store.setdefault(name, [])
            if isinstance(module, nn.Embedding):
                output = output.expand(samples, -1, -1)
                calls.append(Call(given.expand(samples, -1).unsqueeze(-1), output.shape, _edge(output)))
            elif isinstance(module, nn.Conv1d):
                calls.append(Call(windows(module, given), output.shape, _edge(output), channels_first=True))
            else:
                calls.append(Call(given, output.shape, _edge(output)))
            # the model goes on with a copy: what it writes in place into a view would lead past the edge
            return output.clone() if output.requires_grad else output

        return keep

    owners = {(id(module.weight), isinstance(module, nn.Embedding)): name for name, module in _named(model, modules)}
    handles = [model.register_forward_pre_hook(see_batch, with_kwargs=True)]
    handles += [
        module.register_forward_hook(hook(owners[id(module.weight), isinstance(module, nn.Embedding)]))
        for module in model.modules()
        if (is_matrix(module) or isinstance(module, nn.Embedding))
        and (id(module.weight), isinstance(module, nn.Embedding)) in owners
    ]
    try:
        yield store
    finally:
        for handle in handles:
            handle.remove()


def _edge(made: torch.Tensor) -> GradientEdge | None:
    return get_gradient_edge(made) if made.requires_grad else None


def _named(model: nn.Module, modules: Sequence[str]) -> list[tuple[str, nn.Module]]:
    return [(name, model.get_submodule(name)) for name in modules]


def is_per_sample(tensor: torch.Tensor, mask: torch.Tensor) -> bool:
    """Tell whether the rows of `[..., d]` belong to samples: relative positions, for example, are shared by a batch."""
    return _is_per_token(tensor, mask) or len(tensor) == len(mask)


def sample_rows(tensor: torch.Tensor, mask: torch.Tensor) -> list[torch.Tensor]:
    """Cut `[B, T, d]`, `[B * T, d]`, `[B, d]`, or with one sample whatever it is, to rows `[T, d]` of each sample.

    Padding is dropped.
    """
    width = tensor.shape[-1]
    if _is_per_token(tensor, mask):
        return list(tensor.reshape(-1, width)[mask.flatten()].split(mask.sum(1).tolist()))
    return list(tensor.reshape(len(mask), -1, width))


def real_tokens(tensor: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Drop padding: `[B, T, d]` or `[B * T, d]` with mask `[B, T]` becomes `[real tokens, d]`; others stay."""
    if _is_per_token(tensor, mask):
        return tensor.reshape(-1, tensor.shape[-1])[mask.flatten()]
    return tensor.reshape(-1, tensor.shape[-1])


@torch.no_grad()
def input_grams(model: nn.Module, batches: Sequence[TokenBatch], modules: Sequence[str]) -> dict[str, torch.Tensor]:
    """Mean of `x xᵀ` over real tokens for the input x of each module: float32 `[columns, columns]`.

    Raises:
        InputFileError: an activation is NaN or infinite; names the module.
    """
    sums: dict[str, torch.Tensor] = {}
    counts = dict.fromkeys(modules, 0)
    with captured(model, modules) as seen:
        for batch in batches:
            seen.clear()
            model(**batch.inputs)
            for name, calls in seen.items():
                for inputs in (call.inputs for call in calls):
                    tokens = real_tokens(inputs, batch.mask)
                    if not torch.isfinite(tokens).all():
                        raise InputFileError(f"{name}: its input holds NaN or infinite values on the calibration text.")
                    times = 1 if is_per_sample(inputs, batch.mask) else len(batch.indices)
                    gram = tokens.T @ tokens
                    if times > 1:
                        gram *= times
                    sums[name] = sums[name].add_(gram) if name in sums else gram
                    counts[name] += times * len(tokens)
    return {name: gram / counts[name] for name, gram in sums.items()}


def _is_per_token(tensor: torch.Tensor, mask: torch.Tensor) -> bool:
    return tensor.shape[:-1] in (mask.shape, (mask.numel(),))
