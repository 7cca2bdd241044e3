"""A whole graph: sums are exact, the schedule never exceeds its bound, and an encoder has the expected cost."""

import math
from itertools import pairwise

import networkx as nx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hwmodels.cost.operation_cost import operation_cost, unsupported
from hwmodels.device.errors import DeviceError
from hwmodels.device.loading import load_device
from hwmodels.schedule.memory import plan_memory
from hwmodels.schedule.simulate import peak_activation_bytes, peak_bound_bytes, scratchpad_room_bytes, simulate

from ..conftest import encoder, gemm, pointwise, stored

CAR_SOC = load_device("car-soc")
DEVICES = [CAR_SOC, load_device("imx95"), load_device("coral"), load_device("rpi5")]


@st.composite
def graphs(draw):
    """Small graphs of mixed work on both units of car-soc."""
    graph = nx.DiGraph()
    names: list[str] = []
    for position in range(draw(st.integers(1, 9))):
        m, n = draw(st.integers(1, 200)), 64 * draw(st.integers(1, 12))
        name = f"op{position}"
        if draw(st.booleans()):
            bits = draw(st.sampled_from([2, 3, 4, 8, 16, 32]))
            axis = "none" if bits > 8 else draw(st.sampled_from(["rows", "columns"]))
            resident = draw(st.integers(0, 3)) == 0
            op = gemm(name, m, 256, n, stored(n, 256, bits, axis, groups=16, size=64, resident=resident))
        else:
            kind = draw(st.sampled_from(["softmax", "layernorm", "gelu", "elementwise"]))
            op = pointwise(name, kind, m, n)
        graph.add_node(name, op=op)
        for source in draw(st.sets(st.sampled_from(names), max_size=2)) if names else ():
            graph.add_edge(source, name)
        names.append(name)
    return graph


@settings(max_examples=100)
@given(graphs(), st.sampled_from(DEVICES))
def test_sums_are_exact_and_bounds_hold(graph, device):
    """Bytes, DRAM bytes and dynamic energy equal the separate prices; latency and peak stay under their bounds."""
    assume(all(unsupported(op, device) is None for _, op in graph.nodes(data="op")))
    report = simulate(graph, device)
    prices = [operation_cost(op, device) for _, op in graph.nodes(data="op")]
    assert report.weight_bytes == sum(price.weight_bytes for price in prices)
    assert report.dram_bytes == sum(price.dram_bytes for price in prices)
    assert report.dynamic_energy_j == math.fsum(price.dynamic_energy_j for price in prices)
    assert report.latency_bound_s == math.fsum(price.latency_bound_s for price in prices)
    assert report.latency_s <= report.latency_bound_s
    assert report.peak_memory_bytes <= report.peak_bound_bytes == peak_bound_bytes(graph, device).total_bytes
    assert report.critical_path_s <= report.latency_s * (1 + 1e-12)


@settings(max_examples=60)
@given(graphs())
def test_nothing_starts_before_its_inputs_and_a_unit_does_one_thing_at_a_time(graph):
    rows = {row.cost.name: row for row in simulate(graph, CAR_SOC).operations}
    assert set(rows) == set(graph)
    for before, after in graph.edges:
        assert rows[before].finish_s <= rows[after].start_s
    for unit in ("mma", "a72"):
        spans = sorted((row.start_s, row.finish_s) for row in rows.values() if row.cost.unit == unit)
        assert all(left[1] <= right[0] for left, right in pairwise(spans))


@settings(max_examples=60)
@given(graphs())
def test_tensors_that_live_at_once_never_share_bytes(graph):
    plan = simulate(graph, CAR_SOC).memory
    assert plan.live_bytes <= plan.peak_bytes
    for position, left in enumerate(plan.tensors):
        for right in plan.tensors[:position]:
            apart_in_time = left.stop < right.start or right.stop < left.start
            ends = (left.offset_bytes + left.size_bytes, right.offset_bytes + right.size_bytes)
            assert apart_in_time or ends[0] <= right.offset_bytes or ends[1] <= left.offset_bytes


def _width(graph, order):
    """Return the most bytes alive in an order, by definition."""
    sizes = {name: op.output_elements for name, op in graph.nodes(data="op")}
    step = {name: position for position, name in enumerate(order)}
    last = {name: max((step[r] for r in graph.successors(name)), default=len(order)) for name in order}
    return max(sum(sizes[n] for n in order if step[n] <= now <= last[n]) for now in range(len(order)))


