"""A torch model as engines' converters want it: token arrays in, named outputs out, nothing else."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..models.loading import EXAMPLE_TOKENS, LoadedModel

OUTPUTS = ("logits", "start_logits", "end_logits", "last_hidden_state")
EXAMPLE = ["turn the light on in the kitchen please", "play a song"]  # two lengths: padding must be traced


class _Positional(nn.Module):
    def __init__(self, model: nn.Module, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.inputs, self.outputs = model, inputs, outputs

    def forward(self, *arrays: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = self.model(**dict(zip(self.inputs, arrays, strict=True)), return_dict=True)
        return tuple(found[name] for name in self.outputs)


@dataclass(frozen=True, slots=True)
class TracedModel:
    """A module of positional inputs and outputs, with their names and an example.

    Attributes:
        module: takes int64 `[B, T]` arrays in the order of `inputs`, returns a tuple in the order of `outputs`.
        outputs: names with the axes that vary: `logits` of a classifier has the batch only, of tags batch and tokens.
        example: two padded texts.
    """

    module: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    example: tuple[torch.Tensor, ...]
    output_ranks: tuple[int, ...]


def traceable(loaded: LoadedModel) -> TracedModel:
    """Wrap a loaded model; a dry run on two texts says which outputs it has."""
    short = {"truncation": True, "max_length": min(loaded.longest, EXAMPLE_TOKENS)}
    encoded: dict[str, Any] = dict(loaded.tokenizer(EXAMPLE, padding=True, return_tensors="pt", **short))
    with torch.no_grad():
        found = loaded.model(**encoded, return_dict=True)
    outputs = tuple(name for name in OUTPUTS if name in found)
    example = tuple(encoded.values())
    module = _Positional(loaded.model, tuple(encoded), outputs).eval()
    return TracedModel(module, tuple(encoded), outputs, example, tuple(found[name].ndim for name in outputs))


@contextmanager
def quiet_tracing() -> Iterator[None]:
    """Trace without gradients and without the tracer's warnings: every export is compared on real inputs instead."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        yield
