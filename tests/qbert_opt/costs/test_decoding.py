"""Decoders against arithmetic by hand: bytes of the cache, a step that DRAM binds, the prompt as an encoder's pass."""

import math
from dataclasses import replace

import pytest
from decoder_shapes import gpt2, llama_1b, qwen_half_b
from hypothesis import given, settings
from hypothesis import strategies as st

from hwmodels import load_device
from qbert_opt.costs.operations import Storage, model_graph
from qbert_opt.costs.phases import simulate_phases
from qbert_opt.costs.simulate import simulate_storage
from qbert_opt.costs.workload import Workload, in_phase, workload_of
from qbert_opt.errors import UsageError
from qbert_opt.spec.cache import CACHE_BITS, cache_bytes
from qbert_opt.spec.choices import choice

BANDWIDTH = 10e9  # of DRAM, bytes/s
MODELS = {"llama": llama_1b(), "qwen": qwen_half_b(), "gpt2": gpt2()}


@pytest.fixture(scope="module")
def dram_bound():
    """A processor whose only cost is DRAM at `BANDWIDTH`: no launches, and arithmetic that takes next to no time."""
    device = load_device("rpi5")
    far = device.far_memory.id
    memories = [
        memory.model_copy(
            update={"latency_s": 0.0, "read_bytes_per_s": BANDWIDTH if memory.id == far else 1e18}
            | ({"efficiency": 1.0, "contention": 1.0} if memory.id == far else {})
        )
        for memory in device.memories
    ]
    unit = device.units[0].model_copy(update={"launch_s": 0.0, "cores": 10**9})
    return device.model_copy(update={"memories": tuple(memories), "units": (unit,)})


def stored(profile, name):
    return {matrix.module: Storage(choice(name)) for matrix in profile.matrices}


def step(profile, device, name="8bit/rows:each/rtn", **work):
    return simulate_storage(profile, stored(profile, name), device, workload_of(profile, 1, **work).step)


def test_the_cache_of_published_shapes_by_hand():
    """Llama-3.2-1B: 2 x 16 layers x 8 heads x 64 values; below 16 bits one fp16 scale for each head of K and of V."""
    assert cache_bytes(MODELS["llama"], 1, 16) == 2 * 16 * 8 * 64 * 2 == 32768
    assert cache_bytes(MODELS["llama"], 1, 8) == 2 * 16 * 8 * (64 + 2) == 16896
    assert cache_bytes(MODELS["llama"], 1, 4) == 2 * 16 * 8 * (32 + 2) == 8704
    assert cache_bytes(MODELS["qwen"], 1, 16) == 2 * 24 * 2 * 64 * 2
    assert cache_bytes(MODELS["gpt2"], 1024, 16) == 2 * 12 * 12 * 64 * 2 * 1024


def windowed(window=32):
    """Qwen's shape with Gemma 3's layers: five of six see the last tokens only."""
    windows = tuple(0 if block % 6 == 5 else window for block in range(MODELS["qwen"].num_blocks))
    return MODELS["qwen"].model_copy(update={"windows": windows, "position_limit": window, "context_limit": 32768})


def test_a_window_bounds_what_a_layer_keeps_and_reads(dram_bound):
    """4 of 24 layers keep every token, 20 the last 32 of each sequence; a prompt's tokens see no more either."""
    profile, whole = windowed(), MODELS["qwen"]
    token = 2 * 2 * 64 * 2  # bytes of a token in a layer
    assert cache_bytes(profile, 3 * 1000, 16, 3) == 3 * (4 * 1000 + 20 * 32) * token
    assert cache_bytes(profile, 20, 16) == cache_bytes(whole, 20, 16)
    work = Workload(5, 3, phase="prefill", context=48)
    for phase in work.phases:
        ops = [op for _, op in model_graph(profile, None, phase).nodes(data="op")]
        assert sum(op.weight.bytes for op in ops if op.kind == "append") == cache_bytes(profile, 3 * 48, 16, 3)
    saved = step(whole, dram_bound, context=4096).dram_bytes - step(profile, dram_bound, context=4096).dram_bytes
    assert saved == 20 * (4096 - 32) * token
    prompt = {op.name: op for _, op in model_graph(profile, None, workload_of(profile, 96)).nodes(data="op")}
    keys = sum(min(place, 32) for place in range(1, 97)) / 96
    assert prompt["block.0.scores"].n == round(keys) and prompt["block.5.scores"].n == 96 // 2 + 1
    assert workload_of(profile, 96, context=32768).context == 32768
    with pytest.raises(UsageError, match=r"`context` 40000: .* has positions for 32768 tokens at most\."):
        workload_of(profile, 96, context=40000)


