"""Outputs of every kind: which positions count, what their curvature is, and what random signs make of it."""

import copy

import numpy as np
import pytest
import torch
from families import LABELS, tiny_model, tokenizer

from qbert_opt.curvature.columns import SIGN_DRAWS, FactorPlan, combined_factors
from qbert_opt.curvature.factors import factor_pass
from qbert_opt.errors import InputFileError
from qbert_opt.evaluation.evaluate import measure
from qbert_opt.models.batches import single_samples, tokenize
from qbert_opt.models.loading import LoadedModel
from qbert_opt.models.outputs import IMPOSSIBLE, Outputs, answers, collect, head_of, rows_per_sample
from qbert_opt.models.structure import profile_model
from qbert_opt.scoring.metrics.directional import quadratic_forms

KINDS = ("classes", "tags", "spans", "vocabulary", "embeddings", "regression")


def model_of(kind):
    model = tiny_model("bert", "classes" if kind == "regression" else kind)
    if kind == "regression":
        model.config.problem_type = "regression"
    return model.double()


def texts_of(kind, count):
    generator = torch.Generator().manual_seed(3)
    draw = lambda n: " ".join(f"w{i}" for i in torch.randint(0, 59, (n,), generator=generator).tolist())  # noqa: E731
    return [(draw(2), draw(5 + i % 4)) if kind == "spans" else (draw(4 + i % 5),) for i in range(count)]


def batches_of(kind, count=12, size=5):
    return tokenize(tokenizer(), texts_of(kind, count), batch_size=size, kind=kind)


def jacobian(model, head, batch, weight):
    """Dense derivative of all rows by one weight, `[rows * columns, weights]`, by torch's own forward differences."""

    def answer(value):
        inputs = {**dict(model.named_parameters()), weight: value}
        return answers(head, lambda **given: torch.func.functional_call(model, inputs, (), given), batch).values

    value = model.get_parameter(weight).detach()
    return torch.func.jacrev(answer)(value).flatten(2).flatten(0, 1)


def exact_form(kind, values, jacobian, change):
    """½ Σ over rows of δᵀ H δ with δ = J ΔW: H of each row written out densely."""
    moved = (jacobian @ change.flatten()).reshape(values.shape)
    if kind == "embeddings":
        return (moved.square().sum(-1) / values.square().sum(-1)).sum()
    if kind == "regression":
        return moved.square().sum()
    p = values.softmax(-1)
    hessian = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    return (moved[:, None, :] @ hessian @ moved[:, :, None]).sum() / 2


