"""What flows through linear layers in one forward pass, real tokens only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from ..errors import InputFileError
from ..models.batches import TokenBatch

Calls = list[tuple[torch.Tensor, torch.Tensor]]


@contextmanager
def captured(model: nn.Module, modules: Sequence[str]) -> Iterator[dict[str, Calls]]:
    """Collect input (detached) and output (in the graph) of each call of each named module at a forward pass inside.

    Modules of the same kind that share their weight with a named one count as calls of it. The input of an embedding
    table is the rows it reads, `[B, T, 1]`. Positions that all samples share are read once for the whole batch; they
    are spread over it, so that each sample has a gradient of its own.
    """
    store: dict[str, Calls] = {}
    samples = 0

    def see_batch(_module, args, kwargs):  # type: ignore[no-untyped-def]
        nonlocal samples
        samples = len(next(value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)))

    def hook(name: str):  # type: ignore[no-untyped-def]
        def keep(module, args, output):  # type: ignore[no-untyped-def]
            if not isinstance(module, nn.Embedding):
                store.setdefault(name, []).append((args[0].detach(), output))
                return None
            rows = args[0].detach().expand(samples, -1).unsqueeze(-1)
            spread = output.expand(samples, -1, -1)
            store.setdefault(name, []).append((rows, spread))
            return spread

        return keep

    owners = {(id(module.weight), isinstance(module, nn.Embedding)): name for name, module in _named(model, modules)}
    handles = [model.register_forward_pre_hook(see_batch, with_kwargs=True)]
    handles += [
        module.register_forward_hook(hook(owners[id(module.weight), isinstance(module, nn.Embedding)]))
        for module in model.modules()
        if isinstance(module, nn.Linear | nn.Embedding)
        and (id(module.weight), isinstance(module, nn.Embedding)) in owners
    ]
    try:
        yield store
    finally:
        for handle in handles:
            handle.remove()


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
                for inputs, _ in calls:
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
