"""Gauss-Newton factors of the loss, back-propagated to the outputs of linear layers.

`columns` defines what is back-propagated. The gradient of a matrix for one sample is J_n = Σ_t g aᵀ, so it suffices to
keep g and a.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from ..errors import InputFileError
from ..models.batches import TokenBatch, single_samples
from ..models.outputs import Head, Outputs, answers, head_of, rows_per_sample
from ..models.paging import Hold, release_pages, result_hold, spilled
from ..models.tracing import unfrozen
from .capture import Calls, captured, is_per_sample, sample_rows
from .columns import FactorPlan, output_columns

EXACT = FactorPlan()
Read = tuple[int, torch.Size, tuple[int, ...]]  # address, shape and strides of an input


@dataclass(frozen=True, slots=True)
class SampleFactors:
    """Inputs and back-propagated factors of one matrix for one sample.

    Attributes:
        index: the sample's number.
        inputs: float32 `[T, columns]`, the matrix's input at real tokens; all calls concatenated if a forward pass
            uses the matrix more than once.
        gradients: float32 `[F, T, rows]`, gradient at the matrix's output for each output factor.
        sharpening: float32 `[F, F]`; column f combines the factors into one at temperature 1. None if the factors are
            at temperature 1 already, or are random sign sums, which cannot be converted.
    """

    index: int
    inputs: torch.Tensor
    gradients: torch.Tensor
    sharpening: torch.Tensor | None = None

    def at_one(self) -> SampleFactors:
        """Return the factors at temperature 1."""
        if self.sharpening is None:
            return self
        return replace(self, gradients=torch.einsum("fg,ftr->gtr", self.sharpening, self.gradients), sharpening=None)

    def jacobian(self, out: torch.Tensor | None = None, rows: slice = slice(None)) -> torch.Tensor:
        """Return `Σ_t g aᵀ`, the gradient of each factor with respect to the weights, float32 `[F, rows, columns]`.

        Args:
            out: contiguous memory for the result.
            rows: rows of the weights; all by default.
        """
        gradients = self.gradients[:, :, rows]
        factors, tokens, height = gradients.shape
        if out is None:
            out = self.inputs.new_empty(factors, height, self.inputs.shape[1])
        torch.mm(
            gradients.transpose(1, 2).reshape(factors * height, tokens), self.inputs, out=out.view(factors * height, -1)
        )
        return out

    def held(self, hold: Hold) -> SampleFactors:
        """Return the same factors in what `hold` returns for a tensor.

        Args:
            hold: a function that keeps a tensor elsewhere, for example on disk, and returns where it lies as a tensor.
        """
        return replace(self, inputs=hold(self.inputs), gradients=hold(self.gradients))

    @property
    def bytes(self) -> int:
        """Memory of the sample in bytes."""
        return 4 * (self.inputs.numel() + self.gradients.numel())


def factor_pass(
    model: nn.Module,
    batches: Sequence[TokenBatch],
    modules: Sequence[str],
    plan: FactorPlan = EXACT,
    head: Head | None = None,
    rows: float | None = None,
) -> dict[str, list[SampleFactors]]:
    """Run one forward and F backward passes per batch.

    The second-order loss of ΔW is half the mean over samples of the squared products of these factors with ΔW; if
    samples have several labelled positions, it is the mean over positions. F is `plan.count(head, sample)`. The result
    takes `4 * tokens * (columns + F * rows)` bytes per matrix; pass fewer modules to limit it.

    Args:
        model: in evaluation mode.
        batches: the samples; indices may be any distinct numbers.
        modules: names of linear layers.
        plan: how the output Hessian is factored.
        head: how the model's outputs are read; determined by the model's class if None.
        rows: labelled rows per sample, of the mean that the loss is; by default of these samples, and for a part of the
            samples that of all.

    Returns:
        The factors of each matrix by module, one entry per sample, in order of their indices.

    Raises:
        InputFileError: no sample has a labelled position.
    """
    head = head or head_of(model)
    rows = rows_per_sample(head.kind, batches) if rows is None else rows
    if not rows:
        raise InputFileError("none of these texts has a position for which the model has an output. Give other texts.")
    scale = rows**-0.5
    factors: dict[str, dict[int, SampleFactors]] = {name: {} for name in modules}
    waiting = deque(batches)
    hold = result_hold(model)
    with captured(model, modules) as seen, unfrozen(model), torch.enable_grad():
        while waiting:
            batch = waiting.popleft()
            counts = [plan.count(head, index) for index in batch.indices]
            if len(set(counts)) > 1:
                waiting.extendleft(batch.select([c == count for c in counts]) for count in sorted(set(counts)))
                continue
            seen.clear()
            with spilled(model):
                outputs = answers(head, model, batch)
                if len(batch.indices) > 1 and not _all_per_sample(seen, batch.mask):
                    # tensors shared by all samples of a batch have no per-sample gradient: take the samples one by one
                    waiting = deque(single_samples([batch, *waiting]))
                    continue
                for name, samples in _batch_factors(seen, outputs, batch, modules, head, plan, scale):
                    factors[name] |= {index: sample.held(hold) for index, sample in samples.items()}
                    release_pages(model)
    return {name: [samples[i] for i in sorted(samples)] for name, samples in factors.items()}


def _batch_factors(
    seen: dict[str, Calls],
    outputs: Outputs,
    batch: TokenBatch,
    modules: Sequence[str],
    head: Head,
    plan: FactorPlan,
    scale: float | torch.Tensor,
) -> Iterator[tuple[str, dict[int, SampleFactors]]]:
    """Back-propagate all factors of one batch."""
    targets = [call for name in modules for call in seen[name]]
    edges = [call.edge for call in targets if call.edge is not None]
    cotangents, sharp = output_columns(head, outputs, plan)
    # the same tensors for all matrices
    sharpening: list[torch.Tensor | None] = [None] * len(batch.indices) if sharp is None else list(sharp)
    count = plan.count(head, batch.indices[0])
    scale = scale * plan.roots(outputs)
    gradients: list[list[torch.Tensor]] = [[] for _ in targets]  # [call][factor]
    for f, cotangent in enumerate(cotangents):
        grads = torch.autograd.grad(
            outputs.values, edges, grad_outputs=scale * cotangent, retain_graph=f + 1 < count, allow_unused=True
        )
        remaining = iter(grads)
        for per_call, call in zip(gradients, targets, strict=True):
            per_call.append(call.gradient(None if call.edge is None else next(remaining)))
    position = 0
    read: dict[Read, list[torch.Tensor]] = {}  # query, key and value read the same tensor
    for name in modules:
        calls = seen[name]
        inputs = [_once(read, call.inputs, batch.mask) for call in calls]
        parts = [
            [sample_rows(gradient, batch.mask) for gradient in per_call]  # [call][factor][sample]
            for per_call in gradients[position : position + len(calls)]
        ]
        gradients[position : position + len(calls)] = [[] for _ in calls]
        position += len(calls)
        yield (
            name,
            {
                index: SampleFactors(
                    index,
                    _one([rows[n] for rows in inputs]),
                    _stack([_one([part[f][n] for part in parts]) for f in range(count)]),
                    sharpening[n],
                )
                for n, index in enumerate(batch.indices)
            },
        )


def _once(read: dict[Read, list[torch.Tensor]], inputs: torch.Tensor, mask: torch.Tensor) -> list[torch.Tensor]:
    """The rows of each sample; the same tensors for all matrices that read the same input."""
    key = inputs.data_ptr(), inputs.shape, inputs.stride()
    if key not in read:
        read[key] = sample_rows(inputs, mask)
    return read[key]


def _one(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Join along tokens; a single part is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _stack(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Stack factors; a single one is not copied."""
    return parts[0][None] if len(parts) == 1 else torch.stack(list(parts))


def _all_per_sample(seen: dict[str, Calls], mask: torch.Tensor) -> bool:
    return all(is_per_sample(call.inputs, mask) for calls in seen.values() for call in calls)
