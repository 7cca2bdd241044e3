"""Scores of decoders against the exact second order of the KL, and against small measured changes."""

import numpy as np
import pytest
import torch
from decoders import sentences, tiny_decoder, tokenizer

from qbert_opt.curvature.columns import FactorPlan
from qbert_opt.curvature.factors import factor_pass
from qbert_opt.models.batches import tokenize
from qbert_opt.models.layers import matrix_of
from qbert_opt.models.outputs import collect, head_of
from qbert_opt.scoring.metrics.directional import quadratic_forms
from qbert_opt.scoring.metrics.measured import sample_losses

STEP = 1e-3
MODULES = {
    "llama": ("model.layers.0.self_attn.k_proj", "model.layers.1.mlp.gate_proj"),
    "gpt2": ("transformer.h.0.attn.c_attn", "transformer.h.1.mlp.c_proj"),
}


@pytest.fixture(scope="module", params=MODULES)
def case(request):
    """A decoder in float64, texts of different length in one batch, and a change of two matrices."""
    model = tiny_decoder(request.param).double()
    made = tokenizer(first=request.param == "llama")
    made.model_max_length, made.pad_token, made.padding_side = 40, "</s>", "right"
    batches = tokenize(made, sentences(8, seed=4).texts, batch_size=8, kind="next_tokens")
    generator = torch.Generator().manual_seed(1)
    changes = {
        name: 0.1 * torch.randn(matrix_of(model.get_submodule(name)).shape, generator=generator, dtype=torch.float64)
        for name in MODULES[request.param]
    }
    return head_of(model), model, batches, changes


def changed(head, model, batches, module, change):
    """The rows of the model with one matrix changed."""
    weight = matrix_of(model.get_submodule(module)).detach()
    weight += change
    try:
        return collect(head, model, batches)
    finally:
        weight -= change


def exact(head, model, batches, module, change):
    """Half the mean over rows of zᵀ (diag(p) - p pᵀ) z, z being the logits' derivative along the change."""
    reference = collect(head, model, batches)
    up, down = (changed(head, model, batches, module, sign * STEP * change).values for sign in (1, -1))
    slope, p = (up - down) / (2 * STEP), reference.values.softmax(-1)
    rows = ((p * slope.square()).sum(-1) - (p * slope).sum(-1).square()) / 2
    return rows, reference


def test_scores_are_unbiased_within_their_standard_error(case):
    """Random sign sums over many seeds: the mean is the exact form, and each standard error covers its own draws."""
    head, model, batches, changes = case
    seeds = 16
    passes = [factor_pass(model, batches, list(changes), FactorPlan(seed=seed), head) for seed in range(seeds)]
    for module, change in changes.items():
        rows, _ = exact(head, model, batches, module, change)
        estimates = [quadratic_forms(factors[module], change[None]) for factors in passes]
        values = np.array([float(one.value[0]) for one in estimates])
        assert abs(values.mean() - float(rows.mean())) < 4 * values.std(ddof=1) / seeds**0.5
        # it is over texts and contains the draws, so it is not below the spread over seeds on the same texts
        stated = np.mean([float(one.std_error[0]) ** 2 for one in estimates]) ** 0.5
        assert values.std(ddof=1) < 1.3 * stated < 1.3 * float(rows.mean())


def test_a_small_change_costs_its_score(case):
    """The measured KL of a small change of one matrix, over its square, tends to the exact second order."""
    head, model, batches, changes = case
    for module, change in changes.items():
        rows, reference = exact(head, model, batches, module, change)
        losses = [
            float(sample_losses(reference, changed(head, model, batches, module, size * change)).mean()) / size**2
            for size in (1e-1, 1e-2)
        ]
        errors = [abs(loss / float(rows.mean()) - 1) for loss in losses]
        assert errors[1] < 0.02 and errors[1] < errors[0]
