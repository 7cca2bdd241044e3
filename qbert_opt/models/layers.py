"""Layers that compute a matrix product: linear layers, and convolutions as linear layers over windows.

A linear layer's matrix is its weight, `[rows, columns]`. A convolution over positions (`nn.Conv1d` without groups, one
output for each input position) is a linear layer over windows: its matrix is `[out, in * kernel]` and its input is
unfolded, so both are scored, quantized and stored in the same way. Not supported are grouped convolutions, whose
outputs read different inputs, and convolutions that change the number of positions.

GPT-2's linear layers (transformers' `Conv1D`) store their weight transposed, `[in, out]`. Their matrix is its
transpose: rows are outputs everywhere, and only `matrix_of` and `as_weight` know about the difference.
"""

from __future__ import annotations

from typing import TypeGuard

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

TransposedLinear = Conv1D  # GPT-2's
MatrixLayer = nn.Linear | nn.Conv1d | TransposedLinear


def is_matrix(module: nn.Module) -> bool:
    """Return whether a module is a linear layer, or a convolution that is equivalent to one over windows.

    Args:
        module: any module of a model.
    """
    if not isinstance(module, nn.Conv1d):
        return is_linear(module)
    [kernel], [dilation] = module.kernel_size, module.dilation
    same = module.padding == "same" or (module.padding == (dilation * (kernel - 1) // 2,) and kernel % 2 == 1)
    return bool(same and module.groups == 1 and module.stride == (1,) and module.padding_mode == "zeros")


def is_linear(module: nn.Module) -> TypeGuard[nn.Linear | TransposedLinear]:
    """Return whether a module is a linear layer, whichever way it stores its weight.

    Args:
        module: any module of a model.
    """
    return isinstance(module, nn.Linear | TransposedLinear)


def largest_module_list(model: nn.Module) -> list[str]:
    """Return the names of an encoder's blocks: the members of the module list with the most weights in linear layers.

    Args:
        model: a model of any architecture.

    Returns:
        Names of modules; [] if there is no such list.
    """
    best: tuple[int, list[str]] = (0, [])
    for list_name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList):
            continue
        weight = sum(m.get_parameter("weight").numel() for m in module.modules() if is_matrix(m))
        if weight > best[0]:
            best = (weight, [f"{list_name}.{index}" for index in range(len(module))])
    return best[1]


def matrix_of(layer: nn.Module, weight: torch.Tensor | None = None) -> torch.Tensor:
    """View a layer's weight as its matrix `[rows, columns]`, rows being outputs.

    Args:
        layer: a linear layer, an embedding table or a convolution.
        weight: a tensor with the shape of the layer's weight, such as its gradient; by default the weight itself.
    """
    weight = layer.get_parameter("weight") if weight is None else weight
    return weight.T if isinstance(layer, TransposedLinear) else weight.flatten(1)


def as_weight(layer: nn.Module, matrix: torch.Tensor) -> torch.Tensor:
    """View a matrix `[rows, columns]` as the layer stores it; the inverse of `matrix_of`.

    Args:
        layer: a linear layer, an embedding table or a convolution.
        matrix: matrix of this layer.
    """
    return matrix.T if isinstance(layer, TransposedLinear) else matrix.view(layer.get_parameter("weight").shape)


def table_scale(table: nn.Module) -> float:
    """Return the factor by which an embedding table multiplies the rows that it looks up; Gemma's have one.

    Args:
        table: an embedding table.
    """
    return float(getattr(table, "scalar_embed_scale", 1.0))


def has_own_lookup(table: nn.Embedding) -> bool:
    """Return whether an embedding table does more than look rows up and multiply them.

    Args:
        table: an embedding table of any class, for example one that computes positions from the mask.
    """
    return type(table).forward is not nn.Embedding.forward and not hasattr(table, "scalar_embed_scale")


def width_read(layer: MatrixLayer) -> int:
    """Return the width of a layer's input: columns, or the channels of a convolution.

    Args:
        layer: a linear layer or a convolution.
    """
    if isinstance(layer, nn.Conv1d):
        return layer.in_channels
    return int(matrix_of(layer).shape[1])


def width_made(layer: MatrixLayer) -> int:
    """Return the width of a layer's output.

    Args:
        layer: a linear layer or a convolution.
    """
    return int(matrix_of(layer).shape[0])


def windows(layer: nn.Conv1d, given: torch.Tensor) -> torch.Tensor:
    """Unfold the input `[B, channels, T]` of a convolution to the input of its matrix, `[B, T, columns]`.

    Args:
        layer: a convolution over tokens.
        given: its input, float `[B, channels, T]`.
    """
    [kernel], [dilation] = layer.kernel_size, layer.dilation
    left = dilation * (kernel - 1) // 2
    right = dilation * (kernel - 1) - left
    padded = nn.functional.pad(given, (left, right)).unsqueeze(2)
    return nn.functional.unfold(padded, (1, kernel), dilation=(1, dilation)).transpose(1, 2)
