"""Costs on car-soc that a reader can check by hand.

car-soc (TI TDA4VM) multiplies 4096 int8 pairs a cycle at 1 GHz and 45 %: 1843.2 GMAC/s. Its DRAM gives
17.064 GB/s x 0.70 x 0.60 = 7.16688 GB/s after 150 ns, its MSMC 120 GB/s after 40 ns. A launch costs 20 us.
The matrix is BERT-base's 768 x 768 on 128 tokens: 128 x 768 x 768 = 75,497,472 MAC = 40.96 us.
"""

from dataclasses import replace
from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwmodels.cost.operation import Operation, StoredWeight
from hwmodels.cost.operation_cost import operation_cost, unsupported
from hwmodels.cost.tiling import best_passes
from hwmodels.device.errors import DeviceError
from hwmodels.device.loading import load_device

from ..conftest import gemm, pointwise, stored

DRAM = 17.064e9 * 0.70 * 0.60
TOKENS, WIDTH = 128, 768


def test_one_matrix_streamed_at_8_bits(car_soc):
    """589,824 codes and one scale and offset: 589,828 bytes, 82.3 us of DRAM, twice the arithmetic."""
    cost = operation_cost(gemm("q", TOKENS, WIDTH, WIDTH, stored(WIDTH, WIDTH, 8)), car_soc)
    assert (cost.unit, cost.format) == ("mma", "w8-rows")
    assert cost.weight_bytes == cost.dram_bytes == 589_828 and cost.scratchpad_bytes == 0
    assert cost.compute_s == pytest.approx(75_497_472 / (4096 * 0.45 * 1e9))
    assert cost.dram_s == pytest.approx(589_828 / DRAM + 150e-9)
    # MSMC -> C7x L2: the weights once, 98,304 activations in and 98,304 out.
    assert cost.near_s == pytest.approx((589_828 + 2 * 98_304) / 120e9 + 40e-9)
    assert cost.latency_bound_s == pytest.approx(20e-6 + cost.dram_s)
    assert cost.unpack_s == 0 and cost.bound == "dram"
    # 0.3 pJ a MAC, 0.8 pJ a bit from MSMC, 8 pJ a bit from DRAM.
    picojoules = 0.3 * 75_497_472 + 0.8 * 8 * (589_828 + 196_608) + 8 * 8 * 589_828
    assert cost.dynamic_energy_j == pytest.approx(picojoules * 1e-12)
    assert (cost.macs, cost.bops) == (75_497_472, 75_497_472 * 64)


def test_one_matrix_in_the_scratchpad_at_8_bits(car_soc):
    """No byte from DRAM: only the 41 us of arithmetic and the launch are left."""
    cost = operation_cost(gemm("q", TOKENS, WIDTH, WIDTH, stored(WIDTH, WIDTH, 8, resident=True)), car_soc)
    assert cost.dram_bytes == 0 and cost.dram_s == 0 and cost.scratchpad_bytes == 589_828
    assert cost.latency_bound_s == pytest.approx(20e-6 + 40.96e-6)
    assert cost.bound == "compute"


def test_4_bits_in_128_row_groups_stream_faster_but_must_be_unpacked(car_soc):
    """294,912 bytes of codes and 128 x 4 of scales: 41.3 us of DRAM; unpacking 36.9 us + 128 x 8 cycles."""
    cost = operation_cost(gemm("q", TOKENS, WIDTH, WIDTH, stored(WIDTH, WIDTH, 4, groups=128)), car_soc)
    assert cost.dram_bytes == 294_912 + 512
    assert cost.unpack_s == pytest.approx((589_824 * 0.0625 + 128 * 8) / 1e9)
    assert cost.latency_bound_s == pytest.approx(20e-6 + 40.96e-6 + 37.888e-6)


def test_codes_that_an_engine_expands_run_and_are_held_as_bytes(car_soc):
    """4 bits in the file, 8 in memory: everything but the stored bytes is that of 8 bits."""
    weight = stored(WIDTH, WIDTH, 4)
    own, eight = (
        operation_cost(gemm("q", TOKENS, WIDTH, WIDTH, one), car_soc)
        for one in (replace(weight, loaded_bits=8), stored(WIDTH, WIDTH, 8))
    )
    assert (own.weight_bytes, own.held_bytes) == (294_912 + 4, 589_824 + 4)
    assert replace(own, weight_bytes=eight.weight_bytes) == eight
    with pytest.raises(DeviceError, match="found 3 bits loaded of 4 stored; legal are as many or more"):
        replace(weight, loaded_bits=3)


