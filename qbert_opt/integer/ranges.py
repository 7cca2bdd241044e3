"""Static ranges of a model's intermediate results, observed on the real tokens of the calibration set."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from ..curvature.capture import real_tokens
from ..errors import InputFileError, UsageError
from ..models.samples import TokenBatch
from ..quantization.activation_quant import round_activations
from .families import Encoder

FEWEST_TEXTS = 8
KEPT = 1 << 14  # about as many values per batch and module are sampled, to search for the best magnitude
SHRINKS = 40  # magnitudes that are tried


@dataclass(slots=True)
class Seen:
    """Values observed at one place in the model.

    Attributes:
        low: least value, at most 0.
        high: greatest value, at least 0.
        sample: evenly spaced values of each batch, one tensor per batch.
    """

    low: float = 0.0
    high: float = 0.0
    sample: list[torch.Tensor] = field(default_factory=list)

    def see(self, values: torch.Tensor) -> None:
        """Add the values of another batch.

        Args:
            values: of any shape, at least one element.
        """
        flat = values.flatten()
        self.low, self.high = min(self.low, float(flat.min())), max(self.high, float(flat.max()))
        self.sample.append(flat[:: max(1, len(flat) // KEPT)].clone())

    @property
    def largest(self) -> float:
        """Greatest magnitude."""
        return max(-self.low, self.high)

    def best_magnitude(self, bits: int) -> float:
        """Return the magnitude at which signed integers saturate with the least squared error over the sample.

        Args:
            bits: width of the integers.
        """
        sample = torch.cat(self.sample)
        best, least = self.largest, math.inf
        for step in range(SHRINKS):
            tried = self.largest * (1 - step / SHRINKS)
            error = float((round_activations(sample, bits, -tried, tried) - sample).double().square().sum())
            if error < least:
                best, least = tried, error
        return best


@dataclass(frozen=True, slots=True)
class Ranges:
    """Values observed in a model on the calibration set.

    Attributes:
        inputs: inputs of LayerNorms and linear layers, by module.
        outputs: outputs of the same modules.
        scores: attention scores, divided by the square root of the head size, by the query's module.
    """

    inputs: dict[str, Seen]
    outputs: dict[str, Seen]
    scores: dict[str, Seen]


@torch.no_grad()
def observed(encoder: Encoder, batches: Sequence[TokenBatch]) -> Ranges:
    """Run a model on the calibration set and record the ranges of its intermediate results.

    Args:
        encoder: the model, with the inputs of its matrices rounded as planned.
        batches: the calibration set.

    Raises:
        UsageError: there are fewer than 8 texts.
        InputFileError: a value is NaN or infinite; names the module.
    """
    texts = sum(len(batch.indices) for batch in batches)
    if texts < FEWEST_TEXTS:
        raise UsageError(f"`data`: {texts} texts are too few to fix ranges. Give at least {FEWEST_TEXTS}.")
    ranges = Ranges({}, {}, {})
    with _watching(encoder, ranges) as watch:
        for batch in batches:
            watch.mask = batch.mask.bool()
            encoder.loaded.head.read(encoder.loaded.model, batch)
            for block in encoder.blocks:
                query, key = watch.last[block.query], watch.last[block.key]
                _see(ranges.scores, block.query, _scores(query, key, encoder.heads, watch.mask))
    return ranges


@dataclass(slots=True)
class _Watch:
    mask: torch.Tensor
    last: dict[str, torch.Tensor]


@contextmanager
def _watching(encoder: Encoder, ranges: Ranges) -> Iterator[_Watch]:
    family, watch = encoder.family, _Watch(torch.empty(0), {})
    pairs = {name for block in encoder.blocks for name in (block.query, block.key)}
    inside = {getattr(block, name) for block in encoder.blocks for name in type(block).__slots__}
    names = {*inside, family.norm, *(name for name, _ in encoder.head), *([family.project] if family.project else [])}

    def hook(name: str) -> Callable[[Any, tuple[torch.Tensor, ...], torch.Tensor], None]:
        def see(_module: Any, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            _see(ranges.inputs, name, real_tokens(args[0], watch.mask))
            _see(ranges.outputs, name, real_tokens(output, watch.mask))
            if name in pairs:
                watch.last[name] = output

        return see

    handles = [encoder.module(name).register_forward_hook(hook(name)) for name in sorted(names)]
    try:
        yield watch
    finally:
        for handle in handles:
            handle.remove()


def _see(points: dict[str, Seen], name: str, values: torch.Tensor) -> None:
    if not torch.isfinite(values).all():
        raise InputFileError(f"{name}: holds NaN or infinite values on the calibration text.")
    points.setdefault(name, Seen()).see(values)


def _scores(query: torch.Tensor, key: torch.Tensor, heads: int, mask: torch.Tensor) -> torch.Tensor:
    """Return the scores between real tokens, flattened."""
    batch, tokens, hidden = query.shape
    split = [x.view(batch, tokens, heads, hidden // heads).transpose(1, 2) for x in (query, key)]
    scores = split[0] @ split[1].transpose(-1, -2) / math.sqrt(hidden // heads)
    both = mask[:, None, :, None] & mask[:, None, None, :]
    return scores[both.expand_as(scores)]
