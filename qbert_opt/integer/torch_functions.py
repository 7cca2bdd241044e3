"""Integer functions inside a torch model, for training: their values forward, gradients of the real functions backward.

Softmax and LayerNorm run on the reference executor, as the programs that the compiler builds for them; GELU and tanh
are looked up in tables of all their 65,536 inputs. Attention scores and inputs of GELU have the widest range of any
block, so one program serves all blocks; if a block's own range is narrower, its scale is coarser than the compiler's.
The inputs of LayerNorms differ too much between blocks for that: square roots by shifts have few exact bits and are far
off if sums are small relative to the widest range. So the scale of each call follows from its own largest input,
rounded up to a power of two: at most twice the scale that the compiler would choose for the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from ..errors import UsageError
from ..models.samples import TokenBatch
from ..training.straight_through import straight_through
from .builder import Builder, Grid
from .compiler import SCORE_MARGIN
from .errors import INPUTS, evaluated
from .families import Encoder
from .layers import Norm, add_layer_norm, add_softmax, probability_top, stream_grid
from .nonlinearity import SMALLEST_GELU, Activation, nonlinearity
from .operations import MASK, Value
from .program import Output
from .ranges import observed
from .reference import Reference
from .ways import Ways

MASKED = -1e4  # scores of at most this are padding
SMALLEST_SUM = 1e-3  # the largest input of a LayerNorm is taken to be at least this; below, epsilon dominates
TANH_SPAN = (-8.0, 8.0)  # outside, |tanh| is 1 in 16 bits
Real = torch.Tensor


class IntegerFunctions(TorchFunctionMode):
    """Inside this context, this thread's softmax, GELU, tanh and LayerNorm have the values of integer programs.

    Args:
        ways: method for each function.
        max_tokens: tokens of the longest sample.
        largest_score: greatest magnitude of an attention score.
        span: least and greatest input of GELU.
    """

    def __init__(self, ways: Ways, *, max_tokens: int, largest_score: float, span: tuple[float, float]) -> None:
        super().__init__()
        self._ways, self._tokens, self._span = ways, max_tokens, span
        self._scores = nonlinearity(ways.softmax).score_grid(largest_score)
        self._norms: dict[tuple[int, float, Grid], Callable[[NDArray[np.int64]], NDArray[np.float64]]] = {}
        self._replaced: Mapping[Callable[..., Any], Callable[..., Any]] = {
            functional.scaled_dot_product_attention: self._attention, functional.softmax: self._softmax,
            functional.gelu: self._gelu, torch.tanh: self._tanh, functional.layer_norm: self._layer_norm,
        }  # fmt: skip

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Replace the nonlinear functions; every other function stays as it is."""
        del types
        return self._replaced.get(func, func)(*args, **(kwargs or {}))

    def _attention(
        self, query: Real, key: Real, value: Real, attn_mask: Real | None = None, scale: float | None = None, **_: Any
    ) -> Real:
        scores = torch.matmul(query, key.mT) * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
        if attn_mask is not None and attn_mask.dtype is torch.bool:
            scores = scores.masked_fill(~attn_mask, -torch.inf)
        elif attn_mask is not None:
            scores = scores + attn_mask
        return torch.matmul(self._softmax(scores), value)

    def _softmax(self, scores: Real, *_: Any, **__: Any) -> Real:
        """Return the softmax over the last axis, the only one that encoders use."""
        return straight_through(torch.softmax(scores, -1), lambda _: self._shares(scores.detach()))

    def _gelu(self, x: Real) -> Real:
        return straight_through(functional.gelu(x), lambda _: self._gelu_table(x.detach()))

    def _tanh(self, x: Real) -> Real:
        return straight_through(torch.tanh(x), lambda _: self._tanh_table(x.detach()))

    def _layer_norm(self, x: Real, shape: Sequence[int], weight: Real, bias: Real, eps: float = 1e-5) -> Real:
        """Normalize; gain and offset stay real numbers here, while the compiler rounds them to 15 and 30 bits."""
        normed = functional.layer_norm(x, shape, eps=eps)
        return straight_through(normed, lambda _: self._normed(x.detach(), eps)) * weight + bias

    @cached_property
    def _softmax_program(self) -> Reference:
        mask = Value(MASK, ("batch", "tokens"), 0, 1)
        rows = Value("scores", ("batch", 1, "tokens"), self._scores.low, self._scores.high, self._scores.scale)
        builder = Builder((rows, mask), self._tokens)
        way, top = nonlinearity(self._ways.softmax), probability_top(self._tokens)
        return Reference(builder.finish((Output("y", add_softmax(builder, way, "f", rows, top).name),)))

    def _shares(self, scores: Real) -> Real:
        real = scores > MASKED
        rows = scores.masked_fill(~real, 0.0).reshape(-1, 1, scores.shape[-1]).double().numpy()
        inputs = {"scores": on_grid(rows, self._scores), MASK: real.reshape(-1, scores.shape[-1]).numpy()}
        program = self._softmax_program.program
        [shares] = program.answers(self._softmax_program.run(inputs)).values()
        return torch.from_numpy(shares).to(scores.dtype).reshape(scores.shape)

    @cached_property
    def _gelu_table(self) -> Callable[[Real], Real]:
        return self._activation("gelu", self._span, (SMALLEST_GELU, self._span[1]))

    @cached_property
    def _tanh_table(self) -> Callable[[Real], Real]:
        return self._activation("tanh", TANH_SPAN, (-1.0, 1.0))

    def _activation(
        self, function: Activation, span: tuple[float, float], results: tuple[float, float]
    ) -> Callable[[Real], Real]:
        unit = (span[1] - span[0]) / (INPUTS - 1)
        inputs, to = np.arange(round(span[0] / unit), round(span[0] / unit) + INPUTS), Grid.spanning(*results, 16)
        way = nonlinearity(self._ways.activation)
        table = torch.from_numpy(evaluated(inputs, unit, lambda b, x: way.activation(b, "f", function, x, span, to))[1])

        def looked_up(x: Real) -> Real:
            index = (x.double() / unit).round().clamp(int(inputs[0]), int(inputs[-1])) - int(inputs[0])
            return table[index.long()].to(x.dtype)

        return looked_up

    def _normed(self, x: Real, epsilon: float) -> Real:
        size, largest = x.shape[-1], float(x.abs().max())
        if not math.isfinite(largest):
            return torch.full_like(x, torch.nan)  # as torch answers; the training loop stops there
        grid = stream_grid(2.0 ** math.ceil(math.log2(max(largest, SMALLEST_SUM))))
        key = size, epsilon, grid
        if key not in self._norms:
            self._norms[key] = self._norm_program(*key)
        rows = on_grid(x.reshape(1, -1, size).double().numpy(), grid)
        return torch.from_numpy(self._norms[key](rows)).to(x.dtype).reshape(x.shape)

    def _norm_program(
        self, size: int, epsilon: float, grid: Grid
    ) -> Callable[[NDArray[np.int64]], NDArray[np.float64]]:
        rows = Value("x", ("batch", "tokens", size), grid.low, grid.high, grid.scale)
        builder = Builder((rows,), self._tokens)
        norm = Norm(np.ones(size), np.zeros(size), epsilon)
        made = add_layer_norm(builder, nonlinearity(self._ways.norm), "f", rows, norm)
        running = Reference(builder.finish((Output("y", made.name),)))
        return lambda numbers: running.run({"x": numbers})[made.name] * builder.scale_of(made)