@pytest.mark.parametrize("bits", CACHE_BITS)
@pytest.mark.parametrize("name", MODELS)
def test_a_graph_holds_and_reads_exactly_the_cache(name, bits):
    """What appending holds, and what scores and weighted sums read, are the bytes of the formula."""
    profile = MODELS[name]
    work = Workload(5, 3, phase="prefill", context=48, cache_bits=bits)
    for phase in work.phases:
        ops = [op for _, op in model_graph(profile, None, phase).nodes(data="op")]
        held = sum(op.weight.bytes for op in ops if op.kind == "append")
        read = sum(op.weight.bytes for op in ops if op.kind == "matmul" and op.weight is not None)
        assert held == cache_bytes(profile, 3 * 48, bits)
        assert read == (held if phase.phase == "decode" else 0)


def test_a_step_that_dram_binds_takes_its_bytes_over_the_bandwidth(dram_bound):
    """All weights once, one row of the table, the whole cache, and the new keys and values of one token."""
    profile, context = MODELS["llama"], 4096
    report = step(profile, dram_bound, context=context)
    matrices = sum(m.rows * m.columns + 4 * m.rows for m in profile.matrices)  # 8-bit codes, fp16 scale and offset
    table = profile.tables[0].rows * (profile.tables[0].columns + 4)  # the head reads it, 8 bits too
    row = profile.tables[0].columns + 4
    norms = 2 * profile.other_elements
    cache = cache_bytes(profile, context, 16) + cache_bytes(profile, 1, 16)
    assert report.dram_bytes == matrices + table + row + norms + cache
    assert report.latency_s == pytest.approx(report.dram_bytes / BANDWIDTH, rel=1e-6)


def test_half_the_bits_are_twice_the_tokens(dram_bound):
    """4 bits per weight with the ranges of 8 are twice as fast, up to what is no weight of a matrix."""
    profile = MODELS["gpt2"].model_copy(update={"head": ()})
    wide = step(profile, dram_bound, "8bit/columns:128/rtn", context=1)
    narrow = step(profile, dram_bound, "4bit/columns:128/rtn", context=1)
    codes = profile.encoder_elements
    assert wide.dram_bytes - narrow.dram_bytes == codes // 2
    assert wide.latency_s / narrow.latency_s == pytest.approx(2, rel=0.05)


@pytest.mark.parametrize("bits", CACHE_BITS)
def test_the_cache_dominates_where_it_is_larger_than_the_weights(dram_bound, bits):
    """A step takes as much longer as its cache takes to read: at 131,072 tokens 4.3 GB of Llama's in fp16."""
    profile = MODELS["llama"]
    short, medium, long = (step(profile, dram_bound, context=n, cache_bits=bits) for n in (1, 8192, 131072))
    more = cache_bytes(profile, 8191, bits)
    assert medium.dram_bytes - short.dram_bytes == more
    assert medium.latency_s - short.latency_s == pytest.approx(more / BANDWIDTH, rel=1e-6)
    assert medium.held_bytes == medium.weight_bytes + cache_bytes(profile, 8192, bits)
    most = cache_bytes(profile, 131072, bits)  # beside it, 4 MB of scores per layer no longer fit on chip
    assert most <= long.dram_bytes - short.dram_bytes <= most + 2 * 16 * 4 * 32 * 131072
    assert (most > long.dram_bytes / 2) == (bits > 4)


def test_a_prompt_is_the_encoders_pass_with_causal_attention():
    """Every product of a weight is the encoder's; attention computes the (n + 1) / 2 keys that a token sees."""
    profile, n = MODELS["gpt2"], 127
    encoder = profile.model_copy(update={"causal": False, "head": ()})
    prompt = model_graph(profile.model_copy(update={"head": ()}), None, workload_of(profile, n))
    plain = model_graph(encoder, None, Workload(n))
    assert set(prompt) - set(plain) == {f"block.{block}.cache" for block in range(12)} and set(plain) <= set(prompt)
    for name, op in plain.nodes(data="op"):
        own = prompt.nodes[name]["op"]
        if op.kind == "matmul":
            square, seen = op.batch * op.m * op.n * op.k, own.batch * own.m * own.n * own.k
            assert seen * 2 * n == square * (n + 1)
        elif op.kind != "softmax":
            assert own == op
    written = sum(op.weight.bytes * op.m / op.k for _, op in prompt.nodes(data="op") if op.kind == "append")
    assert written == cache_bytes(profile, n, 16)


def test_query_heads_that_share_keys_read_them_once():
    """Grouped-query attention with one head of keys: its cache is 12 times smaller, its arithmetic the same."""
    wide = MODELS["gpt2"]
    narrow = wide.model_copy(update={"key_value_heads": 1})
    graphs = [model_graph(p, None, workload_of(p, 1, context=100).step) for p in (wide, narrow)]
    for name in ("block.0.scores", "block.0.context"):
        own, shared = (graph.nodes[name]["op"] for graph in graphs)
        assert own.batch * own.m * own.k * own.n == shared.batch * shared.m * shared.k * shared.n
        assert own.weight.bytes == 12 * shared.weight.bytes