def test_extra_passes_take_the_rate_of_pointwise_work(car_soc):
    """32 elements a cycle at 1 GHz; a format whose products were measured contains them; only products have them."""
    op = gemm("q", TOKENS, WIDTH, WIDTH, stored(WIDTH, WIDTH, 8))
    more = replace(op, extra_elements=3_200_000)
    plain, dear = operation_cost(op, car_soc), operation_cost(more, car_soc)
    assert dear.compute_s - plain.compute_s == pytest.approx(100e-6)
    unit = car_soc.units[0]
    assert dear.dynamic_energy_j - plain.dynamic_energy_j == pytest.approx(3_200_000 * unit.energy_element_j)
    formats = tuple(form.model_copy(update={"efficiency_by_rows": {1: 0.5}}) for form in car_soc.formats)
    measured = car_soc.model_copy(update={"formats": formats})
    assert operation_cost(more, measured) == operation_cost(op, measured)
    with pytest.raises(DeviceError, match="found 5 extra elements of a matmul"):
        Operation("a", "matmul", 1, 1, 1, 1, 1, extra_elements=5)


def test_2_bits_in_columns_of_32_are_slower_than_8_bits(car_soc):
    """18,432 ranges cost as much as the codes, so fewer bits can be slower, and the cost shows it."""
    two = operation_cost(gemm("q", TOKENS, WIDTH, WIDTH, stored(WIDTH, WIDTH, 2, "columns", size=32)), car_soc)
    eight = operation_cost(gemm("q", TOKENS, WIDTH, WIDTH, stored(WIDTH, WIDTH, 8)), car_soc)
    assert two.unpack_s == pytest.approx((589_824 * 0.0625 + 18_432 * 2) / 1e9)
    assert two.latency_bound_s > eight.latency_bound_s and two.bound == "unpack"
    assert two.dram_bytes == 589_824 // 4 + 4 * 18_432


def test_a_gather_reads_its_rows_only(car_soc):
    """128 of 30,522 rows of 768 bytes and a 4-byte scale and offset."""
    weight = stored(30_522, 768, 8, groups=30_522)
    cost = operation_cost(Operation("e", "gather", 128, 30_522, 768, 128, 128 * 768, weight=weight), car_soc)
    assert cost.weight_bytes == 30_522 * 772 and cost.dram_bytes == 128 * 772


def test_a_softmax_takes_two_elements_a_cycle(car_soc):
    cost = operation_cost(pointwise("s", "softmax", 12 * 128, 128), car_soc)
    assert cost.compute_s == pytest.approx(12 * 128 * 128 / 2e9) and cost.dram_bytes == 0


def test_attention_is_padded_to_the_matrix_unit(car_soc):
    """Tiles of 64: 100 outputs cost as much as 128."""
    padded = Operation("s", "matmul", 100, 64, 100, 2 * 6400, 10_000, batch=12)
    assert operation_cost(padded, car_soc).compute_s == pytest.approx(12 * 100 * 64 * 128 / 1843.2e9)


def test_activations_that_exceed_the_chip_go_to_dram(car_soc):
    """6,710,886 usable bytes of MSMC: 2 x 4 MB of activations cross the DRAM boundary both ways."""
    cost = operation_cost(pointwise("g", "gelu", 2**12, 2**10), car_soc)
    assert cost.dram_bytes == 2 * 2**22


def test_fp32_runs_on_the_processor(car_soc):
    """2 cores x 4 MAC x 2 GHz x 80 % = 12.8 GMAC/s."""
    cost = operation_cost(gemm("q", TOKENS, WIDTH, WIDTH, stored(WIDTH, WIDTH, 32, "none")), car_soc)
    assert cost.unit == "a72" and cost.compute_s == pytest.approx(75_497_472 / 12.8e9)


@pytest.mark.parametrize(
    ("weight", "says"),
    [
        (stored(768, 768, 6), "6-bit weights along rows.*legal on car-soc: 2 bits columns"),
        (stored(768, 768, 4, "columns", size=16), "groups of 32 or 64 or 128 inputs, not 16"),
    ],
)
def test_a_format_that_no_unit_runs_is_refused_with_the_rule(car_soc, weight, says):
    op = gemm("q", TOKENS, WIDTH, WIDTH, weight)
    assert unsupported(op, car_soc) is not None
    with pytest.raises(DeviceError, match=f"car-soc: q: .*{says}"):
        operation_cost(op, car_soc)


def test_illegal_operations():
    with pytest.raises(DeviceError, match="c: found kind 'conv'; legal are gemm"):
        Operation("c", "conv", 1, 1, 1, 1, 1)
    with pytest.raises(DeviceError, match="c: found m, k, n, batch 0, 1, 1, 1"):
        Operation("c", "gemm", 0, 1, 1, 1, 1)
    with pytest.raises(DeviceError, match="axis 'diagonal'; legal are rows, columns, none"):
        StoredWeight(8, "diagonal", 1, 1, 1, 0)
    for wrong in ((0, "rows", 1, 1, 1, 0), (8, "columns", 1, 0, 1, 0), (8, "rows", 1, 1, -1, 0)):
        with pytest.raises(DeviceError, match="legal are 1 to 64 bits"):
            StoredWeight(*wrong)


def test_resident_weights_need_a_scratchpad_within_reach():
    """A Raspberry Pi has only caches, in which no weight can be kept."""
    op = gemm("q", TOKENS, WIDTH, WIDTH, stored(WIDTH, WIDTH, 8, resident=True))
    assert "a76 reaches no scratchpad" in str(unsupported(op, load_device("rpi5")))


