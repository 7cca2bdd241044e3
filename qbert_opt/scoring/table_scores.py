"""The directional metric for embedding tables: the input is a row number, so Σ_t gᵀ ΔW a becomes Σ_t g_tᵀ Δ[id_t].

Only rows that occur in a text affect its loss. Their quantization errors are gathered, one choice at a time, so that
nothing as large as a table is formed.

**Rows that never occur in the scoring texts.** ΔW does not depend on the scoring texts, and a table has one choice as a
whole, so the mean over texts like those in deployment is unbiased: rare words are equally rare in both, and which of
them
occur adds variance but no bias. This does not hold if the deployment's vocabulary differs. The same texts are therefore
scored a second time with each row that occurs once replaced by a random row that never occurs (by Good-Turing, these
are as frequent as new rows in new text); `unseen_factor` is the resulting ratio of scores.

**Rows that would appear free.** The scoring texts may never read a tier of rare rows. A score is at least the expected
cost of rows that they do not read, see `table_reads`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

import torch

from ..curvature.columns import FactorPlan
from ..curvature.factors import SampleFactors
from ..models.paging import pass_bytes, release_pages
from ..quantization.calibration import weight_of
from ..runtime.distributed import ALONE, Processes
from ..spec.choices import Choice
from ..spec.legal import masked_choices, scorable_tables
from ..spec.profiles import TableSpec
from ..spec.score_parts import TableScores
from .divided_pass import divided_pass
from .matrix_factors import factor_tokens
from .table_reads import Reads, for_each_choice, missed_losses, reads_of, unseen_losses, unseen_mass
from .task import ScoringTask
from .tied_tables import heads_reading, tied_factors

CONTAINS = "quantizing one embedding table at a time"


def table_scores(task: ScoringTask, choices: Sequence[Choice], plan: FactorPlan) -> TableScores | None:
    """Score every choice of every table that is read row by row.

    Other tables (relative positions, read once per pair of tokens) are small and keep 8 bits. So do an encoder's tables
    that are shared with an output layer; a decoder's are scored as both, see `tied_tables`.

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
    generator, processes = torch.Generator().manual_seed(task.seed), task.jobs.processes
    rows: dict[str, list[tuple[float | None, ...]]] = {}
    unseen: dict[str, tuple[float, float, float]] = {}
    counted = {} if task.drawn is None else task.drawn.reads
    for group in _groups(task, tables, plan):
        task.note(f"factor pass over {sum(map(len, group))} embedding tables")
        names = [table.module for whole in group for table in whole]
        beside: torch.Tensor | None = None
        if heads_reading(task.profile, group[0][0]):  # in a group of its own
            legal = [c for c in choices if c.name not in masks[names[0]]]
            lookups, beside = tied_factors(task, group[0][0], legal, plan)
            factors = {names[0]: lookups}
        else:
            factors = divided_pass(task, [names] * processes.count, plan)
        for whole in group:
            reads = [reads_of(factors[table.module], table.rows, counted.get(table.module)) for table in whole]
            gram = torch.stack([part.gram for part in reads]).sum(0)
            total = sum(int(part.counts.sum()) for part in reads)
            for table, mine, mass in zip(whole, reads, unseen_mass(reads), strict=True):
                legal = [c for c in choices if c.name not in masks[table.module]]
                weight = weight_of(task.model, table.module)
                losses, share, factor = row_losses(
                    factors.pop(table.module), mine, weight, legal, generator, beside, processes
                )
                least = unseen_losses(mine, gram, mass / len(losses), weight, legal, generator, processes)
                least += missed_losses(mine, gram / len(losses) / max(1, total), weight, legal, processes)
                estimate, lift = task.estimate(losses.cpu()), (least - losses.mean(0)).clamp_min(0).cpu()
                arrays = [estimate.value + lift, estimate.std_error, *(estimate.folds + lift)]
                columns = [c.name not in masks[table.module] for c in choices]
                rows[table.module] = [_spread(array, columns) for array in arrays]
                unseen[table.module] = share, mass, factor
                release_pages(task.model)
    value, std_error, *folds = zip(*(rows[table.module] for table in tables), strict=True)
    shares, masses, ratios = zip(*(unseen[table.module] for table in tables), strict=True)
    return TableScores(
        modules=tuple(table.module for table in tables),
        choices=tuple(c.name for c in choices),
        value=value,
        std_error=std_error,
        fold_value=tuple(folds),
        masks={module: reasons for module, reasons in masks.items() if reasons},
        unseen_rows=shares,
        unseen_reads=masses,
        unseen_factor=ratios,
        contains=CONTAINS,
    )


