"""Scores that only some metrics offer: rounded inputs of matrices, and a decoder's cache."""

from __future__ import annotations

from collections.abc import Sequence

from ..data.texts import LabeledTexts
from ..models.loading import LoadedModel, tokenized
from ..quantization.calibration import BATCH_SIZE
from ..spec.activations import ActivationChoice
from ..spec.score_parts import ActivationScores, CacheScores
from .task import Metric, ScoresActivations, ScoresCache, ScoringTask


def input_scores(
    plugin: Metric,
    task: ScoringTask,
    loaded: LoadedModel,
    fit: LabeledTexts,
    choices: Sequence[ActivationChoice],
) -> ActivationScores | None:
    """Score rounded inputs; None if there are no choices or the metric does not score inputs.

    Args:
        plugin: the metric.
        task: model and scoring texts.
        loaded: the model, with its tokenizer.
        fit: calibration set, which fixes static ranges.
        choices: of the inputs.
    """
    if not choices or not isinstance(plugin, ScoresActivations):
        return None
    batches = tokenized(loaded, fit.texts, batch_size=BATCH_SIZE)
    return plugin.score_activations(task, batches, choices)


def width_scores(plugin: Metric, task: ScoringTask) -> CacheScores | None:
    """Score the widths of a decoder's cache; None for an encoder, or if the metric does not score it.

    Args:
        plugin: the metric.
        task: model and scoring texts.
    """
    return plugin.score_cache(task) if task.profile.causal and isinstance(plugin, ScoresCache) else None
