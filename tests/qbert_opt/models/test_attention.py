"""Fused and unfused attention: the same numbers up to rounding, separate nodes, one thread's business."""

import threading

import pytest
import torch
from torch.nn import functional

from qbert_opt.models.attention import FusedAttention, UnfusedAttention
from qbert_opt.models.batches import tokenize
from qbert_opt.models.tracing import trace


def _attention(**options):
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 4, 9, 8, generator=generator, requires_grad=True) for _ in range(3))
    return functional.scaled_dot_product_attention(query, key, value, **options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"is_causal": True},
        {"scale": 0.1},
        {"attn_mask": torch.ones(9, 9).tril() > 0},
        {"attn_mask": torch.randn(4, 9, 9)},
        {"attn_mask": torch.eye(9)[:1] > 0},
    ],
)
def test_unfused_attention_is_attention(options):
    fused = _attention(**options)
    with UnfusedAttention():
        unfused = _attention(**options)
    torch.testing.assert_close(unfused, fused, rtol=1e-5, atol=1e-6)
    assert "ScaledDotProduct" not in unfused.grad_fn.name()


def test_the_inner_context_counts():
    with UnfusedAttention():
        with FusedAttention():
            assert "ScaledDotProduct" in _attention().grad_fn.name()
        assert "ScaledDotProduct" not in _attention().grad_fn.name()


@torch.no_grad()
def test_a_trace_leaves_the_answers_of_other_threads_alone(tiny, sentences):
    """A model that was traced in one thread was called random in another: two of its answers differed by 2e-6."""
    batch = tokenize(tiny.tokenizer, sentences.texts[:20], batch_size=20, max_tokens=32, kind="classes")[0]
    one = next(batch.split(1))
    alone = tiny.head.read(tiny.model, batch)
    inside, done = threading.Event(), threading.Event()

    def run():
        inside.set()
        assert done.wait(60)
        return tiny.head.read(tiny.model, one)

    tracer = threading.Thread(target=trace, args=(tiny.model, run))
    tracer.start()
    assert inside.wait(60)
    answer = tiny.head.read(tiny.model, batch)
    done.set()
    tracer.join()
    assert torch.equal(answer, alone)
