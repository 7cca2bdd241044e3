"""Linear layers, convolutions and embedding tables that hold packed codes and unpack them in each call."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from ..errors import InputFileError
from ..models.layers import TransposedLinear, as_weight, is_linear, matrix_of, table_scale
from ..quantization.activation_quant import Rounder
from ..spec.allocation import Allocation
from ..spec.choices import Layout
from ..spec.planned import PlannedMatrix, PlannedTable
from .stored_tensors import CODES, part_shapes, restored

CODES_BUFFER = "codes"


class Packed(nn.Module):
    """A weight `[rows, columns]` in packed form: buffers with the shapes and types of the file.

    The codes are in the buffer `codes`; `weight` dequantizes them for code that reads it.
    """

    def __init__(self, layout: Layout, rows: int, columns: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.layout, self.rows, self.columns, self.dtype = layout, rows, columns, dtype
        shapes = part_shapes(layout, rows, columns)
        self.names = {part: CODES_BUFFER if part == CODES else part for part in shapes}
        for part, (shape, kind) in shapes.items():
            self.register_buffer(self.names[part], torch.empty(shape, dtype=kind))

    def held(self) -> dict[str, torch.Tensor]:
        """The packed tensors by part."""
        return {part: self.get_buffer(name) for part, name in self.names.items()}

    @property
    def weight(self) -> torch.Tensor:
        """The dequantized weights `[rows, columns]`, recomputed at each access."""
        parts = self.held()
        matrix = restored(self.layout, self.rows, self.columns, {name: part.cpu() for name, part in parts.items()})
        return matrix.dequantize().to(parts[CODES].device, self.dtype)


class PackedLinear(Packed):
    """`x @ weight.T + bias`, unpacked in each call: as small as the file, slower than floats.

    `rounder` rounds x if the plan quantizes it. `transposed` says that the float layer stores `weight.T`, as in GPT-2.
    """

    rounder: Rounder | None = None

    def __init__(self, layout: Layout, original: nn.Linear | TransposedLinear) -> None:
        rows, columns = matrix_of(original).shape
        super().__init__(layout, rows, columns, original.weight.dtype)
        self.in_features, self.out_features = columns, rows
        self.bias, self.transposed = original.bias, isinstance(original, TransposedLinear)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `[..., rows]`."""
        if self.rounder is not None:
            (x,) = self.rounder(self, (x,))
        return functional.linear(x, self.weight, self.bias)

    def plain(self) -> nn.Linear | TransposedLinear:
        """The layer with float weights, stored as in the original."""
        layer: nn.Linear | TransposedLinear
        if self.transposed:
            with torch.device("meta"):
                layer = TransposedLinear(self.rows, self.columns)
        else:
            layer = nn.Linear(self.columns, self.rows, bias=self.bias is not None, device="meta", dtype=self.dtype)
        layer.weight = nn.Parameter(as_weight(layer, self.weight).contiguous(), requires_grad=False)
        layer.bias = self.bias
        if self.rounder is not None:
            layer.register_forward_pre_hook(self.rounder)
        return layer


