"""What is back-propagated where a sample has many outputs: unbiased sign sums, more of them where the curvature is."""

from itertools import product

import numpy as np
import pytest
import torch
from families import tiny_model, tokenizer
from hypothesis import given
from hypothesis import strategies as st

from qbert_opt.curvature import columns
from qbert_opt.curvature.columns import SIGN_DRAWS, FactorPlan, combined_factors
from qbert_opt.curvature.factors import factor_pass
from qbert_opt.curvature.sharing import MOST_DRAWS, hessian_traces, sign_draws
from qbert_opt.models.batches import tokenize
from qbert_opt.models.outputs import Head, Outputs, collect, head_of
from qbert_opt.models.samples import IMPOSSIBLE

LOGITS = torch.tensor(
    [[0.3, -1.2, 2.0, 0.1], [9.0, -9.0, 40.0, 9.0], [0.0, 0.0, 0.0, 0.0], [5.0, IMPOSSIBLE, 4.0, IMPOSSIBLE]],
    dtype=torch.float64,
)


@pytest.fixture
def tag_model():
    """A tagger whose last layer is sharpened, so that it is sure of some words."""
    model = tiny_model("bert", "tags").double()
    with torch.no_grad():
        model.classifier.weight *= 60
    texts = [(" ".join(f"w{(7 * i + j * j) % 59}" for j in range(3 + i % 3)),) for i in range(12)]
    change = torch.randn(32, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return model, tokenize(tokenizer(), texts, batch_size=5, kind="tags"), "bert.encoder.layer.1.output.dense", change


def outputs_of(values, samples=None):
    samples = torch.arange(len(values)) if samples is None else torch.tensor(samples)
    return Outputs("tags", values, samples, int(samples.max()) + 1)


def second_moments(values, temperature, monkeypatch):
    """E[(B s)(B s)ᵀ] and E[((B s)ᵀ w)⁴] over all signs."""
    moments, fourth = 0.0, 0.0
    signs = list(product((-1.0, 1.0), repeat=values.shape[1]))
    along = torch.tensor([0.7, -0.3, 1.1, 0.2], dtype=torch.float64)
    for chosen in signs:
        monkeypatch.setattr(columns, "_signs", lambda outputs, *_, s=chosen: torch.tensor([s] * len(outputs.values)))
        sums = combined_factors(outputs_of(values), temperature, 0, 0)
        moments = moments + sums[:, :, None] * sums[:, None, :] / len(signs)
        fourth = fourth + (sums @ along) ** 4 / len(signs)
    return moments, fourth - ((moments @ along) @ along) ** 2


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_sign_sums_have_the_output_hessian_as_second_moment(temperature, monkeypatch):
    """Exactly, over all signs: also where a probability is 0 or nearly 1."""
    p = (LOGITS / temperature).softmax(-1)
    hessian = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    moments, _ = second_moments(LOGITS, temperature, monkeypatch)
    torch.testing.assert_close(moments, hessian, rtol=1e-9, atol=1e-16)  # p - p² rounds


def test_two_likely_outputs_make_no_noise(monkeypatch):
    """Where a row wavers between two outputs, one column carries its form, and a draw has no variance."""
    _, variance = second_moments(LOGITS[3:], 1.0, monkeypatch)
    assert variance.abs().max() < 1e-15


def test_signs_belong_to_outputs_by_rank():
    """A column of probability 0 at the end, such as padding of spans, changes nothing."""
    rows = outputs_of(LOGITS[:1])
    padded = outputs_of(torch.nn.functional.pad(LOGITS[:1], (0, 2), value=IMPOSSIBLE))
    torch.testing.assert_close(combined_factors(padded, 1.0, 3, 1)[:, :4], combined_factors(rows, 1.0, 3, 1))


def test_traces_are_sums_over_a_samples_rows():
    p = LOGITS.softmax(-1)
    expected = 1 - p.square().sum(1)
    found = hessian_traces(Outputs("tags", LOGITS, torch.tensor([0, 0, 2, 2]), 4))
    torch.testing.assert_close(found, torch.stack([expected[:2].sum(), 0 * p[0, 0], expected[2:].sum(), 0 * p[0, 0]]))


def test_samples_that_are_alike_get_the_usual_number():
    assert sign_draws(outputs_of(LOGITS[:1].repeat(7, 1))) == (SIGN_DRAWS,) * 7
    assert sign_draws(outputs_of(torch.tensor([[500.0, 0.0], [0.0, 500.0]]))) == SIGN_DRAWS  # no curvature at all
    assert sign_draws(Outputs("embeddings", LOGITS, torch.arange(4), 4)) == SIGN_DRAWS


@given(st.lists(st.floats(-12, 12), min_size=1, max_size=40))
def test_draws_follow_the_traces_without_more_noise(gaps):
    """At most the noise of four draws each (where none is capped), at most 4 / (1 + v) + 1 draws in the mean."""
    values = torch.tensor([[gap, 0.0, -1.0] for gap in gaps], dtype=torch.float64)
    traces, draws = hessian_traces(outputs_of(values)), torch.tensor(sign_draws(outputs_of(values)))
    assert int(draws.min()) >= 1 and int(draws.max()) <= MOST_DRAWS
    order = traces.argsort()
    assert (draws[order].diff() >= 0).all()
    squares = traces.square().sum()
    assert draws.double().mean() <= SIGN_DRAWS * traces.sum() ** 2 / squares / len(gaps) + 1
    if int(draws.max()) < MOST_DRAWS:
        assert (traces.square() / draws).sum() <= squares / SIGN_DRAWS * (1 + 1e-5)


def test_unequal_draws_stay_unbiased(tag_model):
    """Over seeds, the mean of scores with unequal draws is that with all columns, within its standard error."""
    model, batches, module, change = tag_model
    head: Head = head_of(model)
    plan = FactorPlan(draws=sign_draws(collect(head, model, batches)))
    assert isinstance(plan.draws, tuple) and len(set(plan.draws)) > 1

    def losses(plan):
        samples = factor_pass(model, list(plan.batched(head, batches)), [module], plan, head)[module]
        assert [len(sample.gradients) for sample in samples] == [plan.count(head, i) for i in range(len(samples))]
        return np.array([float((s.jacobian() * change).sum((1, 2)).square().sum()) for s in samples])

    for draws in (plan.draws, 1):
        runs = np.array([losses(FactorPlan(draws=draws, seed=seed)) for seed in range(60)])
        truth = losses(FactorPlan(draws=600, seed=1000))
        error = runs.sum(1).std(ddof=1) / len(runs) ** 0.5
        assert abs(runs.sum(1).mean() - truth.sum()) < 3.5 * (error**2 + (truth**2).sum() * 2 / 600) ** 0.5
        assert error < 0.1 * truth.sum()