def on_grid(values: NDArray[np.float64], grid: Grid) -> NDArray[np.int64]:
    """Round real numbers to the nearest integers of a grid, halves up, and saturate at its ends.

    Args:
        values: real numbers, of any shape.
        grid: the grid to round to.
    """
    numbers: NDArray[np.int64] = np.clip(np.floor(values / grid.scale + 0.5) + grid.zero, grid.low, grid.high).astype(
        np.int64
    )
    return numbers


def integer_functions(encoder: Encoder, batches: Sequence[TokenBatch], ways: Ways) -> IntegerFunctions:
    """Return the integer functions of a model, with ranges from the calibration set.

    Args:
        encoder: the model.
        batches: the calibration set.
        ways: method for each function.

    Raises:
        InputFileError: the calibration set gives NaN or infinite values.
        UsageError: there are too few texts, or the model uses `gelu_new`, which is no single function in torch.
    """
    if encoder.activation == "gelu_new":
        raise UsageError(f"{encoder.loaded.name}: `nonlinearity` can train through GELU and ReLU, but the model uses "
                         "another form of GELU (gelu_new). Train without it.")  # fmt: skip
    seen = observed(encoder, batches)
    gates = [block.intermediate for block in encoder.blocks]
    gates += [name for name, function in encoder.head if function == "gelu"]
    inner = [seen.outputs[name] for name in gates]
    table = encoder.family.relative
    bias = 0.0 if table is None else float(encoder.module(table).weight.abs().max())
    return IntegerFunctions(
        ways,
        max_tokens=encoder.loaded.longest,
        largest_score=SCORE_MARGIN * (bias + max(scores.largest for scores in seen.scores.values())),
        span=(min(part.low for part in inner), max(part.high for part in inner)),
    )
