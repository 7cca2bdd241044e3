"""Folds of the scoring text for cross-fitting: samples that share text are always in the same fold.

Windows of one text overlap, and questions about one paragraph share it. In different folds, they would let a plan be
evaluated on text that chose it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..models.batches import TokenBatch

NUM_FOLDS = 8
MIN_FOLD_SAMPLES = 2


def sample_groups(texts: Sequence[tuple[str, ...]], batches: Sequence[TokenBatch], *, by_context: bool) -> list[int]:
    """Return the group of each sample, numbered from 0 in order; samples of a group share text.

    Args:
        texts: of the data.
        batches: of these texts.
        by_context: whether a text is a question with its context, so that questions with one context share it.
    """
    owners: dict[int, int] = {}
    for batch in batches:
        owners |= dict(zip(batch.indices, batch.indices if batch.texts is None else batch.texts, strict=True))
    keys = [texts[owners[sample]][1] if by_context else owners[sample] for sample in range(len(owners))]
    numbers: dict[str | int, int] = {}
    return [numbers.setdefault(key, len(numbers)) for key in keys]


def assigned_folds(groups: Sequence[int]) -> list[int]:
    """Return the fold of each sample; groups are spread over at most eight folds of sizes as equal as possible.

    Groups of one sample each take the folds in turn.

    Args:
        groups: the group of each sample, see `sample_groups`.

    Returns:
        Folds from 0; none at all if there are fewer than two samples for each of eight folds, or fewer than two groups
        for each of two.
    """
    sizes = [0] * (max(groups, default=-1) + 1)
    for group in groups:
        sizes[group] += 1
    count = min(NUM_FOLDS, len(sizes) // MIN_FOLD_SAMPLES)
    if len(groups) < NUM_FOLDS * MIN_FOLD_SAMPLES or count < 2:
        return []
    filled, fold_of = [0] * count, [0] * len(sizes)
    for group in sorted(range(len(sizes)), key=lambda group: -sizes[group]):
        fold_of[group] = filled.index(min(filled))
        filled[fold_of[group]] += sizes[group]
    return [fold_of[group] for group in groups]


def fold_means(losses: torch.Tensor, groups: Sequence[int]) -> torch.Tensor:
    """Return the mean loss of each fold, `[folds, choices]`; empty if there are too few samples or groups.

    Args:
        losses: float64 `[N, choices]`, in order of the samples.
        groups: the group of each sample.
    """
    folds = torch.tensor(assigned_folds(groups))
    if not len(folds) or not losses.shape[1]:
        return losses[:0]
    return torch.stack([losses[folds == fold].mean(0) for fold in range(int(folds.max()) + 1)])


def group_sums(losses: torch.Tensor, groups: Sequence[int]) -> torch.Tensor:
    """Return the summed loss of each group, `[groups, choices]`.

    Args:
        losses: float64 `[N, choices]`, in order of the samples.
        groups: the group of each sample.
    """
    where = torch.tensor(groups, device=losses.device)
    return losses.new_zeros(max(groups) + 1, losses.shape[1]).index_add_(0, where, losses)