@settings(max_examples=40)
@given(graphs())
def test_the_order_is_the_best_of_all_orders(graph):
    """Oracle: every topological order of the graph (those with many are skipped)."""
    orders = []
    for order in nx.all_topological_sorts(graph):
        orders.append(order)
        if len(orders) > 3000:
            return
    plan = plan_memory(graph, CAR_SOC)
    assert plan.live_bytes == min(_width(graph, order) for order in orders) == _width(graph, plan.order)


def test_bert_base_at_8_bits(car_soc, make_encoder, calls_of):
    """84,934,656 codes over 7.17 GB/s are 11.9 ms, the arithmetic 6 ms, launches 4 ms: 16 to 20 ms together."""
    graph = make_encoder(bits=8)
    report = simulate(graph, car_soc)
    assert calls_of(lambda: simulate(graph, car_soc)) < 1000 * len(graph)  # 456 each, 0.03 s in all
    codes, ranges = 12 * (4 * 768 * 768 + 2 * 768 * 3072), 12 * 6
    floats = 12 * 2 * (4 * 768 + 3072 + 768 + 4 * 768)
    assert report.weight_bytes == codes + 4 * ranges + floats + 30_522 * 772
    assert report.dram_bytes == codes + 4 * ranges + floats + 128 * 772
    assert 0.0155 < report.latency_s < 0.0205 and report.latency_s < report.latency_bound_s
    assert report.bound_shares["dram"] > 0.5
    # Widest: scores in and softmax out (12 x 128 x 128 each) beside v, k gone, and the hidden states.
    assert report.memory.live_bytes >= 2 * 12 * 128 * 128 + 2 * 128 * 768
    assert any("weights: needs 108" in line for line in report.over_limits)


def test_bert_base_at_4_bits_is_slower_than_at_8_and_the_report_says_why(car_soc, make_encoder):
    four, eight = (simulate(make_encoder(bits=bits, groups=128), car_soc) for bits in (4, 8))
    assert four.dram_bytes < 0.52 * eight.dram_bytes and four.latency_s > eight.latency_s
    assert four.unpack_s == pytest.approx(12 * (7_077_888 * 0.0625 + 6 * 128 * 8) / 1e9)
    assert eight.dram_saved_s == 0 < four.dram_saved_s
    in_eight = simulate(make_encoder(bits=8), car_soc).latency_bound_s - four.latency_bound_s
    assert four.gain_over_8_bits_s == pytest.approx(in_eight, rel=1e-3) and eight.gain_over_8_bits_s == 0
    two = simulate(make_encoder(bits=2, axis="columns", size=32), car_soc)
    assert two.gain_over_8_bits_s < 0 and "fewer bits are slower here" in two.notes[0]


def test_a_small_encoder_that_stays_on_chip_reads_almost_nothing(car_soc, make_encoder):
    """TinyBERT-4L-312 (4.6 MB) fits the MSMC: only float vectors and embedding rows come from DRAM."""
    graph = make_encoder(bits=8, layers=4, width=312, ffn=1200, resident=True)
    report = simulate(graph, car_soc)
    assert report.scratchpad_bytes <= report.scratchpad_room_bytes == scratchpad_room_bytes(graph, car_soc)
    assert report.dram_bytes < 100_000 and 0.001 < report.latency_s < 0.004


def test_resident_weights_that_do_not_fit_are_refused(car_soc, make_encoder):
    with pytest.raises(DeviceError, match=r"resident weight bytes; legal are .* stream some"):
        simulate(make_encoder(bits=8, resident=True), car_soc)


def test_room_depends_on_activations_only(car_soc, make_encoder):
    """The program needs it as a constant, whichever formats it chooses."""
    rooms = {scratchpad_room_bytes(make_encoder(bits=bits), car_soc) for bits in (2, 8)}
    arena = peak_activation_bytes(make_encoder(bits=8), car_soc)
    assert rooms == {int(8 * 2**20 * 0.8) - arena}


def test_prefetch_hides_dram_time_only_where_there_is_room_for_it(car_soc):
    """GELU on 128 x 3072 leaves DRAM idle for 98 us; the next matrix then waits that much less."""
    graph = nx.DiGraph()
    graph.add_node("gelu", op=pointwise("gelu", "gelu", 128, 3072))
    graph.add_node("down", op=gemm("down", 128, 3072, 768, stored(768, 3072, 8)))
    graph.add_edge("gelu", "down")
    first, second = simulate(graph, car_soc).operations
    assert second.prefetched_s == pytest.approx(first.finish_s)
    assert second.finish_s - second.start_s == pytest.approx(20e-6 + second.cost.dram_s - first.finish_s)


