"""Q-BERT's sensitivity Ω = |mean λ| + std λ per encoder layer, times ‖ΔW‖² (Shen et al. 2020, equation 1).

λ are the top eigenvalues of the layer's true Hessian on ten slices of the data. Negative values, which occur on models
that have not converged, keep their sign. A score is a *sensitivity* times an error norm, not nats. `qbert-matrix` is
the same per matrix.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from ...spec.score_parts import BlockSensitivity
from ..hessian_operators import (
    NUM_SLICES,
    hessian_operator,
    omega,
    omega_error,
    say_negative,
    settled_eigenpair,
    text_slices,
)
from ..task import Estimate, ScoringTask

LOSS_UNIT = "Q-BERT Ω × ‖ΔW‖² (not a loss; ranks only)"
CONTAINS = "Ω = |mean λ| + std λ of each encoder layer's top Hessian eigenvalue times its matrices' squared error"
NEEDS_LABELS = True


def score(task: ScoringTask, pending: Sequence[int]) -> Iterator[tuple[int, Estimate]]:
    """Score all matrices of a layer by the layer's Ω.

    Args:
        task: model, labelled texts and quantization errors.
        pending: indices of the matrices to score.

    Raises:
        UsageError: fewer texts than slices, or an eigenvalue does not converge.
    """
    omegas = layer_sensitivities(task)
    task.block_sensitivity.extend(omegas)
    negative = [f"layer {layer.block + 1}" for layer in omegas if sum(layer.eigenvalues) < 0]
    if negative:
        say_negative(task, "mean top eigenvalue over slices of the text", negative, f"{len(omegas)} layers")
    for index in pending:
        matrix = task.profile.matrices[index]
        squared = task.squared_errors(matrix)
        layer = omegas[matrix.block]
        yield index, Estimate(layer.omega * squared, omega_error(layer.eigenvalues) * squared, task.num_samples)


def layer_sensitivities(task: ScoringTask) -> list[BlockSensitivity]:
    """Return Ω of each encoder layer, over all parameters of the layer and `NUM_SLICES` slices of the texts.

    Args:
        task: model and labelled texts.
    """
    slices = text_slices(task, "qbert")
    blocks = _block_parameters(task)

    def eigenvalue(key: str) -> list[float]:
        block, part = (int(word) for word in key.split()[1::2])
        task.note(f"Hessian of layer {block + 1}/{len(blocks)}, slice {part + 1}/{len(slices)}")
        operator, _ = hessian_operator(task, blocks[block], [slices[part]])
        return [settled_eigenpair(task, operator, f"layer {block + 1}", task.seed + part).value]

    keys = [[f"layer {block} slice {part}" for part in range(NUM_SLICES)] for block in range(len(blocks))]
    eigenvalues = task.jobs.run([key for row in keys for key in row], eigenvalue)
    rows = [tuple(eigenvalues[key][0] for key in row) for row in keys]
    return [BlockSensitivity(block=block, omega=omega(row), eigenvalues=row) for block, row in enumerate(rows)]


def _block_parameters(task: ScoringTask) -> list[list[torch.nn.Parameter]]:
    """All parameters of each encoder layer, found by the common prefix of its matrices."""
    blocks = []
    for block in range(task.profile.num_blocks):
        names = [m.module.split(".") for m in task.profile.matrices if m.block == block]
        depth = next(i for i, parts in enumerate(zip(*names, strict=False)) if len(set(parts)) > 1)
        blocks.append(list(task.model.get_submodule(".".join(names[0][:depth])).parameters()))
    return blocks
