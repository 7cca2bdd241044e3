"""One choice at a time, really measured: the loss of each (matrix, choice) on the scoring text.

The check of every other metric, and the slowest: one forward pass over the text for each choice of each matrix.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from ...models.heads import KINDS
from ...models.outputs import Outputs, collect
from ..task import Estimate, ScoringTask

LOSS_UNIT = "nats of KL(reference || quantized) per sample"
CONTAINS = "measured loss of rounding encoder matrices, each alone"
NEEDS_LABELS = False


def score(task: ScoringTask, pending: Sequence[int]) -> Iterator[tuple[int, Estimate]]:
    """Put each rounded matrix into the model, run the text, put the weights back."""
    if not pending:
        return
    reference = collect(task.head, task.model, task.batches)
    for index in pending:
        name = task.profile.matrices[index].module
        weight = task.model.get_parameter(f"{name}.weight")
        original = weight.detach().clone()
        losses: list[torch.Tensor] = []
        try:
            for errors in task.perturbations(task.profile.matrices[index]):
                for error in errors:
                    task.note(f"{name}, choice {len(losses) + 1}")
                    with torch.no_grad():
                        weight.copy_(original + error.view_as(original))
                    losses.append(sample_losses(reference, collect(task.head, task.model, task.batches)))
        finally:
            with torch.no_grad():
                weight.copy_(original)
        yield index, Estimate.over(torch.stack(losses, 1).cpu())


def sample_losses(reference: Outputs, found: Outputs) -> torch.Tensor:
    """Loss of each sample, float64 `[num_samples]`, whose mean over samples is the mean over rows.

    KL(reference || found) of each row for softmax outputs, the squared distance for numbers, relative to the
    reference's squared length for embeddings.
    """
    rows = KINDS[reference.kind].loss.of_rows(reference.values, found.values)
    sums = torch.zeros(reference.num_samples, dtype=torch.float64, device=rows.device)
    _, places = reference.samples.to(rows.device).unique(return_inverse=True)
    return sums.index_add_(0, places, rows) * (reference.num_samples / len(rows))
