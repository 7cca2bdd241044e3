"""Attention heads that a plan leaves out."""

from __future__ import annotations

from pydantic import Field, FiniteFloat

from ..runtime.frozen import Frozen
from .score_arrays import Loss


class DroppedHeads(Frozen):
    """Attention heads of the model that a plan leaves out; the plan is of the model with smaller matrices.

    A head's contribution to its layer is replaced by its mean, stored in the bias of the attention's output matrix.

    Attributes:
        heads: by layer, numbers of the heads that it lacks in the whole model, from 0, ascending.
        num_heads: heads of each layer of the whole model.
        means: of each head's output over the tokens of the calibration texts, in order of layers and heads.
        predicted_loss: loss of the float model without all of them, measured on the half of the scoring text that did
            not choose them.
        std_error: of `predicted_loss`, over that text.
    """

    heads: tuple[tuple[int, ...], ...]
    num_heads: int = Field(gt=0)
    means: tuple[tuple[FiniteFloat, ...], ...] = Field(min_length=1)
    predicted_loss: Loss
    std_error: Loss

    @property
    def count(self) -> int:
        """How many are left out."""
        return sum(map(len, self.heads))

    @property
    def kept(self) -> tuple[int, ...]:
        """How many each layer keeps."""
        return tuple(self.num_heads - len(numbers) for numbers in self.heads)

    def means_of(self, layer: int) -> tuple[tuple[float, ...], ...]:
        """Return the means of a layer's heads that are left out.

        Args:
            layer: its number, from 0.
        """
        start = sum(map(len, self.heads[:layer]))
        return self.means[start : start + len(self.heads[layer])]
