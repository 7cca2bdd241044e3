"""Nonlinear functions in integers and in floating point on car-soc, by hand.

Its C7x does 16 multiplications, 32 additions, 8 table reads and 1 division a cycle at 1 GHz; its processor converts
elements and computes softmax in floating point at 2 and 0.25 a cycle on each of two cores at 2 GHz.
"""

import pytest

from hwmodels import DeviceError, IntegerWork, Operation, load_device, operation_cost, simulate, unsupported

from ..conftest import encoder

ELEMENTS = 12 * 128 * 128
WORK = IntegerWork(multiplies=4, additions=16, table_reads=2, divisions=0.5, table_bytes=2048)


def softmax(**how):
    return Operation("s", "softmax", 12 * 128, 1, 128, ELEMENTS, ELEMENTS, **how)


def test_integers_cost_their_elementary_operations(car_soc):
    """4/16 + 16/32 + 2/8 + 0.5/1 = 1.5 cycles an element."""
    cost = operation_cost(softmax(integers=WORK), car_soc)
    assert cost.unit == "mma" and cost.compute_s == pytest.approx(1.5 * ELEMENTS / 1e9)


def test_tables_are_loaded_and_held_but_are_no_weights(car_soc):
    cost = operation_cost(softmax(integers=WORK), car_soc)
    assert (cost.held_bytes, cost.dram_bytes, cost.weight_bytes) == (2048, 2048, 0)


def test_floating_point_goes_to_the_processor_and_converts_what_it_reads_and_makes(car_soc):
    """0.25 x 2 cores x 2 GHz = 1e9 elements/s; twice as many conversions at 2 x 2 x 2e9 = 8e9 elements/s."""
    cost = operation_cost(softmax(arithmetic="fp32"), car_soc)
    assert cost.unit == "a72" and cost.compute_s == pytest.approx(ELEMENTS / 1e9 + 2 * ELEMENTS / 8e9)
    # in and out through MSMC and the caches: the slowest is a cache of 32 GB/s read after 9 ns, which holds bytes
    assert cost.near_s > 2 * ELEMENTS / 120e9 and cost.dram_bytes == 0
    energy = 3 * ELEMENTS * 40e-12
    assert cost.dynamic_energy_j > energy


def test_without_a_way_the_units_own_rate_holds(car_soc):
    assert operation_cost(softmax(), car_soc).compute_s == pytest.approx(ELEMENTS / 2e9)


@pytest.mark.parametrize(("work", "says"), [
    (IntegerWork(additions=1, table_bytes=32769), "mma holds tables of 32768 bytes, not 32769"),
    (IntegerWork(additions=1, table_bytes=40000), "a72 holds tables of 32768 bytes, not 40000"),
])  # fmt: skip
def test_a_table_that_does_not_fit_is_refused_by_name(car_soc, work, says):
    op = softmax(integers=work)
    assert says in (unsupported(op, car_soc) or "")
    with pytest.raises(DeviceError, match=r"found a softmax in integers.*choose another way"):
        operation_cost(op, car_soc)


def changed(device, unit, **fields):
    """The device with other fields of one unit."""
    return device.model_copy(
        update={"units": tuple(u.model_copy(update=fields) if u.id == unit else u for u in device.units)}
    )


def test_a_unit_does_not_run_what_it_has_no_instruction_for(car_soc):
    rates = car_soc.units[0].integers.model_copy(update={"divisions": None})
    without = changed(car_soc, "mma", integers=rates)
    assert operation_cost(softmax(integers=WORK), without).unit == "a72"
    assert operation_cost(softmax(integers=IntegerWork(multiplies=1)), without).unit == "mma"
    neither = changed(without, "a72", integers=rates)
    assert "mma has no divisions; a72 has no divisions" in (unsupported(softmax(integers=WORK), neither) or "")


def test_a_device_without_rates_or_without_floats_says_so(car_soc):
    assert "a76 states no rates of elementary integer operations" in unsupported(
        softmax(integers=WORK), load_device("rpi5")
    )
    floatless = changed(car_soc, "a72", floating_point=False)
    assert "found a softmax in fp32; mma has no floating point; a72 has no floating point" in unsupported(
        softmax(arithmetic="fp32"), floatless
    )


def test_which_units_have_floating_point():
    """Stated, or a CPU or GPU, or a unit with a rate for such a type."""
    assert {unit.id: unit.has_floats for unit in load_device("car-soc").units} == {"mma": False, "a72": True}
    assert [unit.has_floats for unit in load_device("coral").units] == [False, True]
    assert load_device("h100").units[0].has_floats


def test_an_integer_unit_with_a_floating_point_rate_contradicts_itself(tmp_path):
    file = tmp_path / "d.yaml"
    file.write_text("inherit: car-soc\nid: d\nunits:\n  - {id: a72, floating_point: false}\n")
    with pytest.raises(DeviceError, match=r"found type fp32; legal are integers on a unit with floating_point: false"):
        load_device(str(file))


def test_illegal_work():
    with pytest.raises(DeviceError, match=r"integer work: found -1"):
        IntegerWork(multiplies=-1)
    with pytest.raises(DeviceError, match=r"one of them above"):
        IntegerWork()
    with pytest.raises(DeviceError, match=r"integer work of a pointwise kind, without a floating-point type"):
        softmax(integers=WORK, arithmetic="fp32")
    with pytest.raises(DeviceError, match=r"found integer work of a matmul"):
        Operation("m", "matmul", 1, 1, 1, 1, 1, integers=WORK)


def test_tables_count_in_peak_memory(car_soc):
    graph = encoder(layers=1)
    before = simulate(graph, car_soc)
    op = graph.nodes["0.softmax"]["op"]
    graph.nodes["0.softmax"]["op"] = Operation(
        op.name, op.kind, op.m, op.k, op.n, op.input_elements, op.output_elements, op.batch, integers=WORK
    )
    after = simulate(graph, car_soc)
    assert after.peak_memory_bytes - before.peak_memory_bytes == 2048
    assert after.weight_bytes == before.weight_bytes
