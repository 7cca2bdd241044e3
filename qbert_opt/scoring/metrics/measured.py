"""Measured loss of each choice of each matrix on the scoring texts, one at a time.

A check of all other metrics, and the slowest: one forward pass over the texts for each choice of each matrix.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from ...models.heads import KINDS
from ...models.layers import matrix_of
from ...models.outputs import Outputs, collect
from ..task import Estimate, ScoringTask

LOSS_UNIT = "nats of KL(reference || quantized) per sample"
CONTAINS = "measured loss of quantizing one matrix at a time"
NEEDS_LABELS = False


def score(task: ScoringTask, pending: Sequence[int]) -> Iterator[tuple[int, Estimate]]:
    """Replace each matrix by its rounded version, run the texts, and restore the weights.

    Args:
        task: model, texts and quantization errors.
        pending: indices of the matrices to score.
    """
    if not pending:
        return
    reference = collect(task.head, task.model, task.batches)
    for index in pending:
        name = task.profile.matrices[index].module
        weight = matrix_of(task.model.get_submodule(name)).detach()
        original = weight.detach().clone()
        losses: list[torch.Tensor] = []
        try:
            for errors in task.perturbations(task.profile.matrices[index]):
                for error in errors:
                    task.note(f"{name}, choice {len(losses) + 1}")
                    with torch.no_grad():
                        weight.copy_(original + error)
                    losses.append(sample_losses(reference, collect(task.head, task.model, task.batches)))
        finally:
            with torch.no_grad():
                weight.copy_(original)
        yield index, Estimate.over(torch.stack(losses, 1).cpu(), groups=task.groups)


def sample_losses(reference: Outputs, quantized: Outputs) -> torch.Tensor:
    """Return the loss of each sample, float64 `[num_samples]`; its mean over samples is the mean over rows.

    The loss of a row is KL(reference || quantized) for softmax outputs and the squared distance for others; for
    embeddings it is relative to the reference's squared length.

    Args:
        reference: outputs of the float model.
        quantized: outputs of the quantized model on the same texts.
    """
    rows = KINDS[reference.kind].loss.of_rows(reference.values, quantized.values)
    sums = torch.zeros(reference.num_samples, dtype=torch.float64, device=rows.device)
    _, places = reference.samples.to(rows.device).unique(return_inverse=True)
    return sums.index_add_(0, places, rows) * (reference.num_samples / len(rows))