def test_only_the_last_token_of_a_prompt_reaches_the_head():
    """The next token follows from it alone; an encoder's head may run on every token."""
    graph = model_graph(MODELS["llama"], None, workload_of(MODELS["llama"], 64, batch_size=2))
    assert graph.nodes["lm_head"]["op"].m == 2


@settings(max_examples=12, deadline=None)
@given(
    name=st.sampled_from(["rpi5", "orin-nano", "snapdragon-8-gen3", "apple-a18-pro"]),
    contexts=st.lists(st.integers(1, 1024), min_size=2, max_size=2).map(sorted),
    batch=st.integers(1, 3),
    wide=st.floats(1, 4),
)
def test_laws_of_a_step(name, contexts, batch, wide):
    """More context is never faster, wider memory never slower, more bits of the cache never fewer bytes."""
    device, profile = load_device(name), MODELS["gpt2"]
    less, more = (step(profile, device, context=context, batch_size=batch) for context in contexts)
    assert less.latency_s <= more.latency_s * (1 + 1e-12) and less.dram_bytes <= more.dram_bytes
    assert less.peak_memory_bytes <= more.peak_memory_bytes
    assert more.latency_s <= more.latency_bound_s
    far = device.far_memory
    faster = far.model_copy(update={"read_bytes_per_s": far.read_bytes_per_s * wide})
    memories = tuple(faster if memory.id == far.id else memory for memory in device.memories)
    wider = step(profile, device.model_copy(update={"memories": memories}), context=contexts[1], batch_size=batch)
    assert wider.latency_s <= more.latency_s * (1 + 1e-12)
    sizes = [cache_bytes(profile, batch * contexts[1], bits) for bits in CACHE_BITS]
    assert sizes == sorted(sizes, reverse=True)
    reads = [step(profile, device, context=contexts[1], batch_size=batch, cache_bits=b).dram_bytes for b in CACHE_BITS]
    assert reads == sorted(reads, reverse=True)


def test_an_answer_of_a_decoder_has_no_latency_limit_of_an_encoder(dram_bound):
    """The device file's limit is of one encoder's inference, so nothing says that it is exceeded."""
    device = load_device("orin-nano")
    prompt, token = simulate_phases(MODELS["gpt2"], None, device, workload_of(MODELS["gpt2"], 1000))
    assert prompt.latency_s > device.limits.latency
    assert not [line for line in (*prompt.over_limits, *token.over_limits) if line.startswith("latency")]


def test_workloads_of_phases():
    """A decoder without a phase reads its prompt; a step makes one token; an encoder has neither."""
    profile = MODELS["gpt2"]
    work = in_phase(profile, Workload(200, 2))
    assert (work.phase, work.context, work.tokens, work.step.tokens) == ("prefill", 1024, 400, 2)
    assert workload_of(MODELS["llama"], 2000).context == 2000
    encoder = profile.model_copy(update={"causal": False})
    assert in_phase(encoder, Workload(200)) == Workload(200) and Workload(200).step is None
    for broken, said in (
        (lambda: workload_of(encoder, 8, context=9), "`context` 9: gpt2 is an encoder"),
        (lambda: workload_of(encoder, 8, cache_bits=8), "`cache_bits` 8: gpt2 is an encoder"),
        (lambda: workload_of(profile, 8, cache_bits=6), "`cache_bits` 6: legal: 16, 8, 4"),
        (lambda: workload_of(profile, 8, context=2000), "`context` 2000: gpt2 has positions for 1024"),
        (lambda: workload_of(profile, 9, context=8), "`context` 8: the cache holds the prompt too"),
        (lambda: replace(work, phase="decode"), "`seq_len` 200: a step of phase decode"),
        (lambda: Workload(8, phase="prefill"), "`context`: found None in phase prefill"),
    ):
        with pytest.raises(UsageError, match=said):
            broken()


def test_a_batch_shares_the_weights_and_not_the_cache(dram_bound):
    """Four sequences read the weights once and four caches: the bytes of a step grow by three caches only."""
    profile = MODELS["gpt2"]
    one, four = (step(profile, dram_bound, context=512, batch_size=batch) for batch in (1, 4))
    rows = 3 * sum(table.columns + 4 for table in profile.tables)
    assert four.dram_bytes - one.dram_bytes == cache_bytes(profile, 3 * 513, 16) + rows
    assert math.isclose(four.latency_s, four.dram_bytes / BANDWIDTH, rel_tol=1e-6)
