"""Q-BERT's sensitivity Ω = |mean λ| + std λ per encoder layer, times ‖ΔW‖² (Shen et al. 2020, equation 1).

λ are the top eigenvalues of the layer's true Hessian on ten slices of the data; negative ones, as on models that have
not converged, are kept. A score is a *sensitivity* times an error norm, not nats.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from ..curvature.hessian import HessianOperator, top_eigenvalue
from ..errors import UsageError
from ..models.batches import TokenBatch
from ..scores import BlockSensitivity
from ._task import Estimate, ScoringTask

LOSS_UNIT = "Q-BERT Ω × ‖ΔW‖² (no loss; ranks only)"
CONTAINS = "top eigenvalue of each encoder layer's Hessian times the squared error of its matrices"
NEEDS_LABELS = True
NUM_SLICES = 10


def score(task: ScoringTask, pending: Sequence[int]) -> Iterator[tuple[int, Estimate]]:
    """Score all matrices of a layer by the layer's Ω."""
    omegas = layer_sensitivities(task)
    task.block_sensitivity.extend(omegas)
    for index in pending:
        matrix = task.profile.matrices[index]
        squared = task.perturbations(matrix).flatten(1).double().square().sum(1)
        found = omegas[matrix.block]
        spread = float(np.std(found.eigenvalues, ddof=1)) / len(found.eigenvalues) ** 0.5
        yield index, Estimate(found.omega * squared, spread * squared)


def layer_sensitivities(task: ScoringTask) -> list[BlockSensitivity]:
    """Return Ω of each encoder layer over all parameters of the layer, from `NUM_SLICES` data slices."""
    if task.labels is None:
        raise ValueError("the qbert metric needs labels: its Hessian is that of the training loss")
    slices = _slices(task)
    found = []
    for block, parameters in enumerate(_block_parameters(task)):
        eigenvalues = []
        for index, batches in enumerate(slices):
            task.note(f"Hessian of layer {block + 1}/{task.profile.num_blocks}, slice {index + 1}/{len(slices)}")
            operator = HessianOperator(task.model, parameters, batches, task.labels)
            eigenvalues.append(top_eigenvalue(operator, seed=task.seed + index))
        omega = abs(float(np.mean(eigenvalues))) + float(np.std(eigenvalues))
        found.append(BlockSensitivity(block=block, omega=omega, eigenvalues=tuple(eigenvalues)))
    return found


def _slices(task: ScoringTask) -> list[list[TokenBatch]]:
    """Cut the samples into ten disjoint slices; a batch is one sample group, so slices mix all lengths."""
    singles = [
        TokenBatch({k: v[i : i + 1, : int(batch.mask[i].sum())] for k, v in batch.inputs.items()}, (index,))
        for batch in task.batches
        for i, index in enumerate(batch.indices)
    ]
    if len(singles) < NUM_SLICES:
        raise UsageError(
            f"--metric qbert: {len(singles)} samples cannot be cut into {NUM_SLICES} slices. "
            f"Score at least {NUM_SLICES}, --scoring-samples."
        )
    return [_padded(singles[start::NUM_SLICES]) for start in range(NUM_SLICES)]


def _padded(singles: list[TokenBatch]) -> list[TokenBatch]:
    """Join single samples to one batch, padded to the longest, pads masked out."""
    length = max(b.mask.shape[1] for b in singles)
    inputs = {
        key: torch.cat([torch.nn.functional.pad(b.inputs[key], (0, length - b.mask.shape[1])) for b in singles])
        for key in singles[0].inputs
    }
    return [TokenBatch(inputs, tuple(index for b in singles for index in b.indices))]


def _block_parameters(task: ScoringTask) -> list[list[torch.nn.Parameter]]:
    """All parameters of each encoder layer, found by the common prefix of its matrices."""
    blocks = []
    for block in range(task.profile.num_blocks):
        names = [m.module.split(".") for m in task.profile.matrices if m.block == block]
        depth = next(i for i, parts in enumerate(zip(*names, strict=False)) if len(set(parts)) > 1)
        blocks.append(list(task.model.get_submodule(".".join(names[0][:depth])).parameters()))
    return blocks
