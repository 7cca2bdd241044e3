"""A table that is also a decoder's output layer: rounding it changes both the embeddings and the logits.

The logits are W h for the table W and the last states h, so a rounding error Δ of the table changes the sum for one
back-propagated factor f by

    Σ_t g_tᵀ Δ[id_t]  +  Σ_t ĝ_tᵀ Δ h_t,

g_t being the gradient at the looked-up row of token t, and ĝ_t the factor's gradient at the output layer. The loss is
half the mean of the squares of these sums, so the two parts are added before squaring: they are errors of the same
numbers. The second part reads every row, whichever tokens the texts have. Both are exact to second order of
the KL, as for a matrix (`metrics/directional`). Errors of a few thousand rows are formed at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from ..curvature.columns import FactorPlan
from ..curvature.factors import SampleFactors, factor_pass
from ..models.outputs import rows_per_sample
from ..models.paging import in_parts
from ..quantization.calibration import weight_of
from ..spec.choices import Choice
from ..spec.profiles import HeadSpec, ModelProfile, TableSpec
from .matrix_factors import batch_parts
from .table_reads import for_each_choice
from .task import ScoringTask

PART_ROWS = 1 << 11  # of the table, whose error is formed at a time


def heads_reading(profile: ModelProfile, table: TableSpec) -> list[HeadSpec]:
    """Return the output layers whose weights a table is.

    Args:
        profile: of the model.
        table: one of its tables.
    """
    return [spec for spec in profile.head if spec.tied_to == table.module]


def tied_factors(
    task: ScoringTask, table: TableSpec, choices: Sequence[Choice], plan: FactorPlan
) -> tuple[list[SampleFactors], torch.Tensor]:
    """Return the factors of a table's lookups, and the contribution of its rounding through the output layers.

    The factors of an output layer are as wide as the vocabulary, so texts are processed in parts that fit in memory,
    and only the sums are kept.

    Args:
        task: model, texts and memory.
        table: shared with output layers.
        choices: to score.
        plan: how the output Hessian is factored; its seed is replaced by the task's.

    Returns:
        One entry per text, in order of their numbers; and Σ_t ĝ_tᵀ Δ h_t, float64 `[factors of all texts, choices]`.

    Raises:
        UsageError: one text's factors do not fit into memory.
    """
    heads = heads_reading(task.profile, table)
    rows = rows_per_sample(task.head.kind, task.batches)
    weight = weight_of(task.model, table.module)
    found: dict[int, tuple[SampleFactors, torch.Tensor]] = {}
    for part in batch_parts(task, max(heads, key=lambda spec: spec.rows), plan):
        names = [table.module, *(spec.module for spec in heads)]
        factors = factor_pass(task.model, part, names, replace(plan, seed=task.seed), task.head, rows)
        lookups = factors[table.module]
        parts = (_sums(task, factors[spec.module], weight, choices) for spec in heads)
        sums = torch.stack(list(parts)).sum(0)
        for sample, moved in zip(lookups, sums.split([len(s.gradients) for s in lookups]), strict=True):
            found[sample.index] = sample, moved
    ordered = [found[index] for index in sorted(found)]
    return [sample for sample, _ in ordered], torch.cat([moved for _, moved in ordered])


def _sums(
    task: ScoringTask, samples: Sequence[SampleFactors], weight: torch.Tensor, choices: Sequence[Choice]
) -> torch.Tensor:
    """Σ_t ĝ_tᵀ Δ h_t of each text's factors, one text after the other, float64 `[factors of all texts, choices]`."""
    states = torch.cat([sample.inputs for sample in samples])
    lengths = [len(sample.inputs) for sample in samples]
    count = sum(len(sample.gradients) for sample in samples)
    sums = torch.zeros(count, len(choices), dtype=torch.float64, device=states.device)
    first = 0
    for rows in in_parts(task.model, weight, PART_ROWS):
        seen = [sample.gradients[:, :, first : first + len(rows)] for sample in samples]

        def moved(error: torch.Tensor, _: int, seen: Sequence[torch.Tensor] = seen) -> torch.Tensor:
            parts = zip(seen, (states @ error.T).split(lengths), strict=True)
            return torch.cat([(gradients * own).sum((1, 2), dtype=torch.float64) for gradients, own in parts])

        sums += for_each_choice(rows, choices, count, task.jobs.processes, moved)
        first += len(rows)
    return sums
