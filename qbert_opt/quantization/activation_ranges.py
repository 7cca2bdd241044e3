"""Ranges for rounding the inputs of matrices, from calibration text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from ..curvature.capture import captured, finite_tokens, is_per_sample, sample_rows
from ..models.batches import TokenBatch, run
from ..models.paging import release_pages, spilled
from ..spec.activations import ActivationChoice, Range
from .activation_quant import round_activations

MOMENTUM = 0.99  # Q-BERT's, once per text
PERCENTILE = 0.9999
KEPT_VALUES = 1 << 20  # of each input, to place percentiles and to search the best range
SHRINKS = 64  # ranges tried


def shared_inputs(model: nn.Module, batch: TokenBatch, modules: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Group modules that read the very same tensor, in order of execution.

    Args:
        model: contains the modules; it runs once, without gradients.
        batch: what it runs on.
        modules: their names.

    Returns:
        The names of each group.
    """
    seen: dict[int, list[str]] = {}
    alive = []

    def hook(name: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        def see(_module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            alive.append(args[0])  # its identity stays unique while it lives
            names = seen.setdefault(id(args[0]), [])
            if name not in names:
                names.append(name)

        return see

    handles = [model.get_submodule(name).register_forward_pre_hook(hook(name)) for name in modules]
    try:
        with torch.no_grad():
            run(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    first: dict[str, tuple[str, ...]] = {}
    for names in seen.values():
        for name in names:
            first.setdefault(name, tuple(names))
    return tuple(dict.fromkeys(first.values()))


@dataclass(slots=True)
class _Seen:
    """Statistics of one input over the calibration set."""

    low: float = 0.0
    high: float = 0.0
    average: tuple[float, float] | None = None
    kept: list[torch.Tensor] = field(default_factory=list)


@torch.no_grad()
def calibrated_ranges(
    model: nn.Module, batches: Sequence[TokenBatch], modules: Sequence[str], *, seed: int = 0
) -> dict[str, dict[Range, Callable[[int], tuple[float, float]]]]:
    """Find the range of each module's input by every method, from real tokens only.

    Args:
        model: contains the modules.
        batches: calibration set.
        modules: their names.
        seed: of the draw of values that are kept for the methods that need their distribution.

    Returns:
        By module and method, a function from the bits to the ends of the range; every range contains zero.

    Raises:
        InputFileError: an activation is NaN or infinite; names the module.
    """
    generator = torch.Generator().manual_seed(seed)
    statistics = {name: _Seen() for name in modules}
    total = sum(int(batch.mask.sum()) for batch in batches)
    with captured(model, modules) as inputs:
        for batch in batches:
            inputs.clear()
            with spilled(model):
                run(model, batch)
                for name, calls in inputs.items():
                    for tensor in (call.inputs for call in calls):
                        finite_tokens(name, tensor, batch.mask)
                        per_text = sample_rows(tensor, batch.mask) if is_per_sample(tensor, batch.mask) else [tensor]
                        share = KEPT_VALUES / (total * len(calls) * tensor.shape[-1])
                        _see(statistics[name], per_text, share, generator)
                    release_pages(model)
    return {name: _ranges(seen) for name, seen in statistics.items()}


def _see(seen: _Seen, per_text: Sequence[torch.Tensor], share: float, generator: torch.Generator) -> None:
    for text in per_text:
        ends = (float(text.min()), float(text.max()))
        seen.low, seen.high = min(seen.low, ends[0]), max(seen.high, ends[1])
        old = seen.average or ends
        seen.average = tuple(MOMENTUM * o + (1 - MOMENTUM) * e for o, e in zip(old, ends, strict=True))  # type: ignore[assignment]
    flat = torch.cat([text.flatten() for text in per_text])
    if share < 1:
        flat = flat[torch.randint(len(flat), (max(1, int(share * len(flat))),), generator=generator)]
    seen.kept.append(flat)


def _ranges(seen: _Seen) -> dict[Range, Callable[[int], tuple[float, float]]]:
    values = torch.cat(seen.kept).sort().values
    whole = (min(seen.low, 0.0), max(seen.high, 0.0))
    cut = int((1 - PERCENTILE) / 2 * len(values))
    inner = (min(float(values[cut]), 0.0), max(float(values[len(values) - 1 - cut]), 0.0))
    average = seen.average or whole
    return {
        "minmax": lambda _bits: whole,
        "average": lambda _bits: (min(average[0], 0.0), max(average[1], 0.0)),
        "percentile": lambda _bits: inner,
        "mse": lambda bits: _least_squares(values, whole, bits),
    }


def _least_squares(values: torch.Tensor, whole: tuple[float, float], bits: int) -> tuple[float, float]:
    """Shrink one end after the other while the squared error falls."""
    sample = values[:: max(1, len(values) >> 16)]
    sample = torch.cat([sample, torch.tensor(whole, dtype=sample.dtype)])
    best, least = whole, float((round_activations(sample, bits, *whole) - sample).double().square().sum())
    for end in (0, 1, 0, 1):
        start = best
        for step in range(1, SHRINKS):
            tried = list(start)
            tried[end] = start[end] * (1 - step / SHRINKS)
            error = float((round_activations(sample, bits, *tried) - sample).double().square().sum())
            if error < least:
                best, least = (tried[0], tried[1]), error
    return best


def rounding_errors(
    values: torch.Tensor, choices: Sequence[ActivationChoice], ranges: Sequence[tuple[float, float] | None]
) -> torch.Tensor:
    """Return the rounding error of an input under each choice, `[choices, ...]`.

    Args:
        values: the input, `[...]`.
        choices: how it may be rounded.
        ranges: the ends of each choice's static range; None where each token has its own.
    """
    ends = [(None, None) if r is None else r for r in ranges]
    return torch.stack([round_activations(values, c.bits, *r) - values for c, r in zip(choices, ends, strict=True)])
