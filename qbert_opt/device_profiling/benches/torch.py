"""PyTorch in eager mode on one thread, as `transformers` runs an encoder."""

from __future__ import annotations

from itertools import cycle

import torch
import torch.nn.functional as F

from ...runtime.cpu_timing import Call
from ...spec.forms import ENGINE_BITS
from ..bench import FINE, BenchFormat, Shape, Subject

GROUP_SIZES = (16, 32, 64, 128, 256)
MATRICES = 36  # as in an encoder of six layers: calls cycle through this many matrices, like an inference
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
PRECISIONS = tuple(TYPES)
SHAPES = (
    Shape("narrow", 3, 96, 3, 384),
    Shape("slim", 2, 320, 5, 1280),
    Shape("middle", 4, 448, 7, 1792),
    Shape("wide", 2, 640, 10, 2560),
    Shape("broad", 2, 960, 15, 3840),
)
LENGTHS = (16, 64, 160, 256)


class TorchBench:
    """Kernels and models of torch in one floating-point type; stored weights are dequantized when a model is loaded."""

    def __init__(self, precision: str) -> None:
        self.dtype = TYPES[precision]
        self.activation_bits = 8 * self.dtype.itemsize
        self.engine: str | None = "torch"
        self.label = f"torch {torch.__version__} eager, {precision}, 1 thread"
        self.formats = _formats(precision, self.activation_bits)
        self.grid = FINE
        self.subjects = tuple(Subject(shape, seq_len) for shape in SHAPES for seq_len in LENGTHS)
        self._pools: dict[int, torch.Tensor] = {}
        self._layers: dict[tuple[int, int], list[torch.nn.Linear]] = {}
        self._networks: dict[Shape, torch.nn.Module] = {}
        torch.set_num_threads(1)
        torch.manual_seed(0)

    def nothing(self) -> Call:
        """Return an empty call, since call overhead is part of every operation in eager mode."""
        return lambda: None

    def product(self, form: BenchFormat, rows: int, inputs: int, outputs: int, pool_bytes: int) -> Call:
        """Return a linear layer whose weights are slices of one pool; see `Bench.product`."""
        layers = self._layers.get((inputs, outputs)) or self._slices(inputs, outputs, self._pool(pool_bytes))
        self._layers[inputs, outputs] = layers
        turn, source = cycle(layers), self._random(1, rows, inputs)
        return self._inference(lambda: next(turn)(source))

    def pointwise(self, kind: str, rows: int, width: int) -> Call:
        """Return a pointwise operation that allocates its output, as eager mode does; see `Bench.pointwise`."""
        source, other = self._random(1, rows, width), self._random(1, rows, width)
        if kind == "layernorm":
            norm = torch.nn.LayerNorm(width, dtype=self.dtype)
            return self._inference(lambda: norm(source))
        if kind == "gather":
            table = torch.nn.Embedding(2000, width, dtype=self.dtype)
            indices = torch.randint(2000, (1, rows))
            return self._inference(lambda: table(indices))
        return self._inference((lambda: F.gelu(source)) if kind == "gelu" else (lambda: source + other))

    def attention(self, seq_len: int, heads: int, depth: int) -> Call:
        """Return scaled dot-product attention, with heads split and joined; see `Bench.attention`."""
        query, key, value = (self._random(1, seq_len, heads * depth) for _ in range(3))

        def run() -> torch.Tensor:
            q, k, v = (part.view(1, seq_len, heads, depth).transpose(1, 2) for part in (query, key, value))
            mixed = F.scaled_dot_product_attention(q, k, v)
            return mixed.transpose(1, 2).reshape(1, seq_len, heads * depth)

        return self._inference(run)

    def model(self, subject: Subject) -> Call:
        """Return a `BertModel` of this shape with its pooler; whatever the choices, it runs in floating point."""
        shape = subject.shape
        network = self._networks.get(shape) or self._network(shape)
        self._networks[shape] = network
        tokens = torch.randint(shape.vocabulary, (1, subject.seq_len))
        mask = torch.ones_like(tokens)
        return self._inference(lambda: network(input_ids=tokens, attention_mask=mask))

    def _network(self, shape: Shape) -> torch.nn.Module:
        from transformers import BertModel

        with torch.device("meta"):
            empty = BertModel(shape.config())
        network: torch.nn.Module = empty.to_empty(device="cpu").eval()
        network = network.to(self.dtype)
        network.requires_grad_(False)
        for tensor in (*network.parameters(), *network.buffers()):
            tensor.normal_(0, 0.02) if tensor.is_floating_point() else tensor.zero_()
        return network

    def _slices(self, inputs: int, outputs: int, pool: torch.Tensor) -> list[torch.nn.Linear]:
        size = inputs * outputs
        layers = []
        for index in range(min(MATRICES, max(1, pool.numel() // size))):
            layer = torch.nn.utils.skip_init(torch.nn.Linear, inputs, outputs, dtype=self.dtype)
            weight = pool[index * size : (index + 1) * size].view(outputs, inputs)
            layer.weight = torch.nn.Parameter(weight, requires_grad=False)
            torch.nn.init.zeros_(layer.bias)
            layers.append(layer)
        return layers

    def _random(self, *sizes: int) -> torch.Tensor:
        return torch.randn(*sizes, dtype=self.dtype)

    def _pool(self, size_bytes: int) -> torch.Tensor:
        if size_bytes not in self._pools:
            self._pools[size_bytes] = self._random(size_bytes // self.dtype.itemsize).mul_(0.02)
        return self._pools[size_bytes]

    @staticmethod
    def _inference(call: Call) -> Call:
        def run() -> object:
            with torch.inference_mode():
                return call()

        return run


def bench(precision: str) -> TorchBench:
    """Return the bench of one precision.

    Args:
        precision: floating-point type, one of `PRECISIONS`.
    """
    return TorchBench(precision)


def _formats(precision: str, bits: int) -> tuple[BenchFormat, ...]:
    """Return every stored format; the engine dequantizes all to one floating-point type when it loads a model."""
    floats = [BenchFormat(f"f{width}", width, "none", precision, precision, (), bits) for width in (16, 32)]
    codes = [
        BenchFormat(f"w{width}-{axis}", width, axis, precision, precision, sizes, bits)
        for width in ENGINE_BITS
        for axis, sizes in (("rows", ()), ("columns", GROUP_SIZES))
    ]
    return (*floats, *codes)
