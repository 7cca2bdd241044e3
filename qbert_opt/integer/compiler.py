"""The compiler from a quantized model to an integer-only program."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from ..errors import UsageError
from ..models.samples import TokenBatch
from ..quantization.quantized_matrix import StoredMatrix
from ..spec.planned import PlannedActivation
from .builder import Builder, Grid
from .errors import FunctionError, activation_error, exponential_error, square_root_error
from .families import Block, Encoder, LayerFunction
from .intervals import OverflowFound
from .layers import (
    Attention,
    Norm,
    add_attention,
    add_layer_norm,
    add_to_stream,
    probability_top,
    stream_grid,
)
from .matrices import Codes, add_embedding, add_linear, rounded, signed_codes
from .nonlinearity import Nonlinearity, nonlinearity
from .operations import IDS, MASK, TYPES, Positions, Value
from .program import Output, Program
from .ranges import Ranges, observed
from .ways import BY_TABLE, Ways

HEAD_BITS = 16  # of inputs of matrices outside the plan: the head's, the projection of embeddings to a wider encoder
VALUE_BITS = 8  # of query, key and value
SCORE_MARGIN = 1.25  # room above the largest score of the calibration set
LOGIT_MARGIN = 2.0  # likewise, above the largest logit
INPUT_BITS = (8, 16)  # widths that a plan can give inputs
LEAST_BITS = 8  # to which an input is narrowed so that its sums fit 32 bits


@dataclass(frozen=True, slots=True)
class Compiled:
    """A program, and how it differs from the plan and from exact functions.

    Attributes:
        program: the program.
        narrowed: by module, the bits of inputs that have fewer than planned because some text would overflow 32 bits.
        errors: errors of the nonlinear functions, each for the layer of this model where it is largest.
        rounding: largest error of a requantization, in units of its result, because its factor is `m / 2**e`; rounding
            the result adds half a unit.
    """

    program: Program
    narrowed: dict[str, int]
    errors: tuple[FunctionError, ...]
    rounding: float


def compile_model(
    encoder: Encoder,
    stored: Iterable[StoredMatrix],
    planned: Sequence[PlannedActivation],
    batches: Sequence[TokenBatch],
    inputs: Sequence[str],
    ways: Ways = BY_TABLE,
) -> Compiled:
    """Compile a quantized model.

    Args:
        encoder: the model with dequantized weights and with the inputs of matrices rounded as planned.
        stored: its quantized matrices and tables.
        planned: how the plan rounds the inputs of matrices.
        batches: the calibration set, for every range that the plan does not fix.
        inputs: names of the token arrays.
        ways: method for each nonlinear function.

    Raises:
        UsageError: the tokenizer gives no ids or no mask; the plan does not round an input, or not in a form that
            integer programs have; there are too few texts; or some text could overflow 32 bits whatever the compiler
            does. Names the matrix.
        InputFileError: the calibration set gives NaN or infinite values.
    """
    if IDS not in inputs or MASK not in inputs:
        raise UsageError(
            f"{encoder.loaded.name}: its tokenizer gives {', '.join(inputs)}; integer programs need {IDS} and {MASK}."
        )
    check_planned(encoder, planned)
    by_module = {module: item for item in planned for module in item.modules}
    codes = {matrix.module: signed_codes(matrix.module, matrix.quantized) for matrix in stored}
    compiler = _Compiler(encoder, codes, by_module, observed(encoder, batches), ways, tuple(inputs))
    try:
        program = compiler.program()
    except OverflowFound as error:
        raise UsageError(f"{encoder.loaded.name}: {error}, so the model has no integer form. Plan fewer bits for these "
                         "inputs, or give text more like the deployment's.") from None  # fmt: skip
    errors = (*compiler.errors.values(), square_root_error(ways.norm))
    return Compiled(program, compiler.narrowed, errors, compiler.builder.rounding)


def check_planned(encoder: Encoder, planned: Sequence[PlannedActivation]) -> None:
    """Check that a plan gives the inputs of every matrix a static range and 8 or 16 bits.

    Args:
        encoder: the model.
        planned: how the plan rounds the inputs of matrices.

    Raises:
        UsageError: inputs are not rounded, are rounded per token, or have another width; says how to get a legal plan.
    """
    by_module = {module: item for item in planned for module in item.modules}
    remedy = "Score with `activation_bits` 8,16 and solve with `activation_ranges` tensor."
    for block in encoder.blocks:
        for name in (block.query, block.key, block.value, block.attention_output, block.intermediate, block.output):
            item = by_module.get(name)
            if item is None:
                raise UsageError(f"{encoder.loaded.name}: the plan does not round the inputs of {name}. {remedy}")
            if item.low is None or item.high is None:
                raise UsageError(f"{encoder.loaded.name}: {name}: its inputs are rounded per token, in ranges that "
                                 f"only exist at run time. {remedy}")  # fmt: skip
            if item.bits not in INPUT_BITS:
                raise UsageError(f"{encoder.loaded.name}: {name}: its inputs have {item.bits} bits; integer programs "
                                 f"take {' or '.join(map(str, INPUT_BITS))}. {remedy}")  # fmt: skip


@dataclass(slots=True)
class _Compiler:
    encoder: Encoder
    codes: Mapping[str, Codes]
    planned: Mapping[str, PlannedActivation]
    ranges: Ranges
    ways: Ways
    inputs: tuple[str, ...]
    narrowed: dict[str, int] = field(default_factory=dict)
    errors: dict[str, FunctionError] = field(default_factory=dict)
    builder: Builder = field(init=False)
    softmax: Nonlinearity = field(init=False)
    activation: Nonlinearity = field(init=False)
    norm: Nonlinearity = field(init=False)

    def program(self) -> Program:
        """Build the whole program."""
        self.softmax, self.activation, self.norm = map(
            nonlinearity, (self.ways.softmax, self.ways.activation, self.ways.norm)
        )
        family = self.encoder.family
        tops = {IDS: len(self._table(family.words).w) - 1, MASK: 1}
        if family.types is not None:
            tops[TYPES] = len(self._table(family.types).w) - 1
        tokens = tuple(Value(name, ("batch", "tokens"), 0, tops[name], 1.0) for name in self.inputs)
        self.builder = Builder(tokens, self.encoder.loaded.longest)
        state = self._embeddings()
        for block in self.encoder.blocks:
            state = self._block(block, state)
        return self.builder.finish(self._head(state))

    def _table(self, module: str) -> Codes:
        return self.codes.get(module) or rounded(self._weight(module))

    def _weight(self, module: str) -> np.ndarray:
        weight: torch.Tensor = self.encoder.module(module).weight
        return weight.detach().numpy()

    def _embeddings(self) -> Value:
        """Sum the tables on one 16-bit scale, and normalize."""
        b, family = self.builder, self.encoder.family
        grid = stream_grid(self.ranges.inputs[family.norm].largest)
        ids = b.values[IDS]
        padding = None
        if family.counts_real_tokens:
            padding = int(self.encoder.module(family.positions).padding_idx)
        positions = b.emit(Positions, "positions", ids.shape, scale=1.0, ids=IDS, padding=padding)
        total = add_embedding(b, family.words, ids, self._table(family.words), grid)
        places = add_embedding(b, family.positions, positions, self._table(family.positions), grid)
        total = b.binary("add", "embeddings.placed", total, places, scale=grid.scale)
        if family.types is not None:
            kinds = b.values.get(TYPES) or b.binary("multiply", "no_types", ids, 0, scale=1.0)
            typed = add_embedding(b, family.types, kinds, self._table(family.types), grid)
            total = b.binary("add", "embeddings.typed", total, typed, scale=grid.scale)
        summed = b.saturate("embeddings.sum", total, grid.low, grid.high)
        normed = self._norm(family.norm, summed)
        if not family.project:
            return normed
        return self._linear(family.project, normed)

    def _block(self, block: Block, state: Value) -> Value:
        b, seen = self.builder, self.ranges
        middle, end = seen.inputs[block.attention_norm].largest, seen.inputs[block.output_norm].largest
        stream = b.requantize(f"{block.attention_norm}.stream", state, stream_grid(middle))
        query, key, value = (self._symmetric(name, state) for name in (block.query, block.key, block.value))
        name = block.query.rpartition(".")[0]
        context = add_attention(b, self.softmax, name, query, key, value, self._attention(block))
        mixed = self._linear(block.attention_output, context)
        summed = add_to_stream(b, f"{block.attention_norm}.input", mixed, stream, middle)
        state = self._norm(block.attention_norm, summed)
        stream = b.requantize(f"{block.output_norm}.stream", state, stream_grid(end))
        inner = self._activated(block.intermediate, self._linear(block.intermediate, state), self.encoder.activation,
                                self._grid(block.output))  # fmt: skip
        summed = add_to_stream(b, f"{block.output_norm}.input", self._linear(block.output, inner), stream, end)
        return self._norm(block.output_norm, summed)

    def _symmetric(self, name: str, state: Value) -> Value:
        grid = Grid.symmetric(self.ranges.outputs[name].best_magnitude(VALUE_BITS), VALUE_BITS)
        return self.builder.requantize(f"{name}.codes", self._linear(name, state), grid)

    def _attention(self, block: Block) -> Attention:
        tokens, family = self.builder.max_tokens, self.encoder.family
        bias = None
        largest = self.ranges.scores[block.query].largest
        if family.relative is not None:
            layers = self.encoder.module(family.relative.rpartition(".")[0])
            steps = torch.arange(1 - tokens, tokens)
            buckets = layers.relative_position_bucket(steps, num_buckets=len(self._weight(family.relative)))
            bias = self._weight(family.relative)[buckets.numpy()].T.astype(np.float64)
            largest += float(np.abs(bias).max())
        self._worst(exponential_error(self.ways.softmax, SCORE_MARGIN * largest))
        return Attention(self.encoder.heads, SCORE_MARGIN * largest, bias, probability_top(tokens))

    def _worst(self, error: FunctionError) -> None:
        known = self.errors.get(error.function)
        if known is None or error.largest > known.largest:
            self.errors[error.function] = error

    def _norm(self, name: str, x: Value) -> Value:
        module = self.encoder.module(name)
        gamma, beta = (part.detach().numpy().astype(np.float64) for part in (module.weight, module.bias))
        return add_layer_norm(self.builder, self.norm, name, x, Norm(gamma, beta, float(module.eps)))

    def _activated(self, name: str, x: Value, function: LayerFunction, to: Grid) -> Value:
        """Apply an activation function; ReLU is only a saturation at the zero point."""
        if function == "relu":
            return self.builder.requantize(f"{name}.relu", x, Grid(to.scale, max(to.low, to.zero), to.high, to.zero))
        seen = self.ranges.outputs[name]
        self._worst(activation_error(self.ways.activation, function, (seen.low, seen.high), to))
        return self.activation.activation(self.builder, f"{name}.{function}", function, x, (seen.low, seen.high), to)

    def _grid(self, module: str, bits: int | None = None) -> Grid:
        """Return the grid of a matrix's input: the plan's, or the calibration set's range if the plan has none."""
        item = self.planned.get(module)
        if item is None or item.low is None or item.high is None:
            seen = self.ranges.inputs[module]
            return Grid.spanning(seen.low, seen.high, bits or HEAD_BITS)
        return Grid.spanning(item.low, item.high, bits or item.bits)

    def _linear(self, module: str, x: Value) -> Value:
        """Convert x to the grid of a module's input, unless it has that grid, and multiply by the module's matrix.

        If the sums would not fit 32 bits for every text, an input of 16 bits is narrowed.
        """
        codes = self.codes.get(module) or rounded(self._weight(module))
        bias = self.encoder.module(module).bias
        numbers = None if bias is None else bias.detach().numpy()
        full = self._grid(module)
        bits = (full.high - full.low).bit_length()
        for fewer in range(bits, min(bits, LEAST_BITS) - 1, -1):
            codes_in = self._on_grid(x, full if fewer == bits else self._grid(module, fewer))
            try:
                y = add_linear(self.builder, module, codes_in, codes, numbers)
            except OverflowFound as error:
                overflow = error
                continue
            if fewer < bits:
                self.narrowed[module] = fewer
            return y
        raise overflow

    def _on_grid(self, x: Value, grid: Grid) -> Value:
        if (x.scale, x.zero) == (grid.scale, grid.zero) and grid.low <= x.low and x.high <= grid.high:
            return x
        name, b = f"{x.name}.at.{grid.scale:.6g}.{grid.zero}", self.builder
        if name in b.values:
            return b.values[name]
        centred = x if x.zero == 0 else b.binary("subtract", f"{name}.centred", x, x.zero, scale=x.scale)
        return b.requantize(name, centred, grid)

    def _head(self, state: Value) -> tuple[Output, ...]:
        b, encoder = self.builder, self.encoder
        x = b.rearrange("first", "first", state, ("batch", encoder.hidden)) if encoder.first_token else state
        if not encoder.head:
            top = self.ranges.outputs[encoder.blocks[-1].output_norm].largest
            return (Output("last_hidden_state", b.requantize("last_hidden_state", x, stream_grid(top)).name),)
        for index, (module, function) in enumerate(encoder.head):
            x = self._linear(module, x)
            if function is not None:
                x = self._activated(module, x, function, self._grid(encoder.head[index + 1][0]))
        largest = self.ranges.outputs[encoder.head[-1][0]].largest
        logits = b.requantize("logits", x, stream_grid(LOGIT_MARGIN * largest))
        if encoder.loaded.head.kind == "spans":
            return (Output("start_logits", logits.name, 0), Output("end_logits", logits.name, 1))
        return (Output("logits", logits.name),)
