"""The directional metric for embedding tables: the input is a row number, so Σ_t gᵀ ΔW a becomes Σ_t g_tᵀ Δ[id_t].

Only rows that occur in a text affect its loss. Their quantization errors are gathered, one choice at a time, so that
nothing as large as a table is formed.

**Rows that never occur in the scoring texts.** ΔW does not depend on the scoring texts, and a table has one choice as a
whole, so the mean over texts like the deployment's is unbiased: rare words are equally rare in both, and which of them
occur adds variance but no bias. This does not hold if the deployment's vocabulary differs. The same texts are therefore
scored a second time with each row that occurs once replaced by a random row that never occurs (by Good-Turing, these
are as frequent as new rows in new text); `unseen_factor` is the resulting ratio of scores.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch

from ..curvature.columns import FactorPlan
from ..curvature.factors import SampleFactors, factor_pass
from ..quantization.calibration import quantize_rows, weight_of
from ..spec.choices import Choice
from ..spec.legal import masked_choices, scorable_tables
from ..spec.profiles import TableSpec
from ..spec.score_parts import TableScores
from .matrix_factors import factor_tokens
from .task import Estimate, ScoringTask

CONTAINS = "quantizing one embedding table at a time"
MAX_ERROR_ROWS = 1 << 11  # rows whose error is computed at a time: a few tens of MiB


def table_scores(task: ScoringTask, choices: Sequence[Choice], plan: FactorPlan) -> TableScores | None:
    """Score every choice of every table that is read row by row.

    Other tables (relative positions, read once per pair of tokens) are small and keep 8 bits. So do tables shared with
    an output layer, whose rounding also affects the outputs directly, which this metric does not include.

    Args:
        task: model and scoring texts.
        choices: choices of the tables, all of one quantizer.
        plan: how the output Hessian is factored; its seed is replaced by the task's.

    Returns:
        Scores of shape [tables, choices]; None if there is nothing to score.
    """
    tables = scorable_tables(task.profile)
    if not tables or not choices:
        return None
    masks = {table.module: masked_choices(table, choices, heads=1) for table in tables}
    generator = torch.Generator().manual_seed(task.seed)
    rows: list[list[tuple[float | None, ...]]] = []
    unseen: list[tuple[float, float, float]] = []
    for group in _groups(task, tables, plan):
        task.note(f"factor pass over {len(group)} embedding tables")
        names = [table.module for table in group]
        factors = factor_pass(task.model, task.batches, names, replace(plan, seed=task.seed), task.head)
        for table in group:
            legal = [c for c in choices if c.name not in masks[table.module]]
            weight = weight_of(task.model, table.module)
            losses, share, reads, factor = row_losses(factors.pop(table.module), weight, legal, generator)
            estimate = Estimate.over(losses.cpu(), groups=task.groups)
            arrays = [estimate.value, estimate.std_error, _squared_errors(weight, legal), *estimate.folds]
            columns = [c.name not in masks[table.module] for c in choices]
            rows.append([_spread(array, columns) for array in arrays])
            unseen.append((share, reads, factor))
    value, std_error, weight_error, *folds = zip(*rows, strict=True)
    return TableScores(
        modules=tuple(table.module for table in tables),
        choices=tuple(c.name for c in choices),
        value=value,
        std_error=std_error,
        weight_error=weight_error,
        fold_value=tuple(folds),
        masks={module: reasons for module, reasons in masks.items() if reasons},
        unseen_rows=tuple(u[0] for u in unseen),
        unseen_reads=tuple(u[1] for u in unseen),
        unseen_factor=tuple(u[2] for u in unseen),
        contains=CONTAINS,
    )


def row_losses(
    samples: Sequence[SampleFactors], weight: torch.Tensor, choices: Sequence[Choice], generator: torch.Generator
) -> tuple[torch.Tensor, float, float, float]:
    """Compute the loss of each text under each choice of a table, and how much unseen rows matter.

    Args:
        samples: factors of N texts; `inputs` are row numbers, `[T, 1]`.
        weight: the table, float32 `[rows, columns]`.
        choices: to score.
        generator: draws the rows that replace rows occurring once.

    Returns:
        Losses, float64 `[N, choices]`; share of the table's rows that never occur; share of reads whose row occurs
        once; and the ratio of scores with such rows replaced by unseen ones.
    """
    ids = torch.cat([sample.inputs[:, 0].long() for sample in samples])
    counts = torch.bincount(ids, minlength=len(weight))
    losses = _losses(samples, ids, weight, choices)
    unread, once = torch.nonzero(counts == 0)[:, 0], torch.nonzero(counts == 1)[:, 0]
    factor = 1.0
    if len(unread) and len(once):
        stand_in = torch.arange(len(weight), device=ids.device)
        stand_in[once] = unread[torch.randint(len(unread), (len(once),), generator=generator).to(ids.device)]
        moved = _losses(samples, stand_in[ids], weight, choices)
        ratios = moved.mean(0) / losses.mean(0).clamp_min(torch.finfo(torch.float64).tiny)
        factor = float(ratios.median()) if float(losses.sum()) > 0 else 1.0
    return losses, len(unread) / len(weight), len(once) / len(ids), factor


def _losses(
    samples: Sequence[SampleFactors], ids: torch.Tensor, weight: torch.Tensor, choices: Sequence[Choice]
) -> torch.Tensor:
    """½ Σ_f (Σ_t g_tᵀ Δ[id_t])² of each text and choice, float64 `[N, choices]`."""
    read, place = ids.unique(return_inverse=True)
    rows = weight[read]
    lengths = [len(sample.inputs) for sample in samples]
    gradients = torch.cat([sample.gradients.flatten(0, 1) for sample in samples])  # [ΣFT, columns]
    factors = [len(sample.gradients) for sample in samples]
    tokens = torch.arange(sum(lengths)).split(lengths)
    token_of = torch.cat([part.repeat(count) for part, count in zip(tokens, factors, strict=True)]).to(ids.device)
    sample_of = torch.repeat_interleave(torch.arange(len(samples)), torch.tensor(factors)).to(ids.device)
    spans = [length for length, f in zip(lengths, factors, strict=True) for _ in range(f)]
    factor_of = torch.repeat_interleave(torch.arange(len(spans)), torch.tensor(spans)).to(ids.device)
    columns = []
    for quantized in quantize_rows(rows, choices):
        error = (quantized.dequantize() - rows)[place[token_of]]
        per_token = (gradients * error).sum(-1, dtype=torch.float64)
        sums = per_token.new_zeros(len(spans)).index_add_(0, factor_of, per_token)
        columns.append(sums.new_zeros(len(samples)).index_add_(0, sample_of, sums.square()) / 2)
    return torch.stack(columns, dim=1)


def _squared_errors(weight: torch.Tensor, choices: Sequence[Choice]) -> list[float]:
    """‖ΔW‖² of each choice, a few rows at a time."""
    sums = [0.0] * len(choices)
    for part in weight.split(MAX_ERROR_ROWS):
        for index, quantized in enumerate(quantize_rows(part, choices)):
            sums[index] += float((quantized.dequantize() - part).double().square().sum())
    return sums


def _spread(values: Iterable[float], legal: Sequence[bool]) -> tuple[float | None, ...]:
    """Return one row of the table, with None for masked choices."""
    remaining = iter(values)
    return tuple(float(next(remaining)) if is_legal else None for is_legal in legal)


def _groups(task: ScoringTask, tables: Sequence[TableSpec], plan: FactorPlan) -> list[list[TableSpec]]:
    """Group all tables into one factor pass if their factors fit into memory, else take one at a time."""
    size = 4 * factor_tokens(task, plan, task.batches) * sum(table.columns for table in tables)
    return [list(tables)] if size <= task.shares.factors else [[table] for table in tables]
