"""The measured loss of a changed model, with its standard error."""

from __future__ import annotations

import math

import numpy as np
import torch

from ..models.heads.protocol import per_text
from ..models.outputs import Head, Outputs


def mean_loss(head: Head, truth: Outputs, values: torch.Tensor) -> tuple[float, float]:
    """Return the loss of outputs against the float model's, mean over rows, and its standard error over texts.

    Args:
        head: how the model's outputs are read.
        truth: what the float model returns.
        values: what the changed model returns, in the same order.
    """
    ratio = per_text(truth, head.spec.loss.of_rows(truth.values, values))
    total = float(ratio.below.sum())
    loss = float(ratio.above.sum()) / total
    return loss, math.sqrt(float(np.square(ratio.above - loss * ratio.below).sum())) / total  # of a ratio of sums
