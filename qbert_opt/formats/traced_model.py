"""A torch model in the form that converters need: it takes token arrays and returns named outputs, nothing else."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..errors import InputFileError, QbertOptError
from ..models.folder_files import first_line
from ..models.loading import EXAMPLE_TOKENS, LoadedModel
from .first_token import first_token_from, first_token_module

MAX_SHOWN = 400  # characters of a converter's message
OUTPUTS = ("logits", "start_logits", "end_logits", "last_hidden_state")
EXAMPLE = ["turn the light on in the kitchen please", "play a song"]  # two lengths: padding must be traced


class _Positional(nn.Module):
    """Takes token arrays and returns a tuple; further arrays replace the weights of `tables`.

    Attributes:
        first_only: module from which on only the first token is computed; None if there is no such module.
    """

    def __init__(
        self, model: nn.Module, inputs: tuple[str, ...], outputs: tuple[str, ...], tables: tuple[str, ...]
    ) -> None:
        super().__init__()
        self.model, self.inputs, self.outputs, self.tables = model, inputs, outputs, tables
        self.first_only: str | None = None

    def forward(self, *arrays: torch.Tensor) -> tuple[torch.Tensor, ...]:
        count = len(self.inputs)
        own = _weights(self.model, dict(zip(self.tables, arrays[count:], strict=False)))
        with own, first_token_from(self.model, self.first_only):
            result = self.model(**dict(zip(self.inputs, arrays[:count], strict=True)), return_dict=True)
        return tuple(result[name] for name in self.outputs)


@contextmanager
def _weights(model: nn.Module, weights: dict[str, torch.Tensor]) -> Iterator[None]:
    """Replace the weights of modules inside the context; `torch.func.functional_call` cannot be traced."""
    modules = {name: model.get_submodule(name) for name in weights}
    own = {name: module._parameters.pop("weight") for name, module in modules.items()}
    try:
        for name, module in modules.items():
            module.weight = weights[name]
        yield
    finally:
        for name, module in modules.items():
            del module.weight
            module._parameters["weight"] = own[name]


@dataclass(frozen=True, slots=True)
class TracedModel:
    """A module with positional inputs and outputs, their names and an example.

    Attributes:
        module: takes int64 `[B, T]` arrays in the order of `inputs`, returns a tuple in the order of `outputs`.
        inputs: names of the token arrays.
        outputs: names of the outputs.
        example: two padded texts.
        output_ranks: number of axes of each output; `logits` has 2 for a classifier and 3 for a tagger.
        tables: embedding tables whose weight the model reads whole instead of looking up rows (DeBERTa's relative
            positions). Converters would fold everything computed from such a constant, even quantized products;
            therefore these weights are traced as further inputs, see `with_tables`.
    """

    module: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    example: tuple[torch.Tensor, ...]
    output_ranks: tuple[int, ...]
    tables: tuple[str, ...] = ()
    tokenizer: Any = None

    @property
    def model(self) -> Any:
        """The model that `module` wraps."""
        return self.module.model

    @property
    def with_tables(self) -> tuple[torch.Tensor, ...]:
        """The example followed by the weights of `tables`."""
        weights = (self.module.get_parameter(f"model.{name}.weight").detach() for name in self.tables)
        return (*self.example, *weights)


def traceable(loaded: LoadedModel, *, lean: bool = False) -> TracedModel:
    """Wrap a loaded model; a run on two texts determines which outputs it has.

    Args:
        loaded: the model, in evaluation mode.
        lean: whether to skip everything that no output depends on, see `first_token`.
    """
    short = {"truncation": True, "max_length": min(loaded.longest, EXAMPLE_TOKENS)}
    encoded: dict[str, Any] = dict(loaded.tokenizer(EXAMPLE, padding=True, return_tensors="pt", **short))
    tables = {name: module for name, module in loaded.model.named_modules() if isinstance(module, nn.Embedding)}
    looked_up: set[str] = set()
    hooks = [module.register_forward_hook(lambda *_, name=name: looked_up.add(name)) for name, module in tables.items()]
    with torch.no_grad():
        result = loaded.model(**encoded, return_dict=True)
    for hook in hooks:
        hook.remove()
    whole = tuple(name for name in tables if name not in looked_up)
    outputs = tuple(name for name in OUTPUTS if name in result)
    example = tuple(encoded.values())
    module = _Positional(loaded.model, tuple(encoded), outputs, whole).eval()
    ranks = tuple(result[name].ndim for name in outputs)
    if lean and not whole:
        module.first_only = first_token_module(loaded.model, module, example)
    return TracedModel(module, tuple(encoded), outputs, example, ranks, whole, loaded.tokenizer)


@contextmanager
def quiet_tracing() -> Iterator[None]:
    """Trace without gradients and without the tracer's warnings; every export is checked on real inputs instead."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def converting(name: str) -> Iterator[None]:
    """Trace quietly; errors of a converter, which have no common base class, become one line.

    Args:
        name: name of the converter.

    Raises:
        InputFileError: the converter cannot convert this model.
    """
    try:
        with quiet_tracing():
            yield
    except (QbertOptError, MemoryError):
        raise
    except Exception as error:
        raise InputFileError(
            f"{name} cannot convert this model: {type(error).__name__}: {first_line(error)[:MAX_SHOWN]}. Choose "
            f"another engine, or another version of {name}."
        ) from None
