"""How many back-propagations each sample gets, from the outputs of one forward pass.

The noise of a sampled column or of a random sign sum is proportional to the sample's own quadratic form, so a confident
model's few uncertain samples, which carry most of the curvature, also cause most of the noise. They get all columns, or
many draws; the others get one.
"""

from __future__ import annotations

import math

import torch

from ..models.heads import KINDS
from ..models.outputs import Head, Outputs
from .columns import SIGN_DRAWS, TEMPERATURE, FactorPlan, draws_columns, exact_factors, hessian_roots, shares_of

CARRYING_SHARE = 1 / 16  # share of the samples that get all columns
DRAWS_OF_DRAWN = 1  # of texts that were drawn from a pool: more texts cut the error more than more draws of each
MOST_DRAWS = 16
EQUAL = 1e-6  # relative; traces that differ by rounding are equal
TRACE_ROWS = 1 << 10  # rows of outputs in float64 at a time


def softened(head: Head, outputs: Outputs | None = None, weights: tuple[float, ...] | None = None) -> FactorPlan:
    """Return the plan for softened curvature; at temperature 1 for random sign sums, which give only one of the two.

    Args:
        head: how the outputs are read.
        outputs: of all samples, by which the back-propagations are shared out; None: all samples get the same.
        weights: of the samples; None: all 1.
    """
    if exact_factors(head) is None:
        return FactorPlan(draws=SIGN_DRAWS if outputs is None else sign_draws(outputs, weights), weights=weights)
    carrying = None if outputs is None else carrying_samples(head, outputs, weights)
    return FactorPlan(TEMPERATURE, carrying, weights=weights)


def carrying_samples(head: Head, outputs: Outputs, weights: tuple[float, ...] | None = None) -> frozenset[int] | None:
    """Return the samples with the largest output Hessians, softened and not; None if no columns are sampled.

    Args:
        head: how the outputs are read.
        outputs: of all samples.
        weights: of the samples; None: all 1.
    """
    if not draws_columns(head):
        return None
    traces = [hessian_roots(outputs.values, temperature)[0].square().sum(1) for temperature in (TEMPERATURE, 1.0)]
    if weights is not None:
        traces = [trace * trace.new_tensor(weights) for trace in traces]
    shares = shares_of(torch.stack(traces)).sum(0)
    return frozenset(outputs.samples[shares.topk(math.ceil(CARRYING_SHARE * len(shares))).indices].tolist())


def hessian_traces(outputs: Outputs) -> torch.Tensor:
    """Return the trace of each sample's output Hessian at temperature 1, Σ 1 - Σ p² over its rows, float64 `[samples]`.

    Args:
        outputs: of a model with softmax outputs.
    """
    traces = torch.zeros(outputs.num_samples, dtype=torch.float64)
    for values, samples in zip(outputs.values.split(TRACE_ROWS), outputs.samples.split(TRACE_ROWS), strict=True):
        p = values.detach().double().softmax(-1)
        traces.index_add_(0, samples, (1 - p.square().sum(-1)).clamp_min(0).cpu())
    return traces


def sign_draws(outputs: Outputs, weights: tuple[float, ...] | None = None) -> int | tuple[int, ...]:
    """Return how many sign sums each sample gets.

    With traces u of the output Hessians and their size-weighted mean ū = Σu² / Σu, a sample gets ⌈4 u / ū⌉. The noise,
    at most Σ 2 u² / draws, then is at most that of four draws each, while the mean number of draws is at most 4 (Σu)² /
    (n Σu²) + 1: near 5 if all samples are alike (then all get four), near 1 for a confident model. (Neyman 1934:
    draws proportional to a stratum's standard deviation.) Texts drawn from a pool are plentiful, and their weighted
    traces are similar: they get ⌈u / ū⌉.

    Args:
        outputs: of all samples.
        weights: of the samples; None: all 1.

    Returns:
        A number for each sample; `SIGN_DRAWS` for all if the output Hessian does not depend on the text.
    """
    if not KINDS[outputs.kind].loss.softmax:
        return SIGN_DRAWS
    traces = hessian_traces(outputs)
    usual = SIGN_DRAWS
    if weights is not None:
        usual, traces = DRAWS_OF_DRAWN, traces * traces.new_tensor(weights)
    if not traces.any():
        return usual
    typical = traces.square().sum() / traces.sum()
    draws = (usual * traces / typical * (1 - EQUAL)).ceil()
    return tuple(draws.clamp(1, MOST_DRAWS).int().tolist())
