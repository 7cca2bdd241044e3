"""Gauss-Newton factors of every matrix within the memory limit, in one pass or several."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch

from ..curvature.columns import FactorPlan
from ..curvature.factors import EXACT, SampleFactors
from ..curvature.gauss_newton import Curvature, gram_matrix, squared_norms, top_eigenvalue, trace
from ..models.batches import TokenBatch
from ..models.paging import pages_of, pass_bytes, release_pages
from ..spec.profiles import HeadSpec, MatrixSpec
from ..spec.score_parts import MatrixCurvature
from .divided_pass import divided_pass, pass_over
from .task import Estimate, ScoringTask

Part = Callable[[], Sequence[SampleFactors]]
Figure = Callable[[Sequence[Part]], Curvature]

TRACE = "trace of the Gauss-Newton matrix"
EIGENVALUE = "top eigenvalue of the Gauss-Newton matrix"


def factor_parts(task: ScoringTask, pending: Sequence[int], plan: FactorPlan) -> Iterator[tuple[int, list[Part]]]:
    """Yield the factors of each pending matrix, in parts that fit into memory.

    Matrices are processed in groups whose factors fit together; each group costs one pass over the text. A matrix whose
    factors do not fit on their own is split into parts, and each part is recomputed whenever it is called. Several
    processes divide the passes over groups, so that each of them must take all that this yields.

    The factors of a paged model are kept on disk: a group has as many matrices as fit there, and parts are reread.

    Args:
        task: model, texts and memory.
        pending: indices of the matrices.
        plan: how the output Hessian is factored; its seed is replaced by the task's.

    Raises:
        UsageError: one sample's factors do not fit into memory.
    """
    groups = [(group, _chunks(task, group, plan)) for group in _groups(task, pending, plan)]
    schedule = _schedule(task, [group for group, chunks in groups if len(chunks) == 1])
    done = 0
    for group, chunks in groups:
        names = [task.profile.matrices[i].module for i in group]
        if len(chunks) > 1:
            task.note(f"{len(chunks)} factor passes over {names[0]}")
            yield group[0], [_again(task, chunk, names[0], plan) for chunk in chunks]
            continue
        task.note(f"factor pass over {len(group)} matrices")
        factors = divided_pass(task, schedule[done], plan)
        done += 1
        for index, name in zip(group, names, strict=True):
            samples = factors.pop(name)
            if pages_of(task.model) is None:
                yield index, [lambda samples=samples: samples]  # type: ignore[misc]
            else:
                yield index, [_on_disk(task, part) for part in _parts(samples, task.shares.factors)]
    for names_by_rank in schedule[done:]:  # of others, which have more
        divided_pass(task, names_by_rank, plan)


def _chunks(task: ScoringTask, group: Sequence[int], plan: FactorPlan) -> list[list[TokenBatch]]:
    """The texts in parts for which the factors of a group of matrices fit into memory; several only for one matrix."""
    if len(group) > 1:
        return [list(task.batches)]
    return batch_parts(task, task.profile.matrices[group[0]], plan)


def _schedule(task: ScoringTask, groups: Sequence[Sequence[int]]) -> list[list[list[str]]]:
    """Names of the matrices of each process, by rank, in each pass that the processes divide.

    Args:
        task: matrices and processes.
        groups: of this process, one for each of its passes.
    """
    team = task.jobs.processes
    turns = np.zeros((team.count, len(task.profile.matrices)))
    for turn, group in enumerate(groups, start=1):
        turns[team.rank, group] = turn
    turns = team.sum(turns)
    return [
        [[task.profile.matrices[i].module for i in np.flatnonzero(row == turn)] for row in turns]
        for turn in range(1, int(turns.max(initial=0)) + 1)
    ]


def sampled_estimates(
    task: ScoringTask,
    pending: Sequence[int],
    plan: FactorPlan,
    losses: Callable[[Sequence[SampleFactors], torch.Tensor, int], list[torch.Tensor]],
    watched: Mapping[str, Figure] = {},
) -> Iterator[tuple[int, Estimate]]:
    """Score each pending matrix by the mean of a per-sample loss.

    Args:
        task: model, texts and quantization errors.
        pending: indices of the matrices to score.
        plan: how the output Hessian is factored; its seed is replaced by the task's.
        losses: function of samples, ΔW `[choices, rows, columns]` and the bytes it may use; returns float64 `[samples,
            choices]`, and a second array if the first is softened, see `Estimate`.
        watched: some of `figures`, to be computed from the same factors.
    """
    for index, parts in factor_parts(task, pending, plan):
        columns: list[list[torch.Tensor]] = []
        for quantity, measure in watched.items():
            value = measure([_sharpened(part) for part in parts])
            task.jobs.add(f"{quantity} {index}", [value.value, value.std_error])
        for errors in task.perturbations(task.profile.matrices[index]):
            losses_of_parts: list[list[torch.Tensor]] = []
            numbers: list[int] = []
            for part in parts:
                samples = part()
                numbers.extend(sample.index for sample in samples)
                losses_of_parts.append(losses(samples, errors, task.shares.jacobians))
                del samples
            order = torch.tensor(numbers).argsort()
            columns.append([torch.cat(kind).cpu()[order] for kind in zip(*losses_of_parts, strict=True)])
        kinds = (torch.cat(kind, 1) for kind in zip(*columns, strict=True))
        yield index, task.estimate(*kinds)


def figures(task: ScoringTask) -> dict[str, Figure]:
    """Return the curvatures that can be computed from factors, at temperature 1, by name.

    They are exact for these texts if all output columns are back-propagated.

    Args:
        task: number of samples and memory.
    """
    return {
        TRACE: lambda parts: trace(torch.cat([squared_norms(part()) for part in parts])),
        EIGENVALUE: lambda parts: top_eigenvalue(gram_matrix(parts, task.shares.jacobians), task.num_samples),
    }


def curvature_of_factors(task: ScoringTask, quantity: str) -> dict[int, MatrixCurvature]:
    """Compute a curvature of every matrix from its factors at temperature 1, by index of the matrix.

    Args:
        task: model and scoring texts.
        quantity: a key of `figures`.
    """
    keys = _keys(task, quantity)
    costs = [float(matrix.elements) for matrix in task.profile.matrices]
    mine = [int(key.split()[-1]) for key in task.jobs.pending(keys, costs)]
    for index, parts in factor_parts(task, mine, EXACT):
        curvature = figures(task)[quantity](parts)
        task.jobs.add(keys[index], [curvature.value, curvature.std_error])
    return gathered(task, quantity)


def gathered(task: ScoringTask, quantity: str) -> dict[int, MatrixCurvature]:
    """Return a curvature of every matrix, whichever process computed it.

    Args:
        task: matrices and finished jobs.
        quantity: a key of `figures`.

    Returns:
        The curvature of each matrix, by index of the matrix.
    """
    rows = zip(task.profile.matrices, task.jobs.gather(_keys(task, quantity)).values(), strict=True)
    return {
        index: MatrixCurvature(module=matrix.module, quantity=quantity, value=row[0], std_error=row[1])
        for index, (matrix, row) in enumerate(rows)
    }


def _keys(task: ScoringTask, quantity: str) -> list[str]:
    return [f"{quantity} {index}" for index in range(len(task.profile.matrices))]


def _sharpened(part: Part) -> Part:
    return lambda: [sample.at_one() for sample in part()]


def _groups(task: ScoringTask, pending: Sequence[int], plan: FactorPlan) -> Iterator[list[int]]:
    tokens, back = _tokens(task.batches), factor_tokens(task, plan, task.batches)
    limit = pass_bytes(task.model, task.shares.factors)
    group: list[int] = []
    used = 0
    for index in pending:
        matrix = task.profile.matrices[index]
        size = factor_bytes(matrix, tokens, back)
        if group and used + size > limit:
            yield group
            group, used = [], 0
        group.append(index)
        used += size
    if group:
        yield group


def batch_parts(task: ScoringTask, matrix: MatrixSpec | HeadSpec, plan: FactorPlan) -> list[list[TokenBatch]]:
    """Split the texts so that one matrix's factors fit into memory for each part.

    Args:
        task: model, texts and memory.
        matrix: of the model's layers, or an output layer.
        plan: how the output Hessian is factored.

    Raises:
        UsageError: one text's factors do not fit into memory.
    """
    limit = pass_bytes(task.model, task.shares.factors)
    chunks: list[list[TokenBatch]] = [[]]
    used = 0
    for batch in task.batches:
        longest = batch.mask.shape[1]
        one = factor_bytes(matrix, longest, longest * max(plan.count(task.head, index) for index in batch.indices))
        task.shares.refuse_less(task.shares.factors, one, f"{matrix.module}: one sample's factors")
        for piece in batch.split(limit // one):
            size = factor_bytes(matrix, _tokens([piece]), factor_tokens(task, plan, [piece]))
            if chunks[-1] and used + size > limit:
                chunks.append([])
                used = 0
            chunks[-1].append(piece)
            used += size
    return chunks


def _parts(samples: Sequence[SampleFactors], limit: int) -> Iterator[list[SampleFactors]]:
    """Split samples into consecutive parts whose factors fit into memory."""
    part: list[SampleFactors] = []
    used = 0
    for sample in samples:
        if part and used + sample.bytes > limit:
            yield part
            part, used = [], 0
        part.append(sample)
        used += sample.bytes
    yield part


def _on_disk(task: ScoringTask, samples: list[SampleFactors]) -> Part:
    """Return a part of the samples kept on disk, and release the part read before."""

    def compute() -> Sequence[SampleFactors]:
        release_pages(task.model)
        return samples

    return compute


def _again(task: ScoringTask, chunk: Sequence[TokenBatch], name: str, plan: FactorPlan) -> Part:
    return lambda: pass_over(task, chunk, [name], plan)[name]


def _tokens(batches: Sequence[TokenBatch]) -> int:
    return sum(int(batch.mask.sum()) for batch in batches)


def factor_tokens(task: ScoringTask, plan: FactorPlan, batches: Sequence[TokenBatch]) -> int:
    """Return the tokens of all samples, counted once per back-propagation.

    Args:
        task: the model's head.
        plan: how many back-propagations each sample has.
        batches: the samples.
    """
    return sum(
        tokens * plan.count(task.head, index)
        for batch in batches
        for index, tokens in zip(batch.indices, batch.mask.sum(1).tolist(), strict=True)
    )


def factor_bytes(matrix: MatrixSpec | HeadSpec, tokens: int, back_propagated: int) -> int:
    """Return the bytes of a matrix's factors in float32: its inputs, and the gradients at its output.

    Args:
        matrix: shape, and how often one inference uses it.
        tokens: number of tokens, for the inputs.
        back_propagated: number of tokens counted once per back-propagation, for the gradients; see `factor_tokens`.
    """
    uses = matrix.uses if isinstance(matrix, MatrixSpec) else 1
    return 4 * max(1, uses) * (tokens * matrix.columns + back_propagated * matrix.rows)