def row_losses(
    samples: Sequence[SampleFactors],
    reads: Reads,
    weight: torch.Tensor,
    choices: Sequence[Choice],
    generator: torch.Generator,
    beside: torch.Tensor | None = None,
    processes: Processes = ALONE,
) -> tuple[torch.Tensor, float, float]:
    """Compute the loss of each text under each choice of a table, and how much unseen rows matter.

    Args:
        samples: factors of N texts; `inputs` are row numbers, `[T, 1]`.
        reads: how they read the table.
        weight: the table, float32 `[rows, columns]`.
        choices: to score.
        generator: draws the rows that replace rows occurring once.
        beside: what a tied output layer adds to each factor's sum, float64 `[factors of all texts, choices]`; None for
            a table without one.
        processes: those that share the choices.

    Returns:
        Losses, float64 `[N, choices]`; share of the table's rows that never occur; and the ratio of scores with rows
        that occur once replaced by unseen ones.
    """
    ids = torch.cat([sample.inputs[:, 0].long() for sample in samples])
    losses = _losses(samples, ids, weight, choices, beside, processes)
    unread, once = reads.unread, torch.nonzero(reads.counts == 1)[:, 0]
    factor = 1.0
    if len(unread) and len(once):
        stand_in = torch.arange(len(weight), device=ids.device)
        stand_in[once] = unread[torch.randint(len(unread), (len(once),), generator=generator).to(ids.device)]
        moved = _losses(samples, stand_in[ids], weight, choices, beside, processes)
        ratios = moved.mean(0) / losses.mean(0).clamp_min(torch.finfo(torch.float64).tiny)
        factor = float(ratios.median()) if float(losses.sum()) > 0 else 1.0
    return losses, len(unread) / len(weight), factor


def _losses(
    samples: Sequence[SampleFactors],
    ids: torch.Tensor,
    weight: torch.Tensor,
    choices: Sequence[Choice],
    beside: torch.Tensor | None,
    processes: Processes,
) -> torch.Tensor:
    """½ Σ_f (Σ_t g_tᵀ Δ[id_t] + `beside`)² of each text and choice, float64 `[N, choices]`."""
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
    row_of = place[token_of]

    def per_text(error: torch.Tensor, column: int) -> torch.Tensor:
        per_token = (gradients * error[row_of]).sum(-1, dtype=torch.float64)
        sums = per_token.new_zeros(len(spans)) if beside is None else beside[:, column].clone()
        sums.index_add_(0, factor_of, per_token)
        return sums.new_zeros(len(samples)).index_add_(0, sample_of, sums.square()) / 2

    return for_each_choice(rows, choices, len(samples), processes, per_text)


def _spread(values: Iterable[float], legal: Sequence[bool]) -> tuple[float | None, ...]:
    """Return one row of the table, with None for masked choices."""
    remaining = iter(values)
    return tuple(float(next(remaining)) if is_legal else None for is_legal in legal)


def _groups(task: ScoringTask, tables: Sequence[TableSpec], plan: FactorPlan) -> list[list[list[TableSpec]]]:
    """Group tables, each a list of its tiers, into one factor pass if memory allows, else take one at a time.

    A table that an output layer reads is a group of its own.
    """
    own = [[[table]] for table in tables if heads_reading(task.profile, table)]
    rest = [table for table in tables if not heads_reading(task.profile, table)]
    whole = [list(tiers) for _, tiers in groupby(rest, key=lambda table: table.tier_of or table.module)]
    size = 4 * factor_tokens(task, plan, task.batches) * sum(table.columns for table in rest)
    together = size <= pass_bytes(task.model, task.shares.factors)
    return own + ([whole] if whole and together else [[tiers] for tiers in whole])
