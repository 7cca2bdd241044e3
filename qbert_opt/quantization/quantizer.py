"""The interface of a quantizer; each file in `quantization/methods` is one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from ..runtime.plugins import load_as
from ..spec.choices import Layout
from ..spec.forms import Form
from .quantized_matrix import QuantizedMatrix


class Quantizer(Protocol):
    """Rounds a matrix under every layout of a plan or a grid.

    Attributes:
        NEEDS_GRAM: whether it needs second moments of the matrix's inputs on the calibration set.
        FORMS: the forms of range that it can store, the default first.
        GRADIENT_SHARE: share of the moments that weights tokens by their squared gradient, 0 to 1.
    """

    NEEDS_GRAM: bool
    FORMS: tuple[Form, ...]
    GRADIENT_SHARE: float

    def quantize(
        self, weight: torch.Tensor, layouts: Sequence[Layout], gram: torch.Tensor | None = None
    ) -> list[QuantizedMatrix]:
        """Quantize one matrix.

        Args:
            weight: float32 `[rows, columns]`.
            layouts: bits, groups and form of each result.
            gram: second moments of the inputs, float32 `[columns, columns]`, where `NEEDS_GRAM`.

        Returns:
            One result per layout, in their order.
        """
        ...


def quantizer(name: str) -> Quantizer:
    """Load a quantizer by name.

    Args:
        name: of a file in `quantization/methods`, or of a plug-in.

    Raises:
        UsageError: there is no such quantizer.
    """
    return load_as("quantizers", name, Quantizer)