def test_two_units_work_at_once(car_soc):
    """An fp32 product on the processor runs beside an int8 product on the matrix unit: the longer one counts."""
    graph = nx.DiGraph()
    graph.add_node("cpu", op=gemm("cpu", 16, 256, 256, stored(256, 256, 32, "none")))
    graph.add_node("npu", op=gemm("npu", 16, 256, 256, stored(256, 256, 8, resident=True)))
    report = simulate(graph, car_soc)
    assert {row.start_s for row in report.operations} == {0.0}
    assert report.latency_s == max(row.finish_s for row in report.operations) < report.latency_bound_s


def test_a_stated_rate_sets_bandwidth_and_power(car_soc, make_encoder):
    report = simulate(make_encoder(layers=1), car_soc, inferences_per_s=10.0)
    assert report.dram_bandwidth_bytes_per_s == 10 * report.dram_bytes
    assert report.average_power_w == 2.5 + 10 * report.dynamic_energy_j
    assert report.energy_j == pytest.approx(report.dynamic_energy_j + 2.5 * report.latency_s)
    assert report.latency_interval_s == (0.5 * report.latency_s, 3.0 * report.latency_s)
    with pytest.raises(DeviceError, match="inferences_per_s: found -1"):
        simulate(make_encoder(layers=1), car_soc, inferences_per_s=-1)


def graph_of(*operations):
    graph = nx.DiGraph()
    for operation in operations:
        graph.add_node(operation.name, op=operation)
    return graph


def test_illegal_graphs_are_rejected(car_soc):
    renamed = nx.DiGraph()
    renamed.add_node("a", op=pointwise("b", "gelu", 1, 1))
    bare = nx.DiGraph()
    bare.add_node("a")
    for graph, says in (
        (nx.DiGraph(), "found no operations"),
        (nx.DiGraph([("a", "b"), ("b", "a")]), "found a cycle"),
        (nx.DiGraph([("a", "a")]), "found a cycle"),
        (nx.Graph([("a", "b")]), "found a cycle; legal is a directed acyclic graph"),
        (bare, "a: found no 'op'"),
        (renamed, "a: found the operation 'b'"),
    ):
        with pytest.raises(DeviceError, match=says):
            simulate(graph, car_soc)


@pytest.mark.parametrize("seq", [0, -1, 10**9, 10**400])
def test_sequences_of_odd_lengths_are_refused_in_one_line(seq):
    """A sequence of 10^9 has 12 x 10^18 attention scores, more than a count may be."""
    with pytest.raises(DeviceError, match="legal are sizes") as refused:
        encoder(layers=1, seq=seq)
    assert str(refused.value).isprintable() and len(str(refused.value)) < 300


def test_the_largest_operation_by_hand(car_soc):
    """10^18 sums: 32 a cycle at 1 GHz are 3.1e7 s, 2 x 10^18 bytes of DRAM at 7.16688 GB/s 2.8e8 s, nine years."""
    report = simulate(graph_of(pointwise("sum", "elementwise", 10**9, 10**9)), car_soc)
    assert report.operations[0].cost.compute_s == pytest.approx(1e18 / 32e9)
    assert report.dram_bytes == 2 * 10**18
    assert report.latency_s == pytest.approx(20e-6 + 2e18 / (17.064e9 * 0.70 * 0.60) + 150e-9)
    assert report.peak_memory_bytes == 10**18 and report.bound_shares == {"dram": 1.0}
    assert report.over_limits[0] == "memory: needs 1000000000.00 GB, the limit is 214.75 MB"


def test_weights_beyond_every_memory_are_priced_and_the_limit_is_named(car_soc):
    """2^16 x 2^17 codes of 8 bits are 8 GiB and a scale and offset, twice the DRAM: 1.2 s at 7.16688 GB/s."""
    report = simulate(graph_of(gemm("wide", 1, 2**16, 2**17, stored(2**17, 2**16, 8))), car_soc)
    assert report.weight_bytes == 2**33 + 4 and report.dram_bytes == 2**33 + 4
    assert report.latency_s == pytest.approx(20e-6 + (2**33 + 4) / (17.064e9 * 0.70 * 0.60) + 150e-9)
    assert any(line.startswith("memory: needs 8.59 GB") for line in report.over_limits)


@pytest.mark.parametrize("rate", [0, -1, 1e9, float("nan"), float("inf")])
def test_illegal_rates_are_rejected(car_soc, rate):
    with pytest.raises(DeviceError, match=r"inferences_per_s: found .*; legal"):
        simulate(encoder(layers=1, seq=16), car_soc, inferences_per_s=rate)


def test_activations_beyond_the_chip_are_noted(car_soc):
    """At 4096 tokens the scores alone are 201 MB."""
    report = simulate(encoder(layers=1, seq=4096), car_soc)
    assert "exceed" in report.notes[0] and report.scratchpad_room_bytes == 0
