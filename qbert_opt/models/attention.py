"""Fused or unfused attention for the calls of one thread.

PyTorch's own switch, `sdpa_kernel`, is global: while one thread traces or trains a model, another thread that runs it
would get outputs that differ in the last digits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode


class UnfusedAttention(TorchFunctionMode):
    """Inside this context, this thread's attention runs as separate scores, softmax and weighted sum."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Replace fused attention by its unfused form; every other function stays as it is."""
        del types
        if func is not functional.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        return _unfused(*args, **(kwargs or {}))


class FusedAttention(TorchFunctionMode):
    """Inside this context, PyTorch chooses the attention kernel, also within `UnfusedAttention`."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Hide fused attention from the modes outside this one; every other function stays as it is."""
        del types
        if func is not functional.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        with torch._C.DisableTorchFunction():
            return func(*args, **(kwargs or {}))


def _unfused(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    *rest: Any,
    **options: Any,
) -> torch.Tensor:
    if attn_mask is not None and attn_mask.dtype is torch.bool:  # this form adds its mask
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill_(~attn_mask, -torch.inf)
    output: torch.Tensor = torch.ops.aten._scaled_dot_product_attention_math(
        query, key, value, attn_mask, *rest, **options
    )[0]
    return output
