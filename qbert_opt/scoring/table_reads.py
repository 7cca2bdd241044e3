"""How often texts use each row of an embedding table, and the cost of rows that the scoring texts do not use.

**Tiers.** Every tier of a table is looked up for every token; a lookup on which the outputs do not depend, because the
row belongs to another tier, does not count. The scoring texts may never read a tier of rare rows, least of all if they
chose the tiers, and it would then appear free. So a score is at least the expected cost of its unread rows: by Good
(1953), new text reads rows that were never read with probability n₁ / N, where n₁ rows were read once in N reads; the
texts do not say which of them, so a tier with n₀ₖ of these n₀ rows has the share n₀ₖ / n₀. With S texts and G the mean
of Σ_f g_f g_fᵀ over the reads of the whole table, the bound is

    (N / S) (n₁ / N) (n₀ₖ / n₀) ½ mean_r Δ_rᵀ G Δ_r,   r over the unread rows of the tier,

a mean over at most `MAX_ERROR_ROWS` rows, drawn at random. Two unread rows in one text are taken as independent.

**Texts drawn from a pool.** Factors then carry the root of their text's weight (`pool`), so that the mean loss of the n
drawn texts, and 1/n times their sum of g gᵀ, are unbiased estimates of the pool's: losses need nothing more. Counts are
taken of the whole pool, whose texts were all read anyway, and are exact for it: c_r reads of row r, R in all, n₀ rows
never read and n₁ read once. The drawn texts say nothing about a row that only other texts of the pool read, but how
often those do is known. So let q_r be the probability that a read is of row r: c_r / R where the pool reads it, else
(n₁ / R) / n₀. Γ
being the sum of g gᵀ over the drawn texts' reads of the whole table, the bound of a tier is

    Σ_r q_r ½ Δ_rᵀ (Γ / n) Δ_r,   r over its rows that no drawn text reads,

because a text of the pool's S has R / S reads in the mean, each of row r with probability q_r, and G = (S / R) Γ / n.
Where every text is drawn, none of these rows has c_r > 0, and this is the bound above.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..curvature.capture import real_tokens
from ..curvature.factors import SampleFactors
from ..models.batches import TokenBatch
from ..models.outputs import Head, Outputs, join, of_rows, rows
from ..models.tracing import of_this_thread
from ..quantization.calibration import quantize_rows
from ..runtime.distributed import ALONE, Processes
from ..spec.choices import Choice
from ..spec.profiles import TableSpec

MAX_ERROR_ROWS = 1 << 11  # rows whose error is computed at a time: a few tens of MiB


@dataclass(frozen=True, slots=True)
class Reads:
    """How texts read a table.

    Attributes:
        counts: how often the scoring texts, or all texts of their pool, read each row, int64 `[rows]`.
        gram: Σ g gᵀ over all reads by the scoring texts and output factors, float32 `[columns, columns]`.
        missed: rows that only other texts of the pool read; None without a pool.
    """

    counts: torch.Tensor
    gram: torch.Tensor
    missed: torch.Tensor | None = None

    @property
    def unread(self) -> torch.Tensor:
        """Rows that no text reads."""
        return torch.nonzero(self.counts == 0)[:, 0]


def reads_of(samples: Sequence[SampleFactors], rows: int, pool: torch.Tensor | None = None) -> Reads:
    """Count the reads of a table that the outputs depend on; of texts from a pool, take the pool's counts.

    Args:
        samples: factors of the scoring texts; `inputs` are row numbers, `[T, 1]`.
        rows: of the table.
        pool: how often the texts of their pool read each row, int64 `[rows]`; None without a pool.
    """
    counted = [s.inputs[s.gradients.abs().amax((0, 2)) > 0, 0].long() for s in samples]
    width = samples[0].gradients.shape[-1]
    gram = samples[0].gradients.new_zeros(width, width)
    for gradients in (sample.gradients.flatten(0, 1) for sample in samples):
        gram.addmm_(gradients.T, gradients)
    own = torch.bincount(torch.cat(counted), minlength=rows)
    if pool is None:
        return Reads(own, gram)
    counts = pool.to(own.device)
    return Reads(counts, gram, torch.nonzero((counts > 0) & (own == 0))[:, 0])


def unseen_mass(reads: Sequence[Reads]) -> list[float]:
    """Return the probability that the next read is of a row never read before, for each tier of a table.

    Args:
        reads: of all tiers; of a whole table, one.
    """
    counts = torch.cat([part.counts for part in reads])
    new = float((counts == 1).sum()) / max(1, int(counts.sum()))
    return [new * len(part.unread) / max(1, int((counts == 0).sum())) for part in reads]


def unseen_losses(
    reads: Reads,
    gram: torch.Tensor,
    mass: float,
    weight: torch.Tensor,
    choices: Sequence[Choice],
    generator: torch.Generator,
    processes: Processes = ALONE,
) -> torch.Tensor:
    """Compute the expected loss of a text through rows of a tier that no scoring text reads, float64 `[choices]`.

    Args:
        reads: of the tier.
        gram: Σ g gᵀ over the reads of all tiers, float32 `[columns, columns]`.
        mass: what `unseen_mass` returns for the tier, divided by the number of texts.
        weight: the tier, float32 `[rows, columns]`.
        choices: to score.
        generator: draws the rows of which the mean is taken.
        processes: those that share the choices.
    """
    unread = reads.unread
    if not len(unread) or not mass:
        return torch.zeros(len(choices), dtype=torch.float64, device=weight.device)
    rows = weight[unread[torch.randperm(len(unread), generator=generator)[:MAX_ERROR_ROWS].to(unread.device)]]
    return mass * _row_forms(rows, gram, choices, processes).mean(0)


def missed_losses(
    reads: Reads, gram: torch.Tensor, weight: torch.Tensor, choices: Sequence[Choice], processes: Processes = ALONE
) -> torch.Tensor:
    """Compute the expected loss of a text through rows that only undrawn texts of the pool read, float64 `[choices]`.

    Args:
        reads: of the table or tier.
        gram: Σ g gᵀ over the reads of all tiers, divided by the number of scoring texts and by the pool's reads.
        weight: the table or tier, float32 `[rows, columns]`.
        choices: to score.
        processes: those that share the choices.
    """
    sums = torch.zeros(len(choices), dtype=torch.float64, device=weight.device)
    missed = () if reads.missed is None or not len(reads.missed) else reads.missed.split(MAX_ERROR_ROWS)
    for part in missed:
        sums += reads.counts[part].double() @ _row_forms(weight[part], gram, choices, processes)
    return sums


def _row_forms(rows: torch.Tensor, gram: torch.Tensor, choices: Sequence[Choice], processes: Processes) -> torch.Tensor:
    """½ Δ_rᵀ G Δ_r of each row under each choice, float64 `[rows, choices]`."""
    return for_each_choice(
        rows, choices, len(rows), processes, lambda error, _: ((error @ gram) * error).sum(1, dtype=torch.float64) / 2
    )


def for_each_choice(
    rows: torch.Tensor,
    choices: Sequence[Choice],
    length: int,
    processes: Processes,
    measure: Callable[[torch.Tensor, int], torch.Tensor],
) -> torch.Tensor:
    """Measure the rounding errors of rows of a table under each choice, each in one process; every process gets all.

    Args:
        rows: float32 `[rows, columns]`.
        choices: to score.
        length: of what `measure` returns.
        processes: those that share the choices; all of them must call this alike.
        measure: given the error, float32 `[rows, columns]`, and the place of its choice; returns float64 `[length]`.

    Returns:
        What it returned, float64 `[length, choices]`.
    """
    found = np.zeros((length, len(choices)))
    if mine := processes.share([1.0] * len(choices)):
        for place, quantized in zip(mine, quantize_rows(rows, [choices[place] for place in mine]), strict=True):
            found[:, place] = measure(quantized.dequantize() - rows, place).cpu()
    return torch.from_numpy(processes.sum(found)).to(rows.device)


@torch.no_grad()
def answers_and_reads(
    head: Head,
    model: nn.Module,
    batches: Sequence[TokenBatch],
    tables: Sequence[TableSpec],
    processes: Processes = ALONE,
) -> tuple[Outputs, list[bool], dict[str, torch.Tensor]]:
    """Run a model over all batches, and count the reads of tables meanwhile; padding is not counted.

    A tier is looked up at every token, and read at those whose row is its own.

    Args:
        head: how the model's outputs are read.
        model: in evaluation mode.
        batches: of tokenized texts.
        tables: whose reads are counted, the tiers of a table one after the other.
        processes: those that share the batches; each gets all answers and counts.

    Returns:
        The answers, in order of the samples; whether all outputs for each batch are finite; and how often each row is
        read, int64 `[rows]`, by table.
    """
    whole = {name: list(parts) for name, parts in groupby(tables, key=lambda table: table.tier_of or table.module)}
    counts = {name: torch.zeros(sum(part.rows for part in parts), dtype=torch.int64) for name, parts in whole.items()}
    device = next(model.parameters()).device
    finite: dict[int, bool] = {}  # by the batch's first sample
    seen: list[tuple[str, torch.Tensor]] = []
    handles = [
        module.register_forward_pre_hook(of_this_thread(_noting(seen, name)))
        for name in whole
        for module in _alike(model, model.get_submodule(name))
    ]

    def values(batch: TokenBatch) -> NDArray[np.floating[Any]]:
        seen.clear()
        raw = head.read(model, batch)
        finite[batch.indices[0]] = bool(torch.isfinite(raw).all())
        found = rows(head.kind, raw, batch).values
        for name, ids in seen:
            # positions that all samples share are looked up once
            read = ids.expand(len(batch.mask), -1).unsqueeze(-1)
            counts[name] += torch.bincount(real_tokens(read, batch.mask)[:, 0].cpu(), minlength=len(counts[name]))
        return found.cpu().numpy()

    try:
        found = [torch.from_numpy(part).to(device) for part in processes.each(batches, values)]
    finally:
        for handle in handles:
            handle.remove()
    outputs = join([of_rows(head.kind, part, batch) for part, batch in zip(found, batches, strict=True)])
    all_counts = {name: torch.from_numpy(processes.sum(own.double().numpy())).long() for name, own in counts.items()}
    infinite = np.array([not finite.get(batch.indices[0], True) for batch in batches], dtype=float)
    return (
        outputs,
        (processes.sum(infinite) == 0).tolist(),
        {
            part.module: mine
            for name, parts in whole.items()
            for part, mine in zip(parts, all_counts[name].split([part.rows for part in parts]), strict=True)
        },
    )


def _noting(seen: list[tuple[str, torch.Tensor]], name: str) -> Callable[..., None]:
    def note(_module: nn.Module, args: tuple[Any, ...]) -> None:
        seen.append((name, args[0].detach()))

    return note


def _alike(model: nn.Module, table: nn.Module) -> list[nn.Module]:
    """Return the tables with the weights of this one, which are read as it is."""
    if not isinstance(table, nn.Embedding):
        return [table]
    return [m for m in model.modules() if isinstance(m, nn.Embedding) and m.weight is table.weight]
