"""Integer functions inside a torch model: the reference's values forward, the real functions' gradients backward."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from qbert_opt.checkpoint.reader import load_quantized
from qbert_opt.errors import UsageError
from qbert_opt.integer.builder import Builder, Grid
from qbert_opt.integer.errors import evaluated
from qbert_opt.integer.families import encoder_of
from qbert_opt.integer.layers import add_softmax, probability_top
from qbert_opt.integer.narrow import NarrowExecutor
from qbert_opt.integer.nonlinearity import SMALLEST_GELU, nonlinearity
from qbert_opt.integer.operations import MASK, Value
from qbert_opt.integer.program import Output
from qbert_opt.integer.reference import Reference
from qbert_opt.integer.torch_functions import IntegerFunctions, integer_functions
from qbert_opt.integer.ways import Ways
from qbert_opt.models.loading import tokenized

from .conftest import compiled

WAYS = ("table", "poly", "shift")
TOKENS, HIDDEN = 12, 48
WORST = {"table": (1e-3, 1e-3), "poly": (3e-3, 2e-2), "shift": (5e-2, 3e-2)}  # of exp's share, of GELU


def functions(way):
    return IntegerFunctions(Ways(way, way, way), max_tokens=TOKENS, largest_score=9.0, span=(-5.0, 6.0))


@pytest.fixture
def scores():
    """Attention scores of two samples, the second padded."""
    made = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0)).mul(3).clamp(-8.9, 8.9)
    made[1, ..., 3:] = -torch.inf
    return made


@pytest.mark.parametrize("way", WAYS)
def test_shares_are_those_of_the_program_in_32_bits(way, scores):
    chosen = nonlinearity(way)
    grid = chosen.score_grid(9.0)
    rows = Value("scores", ("batch", 1, "tokens"), grid.low, grid.high, grid.scale)
    builder = Builder((rows, Value(MASK, ("batch", "tokens"), 0, 1)), TOKENS)
    top = probability_top(TOKENS)
    program = builder.finish((Output("y", add_softmax(builder, chosen, "f", rows, top).name),))
    numbers = torch.where(scores.isinf(), 0, scores).double().numpy().reshape(-1, 1, 5)
    numbers = np.floor(numbers / grid.scale + 0.5).astype(np.int64)
    mask = (~scores.isinf()).numpy().reshape(-1, 5).astype(np.int64)
    [integers] = NarrowExecutor(program).run({"scores": numbers, MASK: mask}).values()
    with functions(way):
        found = functional.softmax(scores, dim=-1)
    assert np.array_equal(np.rint(found.double().numpy() * top), integers.reshape(scores.shape))
    assert np.abs(found.double().numpy() * top - integers.reshape(scores.shape)).max() < 2.0**-7
    assert not found[1, ..., 3:].any()
    assert (found - torch.softmax(scores, -1)).abs().max() < WORST[way][0]


@pytest.mark.parametrize("way", WAYS)
def test_gelu_is_that_of_the_program_and_saturates_where_it_does(way):
    unit = 11.0 / 65535
    numbers = np.arange(round(-5 / unit), round(-5 / unit) + 65536)
    to = Grid.spanning(SMALLEST_GELU, 6.0, 16)
    chosen = nonlinearity(way)
    _, wanted = evaluated(numbers, unit, lambda b, x: chosen.activation(b, "f", "gelu", x, (-5.0, 6.0), to))
    x = torch.from_numpy(numbers * unit).float()
    with functions(way):
        found = functional.gelu(x)
        outside = functional.gelu(torch.tensor([-99.0, 99.0]))
        tanh = torch.tanh(x)
    assert np.array_equal(found.numpy(), wanted.astype(np.float32))
    assert outside.tolist() == [found[0].item(), found[-1].item()]
    assert (found - functional.gelu(x)).abs().max() < WORST[way][1]
    assert (tanh - torch.tanh(x)).abs().max() < 4e-2


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("factor", [0.01, 1.0, 700.0])
def test_norms_are_those_of_real_numbers_up_to_16_bits(way, factor):
    """However large the sums of a block are: those of embeddings are small beside the last block's."""
    generator = torch.Generator().manual_seed(0)
    x = factor * (torch.randn(4, 7, HIDDEN, generator=generator) * 3 + 1)
    weight, bias = torch.randn(HIDDEN, generator=generator), torch.randn(HIDDEN, generator=generator)
    with functions(way):
        found = functional.layer_norm(x, (HIDDEN,), weight, bias, 1e-12)
    assert not torch.equal(found, functional.layer_norm(x, (HIDDEN,), weight, bias, 1e-12))
    assert (found - functional.layer_norm(x, (HIDDEN,), weight, bias, 1e-12)).abs().max() < 1e-2


