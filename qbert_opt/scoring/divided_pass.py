"""A factor pass that the processes of a run divide: each runs some of the texts, for the matrices of all.

A batch is run whole by one process, and its factors are those of a run by one process, bit for bit. Each process then
hands the factors of another's matrices on to it, so that a process has its matrices' factors of all texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import zip_longest

import torch

from ..curvature.columns import FactorPlan
from ..curvature.factors import SampleFactors, factor_pass
from ..models.batches import TokenBatch
from ..models.outputs import rows_per_sample
from ..models.paging import release_pages, result_hold
from .task import ScoringTask

TYPES = (torch.float32, torch.float64, torch.int64)
HEADER = 8  # numbers: index, type of inputs, of gradients, tokens, columns, factors, rows, columns of `sharpening`


def pass_over(
    task: ScoringTask, batches: Sequence[TokenBatch], names: Sequence[str], plan: FactorPlan
) -> dict[str, list[SampleFactors]]:
    """Run some samples in this process; their factors are scaled for a mean over the labelled rows of all.

    Args:
        task: model and all scoring texts.
        batches: the samples.
        names: of layers or tables.
        plan: how the output Hessian is factored; its seed is replaced by the task's.
    """
    rows = rows_per_sample(task.head.kind, task.batches)
    return factor_pass(task.model, batches, names, replace(plan, seed=task.seed), task.head, rows or None)


def divided_pass(task: ScoringTask, names: Sequence[Sequence[str]], plan: FactorPlan) -> dict[str, list[SampleFactors]]:
    """Return the factors of this process's layers or tables for all scoring texts; all processes must call this alike.

    Args:
        task: model, texts and processes.
        names: of the layers or tables that each process needs, by rank; several may need the same.
        plan: how the output Hessian is factored; its seed is replaced by the task's.
    """
    team = task.jobs.processes
    if team.count == 1:
        return pass_over(task, task.batches, names[0], plan)
    costs = [batch.mask.numel() * (1.0 + plan.mean_count(task.head, batch.indices)) for batch in task.batches]
    needed = [name for turn in zip_longest(*names) for name in turn]  # in turns, so that no process only takes
    receivers = [rank for turn in zip_longest(*names) for rank in range(len(turn))]
    every = list(dict.fromkeys(name for name in needed if name is not None))
    own = pass_over(task, [task.batches[place] for place in team.share(costs)], every, plan)
    hold, found = result_hold(task.model), dict[str, list[SampleFactors]]()
    for place, (name, rank) in enumerate(zip(needed, receivers, strict=True)):
        if name is None:
            continue
        samples = own[name] if name in needed[place + 1 :] else own.pop(name)
        handed = team.handed_to(rank, partial(_packed, samples))
        if rank == team.rank:
            others = [sample.held(hold) for content in handed for sample in _unpacked(content)]
            found[name] = sorted([*samples, *others], key=lambda sample: sample.index)
        release_pages(task.model)
    return found


def _packed(samples: Sequence[SampleFactors]) -> torch.Tensor:
    """The bytes of samples: their number, a header of each, then inputs, gradients and `sharpening` of each."""
    device = samples[0].inputs.device if samples else torch.device("cpu")
    headers = torch.zeros(len(samples), HEADER, dtype=torch.int64)
    arrays: list[torch.Tensor] = []
    for header, sample in zip(headers, samples, strict=True):
        sharp = sample.sharpening
        types = [TYPES.index(array.dtype) for array in (sample.inputs, sample.gradients)]
        shape = [*sample.inputs.shape, sample.gradients.shape[0], sample.gradients.shape[2]]
        header[:] = torch.tensor([sample.index, *types, *shape, 0 if sharp is None else sharp.shape[1]])
        arrays += [sample.inputs, sample.gradients] + ([] if sharp is None else [sharp.double()])
    parts = [torch.tensor([len(samples)]), headers.flatten(), *arrays]
    return torch.cat([_eights(part.to(device).contiguous()) for part in parts])


def _unpacked(content: torch.Tensor) -> Iterator[SampleFactors]:
    """Undo `_packed`."""
    reader = _Reader(content)
    count = int(reader.next((1,), torch.int64))
    for index, read, given, tokens, columns, factors, rows, sharp in reader.next((count, HEADER), torch.int64).tolist():
        yield SampleFactors(
            index,
            reader.next((tokens, columns), TYPES[read]),
            reader.next((factors, tokens, rows), TYPES[given]),
            reader.next((factors, sharp), torch.float64).float() if sharp else None,
        )


class _Reader:
    """Arrays from bytes, one after the other."""

    def __init__(self, content: torch.Tensor) -> None:
        self._content, self._position = content, 0

    def next(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        count = torch.Size(shape).numel() * dtype.itemsize
        found = self._content[self._position : self._position + count].view(dtype).view(shape)
        self._position += count + -count % 8
        return found


def _eights(array: torch.Tensor) -> torch.Tensor:
    """The bytes of an array, filled up to a multiple of eight, as the addresses of float64 need it."""
    content = array.flatten().view(torch.uint8)
    return torch.nn.functional.pad(content, (0, -len(content) % 8))
