"""Queries and keys in 8 bits, for engines that multiply them in integers."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ..engines.agreement import Check, compare
from ..models.loading import LoadedModel
from ..models.samples import TokenBatch
from ..quantization.activation_quant import round_activations
from ..spec.allocation import Allocation

HEADROOM = 1.1  # largest values on other texts, relative to the largest of these
MAX_GROWTH, MAX_ADDED = 1.1, 1e-3  # of the loss that rounded inputs already have; in its unit
SMALLEST_END = 1e-9


def score_modules(model: nn.Module, allocation: Allocation) -> tuple[str, ...]:
    """Return the modules whose outputs are queries and keys; none where relative positions pass through them too.

    Args:
        model: the plan's.
        allocation: a plan.
    """
    if any(matrix.kind == "position" or matrix.fixed_positions for matrix in allocation.profile.matrices):
        return ()
    weights = {
        id(model.get_submodule(m.module).weight) for m in allocation.matrices if m.kind in ("query", "key")
    }  # fmt: skip
    return tuple(
        name for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and id(module.weight) in weights
    )  # fmt: skip


@torch.no_grad()
def score_ranges(
    loaded: LoadedModel, allocation: Allocation, samples: Sequence[TokenBatch]
) -> dict[str, tuple[float, float]]:
    """Find the ranges of signed 8-bit queries and keys.

    Args:
        loaded: the model as it will run, with rounded inputs.
        allocation: its plan.
        samples: texts without padding.

    Returns:
        Ends of the range by module: -128 and 127 times a scale.
    """
    largest = dict.fromkeys(score_modules(loaded.model, allocation), SMALLEST_END)

    def watch(name: str) -> Any:
        def see(_module: nn.Module, _args: Any, output: torch.Tensor) -> None:
            largest[name] = max(largest[name], float(output.abs().max()))

        return see

    handles = [loaded.model.get_submodule(name).register_forward_hook(watch(name)) for name in largest]
    try:
        for sample in samples:
            loaded.model(**sample.inputs)
    finally:
        for handle in handles:
            handle.remove()
    scales = {name: HEADROOM * end / 127 for name, end in largest.items()}
    return {name: (-128 * scale, 127 * scale) for name, scale in scales.items()}


def with_rounded_scores(loaded: LoadedModel, ranges: Mapping[str, tuple[float, float]]) -> LoadedModel:
    """Return a copy of a model that rounds its queries and keys to 8 bits.

    Args:
        loaded: the model.
        ranges: ends of the range by module.
    """
    model = copy.deepcopy(loaded.model)
    for name, (low, high) in ranges.items():
        model.get_submodule(name).register_forward_hook(
            lambda _module, _args, output, low=low, high=high: round_activations(output, 8, low, high)
        )
    return replace(loaded, model=model)


def scores_may_be_rounded(kind: str, checks: Sequence[Check], inputs: Sequence[Check], scores: Sequence[Check]) -> bool:
    """Return whether rounding queries and keys costs next to nothing beside rounding inputs.

    Args:
        kind: kind of the model's outputs.
        checks: texts with the outputs of the quantized model in float32.
        inputs: the same with rounded inputs.
        scores: the same with rounded queries and keys as well.
    """
    before, after = (
        compare(kind, [(a.answers, b.answers) for a, b in zip(checks, other, strict=True)])
        for other in (inputs, scores)
    )
    if before is None or after is None:
        return False
    return after.loss <= MAX_GROWTH * before.loss + MAX_ADDED and after.flipped <= before.flipped + 0.01 * after.decided
