"""Plans of decoders: tokens per second as a limit, the cache beside the weights, and its bits as a choice."""

import numpy as np
import pytest
from decoder_shapes import gpt2, scores_of

from hwmodels import load_device
from qbert_opt.costs.phases import simulate_phases
from qbert_opt.costs.stored import Storage
from qbert_opt.costs.workload import Workload, planned_workload, workload_of
from qbert_opt.errors import InfeasibleError, InputFileError, UsageError
from qbert_opt.planning.constraints import PlanConstraints
from qbert_opt.planning.frontier import trade_off
from qbert_opt.planning.planner import allocate
from qbert_opt.planning.program import FLOORS, SCHEDULED, PlanningTask
from qbert_opt.planning.recipes import uniform_allocation
from qbert_opt.spec.allocation import read_allocation, write_allocation
from qbert_opt.spec.cache import CACHE_BITS, cache_bytes
from qbert_opt.spec.choices import choice
from qbert_opt.spec.limits import Limits
from qbert_opt.spec.quantities import measured
from qbert_opt.spec.score_parts import CacheScores

WORK = Workload(64, phase="prefill", context=512)


@pytest.fixture(scope="module")
def scores():
    """Three layers of GPT-2's shapes with made-up scores."""
    return scores_of(gpt2(layers=3))


@pytest.fixture(scope="module")
def slow(scores):
    """The plan of least loss on the device, and so the slowest."""
    return allocate(scores, Limits(), device="rpi5", workload=WORK)


@pytest.fixture(scope="module")
def cached(scores):
    """The same, with the loss of a narrow cache."""
    return scores.model_copy(
        update={"cache": CacheScores(bits=(8, 4), value=(0.001, 0.02), std_error=(0.0, 0.0), contains="made up")}
    )


@pytest.mark.parametrize("name", ["rpi5", "orin-nano", "car-soc", "h100"])
@pytest.mark.parametrize("bits", [16, 4])
def test_every_token_lies_between_the_two_sums(scores, name, bits):
    """For random plans: floor ≤ scheduled ≤ bound, for a token and its energy."""
    rng = np.random.default_rng(3)
    device = load_device(name)
    work = Workload(64, 2, phase="prefill", context=512, cache_bits=bits)
    task = PlanningTask(scores, Limits(), device=device, workload=work)
    mask, rows = task.problem({}).mask(), range(len(task.items))
    usage = task.tables.usage
    for _ in range(3):
        columns = [int(rng.choice(np.flatnonzero(row))) for row in mask]
        storage = {item.module: task.tables.options[j] for item, j in zip(task.items, columns, strict=True)}
        prompt, token = simulate_phases(task.profile, storage, device, work)
        for measure in ("token_s", "energy_j"):
            low = usage[FLOORS[measure]][rows, columns].sum() + task.tables.fixed[FLOORS[measure]]
            high = usage[SCHEDULED[measure]][rows, columns].sum() + task.tables.fixed[SCHEDULED[measure]]
            assert low * (1 - 1e-9) <= measured(prompt, measure, token) <= high * (1 + 1e-9)
        dram = usage["dram_bytes"][rows, columns].sum() + task.tables.fixed["dram_bytes"]
        assert dram == token.dram_bytes


def test_a_limit_on_tokens_per_second_is_kept_and_proven(scores, slow):
    """Between the slowest and the fastest uniform plan, every limit is met, and faster plans lose no less."""
    device = load_device("rpi5")
    before = -1.0
    for speed in (1.05 * slow.device.decode.tokens_per_s, 1.15 * slow.device.decode.tokens_per_s):
        plan = allocate(scores, Limits(tokens_per_s=speed), device=device, workload=WORK)
        assert plan.device.decode.tokens_per_s >= speed
        assert plan.device.decode.token_s <= plan.device.decode.token_bound_s * (1 + 1e-12)
        assert plan.gap < 0.02
        assert plan.sum_of_scores >= before
        [limit] = [limit for limit in plan.limits if limit.resource == "token_s"]
        assert limit.binds and limit.used == plan.device.decode.token_s and limit.capacity == 1 / speed
        assert all(rival.predicted_loss >= plan.sum_of_scores for rival in plan.uniform)
        before = plan.sum_of_scores


