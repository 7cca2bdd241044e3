"""Tokens are weighted by their influence on the model's output: squared gradients of the loss at the block's output.

This is the second-order term of the output's KL: the Gauss-Newton factor of the outputs (`curvature.columns`) is
back-propagated to each block's output on the float path, and cross terms between tokens and channels are dropped. If a
model classifies by its first token, only that token matters in the last block; plain MSE would fit all tokens equally.
"""

from __future__ import annotations

import numpy as np
import torch

from ...curvature.columns import TEMPERATURE, output_factors
from ...models.outputs import SOFTMAX_KINDS, Outputs, answers
from ...models.tracing import unfrozen
from ..blocks import watched
from ..teacher import Teacher

FLOOR = 0.1  # of the mean: a token without influence now may gain some after later blocks change


def token_weights(teacher: Teacher) -> list[list[torch.Tensor]]:
    """Return `[blocks][batches]` tensors `[B, T]`, of mean 1 over real tokens of all batches, 0 at padding."""
    energies: list[list[torch.Tensor]] = [[] for _ in teacher.blocks]
    model, learned = teacher.loaded.model, [stage[-1] for stage in teacher.stages]
    for index, batch in enumerate(teacher.batches):
        with watched(model, learned) as seen, unfrozen(model), torch.enable_grad():
            rows = answers(teacher.head, model, batch)
            outputs = [calls[-1][1] for calls in seen.values()]
            gradients = torch.autograd.grad(_factor(rows, index), outputs, allow_unused=True)
        for block, gradient in enumerate(gradients):
            energy = torch.zeros(batch.mask.shape) if gradient is None else gradient.square().sum(-1)
            energies[block].append(energy * batch.mask)
    tokens = sum(int(batch.mask.sum()) for batch in teacher.batches)
    weights = []
    for of_block in energies:
        mean = max(sum(float(energy.sum()) for energy in of_block) / tokens, torch.finfo(torch.float32).tiny)
        pairs = zip(of_block, teacher.batches, strict=True)
        weights.append([(FLOOR + (1 - FLOOR) * energy / mean) * batch.mask for energy, batch in pairs])
    return weights


def _factor(rows: Outputs, index: int) -> torch.Tensor:
    """Return a random ±1 sum of the output Hessian's factors, in the graph; its squared gradient is theirs on average.

    Args:
        rows: outputs for a batch.
        index: of the batch; seeds the signs.
    """
    generator = np.random.default_rng(index)
    if rows.kind not in SOFTMAX_KINDS:
        signs = torch.from_numpy(generator.choice([-1.0, 1.0], rows.values.shape)).float()
        return (signs * rows.values).sum()
    factors = output_factors(rows.values.detach(), TEMPERATURE)
    signs = torch.from_numpy(generator.choice([-1.0, 1.0], (len(factors), factors.shape[2], 1))).float()
    return ((factors @ signs)[..., 0] * rows.values).sum()