@given(*(st.integers(1, 4096) for _ in range(3)), st.sampled_from([1, 2, 4]), st.integers(1, 2**24))
def test_a_larger_near_memory_never_moves_more(m, k, n, width, capacity):
    """And every operand crosses at least once."""

    def moved(capacity_bytes):
        ways = best_passes(m, k, n, activation_bytes=1, weight_bytes=width, capacity_bytes=capacity_bytes)
        return ways.weight * n * k * width + ways.activation * m * k

    assert moved(capacity) >= moved(2 * capacity) >= n * k * width + m * k


def test_passes_by_hand():
    """100 bytes hold 2 columns in flight of 8 and 7 rows of 8 + 4: 64 rows pass in 10 blocks, or the columns do."""
    ways = best_passes(64, 8, 4, activation_bytes=1, weight_bytes=1, capacity_bytes=100)
    # 7 rows (100 - 16) / 12: weights cross 10 times, 320 + 512 bytes; 4 columns (100 - 8) / 20: 32 + 512 bytes.
    assert (ways.weight, ways.activation) == (1, 1)
    ways = best_passes(64, 8, 8, activation_bytes=1, weight_bytes=1, capacity_bytes=100)
    assert (ways.weight, ways.activation) == (1, 2)  # 64 + 1024 bytes against 640 + 512


def test_the_default_grid_is_priced_in_time(car_soc, calls_of):
    """72 matrices × 28 choices × 2 residencies in well under a second."""
    grid = [{"bits": b, "groups": g} for b in (2, 3, 4, 8) for g in (1, 12, 128, 768)]
    grid += [{"bits": b, "axis": "columns", "size": g} for b in (2, 3, 4, 8) for g in (32, 64, 128)]

    def price():
        for k, n in [(768, 768)] * 48 + [(768, 3072), (3072, 768)] * 12:
            for choice in grid:
                for resident in (False, True):
                    operation_cost(gemm("x", 128, k, n, stored(n, k, resident=resident, **choice)), car_soc)

    assert calls_of(price) < 500 * 2 * 72 * len(grid)  # 224 each


def reading(bits, weight):
    """The matrix of 768 x 768 on 128 tokens, with inputs of some width."""
    return replace(gemm("q", TOKENS, WIDTH, WIDTH, weight), input_bits=bits)


def test_4_bit_inputs_run_as_bytes_where_no_product_of_4_bits_is_listed(car_soc):
    """The rate, the bytes and the energy of int8; only bit operations count 4 bits."""
    weight = stored(WIDTH, WIDTH, 8)
    eight, four = (operation_cost(reading(bits, weight), car_soc) for bits in (8, 4))
    assert replace(four, bops=0) == replace(eight, bops=0)
    assert (eight.bops, four.bops) == (75_497_472 * 64, 75_497_472 * 32)
    with pytest.raises(DeviceError, match=r"q: found 2 bits of input; legal are 4, 8 and 16"):
        reading(2, weight)


@pytest.fixture(scope="module")
def with_int4(tmp_path_factory):
    """car-soc, if it multiplied 4-bit inputs by 4-bit weights at twice the rate of bytes."""
    text = (files("hwmodels") / "devices" / "car-soc.yaml").read_text()
    for old, new in (
        ("energy_mac: {int8: 0.3 pJ", "energy_mac: {int4: 0.1 pJ, int8: 0.3 pJ"),
        ("      - {op: gemm, type: int16", "      - {op: gemm, type: int4, per_cycle: 8192, efficiency: 0.45}\n"
         "      - {op: gemm, type: int16"),
        ("axis: rows, compute: int8, units: [mma], how: lut, table_entries: 16, unpack_cycles_per_weight: 0.0625, "
         "unpack_cycles_per_group: 8}", "axis: rows, compute: int4, units: [mma], how: native}"),
    ):  # fmt: skip
        assert text.count(old) == 1
        text = text.replace(old, new)
    path = tmp_path_factory.mktemp("device") / "int4.yaml"
    path.write_text(text)
    return load_device(str(path))


def test_4_bit_inputs_take_the_product_of_4_bits_where_it_is_listed(with_int4):
    """Half the time of bytes and a third of the energy; inputs of 8 bits do not fit it, other weights do not gain."""
    weight = stored(WIDTH, WIDTH, 4)
    four, eight = (operation_cost(reading(bits, weight), with_int4) for bits in (4, 8))
    assert four.compute_s == pytest.approx(75_497_472 / (8192 * 0.45 * 1e9))
    assert eight.compute_s == pytest.approx(2 * four.compute_s)
    assert operation_cost(reading(None, weight), with_int4) == eight  # nothing is rounded to 4 bits unasked
    assert eight.dynamic_energy_j - four.dynamic_energy_j == pytest.approx((0.3 - 0.1) * 75_497_472e-12)
    assert four.dram_bytes == eight.dram_bytes and four.near_s == eight.near_s  # an input of 4 bits takes a byte
    wider = [operation_cost(reading(bits, stored(WIDTH, WIDTH, 8)), with_int4).compute_s for bits in (4, 8)]
    assert wider[0] == wider[1] == eight.compute_s
