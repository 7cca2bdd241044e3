"""What flows through linear layers in one forward pass, real tokens only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from ..errors import InputFileError
from ..models.batches import TokenBatch


@contextmanager
def captured(model: nn.Module, modules: Sequence[str]) -> Iterator[dict[str, tuple[torch.Tensor, torch.Tensor]]]:
    """Collect input (detached) and output (in the graph) of each named module at every forward pass inside."""
    store: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def hook(name: str):  # type: ignore[no-untyped-def]
        def keep(_module, args, output):  # type: ignore[no-untyped-def]
            store[name] = (args[0].detach(), output)

        return keep

    handles = [model.get_submodule(name).register_forward_hook(hook(name)) for name in modules]
    try:
        yield store
    finally:
        for handle in handles:
            handle.remove()


def real_tokens(tensor: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Drop padding: `[B, T, d]` or `[B * T, d]` with mask `[B, T]` becomes `[real tokens, d]`; `[B, d]` stays."""
    if tensor.shape[:2] == mask.shape and tensor.dim() == 3:
        return tensor[mask]
    if tensor.dim() == 2 and len(tensor) == mask.numel():
        return tensor[mask.flatten()]
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
            for name, (inputs, _) in seen.items():
                tokens = real_tokens(inputs, batch.mask)
                if not torch.isfinite(tokens).all():
                    raise InputFileError(f"{name}: its input holds NaN or infinite values on the calibration text.")
                gram = tokens.T @ tokens
                sums[name] = sums[name].add_(gram) if name in sums else gram
                counts[name] += len(tokens)
    return {name: gram / counts[name] for name, gram in sums.items()}
