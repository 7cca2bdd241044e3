"""Input statistics weighted by gradients: against autograd token by token, and what padding and shares do."""

import copy

import pytest
import torch

from qbert_opt.curvature.capture import input_grams
from qbert_opt.curvature.columns import FactorPlan
from qbert_opt.curvature.guidance import TEMPERATURE, guided_grams
from qbert_opt.errors import UsageError
from qbert_opt.models.batches import TokenBatch, tokenize
from qbert_opt.models.structure import profile_model
from qbert_opt.quantization.calibration import MatrixQuantizer
from qbert_opt.quantization.methods import guided
from qbert_opt.spec.choices import choice


@pytest.fixture(scope="module")
def modules(tiny):
    return [m.module for m in profile_model(tiny).matrices]


def batches_of(tiny, texts, batch_size):
    return tokenize(tiny.tokenizer, texts.texts[:24], batch_size=batch_size)


def by_hand(model, batches, module):
    """`Σ_t tr(g_t g_tᵀ) a_t a_tᵀ` sample by sample, with g for each class from the square root of the softmax."""
    layer = model.get_submodule(module)
    total = 0
    for batch in batches:
        assert len(batch.indices) == 1
        kept = []
        handle = layer.register_forward_hook(lambda _m, args, out, kept=kept: kept.append((args[0].detach(), out)))
        logits = model(**batch.inputs).logits
        handle.remove()
        p = (logits.detach() / TEMPERATURE).softmax(-1)[0]
        hessian = torch.diag(p) - torch.outer(p, p)
        [(inputs, outputs)] = kept
        jacobian = torch.stack([torch.autograd.grad(z, outputs, retain_graph=True)[0][0] for z in logits[0]])
        weights = torch.einsum("ctr,cd,dtr->t", jacobian, hessian, jacobian)  # tr over rows of gᵀ H g
        total = total + torch.einsum("t,ti,tj->ij", weights, inputs[0], inputs[0])
    return total


def test_weighted_moments_against_autograd(tiny, sentences, modules):
    """All of it by gradients, padded batches against single sentences by hand."""
    name = modules[7]
    plain = input_grams(tiny.model, batches_of(tiny, sentences, 8), [name])
    found = guided_grams(tiny.model, batches_of(tiny, sentences, 8), plain, 1.0)[name]
    expected = by_hand(tiny.model, batches_of(tiny, sentences, 1), name)
    torch.testing.assert_close(found, expected / expected.diagonal().mean(), rtol=1e-4, atol=1e-5)


def test_a_share_of_nothing_is_the_plain_moments(tiny, sentences, modules):
    """Share 0 is the plain gram to scale, and shares mix in a straight line."""
    batches = batches_of(tiny, sentences, 8)
    plain = input_grams(tiny.model, batches, modules)
    found = {share: guided_grams(tiny.model, batches, plain, share) for share in (0.0, 0.5, 1.0)}
    for name in modules:
        torch.testing.assert_close(found[0.0][name], plain[name] / plain[name].diagonal().mean())
        torch.testing.assert_close(found[0.5][name], (found[0.0][name] + found[1.0][name]) / 2)
        assert torch.linalg.eigvalsh(found[1.0][name].double()).min() > -1e-4


def test_the_quantizer_takes_them(tiny, sentences):
    """`guided` gives what its file gives on blended moments; without text it says so."""
    profile = profile_model(tiny)
    matrix, asked = profile.matrices[5], choice("2bit/columns:32/guided")
    [found] = MatrixQuantizer(tiny, profile, "guided", sentences).quantize(matrix, [asked])
    batches = tokenize(tiny.tokenizer, sentences.texts, batch_size=16)
    grams = guided_grams(tiny.model, batches, input_grams(tiny.model, batches, [matrix.module]), guided.GRADIENT_SHARE)
    weight = tiny.model.get_parameter(f"{matrix.module}.weight").detach()
    layout = asked.layout(matrix.rows, matrix.columns, heads=profile.heads)
    [expected] = guided.quantize(weight, [layout], grams[matrix.module])
    torch.testing.assert_close(found.dequantize(), expected.dequantize(), rtol=0.05, atol=0.05)
    assert (found.codes == expected.codes).float().mean() > 0.99
    with pytest.raises(UsageError, match="`method` guided: needs calibration text"):
        MatrixQuantizer(tiny, profile, "guided", None)


