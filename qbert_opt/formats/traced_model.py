"""A torch model in the form that converters need: token arrays in, named outputs out, nothing else."""

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
        result = self.model(**dict(zip(self.inputs, arrays, strict=True)), return_dict=True)
        return tuple(result[name] for name in self.outputs)


@dataclass(frozen=True, slots=True)
class TracedModel:
    """A module with positional inputs and outputs, their names and an example.

    Attributes:
        module: takes int64 `[B, T]` arrays in the order of `inputs`, returns a tuple in the order of `outputs`.
        inputs: names of the token arrays.
        outputs: names of the outputs.
        example: two padded texts.
        output_ranks: number of axes of each output; `logits` has 2 for a classifier and 3 for a tagger.
    """

    module: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    example: tuple[torch.Tensor, ...]
    output_ranks: tuple[int, ...]


def traceable(loaded: LoadedModel) -> TracedModel:
    """Wrap a loaded model; a run on two texts determines which outputs it has.

    Args:
        loaded: in evaluation mode.
    """
    short = {"truncation": True, "max_length": min(loaded.longest, EXAMPLE_TOKENS)}
    encoded: dict[str, Any] = dict(loaded.tokenizer(EXAMPLE, padding=True, return_tensors="pt", **short))
    with torch.no_grad():
        result = loaded.model(**encoded, return_dict=True)
    outputs = tuple(name for name in OUTPUTS if name in result)
    example = tuple(encoded.values())
    module = _Positional(loaded.model, tuple(encoded), outputs).eval()
    return TracedModel(module, tuple(encoded), outputs, example, tuple(result[name].ndim for name in outputs))


@contextmanager
def quiet_tracing() -> Iterator[None]:
    """Trace without gradients and without the tracer's warnings; every export is checked on real inputs instead."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        yield