class PackedConv1d(Packed):
    """A convolution that keeps the number of positions, unpacked in each call; its matrix has a row per channel."""

    def __init__(self, layout: Layout, original: nn.Conv1d) -> None:
        rows, columns = matrix_of(original).shape
        super().__init__(layout, rows, columns, original.weight.dtype)
        self.bias, self.shape, [self.dilation] = original.bias, tuple(original.weight.shape), original.dilation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `[B, rows, T]` of `[B, channels, T]`."""
        weight = self.weight.view(self.shape)
        return functional.conv1d(x, weight, self.bias, padding="same", dilation=self.dilation)

    def plain(self) -> nn.Conv1d:
        """The layer with float weights."""
        rows, channels, kernel = self.shape
        layer = nn.Conv1d(
            channels, rows, kernel, padding="same", dilation=self.dilation, bias=self.bias is not None,
            device="meta", dtype=self.dtype,
        )  # fmt: skip
        layer.weight, layer.bias = nn.Parameter(self.weight.view(self.shape), requires_grad=False), self.bias
        return layer


class PackedEmbedding(Packed):
    """An embedding table; if rows start at whole bytes, only the rows that are read are unpacked."""

    def __init__(self, layout: Layout, original: nn.Embedding) -> None:
        super().__init__(layout, original.num_embeddings, original.embedding_dim, original.weight.dtype)
        self.num_embeddings, self.embedding_dim = original.num_embeddings, original.embedding_dim
        self.padding_idx, self.kind, self.factor = original.padding_idx, type(original), table_scale(original)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return `[..., columns]` of ids `[...]`."""
        rows = self._rows(ids)
        return rows if self.factor == 1.0 else rows * self.factor

    def _rows(self, ids: torch.Tensor) -> torch.Tensor:
        if self.layout.form == "zero-point" or not self.layout.fill_bytes(self.columns):
            return functional.embedding(ids, self.weight)
        used, places = torch.unique(ids, return_inverse=True)
        layout, held = self.layout, self.held()
        codes = held.pop(CODES).reshape(self.rows, -1)[used].reshape(-1)
        if layout.axis == "rows":
            per_row = {name: part[used // layout.group_size] for name, part in held.items()}
            layout = Layout(layout.bits, "rows", len(used), 1, layout.form)
        else:
            per_row = {name: part[used] for name, part in held.items()}
            layout = Layout(layout.bits, "columns", len(used) * per_row_groups(layout, self.columns),
                            layout.group_size, layout.form)  # fmt: skip
        parts = {name: part.cpu() for name, part in per_row.items()} | {CODES: codes.cpu()}
        rows = restored(layout, len(used), self.columns, parts).dequantize().to(ids.device, self.dtype)
        return functional.embedding(places, rows)

    def plain(self) -> nn.Embedding:
        """The table with float weights."""
        table = nn.Embedding(self.rows, self.columns, self.padding_idx, device="meta", dtype=self.dtype)
        if self.factor != 1.0:
            table = self.kind(self.rows, self.columns, self.padding_idx, embed_scale=self.factor)  # type: ignore[call-arg]
        table.weight = nn.Parameter(self.weight, requires_grad=False)
        return table


class TiedLinear(nn.Module):
    """A linear layer whose weight is a packed embedding table (tied weights of masked language models)."""

    def __init__(self, table: PackedEmbedding, original: nn.Linear) -> None:
        super().__init__()
        self.table = (table,)  # in a tuple: its buffers are the table's own
        self.in_features, self.out_features, self.bias = original.in_features, original.out_features, original.bias

    @property
    def weight(self) -> torch.Tensor:
        """The table's weights."""
        return self.table[0].weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `[..., rows]`."""
        return functional.linear(x, self.weight, self.bias)


def per_row_groups(layout: Layout, columns: int) -> int:
    """Return the number of ranges in one row of a table with column groups.

    Args:
        layout: of the table.
        columns: its width.
    """
    return columns // layout.group_size


def quantized_parts(allocation: Allocation) -> list[PlannedMatrix | PlannedTable]:
    """Return the matrices and then the tables of a plan.

    Args:
        allocation: the plan.
    """
    return [*allocation.matrices, *allocation.tables]


def pack_modules(model: nn.Module, allocation: Allocation) -> None:
    """Replace the quantized layers of a model by packed modules whose codes are still to be loaded.

    Args:
        model: a float model; changed in place.
        allocation: the plan.

    Raises:
        InputFileError: the model has no such module, or one of another shape.
    """
    for planned in quantized_parts(allocation):
        original = dict(model.named_modules()).get(planned.module)
        kind: type[PackedLinear | PackedEmbedding | PackedConv1d]
        if original is not None and is_linear(original):
            kind = PackedLinear
        elif isinstance(original, nn.Conv1d):
            kind = PackedConv1d
        elif isinstance(original, nn.Embedding):
            kind = PackedEmbedding
        else:
            raise InputFileError(f"{planned.module}: is in the plan but not in the model. Quantize the model again.")
        shape = tuple(matrix_of(original).shape)
        if shape != (planned.rows, planned.columns):
            raise InputFileError(
                f"{planned.module}: is {shape[0]} x {shape[1]}, in the plan {planned.rows} x {planned.columns}. "
                "Quantize the model again."
            )
        replace_module(model, original, kind(planned.layout, original))  # type: ignore[arg-type]
    for item in allocation.activations:
        for name in item.modules:
            layer = model.get_submodule(name)
            if isinstance(layer, PackedLinear):
                layer.rounder = Rounder(item.bits, item.low, item.high)
    tied: dict[str, str] = getattr(model, "all_tied_weights_keys", {})  # transformers': target by source
    for target, source in list(tied.items()):
        table = model.get_submodule(source.rpartition(".")[0])
        if isinstance(table, PackedEmbedding):
            reader = model.get_submodule(target.rpartition(".")[0])
            if not isinstance(reader, nn.Linear):
                raise InputFileError(f"{target}: shares a packed table and is no linear layer. Use load_quantized.")
            replace_module(model, reader, TiedLinear(table, reader))
            del tied[target]


def unpack_modules(model: nn.Module) -> None:
    """Replace packed modules by float ones; tied weights stay tied.

    Args:
        model: changed in place.
    """
    plain: dict[int, nn.Linear | TransposedLinear | nn.Conv1d | nn.Embedding] = {}
    for module in list(model.modules()):
        if isinstance(module, PackedLinear | PackedConv1d | PackedEmbedding):
            plain[id(module)] = module.plain()
            replace_module(model, module, plain[id(module)])
    for module in list(model.modules()):
        if isinstance(module, TiedLinear):
            layer = nn.Linear(module.in_features, module.out_features, bias=module.bias is not None, device="meta")
            layer.weight, layer.bias = plain[id(module.table[0])].weight, module.bias
            replace_module(model, module, layer)


def replace_module(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Replace a module at every place where the model uses it; the new one trains if the old one did.

    Args:
        model: changed in place, at every name under which `old` is found.
        old: a module of the model.
        new: its replacement.
    """
    new.train(old.training)
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if child is old:
                setattr(parent, name, new)