def test_the_fastest_feasible_speed_in_the_message_is_feasible(scores):
    """Exit 3 names it, and the limit that binds."""
    with pytest.raises(InfeasibleError, match=r"above the ceiling: fastest feasible [\d.]+ tokens/s") as refused:
        allocate(scores, Limits(tokens_per_s=1000.0), device="rpi5", workload=WORK)
    assert refused.value.exit_code == 3 and "binding limit token_s" in str(refused.value)
    fastest = float(str(refused.value).split("fastest feasible ")[1].split()[0])
    plan = allocate(scores, Limits(tokens_per_s=0.999 * fastest), device="rpi5", workload=WORK)
    assert plan.device.decode.tokens_per_s >= 0.999 * fastest


def test_a_plan_as_text_names_both_phases(slow):
    """And what is planned is a decoder's."""
    speed = f"first token {1e3 * slow.device.latency_s:.4g} ms, {slow.device.decode.tokens_per_s:.4g} tokens/s on rpi5"
    assert speed in str(slow) and " MB decoder, " in str(slow)


def test_dram_bytes_are_those_of_a_token(scores, slow):
    """The limit counts a step with a full cache, and so does the plan."""
    most = slow.device.dram_bytes - 5_000_000
    plan = allocate(scores, Limits(dram_bytes=most), device="rpi5", workload=WORK)
    storage = {matrix.module: Storage(matrix.choice) for matrix in plan.matrices}
    _, token = simulate_phases(plan.profile, storage, load_device("rpi5"), planned_workload(plan))
    assert plan.device.dram_bytes == token.dram_bytes <= most < slow.device.dram_bytes


