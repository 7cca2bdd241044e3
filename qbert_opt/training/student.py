"""The quantized model in training: every tensor as it will be stored, computed once per pass from the parameters."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, cast

import torch
from torch import nn
from torch.func import functional_call

from ..errors import UsageError
from ..models.layers import as_weight, matrix_of
from ..quantization.activation_quant import with_rounded_inputs
from ..quantization.quantized_matrix import QuantizedMatrix
from ..runtime import plugins
from ..spec.allocation import Allocation
from ..spec.planned import PlannedActivation
from .blocks import BlockCall, hidden_of
from .rounded_inputs import LearnedRange, TrainedRounder
from .straight_through import straight_through, to_half


class TrainedMatrix(Protocol):
    """A matrix in training: a torch module that a file in `training/quantizers` makes.

    Attributes:
        latent: float32 weights before rounding.
        ranges: parameters of its ranges, by name.
    """

    latent: nn.Parameter
    ranges: nn.ParameterDict

    def __call__(self) -> torch.Tensor:
        """Return the stored weights, float32 `[rows, columns]`, in the graph."""

    def stored(self) -> QuantizedMatrix:
        """Return the matrix to store; its `dequantize` equals the call, bit for bit."""

    def centre(self) -> None:
        """Move latent weights to the middle of their cells, as far from other codes as they can be."""


class TrainingQuantizer(Protocol):
    """A file in `training/quantizers`.

    Attributes:
        FORMS: the forms of range that it can train, for example `("offset", "symmetric")`.
    """

    FORMS: tuple[str, ...]

    def trained(self, weight: torch.Tensor, start: QuantizedMatrix) -> TrainedMatrix:
        """Return the trainable form of a quantized matrix; its first call equals `start.dequantize()`.

        Args:
            weight: float32 `[rows, columns]`, before quantization.
            start: the same matrix quantized.
        """


@dataclass(frozen=True, slots=True)
class Learned:
    """Parameters grouped by learning rate.

    Attributes:
        weights: latent weights of matrices, and tensors stored in fp16.
        ranges: scales, offsets, zero points and codebooks, and static ranges of inputs.
    """

    weights: list[nn.Parameter]
    ranges: list[nn.Parameter]


class Student(nn.Module):
    """A model with fake-quantized matrices and all other tensors rounded to fp16.

    It has the call signature of the model. A weight shared by several layers is one matrix.

    Attributes:
        matrices: trainable form of each matrix and trained table, by module name as encoded by `_key`.
        input_ranges: static ranges of rounded inputs, by position in the plan.
        functions: the context in which its passes run.
    """

    def __init__(
        self,
        model: nn.Module,
        plan: Allocation,
        start: Iterable[tuple[str, QuantizedMatrix]],
        *,
        others: Mapping[str, torch.Tensor] | None = None,
        tables: bool = False,
        quantizer: str | None = None,
        functions: AbstractContextManager[Any] | None = None,
    ) -> None:
        """Build the student.

        Args:
            model: the float model.
            plan: its activation quantization is applied.
            start: codes of each matrix and table of the plan.
            others: tensors stored in fp16, by parameter name, where they differ from the float model's.
            tables: whether embedding tables are trained too.
            quantizer: training quantizer; None is the first one that supports a matrix's form.
            functions: the context in which its passes run, for example with other nonlinear functions.

        Raises:
            UsageError: the training quantizer does not support the form of a matrix, or none does.
        """
        super().__init__()
        self._model = (copy.deepcopy(model).eval().requires_grad_(False),)  # a tuple hides its parameters
        self._inputs, self.functions = plan.activations, functions or nullcontext()
        self.input_ranges = nn.ModuleDict()
        for number, item in enumerate(plan.activations):
            if item.scheme == "tensor":
                self.input_ranges[str(number)] = LearnedRange(item)
            made = partial(_rounder, self._range(number))
            with_rounded_inputs(self.skeleton, [item], made)
        frozen = () if tables else {table.module for table in plan.tables}
        self.matrices, self._tables = nn.ModuleDict(), dict[str, QuantizedMatrix]()
        self._fixed = dict[str, torch.Tensor]()
        for module, quantized in start:
            if module in frozen:
                self._tables[module] = quantized
                self._fixed[f"{module}.weight"] = quantized.dequantize()
            else:
                weight = matrix_of(self.skeleton.get_submodule(module)).contiguous()
                self.matrices[_key(module)] = cast(nn.Module, _trained(module, weight, quantized, quantizer))
        quantized_names = {f"{matrix.module}.weight" for matrix in plan.matrices}
        quantized_names |= {f"{table.module}.weight" for table in plan.tables}
        self.others = nn.ParameterDict(
            {
                _key(name): nn.Parameter((others or {}).get(name, parameter).detach().half().float())
                for name, parameter in self.skeleton.named_parameters()
                if name not in quantized_names
            }
        )

    @property
    def skeleton(self) -> nn.Module:
        """A copy of the float model that is called with the stored tensors in place of its own."""
        return self._model[0]

    def forward(self, *args: Any, **inputs: Any) -> Any:
        """Run the model with the tensors as they would be stored.

        Args:
            *args: of the model.
            **inputs: of the model, by name.
        """
        tensors = self.tensors()
        with self.functions:
            return functional_call(self.skeleton, tensors, args, inputs)

    def tensors(self, prefix: str = "") -> dict[str, torch.Tensor]:
        """Return the tensors as they would be stored, in the graph, by parameter name without `prefix`.

        Args:
            prefix: only parameters whose name starts with it are returned, for example those of one block.
        """
        tensors = {name: tensor for name, tensor in self._fixed.items() if name.startswith(prefix)}
        for module, matrix in self._trained().items():
            if (name := f"{module}.weight").startswith(prefix):
                tensors[name] = as_weight(self.skeleton.get_submodule(module), matrix())
        for key, parameter in self.others.items():
            if (name := _name(key)).startswith(prefix):
                tensors[name] = straight_through(parameter, to_half)
        return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}

    def call(
        self, block: str, call: BlockCall, hidden: torch.Tensor, tensors: Mapping[str, torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Run one block of the model on given hidden states, and return its hidden states.

        Args:
            block: its name.
            call: its other arguments.
            hidden: float32 `[B, T, d]`.
            tensors: the block's tensors as returned by `tensors`; recomputed if None.
        """
        made, stored = call.reading(hidden), tensors or self.tensors(f"{block}.")
        with self.functions:
            output = functional_call(self.skeleton.get_submodule(block), dict(stored), made.args, dict(made.kwargs))
        return hidden_of(output)

    def learned(self, prefix: str = "") -> Learned:
        """Return the learned parameters of a part of the model.

        Args:
            prefix: of the names of the part's modules, ending in a dot; empty for all of them.
        """
        matrices = [matrix for module, matrix in self._trained().items() if f"{module}.".startswith(prefix)]
        weights = [m.latent for m in matrices]
        weights += [p for key, p in self.others.items() if _name(key).startswith(prefix)]
        ranges = [p for m in matrices for p in m.ranges.values()]
        for number, item in enumerate(self._inputs):
            made = self._range(number)
            if made is not None and any(f"{module}.".startswith(prefix) for module in item.modules):
                ranges.append(made.factors)
        return Learned(weights, ranges)

    def stored(self, plan: Allocation) -> Iterator[tuple[str, QuantizedMatrix]]:
        """Yield the plan's quantized matrices, then its tables, in the plan's order, each with its module.

        Args:
            plan: of this model.
        """
        matrices = self._trained()
        for module in [matrix.module for matrix in plan.matrices] + [table.module for table in plan.tables]:
            yield module, matrices[module].stored() if module in matrices else self._tables[module]

    def activations(self) -> tuple[PlannedActivation, ...]:
        """Return the plan's rounded inputs with their ranges as trained."""
        pairs = [(item, self._range(number)) for number, item in enumerate(self._inputs)]
        return tuple(item if made is None else made.planned(item) for item, made in pairs)

    def centre(self, prefix: str = "") -> None:
        """Move the latent weights of a part of the model to the middle of their cells; what is stored stays the same.

        Codes then change only where the gradients of many updates agree. A weight that earlier training left at the
        border of its cell would change its code on the noise of a few.

        Args:
            prefix: of the names of the part's modules, ending in a dot; empty for all of them.
        """
        for module, matrix in self._trained().items():
            if f"{module}.".startswith(prefix):
                matrix.centre()

    def _range(self, number: int) -> LearnedRange | None:
        """The range of a rounded input; None if each token has its own."""
        key = str(number)
        return cast(LearnedRange, self.input_ranges[key]) if key in self.input_ranges else None

    def _trained(self) -> dict[str, TrainedMatrix]:
        """The matrices by module name."""
        return {_name(key): cast(TrainedMatrix, matrix) for key, matrix in self.matrices.items()}

    @torch.no_grad()
    def plain(self) -> nn.Module:
        """Return a float copy of the model with the stored weights; in `functions` its outputs equal the student's."""
        model = copy.deepcopy(self.skeleton)
        for name, tensor in self.tensors().items():
            model.get_parameter(name).copy_(tensor)
        return model

    @torch.no_grad()
    def stored_others(self) -> dict[str, torch.Tensor]:
        """Return all tensors except matrices and tables as stored, by parameter name."""
        return {_name(key): to_half(parameter) for key, parameter in self.others.items()}


def _rounder(made: LearnedRange | None, bits: int, _low: float | None, _high: float | None) -> TrainedRounder:
    """Return the pre-hook of a matrix; the learned range takes the place of the planned ends."""
    return TrainedRounder(bits, made)


def _trained(module: str, weight: torch.Tensor, start: QuantizedMatrix, quantizer: str | None) -> TrainedMatrix:
    form = start.layout.form
    for name in (quantizer,) if quantizer else plugins.available("training_quantizers"):
        plugin = plugins.load_as("training_quantizers", name, TrainingQuantizer)
        if form in plugin.FORMS:
            return plugin.trained(weight, start)
    raise UsageError(f"{module}: training quantizer {quantizer or 'none'} does not support form {form!r}.")


def _key(name: str) -> str:
    """Encode a parameter's name as a key of a module container, which allows neither dots nor its methods' names."""
    return "/" + name.replace(".", "/")


def _name(key: str) -> str:
    return key[1:].replace("/", ".")
