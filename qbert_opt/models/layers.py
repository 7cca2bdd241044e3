"""Layers that multiply a matrix with what they read.

A linear layer's matrix is its weight, `[rows, columns]`. A convolution over positions (`nn.Conv1d` without groups, one
output for each input position) is a linear layer that reads a window: its matrix is `[out, in * kernel]`, its input
the unfolded one. So both are scored, rounded and stored alike. Grouped convolutions, whose outputs read different
inputs, and those that change the number of positions are none of them.
"""

from __future__ import annotations

import torch
from torch import nn

MatrixLayer = nn.Linear | nn.Conv1d


def is_matrix(module: nn.Module) -> bool:
    """Tell whether a module is a linear layer, or a convolution that is one over windows.

    Args:
        module: of a model.
    """
    if not isinstance(module, nn.Conv1d):
        return isinstance(module, nn.Linear)
    [kernel], [dilation] = module.kernel_size, module.dilation
    same = module.padding == "same" or (module.padding == (dilation * (kernel - 1) // 2,) and kernel % 2 == 1)
    return bool(same and module.groups == 1 and module.stride == (1,) and module.padding_mode == "zeros")


def largest_module_list(model: nn.Module) -> list[str]:
    """Return the names of the modules in the list that holds most linear weights: an encoder's blocks; [] for none.

    Args:
        model: of any architecture.
    """
    best: tuple[int, list[str]] = (0, [])
    for list_name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList):
            continue
        weight = sum(m.get_parameter("weight").numel() for m in module.modules() if is_matrix(m))
        if weight > best[0]:
            best = (weight, [f"{list_name}.{index}" for index in range(len(module))])
    return best[1]


def as_matrix(weight: torch.Tensor) -> torch.Tensor:
    """View a weight as its matrix `[rows, columns]`.

    Args:
        weight: of a linear layer, an embedding table or a convolution.
    """
    return weight.flatten(1)


def width_read(layer: MatrixLayer) -> int:
    """Numbers that a layer reads at each position: columns, or channels of a convolution.

    Args:
        layer: a linear layer or a convolution.
    """
    return layer.in_channels if isinstance(layer, nn.Conv1d) else layer.in_features


def width_made(layer: MatrixLayer) -> int:
    """Numbers that a layer makes at each position.

    Args:
        layer: a linear layer or a convolution.
    """
    return layer.out_channels if isinstance(layer, nn.Conv1d) else layer.out_features


def windows(layer: nn.Conv1d, given: torch.Tensor) -> torch.Tensor:
    """Unfold the input `[B, channels, T]` of a convolution to what its matrix is multiplied with, `[B, T, columns]`.

    Args:
        layer: a convolution over tokens.
        given: its input, float `[B, channels, T]`.
    """
    [kernel], [dilation] = layer.kernel_size, layer.dilation
    left = dilation * (kernel - 1) // 2
    right = dilation * (kernel - 1) - left
    padded = nn.functional.pad(given, (left, right)).unsqueeze(2)
    return nn.functional.unfold(padded, (1, kernel), dilation=(1, dilation)).transpose(1, 2)
