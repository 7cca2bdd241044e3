"""Whether each planned input range fits its inputs: a single wrong range may hide behind correct answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..models.loading import LoadedModel
from ..models.samples import TokenBatch
from ..quantization.activation_quant import round_activations
from ..spec.planned import PlannedActivation

# of an input's squared length: ranges that fit lose a thousandth; MiniLM's on SST-2 cut rare outliers and lose a tenth
MAX_ERROR = 0.5


@torch.no_grad()
def misfit(
    loaded: LoadedModel, planned: Sequence[PlannedActivation], samples: Sequence[TokenBatch], limit: float = MAX_ERROR
) -> str | None:
    """Return a message about the planned range with the largest rounding error, if it is above the limit.

    Args:
        loaded: the model with inputs in float32.
        planned: its inputs' ranges.
        samples: texts without padding.
        limit: largest squared rounding error relative to the squared input, over all texts.
    """
    sums = {item.modules[0]: [0.0, 0.0, 0.0, 0.0] for item in planned if item.low is not None}

    def watch(item: PlannedActivation) -> Any:
        def see(_module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            values, seen = args[0], sums[item.modules[0]]
            error = round_activations(values, item.bits, item.low, item.high) - values
            seen[0] += float(error.double().square().sum())
            seen[1] += float(values.double().square().sum())
            seen[2], seen[3] = min(seen[2], float(values.min())), max(seen[3], float(values.max()))

        return see

    handles = [
        loaded.model.get_submodule(item.modules[0]).register_forward_pre_hook(watch(item))
        for item in planned
        if item.modules[0] in sums
    ]
    try:
        for sample in samples:
            loaded.model(**sample.inputs)
    finally:
        for handle in handles:
            handle.remove()
    ranges = {item.modules[0]: (item.low, item.high) for item in planned}
    errors = {name: lost / whole for name, (lost, whole, _, _) in sums.items() if whole > 0}
    worst = max(errors, key=errors.__getitem__, default=None)
    if worst is None or errors[worst] <= limit:
        return None
    (low, high), (_, _, least, most) = ranges[worst], sums[worst]
    return (
        f"{worst}: rounding its inputs to {low:.3g} to {high:.3g} loses {errors[worst]:.0%} of their squared size; on "
        f"the texts checked they are {least:.3g} to {most:.3g}. Score again on text like it, or take "
        "`activations` int8."
    )
