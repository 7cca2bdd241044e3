"""The bench of engines that compile graphs: single operations and whole encoders become models of the engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from ..engines.session import ACTIVATIONS, Activations, Session, engine, exporting_format
from ..formats.affine import AffineMatrix, container_bits
from ..formats.traced_model import TracedModel, quiet_tracing
from ..models.loading import quiet_transformers
from ..quantization.methods import rtn
from ..quantization.quantized_matrix import StoredMatrix
from ..runtime.cpu_timing import Call
from ..spec.choices import choice
from ..spec.forms import ENGINE_BITS
from .bench import COARSE, BenchFormat, Shape, Subject
from .shapes import profile_of

PRECISIONS = ACTIVATIONS
HeldBits = Callable[[int, int | None], int | None]
"""Bits of a code and inputs per group (None: per-row ranges) -> bits per weight in memory; None means as stored."""
GROUP_SIZES = (16, 32, 64, 128)
SHAPES = (
    Shape("slim", 2, 320, 5, 1280, 5000, 256),
    Shape("middle", 4, 448, 7, 1792, 5000, 256),
    Shape("wide", 2, 640, 10, 2560, 5000, 256),
    Shape("broad", 2, 896, 14, 3584, 5000, 256),
)
LENGTHS = (16, 64, 192)
STORED = (
    (),
    ("8bit/rows:each/rtn",),
    ("4bit/columns:64/rtn", "2bit/columns:32/rtn", "8bit/columns:16/rtn", "4bit/columns:32/rtn", "2bit/columns:64/rtn"),
)
MODULES = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention_output": "attention.output.dense",
    "intermediate": "intermediate.dense",
    "output": "output.dense",
}
TABLES = {"word": "word_embeddings", "position": "position_embeddings", "type": "token_type_embeddings"}
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
TABLE_CHOICE = "8bit/rows:each/rtn"


class Opener(Protocol):
    """Opens models and products: the part of `Engine` that a bench needs."""

    def open_model(self, folder: Path, threads: int | None = None, activations: Activations = "int8") -> Session:
        """Open a written model; see `Engine.open_model`."""
        ...

    def product(
        self,
        matrix: AffineMatrix | NDArray[np.float32],
        threads: int | None = None,
        activations: Activations = "int8",
    ) -> Session:
        """Open a single product; see `Engine.product`."""
        ...


def label(engine_label: str, activations: str) -> str:
    """Return the name of a bench in a device file.

    Args:
        engine_label: engine and version.
        activations: how inputs of products are rounded.
    """
    return f"{engine_label}, activations {activations}, 1 thread"


class EngineBench:
    """An engine on one thread; weights have the default form, a scale and an offset."""

    def __init__(self, name: str, activations: Activations, held: HeldBits, opener: Opener | None = None) -> None:
        """Set up a bench without making a model yet.

        Args:
            name: name of the engine.
            activations: how inputs of products are rounded.
            held: bits per weight while the engine runs.
            opener: what opens models and products; None is the engine itself.
        """
        self._format, self._activations = exporting_format(name), activations
        self._engine = opener or engine(name)
        self.engine: str | None = name
        self.label = label(engine(name).label(), activations)
        self.activation_bits = 32
        self.formats = tuple(_formats(held))
        self.grid = COARSE
        self.subjects = tuple(
            Subject(shape, seq_len, stored) for stored in STORED for shape in SHAPES for seq_len in LENGTHS
        )
        self._random = np.random.default_rng(0)
        self._sessions: dict[object, Session] = {}
        torch.manual_seed(0)

    def nothing(self) -> Call:
        """Return the sum of two short rows."""
        return self.pointwise("elementwise", 1, 16)

    def product(self, form: BenchFormat, rows: int, inputs: int, outputs: int, pool_bytes: int) -> Call:
        """Return a single product; its weights stay in the cache, because whole models measure streaming."""
        key = (form.kernel, inputs, outputs)
        if key not in self._sessions:
            self._sessions[key] = self._engine.product(self._weight(form, inputs, outputs), 1, self._activations)
        x = self._random.standard_normal((rows, inputs), dtype=np.float32)
        return self._run(self._sessions[key], x=x)

    def pointwise(self, kind: str, rows: int, width: int) -> Call:
        """Return one operation as a model of its own."""
        x = self._random.standard_normal((1, rows, width), dtype=np.float32)
        if kind == "elementwise":
            return self._run(self._alone(_Sum(), (kind, width), ("x", "y"), width), x=x, y=x)
        if kind == "gather":
            ids = self._random.integers(0, 2000, (1, rows))
            return self._run(self._alone(nn.Embedding(2000, width), (kind, width), ("ids",), width), ids=ids)
        module = nn.LayerNorm(width) if kind == "layernorm" else nn.GELU()
        return self._run(self._alone(module, (kind, width), ("x",), width), x=x)

    def attention(self, seq_len: int, heads: int, depth: int) -> Call:
        """Return scaled dot-product attention, with heads split and joined; see `Bench.attention`."""
        width = heads * depth
        parts = {name: self._random.standard_normal((1, seq_len, width), dtype=np.float32) for name in "qkv"}
        return self._run(self._alone(_Attention(heads), ("attention", heads, depth), tuple(parts), width), **parts)

    def model(self, subject: Subject) -> Call:
        """Return a `BertModel` of this shape with its pooler, quantized by `rtn` if the subject has choices."""
        key = (subject.shape, subject.choices)
        if key not in self._sessions:
            network, stored = _encoder(subject)
            ids = torch.randint(5, 100, (2, 9))
            mask = torch.ones_like(ids)
            mask[1, 5:] = 0  # padding must be traced
            traced = TracedModel(
                _Encoder(network).eval(), INPUTS, ("hidden", "pooled"), (ids, mask, torch.zeros_like(ids)), (3, 2)
            )
            self._sessions[key] = self._written(traced, stored)
        tokens = self._random.integers(5, 100, (1, subject.seq_len))
        arrays = (tokens, np.ones_like(tokens), np.zeros_like(tokens))
        return self._run(self._sessions[key], **dict(zip(INPUTS, arrays, strict=True)))

    def _weight(self, form: BenchFormat, inputs: int, outputs: int) -> Any:
        if form.axis == "none":
            return self._random.standard_normal((outputs, inputs), dtype=np.float32)
        groups = inputs // form.group_sizes[0] if form.group_sizes else 1
        codes = self._random.integers(0, 2**form.bits, (outputs, inputs), dtype=np.uint8)
        scale = self._random.uniform(0.005, 0.02, (outputs, groups)).astype(np.float16)
        return AffineMatrix(form.bits, codes, scale, 2 ** (form.bits - 1), -scale * np.float16(2**form.bits / 2.2))

    def _alone(self, module: nn.Module, key: tuple[object, ...], names: tuple[str, ...], width: int) -> Session:
        if key not in self._sessions:
            is_ids = names == ("ids",)
            example = torch.randint(2000, (2, 9)) if is_ids else torch.randn(2, 9, width)
            traced = TracedModel(module.eval(), names, ("out",), (example,) * len(names), (3,))
            self._sessions[key] = self._written(traced, ())
        return self._sessions[key]

    def _written(self, traced: TracedModel, stored: tuple[StoredMatrix, ...]) -> Session:
        # an open session maps its files; systems that cannot remove mapped files leave them in the temporary folder
        with TemporaryDirectory(prefix="qbert-opt-", ignore_cleanup_errors=True) as folder, quiet_tracing():
            self._format.write(traced, stored, Path(folder), self._activations)
            session: Session = self._engine.open_model(Path(folder), 1, self._activations)
        return session

    def _run(self, session: Session, **inputs: np.ndarray) -> Call:
        return lambda: session.run(inputs)


def _formats(held: HeldBits) -> Iterator[BenchFormat]:
    """Yield every stored format; codes that do not have 2, 4 or 8 bits run in the next larger container."""
    for width in (32, 16):
        yield BenchFormat(f"f{width}", width, "none", "fp32", "fp32", (), 32)
    for bits in ENGINE_BITS:
        wide = container_bits(bits)
        yield BenchFormat(f"w{bits}-rows", bits, "rows", "int8", f"w{wide}-rows", (), held(bits, None))
        for size in GROUP_SIZES:
            kernel = f"w{wide}-columns{size}"
            yield BenchFormat(f"w{bits}-columns{size}", bits, "columns", "int8", kernel, (size,), held(bits, size))


def container(bits: int, group_size: int | None) -> int | None:
    """Return the bits per code in memory if codes are widened when they are loaded; None if they stay as stored.

    Args:
        bits: width of a stored code.
        group_size: inputs per group; ignored.
    """
    wide = container_bits(bits)
    return None if wide == bits else wide


def _encoder(subject: Subject) -> tuple[nn.Module, tuple[StoredMatrix, ...]]:
    """Return a random encoder with dequantized weights, and the matrices as stored."""
    from transformers import BertModel

    shape = subject.shape
    quiet_transformers()
    network = BertModel(subject.shape.config()).eval().requires_grad_(False)
    if not subject.choices:
        return network, ()
    assigned = zip(profile_of(shape).matrices, cycle(subject.choices), strict=False)
    chosen = {f"encoder.layer.{matrix.block}.{MODULES[matrix.kind]}": name for matrix, name in assigned}
    chosen |= {f"embeddings.{table}": TABLE_CHOICE for table in TABLES.values()}
    stored = []
    for module, name in chosen.items():
        weight = network.get_parameter(f"{module}.weight")
        weight.add_(torch.randn_like(weight) * 1e-3)  # otherwise padding rows would be constant
        (quantized,) = rtn.quantize(weight, [choice(name).layout(*weight.shape, heads=shape.heads)])
        weight.copy_(quantized.dequantize())
        stored.append(StoredMatrix(module, quantized))
    return network, tuple(stored)


class _Sum(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x + y


class _Attention(nn.Module):
    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        parts = [part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q, k, v)]
        return F.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)


class _Encoder(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *arrays: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        outputs = self.network(**dict(zip(INPUTS, arrays, strict=True)))
        return outputs.last_hidden_state, outputs.pooler_output