@pytest.mark.parametrize("kind", KINDS)
def test_signs_are_unbiased_against_the_dense_truth(kind):
    """The mean over many draws equals the sum over all columns of all rows within its own standard error."""
    model = model_of(kind)
    head = head_of(model)
    batches = batches_of(kind, 6, 4)
    weight = "encoder.layer.1.output.dense"
    weight = weight if kind == "embeddings" else f"bert.{weight}"
    change = torch.randn(32, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    truth = 0.0
    for batch in batches:
        values = answers(head, model, batch).values.detach()
        truth += exact_form(kind, values, jacobian(model, head, batch, f"{weight}.weight"), change).item()
    truth /= 6 * rows_per_sample(kind, batches)
    draws = 400
    samples = factor_pass(model, batches, [weight], FactorPlan(draws=draws))[weight]
    assert len(samples) == 6
    per_sample = torch.stack([(s.jacobian() * change).sum((1, 2)).square() for s in samples]).double()
    if FactorPlan(draws=draws).most(head) != draws:  # few enough to be exact
        assert per_sample.sum(1).mean() / 2 == pytest.approx(truth, rel=1e-9)
        return
    estimates = draws * per_sample.mean(0) / 2  # of each draw
    error = estimates.std() / draws**0.5
    assert abs(estimates.mean() - truth) < 3.5 * error, (estimates.mean(), truth, error)
    assert error < 0.2 * truth


@pytest.mark.parametrize("kind", KINDS)
def test_a_score_is_the_second_order_of_the_measured_loss(kind):
    """For a small change of any matrix, measured loss over Ω is 1 within what the signs spread."""
    model = model_of(kind)
    head = head_of(model)
    batches = batches_of(kind)
    loaded = LoadedModel("tiny", model, tokenizer(), "")
    reference = collect(head, model, batches)
    modules = [m.module for m in profile_model(loaded).matrices]
    factors = factor_pass(model, batches, modules, FactorPlan(draws=64))
    generator = torch.Generator().manual_seed(1)
    ratios = []
    for module in modules:
        weight = model.get_submodule(module).weight
        change = 1e-5 * torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        found = quadratic_forms(factors[module], change[None])
        with torch.no_grad():
            weight += change
            loss = measure(collect(head, model, batches), None, reference.values).loss
            weight -= change
        ratios.append(loss.value / found.value.item())
    tolerance = 1e-2 if FactorPlan().most(head) != SIGN_DRAWS else 4 * (2 / 64 / 12) ** 0.5 + 0.02
    assert np.mean(ratios) == pytest.approx(1, abs=tolerance / 2)
    assert np.abs(np.array(ratios) - 1).max() < 2 * tolerance


@pytest.mark.parametrize("kind", ["tags", "spans", "vocabulary", "embeddings"])
def test_estimates_do_not_depend_on_batches(kind):
    """The same signs for a sample, whatever else is in its batch and however far it is padded."""
    model = model_of(kind)
    together, alone = batches_of(kind, 7, 7), single_samples(batches_of(kind, 7, 3))
    module = ("" if kind == "embeddings" else "bert.") + "encoder.layer.0.attention.self.value"
    change = torch.randn(1, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = [quadratic_forms(factor_pass(model, b, [module])[module], change).value for b in (together, alone)]
    torch.testing.assert_close(values[0], values[1], rtol=1e-8, atol=0)
    other = quadratic_forms(factor_pass(model, together, [module], FactorPlan(seed=1))[module], change).value
    assert (other - values[0]).abs() > 1e-6 * values[0]


def test_all_matrices_see_the_same_signs():
    """Back-propagating to two matrices at once gives what each alone gives."""
    model = model_of("tags")
    modules = [f"bert.encoder.layer.{i}.output.dense" for i in (0, 1)]
    both = factor_pass(model, batches_of("tags"), modules)
    for module in modules:
        [alone] = factor_pass(model, batches_of("tags"), [module]).values()
        for a, b in zip(both[module], alone, strict=True):
            torch.testing.assert_close(a.gradients, b.gradients)


def test_the_standard_error_shows_the_signs():
    """Over seeds, the spread that the signs add is part of the stated standard error."""
    model = model_of("tags")
    batches = batches_of("tags", 24, 12)
    module = "bert.encoder.layer.1.intermediate.dense"
    change = torch.randn(1, 64, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    runs = [
        quadratic_forms(factor_pass(model, batches, [module], FactorPlan(draws=1, seed=s))[module], change)
        for s in range(60)
    ]
    many = quadratic_forms(factor_pass(model, batches, [module], FactorPlan(draws=512))[module], change)
    spread = torch.stack([r.value for r in runs]).std()
    stated = torch.stack([r.std_error.square() for r in runs]).mean().sqrt()
    expected = (spread.square() + many.std_error.square()).sqrt()  # of the signs and of the samples
    assert 0.7 < stated / expected < 1.4


def test_a_vocabulary_is_never_formed_per_factor():
    """One combination of a vocabulary's columns is as large as its logits; no matrix of columns by columns."""
    rows = Outputs("vocabulary", torch.randn(5, 30_522), torch.arange(5), 5)
    factors = combined_factors(rows, 1.0, 0, 0)
    assert factors.shape == (5, 30_522)
    assert factors.sum(-1).abs().max() < 1e-4  # KL does not see a shift of all logits


def test_which_positions_count():
    """First sub-words of words, the searched text, masked tokens; never padding or special tokens."""
    sub = copy.deepcopy(tokenizer())
    [batch] = tokenize(sub, [("w1 w2-w3 w4",), ("w5",)], batch_size=2, kind="tags")
    assert batch.indices == (1, 0)
    assert batch.labelled[0].nonzero().flatten().tolist() == [1]
    assert batch.labelled[1].nonzero().flatten().tolist() == [1, 2, 5]  # w2 - w3 are three tokens of one word
    [batch] = tokenize(sub, [("w1 w2", "w3 w4 w5"), ("w1", "w2")], batch_size=2, kind="spans")
    assert [row.nonzero().flatten().tolist() for row in batch.labelled] == [[0, 3], [0, 4, 5, 6]]
    found = answers(head_of(tiny_model("bert", "spans")), tiny_model("bert", "spans"), batch)
    assert found.samples.tolist() == [1, 1, 0, 0]
    assert ((found.values == IMPOSSIBLE).sum(1) == torch.tensor([6, 6, 4, 4])).all()
    [batch] = tokenize(
        sub, [(" ".join(f"w{i}" for i in range(20)),), ("w1 [MASK] w2",)], batch_size=2, kind="vocabulary"
    )
    assert batch.labelled.sum(1).tolist() == [1, 3]
    assert (batch.inputs["input_ids"][batch.labelled] == sub.mask_token_id).all()
    assert not (batch.labelled & ~batch.mask).any()


def test_what_does_not_fit_the_outputs_is_said():
    """One line for a pair to a tagger, one text to a reader, no mask token, an unknown head."""
    with pytest.raises(InputFileError, match=r"sample 1 has 2 texts; a model of tags reads one text"):
        batches = tokenize(tokenizer(), [("w1", "w2")], batch_size=1, kind="tags")
    with pytest.raises(InputFileError, match=r"sample 2 has 1 texts; a model of spans reads a question and"):
        tokenize(tokenizer(), [("w1", "w2"), ("w1",)], batch_size=1, kind="spans")
    bare = copy.deepcopy(tokenizer())
    bare.mask_token = None
    with pytest.raises(InputFileError, match=r"its tokenizer has no mask token"):
        tokenize(bare, [("w1",)], batch_size=1, kind="vocabulary")
    many = tiny_model("bert")
    many.config.problem_type = "multi_label_classification"
    with pytest.raises(InputFileError, match=r"multi-label classification"):
        head_of(many)
    choice = type("BertForMultipleChoice", (torch.nn.Module,), {})()
    with pytest.raises(InputFileError, match=r"is a BertForMultipleChoice. Legal: …ForSequenceClassification, "):
        head_of(choice)
    assert LABELS["spans"] == ("start", "end")
    batches = batches_of("classes")
    with pytest.raises(ValueError, match="labels per sample"):
        _ = batches[0].labelled


def test_a_span_head_with_three_outputs_is_refused():
    """Transformers builds it, and fails on the first text with a bare ValueError."""
    from transformers import BertConfig, BertForQuestionAnswering

    small = BertConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    small.num_labels = 3
    with pytest.raises(InputFileError, match=r"my model: its head has 3 outputs; a span head has 2"):
        head_of(BertForQuestionAnswering(small), "my model")
