"""Profiles of decoders, written by hand from the shapes in their published configs; no weights are needed."""

import numpy as np

from qbert_opt.planning.possible import unscored
from qbert_opt.spec.choices import choice
from qbert_opt.spec.profiles import HeadSpec, MatrixSpec, ModelProfile, TableSpec


def decoder(name, *, layers, hidden, heads, key_value_heads, head_size, feed_forward, vocabulary, positions, tied=True):
    """Return a decoder with grouped-query attention and a gated feed-forward part, as Llama and Qwen have."""
    shapes = (
        ("query", "self_attn.q_proj", heads * head_size, hidden),
        ("key", "self_attn.k_proj", key_value_heads * head_size, hidden),
        ("value", "self_attn.v_proj", key_value_heads * head_size, hidden),
        ("attention_output", "self_attn.o_proj", hidden, heads * head_size),
        ("intermediate", "mlp.gate_proj", feed_forward, hidden),
        ("intermediate", "mlp.up_proj", feed_forward, hidden),
        ("output", "mlp.down_proj", hidden, feed_forward),
    )
    matrices = tuple(
        MatrixSpec(module=f"model.layers.{block}.{part}", kind=kind, block=block, rows=rows, columns=columns)
        for block in range(layers)
        for kind, part, rows, columns in shapes
    )
    table = TableSpec(module="model.embed_tokens", rows=vocabulary, columns=hidden, reads_per_token=1)
    head = HeadSpec(
        module="lm_head", rows=vocabulary, columns=hidden, per_token=True, tied_to=table.module if tied else ""
    )
    return ModelProfile(
        name=name, architecture="CausalLM", sha256="0" * 64, num_blocks=layers, hidden=hidden, heads=heads,
        key_value_heads=key_value_heads, causal=True, matrices=matrices, tables=(table,), head=(head,),
        other_elements=(2 * layers + 1) * hidden + (0 if tied else vocabulary * hidden), position_limit=positions,
    )  # fmt: skip


def llama_1b():
    """Llama-3.2-1B."""
    return decoder(
        "llama-3.2-1b", layers=16, hidden=2048, heads=32, key_value_heads=8, head_size=64, feed_forward=8192,
        vocabulary=128256, positions=131072,
    )  # fmt: skip


def qwen_half_b():
    """Qwen2.5-0.5B."""
    return decoder(
        "qwen2.5-0.5b", layers=24, hidden=896, heads=14, key_value_heads=2, head_size=64, feed_forward=4864,
        vocabulary=151936, positions=32768,
    )  # fmt: skip


def gpt2(layers=12):
    """GPT-2: one fused matrix for query, key and value, and a feed-forward part without a gate."""
    shapes = (
        ("query_key_value", "attn.c_attn", 2304, 768),
        ("attention_output", "attn.c_proj", 768, 768),
        ("intermediate", "mlp.c_fc", 3072, 768),
        ("output", "mlp.c_proj", 768, 3072),
    )
    matrices = tuple(
        MatrixSpec(module=f"transformer.h.{block}.{part}", kind=kind, block=block, rows=rows, columns=columns)
        for block in range(layers)
        for kind, part, rows, columns in shapes
    )
    tables = tuple(
        TableSpec(module=f"transformer.{part}", rows=rows, columns=768, reads_per_token=1)
        for part, rows in (("wte", 50257), ("wpe", 1024))
    )
    head = HeadSpec(module="lm_head", rows=50257, columns=768, per_token=True, tied_to="transformer.wte")
    return ModelProfile(
        name="gpt2", architecture="GPT2LMHeadModel", sha256="0" * 64, num_blocks=layers, hidden=768, heads=12,
        causal=True, matrices=matrices, tables=tables, head=(head,), position_limit=1024,
        other_elements=layers * (2304 + 768 + 3072 + 768 + 4 * 768) + 1536,
    )  # fmt: skip


def scores_of(profile, choices=("8bit/rows:each/rtn", "4bit/columns:128/rtn", "2bit/columns:128/rtn"), seed=0):
    """Return made-up scores of a decoder: fewer bits lose more, and matrices differ by two orders of magnitude."""
    table = unscored(profile, [choice(name) for name in choices])
    sensitivity = np.random.default_rng(seed).lognormal(0, 2, len(profile.matrices)).tolist()
    value = tuple(tuple(s * 4.0 ** -choice(name).bits for name in choices) for s in sensitivity)
    return table.model_copy(update={"value": value, "std_error": value, "weight_error": value})