def rows_by_hand(model, batches, module, answer):
    """`Σ_t ‖B s‖²`-weighted moments are noisy; their mean over signs is `Σ_t tr(gᵀ H g) a aᵀ` over labelled rows."""
    layer, total = model.get_submodule(module), 0
    for batch in batches:
        kept = []
        handle = layer.register_forward_hook(lambda _m, args, out, kept=kept: kept.append((args[0].detach(), out)))
        rows = answer(model, batch)
        handle.remove()
        [(inputs, outputs)] = kept
        for row in rows:
            p = (row.detach() / TEMPERATURE).softmax(-1)
            hessian = torch.diag(p) - torch.outer(p, p)
            jacobian = torch.stack([torch.autograd.grad(z, outputs, retain_graph=True)[0][0] for z in row])
            weights = torch.einsum("ctr,cd,dtr->t", jacobian, hessian, jacobian)
            total = total + torch.einsum("t,ti,tj->ij", weights, inputs[0], inputs[0])
    return total


def _word_rows(model, batch):
    return model(**batch.inputs).logits[batch.positions]


def _span_rows(model, batch):
    found = model(**batch.inputs)
    where = batch.positions[0]
    return [found.start_logits[0][where], found.end_logits[0][where]]


def masking(tiny):
    """The tokenizer with a mask token."""
    tokenizer = copy.deepcopy(tiny.tokenizer)
    tokenizer.mask_token = "[UNK]"
    return tokenizer


POSITIONS = {
    "tags": ("BertForTokenClassification", {"num_labels": 5}, _word_rows),
    "spans": ("BertForQuestionAnswering", {"num_labels": 2}, _span_rows),
    "vocabulary": ("BertForMaskedLM", {}, _word_rows),
}


@pytest.mark.parametrize("kind", POSITIONS)
def test_heads_that_answer_per_position(tiny, sentences, kind, monkeypatch):
    """Words, places and masked tokens keep their positions, in batches as alone; many signs come near all columns."""
    import transformers

    architecture, fields, answer = POSITIONS[kind]
    torch.manual_seed(1)
    config = transformers.BertConfig(
        **tiny.model.config.to_dict() | fields | {"num_labels": fields.get("num_labels", 2)}
    )
    model = getattr(transformers, architecture)(config).eval()
    texts = [(t[0], t[0]) if kind == "spans" else t for t in sentences.texts[:12]]
    batches = tokenize(masking(tiny), texts, batch_size=4, kind=kind)
    alone = tokenize(masking(tiny), texts, batch_size=1, kind=kind)
    name = "bert.encoder.layer.0.output.dense"
    plain = input_grams(model, batches, [name])
    monkeypatch.setattr(
        "qbert_opt.curvature.guidance.FactorPlan", lambda temperature: FactorPlan(temperature, draws=64)
    )
    found = guided_grams(model, batches, plain, 1.0)[name]
    torch.testing.assert_close(guided_grams(model, alone, plain, 1.0)[name], found, rtol=1e-3, atol=1e-4)
    expected = rows_by_hand(model, alone, name, answer)
    expected = expected / expected.diagonal().mean()
    assert (found - expected).norm() < 0.1 * expected.norm()


def test_texts_without_an_answer_are_left_out(tiny, sentences):
    """A batch in which no token is masked weighs nothing; the others count as if it were not there."""
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(1)
    model = BertForMaskedLM(BertConfig(**tiny.model.config.to_dict())).eval()
    batches = tokenize(masking(tiny), sentences.texts[:8], batch_size=4, kind="vocabulary")
    silent = TokenBatch(batches[0].inputs, (90, 91, 92, 93), torch.zeros_like(batches[0].labelled))
    name = "bert.encoder.layer.0.output.dense"
    plain = input_grams(model, batches, [name])
    found = guided_grams(model, [silent, *batches], plain, 0.5)[name]
    assert torch.equal(found, guided_grams(model, batches, plain, 0.5)[name])
    torch.testing.assert_close(
        guided_grams(model, [silent], plain, 0.5)[name], plain[name] / plain[name].diagonal().mean()
    )