def test_peak_memory_counts_the_cache(scores):
    """A limit below weights and cache together is refused, one above both is kept by their sum."""
    plan = allocate(scores, Limits(encoder_bytes=15_000_000), device="rpi5", workload=WORK)
    cache = cache_bytes(plan.profile, 512, 16)
    assert plan.device.decode.cache_bytes == cache
    assert plan.total_bytes + cache < plan.device.peak_memory_bytes < plan.total_bytes + cache + 3_000_000
    tight = Limits(memory_bytes=plan.total_bytes + cache // 2)
    smaller = allocate(scores, tight, device="rpi5", workload=WORK)
    assert smaller.device.peak_memory_bytes <= tight.memory_bytes


def test_a_narrow_cache_that_was_not_scored_is_pinned_and_said(scores):
    """Its loss is unknown, not zero; several widths cannot be weighed."""
    wide, narrow = (
        allocate(scores, Limits(encoder_bytes=15_000_000), device="rpi5", workload=WORK,
                 constraints=PlanConstraints(cache_bits=(bits,)))
        for bits in (16, 4)
    )  # fmt: skip
    assert (wide.cache.bits, wide.cache.predicted_loss) == (16, 0.0)
    assert (narrow.cache.bits, narrow.cache.predicted_loss) == (4, None) and "cache" not in narrow.roundings
    assert narrow.sum_of_scores == wide.sum_of_scores
    assert narrow.device.decode.cache_bytes == cache_bytes(narrow.profile, 512, 4)
    with pytest.raises(UsageError, match="`cache_bits` 16,4: no loss was scored for a cache of 4 bits"):
        allocate(scores, Limits(), device="rpi5", workload=WORK, constraints=PlanConstraints(cache_bits=(16, 4)))


@pytest.mark.parametrize("faster", [1.1, 1.2])
def test_the_bits_of_a_scored_cache_are_part_of_the_optimum(cached, slow, faster):
    """As exhaustive search over its widths: the least of the three sums, with a bound that holds for all of them."""
    limits = Limits(tokens_per_s=faster * slow.device.decode.tokens_per_s)
    each = {}
    for bits in CACHE_BITS:
        pinned = PlanConstraints(cache_bits=(bits,))
        try:
            each[bits] = allocate(cached, limits, device="rpi5", workload=WORK, constraints=pinned)
        except InfeasibleError:
            continue
    plan = allocate(cached, limits, device="rpi5", workload=WORK)
    best = min(each.values(), key=lambda one: one.sum_of_scores)
    assert (plan.cache.bits, plan.sum_of_scores) == (best.cache.bits, best.sum_of_scores)
    assert plan.lower_bound <= min(one.lower_bound for one in each.values()) * (1 + 1e-9)
    parts = sum(matrix.predicted_loss for matrix in plan.matrices) + plan.cache.predicted_loss
    assert plan.sum_of_scores == pytest.approx(parts, rel=1e-12)
    assert plan.roundings == (("matrices", "cache") if plan.cache.bits < 16 else ("matrices",))


def test_a_cache_is_wide_where_there_is_room_and_narrow_where_there_is_none(cached, slow):
    """Without a limit 16 bits lose least; where the context is long and speed is scarce, a narrow cache pays."""
    limits = Limits(tokens_per_s=1.1 * slow.device.decode.tokens_per_s)
    fast = allocate(cached, limits, device="rpi5", workload=Workload(64, phase="prefill", context=1024))
    assert slow.cache.bits == 16 > fast.cache.bits


def test_a_plan_with_a_cache_survives_its_file(cached, slow, tmp_path):
    """It reads as written, and a size that does not follow from context and bits is refused."""
    narrow = PlanConstraints(cache_bits=(4,))
    plan = allocate(cached, Limits(tokens_per_s=1), device="rpi5", workload=WORK, constraints=narrow)
    write_allocation(plan, tmp_path / "plan.json")
    assert read_allocation(tmp_path / "plan.json") == plan
    assert planned_workload(plan).cache_bits == plan.cache.bits
    text = (tmp_path / "plan.json").read_text()
    decode = plan.device.decode
    for name, value, message in (
        ("cache_bytes", 5, r"cache_bytes is 5; 512 tokens at 4 bits take"),
        ("tokens_per_s", decode.tokens_per_s * 2, rf"tokens_per_s is .*; token_s gives {decode.tokens_per_s:g}"),
        ("seq_len", 513, r"context is 512; the cache holds the prompt of 513 too"),
        ("used", 2 * decode.token_s, r"limits: token_s: used is .*; the plan uses"),
    ):
        old = {"seq_len": 64, "used": decode.token_s}.get(name) or getattr(decode, name)
        assert f'"{name}": {old}' in text
        (tmp_path / "wrong.json").write_text(text.replace(f'"{name}": {old}', f'"{name}": {value}'))
        with pytest.raises(InputFileError, match=message):
            read_allocation(tmp_path / "wrong.json")


def test_the_least_loss_limit_counts_the_cache(cached):
    """Under a limit on loss, a narrow cache takes its part of it; the fastest plan meets the limit in all."""
    most = 0.15
    plan = allocate(
        cached, Limits(), device="rpi5", workload=WORK, constraints=PlanConstraints(max_loss=most, least="token")
    )
    assert plan.predicted_loss <= most
    wide = PlanConstraints(max_loss=most, least="token", cache_bits=(16,))
    assert plan.lower_bound <= allocate(cached, Limits(), device="rpi5", workload=WORK, constraints=wide).lower_bound


def test_a_frontier_over_the_latency_of_a_token(scores):
    """Slower tokens never lose more; an encoder has no tokens."""
    task = PlanningTask(scores, Limits(), device=load_device("rpi5"), workload=WORK)
    points = trade_off(task, ("token",), points=5).points
    assert len(points) >= 3
    losses = [point.sum_of_scores for point in sorted(points, key=lambda point: point.usage["token_bound_s"])]
    assert losses == sorted(losses, reverse=True)


def test_only_decoders_make_tokens(reference):
    """Refused in one line, with what is legal."""
    for limits, constraints, said in (
        (Limits(tokens_per_s=5.0), PlanConstraints(), "`tokens_per_s` 5: .* is an encoder"),
        (Limits(), PlanConstraints(cache_bits=(8,)), "`cache_bits` 8: .* is an encoder"),
        (
            Limits(),
            PlanConstraints(max_loss=1.0, least="token"),
            "`least` token: legal: bytes, total-bytes, latency, e",
        ),
    ):
        with pytest.raises(UsageError, match=said):
            PlanningTask(reference, limits, device=load_device("rpi5"), constraints=constraints)


def test_a_uniform_plan_of_a_decoder_has_both_phases(scores):
    """Recipes and uniform plans are costed like solved ones."""
    plan = uniform_allocation(scores, choice("8bit/rows:each/rtn"), device=load_device("rpi5"), workload=WORK)
    assert plan.device.decode.context == 512 and plan.cache.bits == 16
    assert plan.device.latency_s > plan.device.decode.token_s
    assert workload_of(plan.profile, 64, context=512) == planned_workload(plan)