def test_a_norm_of_nan_is_nan():
    x = torch.tensor([[1.0, torch.nan, 2.0, 3.0]])
    with functions("shift"):
        assert functional.layer_norm(x, (4,), torch.ones(4), torch.zeros(4)).isnan().all()


def test_gradients_are_those_of_the_real_functions(scores):
    generator = torch.Generator().manual_seed(1)
    query, key, value = (torch.randn(2, 3, 5, 8, generator=generator) for _ in range(3))
    mask = ~scores[:, :1, :1].isinf()
    outside = torch.randn(2, 3, 5, 8, generator=generator)
    calls = {
        "gelu": (lambda x: functional.gelu(x), query),
        "tanh": (lambda x: torch.tanh(x), query),
        "norm": (lambda x: functional.layer_norm(x, (8,), torch.ones(8), torch.zeros(8), 1e-5), query),
        "attention": (lambda x: functional.scaled_dot_product_attention(x, key, value, mask), query),
    }
    for name, (call, start) in calls.items():
        gradients = []
        for context in (functions("shift"), torch.enable_grad()):
            x = start.clone().requires_grad_()
            with context:
                y = call(x)
            (y * outside).sum().backward()
            gradients.append(x.grad)
        assert torch.allclose(*gradients, rtol=1e-4, atol=1e-5), name


def test_masks_that_are_added_and_masks_of_truth_values_are_the_same(scores):
    query, key, value = (torch.randn(2, 3, 5, 8, generator=torch.Generator().manual_seed(2)) for _ in range(3))
    mask = ~scores[:, :1, :1].isinf()
    added = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    with functions("poly"):
        one, other = (functional.scaled_dot_product_attention(query, key, value, attn_mask=m) for m in (mask, added))
        scaled = functional.scaled_dot_product_attention(query, key, value, scale=0.0)
    assert torch.equal(one, other)
    assert torch.allclose(scaled, value.mean(2, keepdim=True).expand_as(value), atol=1e-3)


def test_a_model_answers_as_its_program_does_where_functions_are_what_differs(with_16_bits, monkeypatch):
    folder, texts = with_16_bits
    ways = Ways("shift", "shift", "shift")
    monkeypatch.setattr("qbert_opt.integer.compiler.VALUE_BITS", 10)  # the rounding of queries, keys, values hides less
    program = compiled.__wrapped__(folder, texts, ways)[1].program
    loaded = load_quantized(folder)[0]
    [batch] = tokenized(loaded, texts.texts[:8], batch_size=8)
    answers = program.answers(Reference(program).run({name: part.numpy() for name, part in batch.inputs.items()}))
    mode = integer_functions(encoder_of(loaded), tokenized(loaded, texts.texts, batch_size=8), ways)
    with torch.no_grad():
        real = loaded.model(**batch.inputs).logits.numpy()
        with mode:
            integer = loaded.model(**batch.inputs).logits.numpy()
    assert np.square(integer - answers["logits"]).mean() < np.square(real - answers["logits"]).mean() / 4


def test_another_form_of_gelu_is_refused_by_name(family_folder):
    folder, texts = family_folder
    loaded = load_quantized(folder)[0]
    encoder = encoder_of(loaded)
    object.__setattr__(encoder, "activation", "gelu_new")
    with pytest.raises(UsageError, match="another form of GELU"):
        integer_functions(encoder, tokenized(loaded, texts.texts, batch_size=8), Ways())
