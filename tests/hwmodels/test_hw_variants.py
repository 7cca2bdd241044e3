"""Variants of a device: inheritance, power modes, engine rules, the editor's schema and measured files."""

import json

import networkx as nx
import pytest

from hwmodels.cost import operation_cost, unsupported
from hwmodels.device import Device, bundled_devices, device_schema, in_power_mode, load_device, sourced_share
from hwmodels.errors import DeviceError
from hwmodels.measured import MeasuredFormat, MeasuredMemory, Measurements, device_file
from hwmodels.mix import simulate_mix
from hwmodels.simulate import simulate

from .conftest import encoder, gemm, pointwise, stored

CHILD = """\
inherit: car-soc
id: car-soc-2
units:
  - {id: mma, clock: 2 GHz}
provenance:
  units.mma.clock: {kind: measured, source: a made-up bench}
"""


def write(tmp_path, name, text):
    (tmp_path / f"{name}.yaml").write_text(text)
    return str(tmp_path / f"{name}.yaml")


def test_a_variant_states_only_what_differs(tmp_path, car_soc):
    variant = load_device(write(tmp_path, "child", CHILD))
    assert (variant.id, variant.units[0].clock_hz) == ("car-soc-2", 2e9)
    assert variant.units[0].rates == car_soc.units[0].rates and variant.units[1] == car_soc.units[1]
    assert variant.memories == car_soc.memories


def test_a_variant_of_a_variant_is_found_beside_it(tmp_path):
    write(tmp_path, "child", CHILD)
    grandchild = load_device(write(tmp_path, "grandchild", "inherit: child.yaml\nid: third\n"))
    assert (grandchild.id, grandchild.units[0].clock_hz) == ("third", 2e9)


def test_a_changed_figure_may_not_keep_the_source_of_the_old_one(tmp_path):
    text = CHILD.replace("units.mma.clock", "units.mma.launch")
    with pytest.raises(DeviceError, match=r"child.yaml:6: provenance: found no entry for units.mma.clock"):
        load_device(write(tmp_path, "child", text))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("inherit: child.yaml\nid: x\n", "child.yaml:1: inherit: found 'child.yaml'; legal is a device that does not"),
        ("inherit: nosuch\nid: x\n", "nosuch: found no such file or bundled device"),
        ("inherit: [car-soc]\nid: x\n", r"child.yaml:1: inherit: found \["),
        (CHILD.replace("clock: 2 GHz", "clock: 2"), "child.yaml:4: units.0..clock: found 2 without a unit"),
        (CHILD.replace("id: mma", "id: npu"), r"child.yaml:4: units\[2\].kind: found nothing"),
    ],
)
def test_a_wrong_variant_is_refused_in_its_own_file(tmp_path, text, says):
    with pytest.raises(DeviceError, match=says):
        load_device(write(tmp_path, "child", text))


MODES = """\
inherit: car-soc
id: modal
power_modes:
  - {id: 5W, tdp: 5 W, static: 1 W, clocks: {mma: 500 MHz}, cores: {a72: 1}, read_bw: {ddr: 8 GB/s}}
"""


def test_a_power_mode_changes_clocks_cores_and_bandwidth(tmp_path, car_soc):
    path = write(tmp_path, "modal", MODES)
    slow = load_device(f"{path}@5W")
    assert (slow.units[0].clock_hz, slow.units[1].cores) == (0.5e9, 1)
    assert slow.memory("ddr").read_bytes_per_s == 8e9 and (slow.power.tdp_w, slow.power.static_w) == (5, 1)
    op = gemm("q", 128, 768, 768, stored(768, 768, 8, resident=True))
    assert operation_cost(op, slow).compute_s == 2 * operation_cost(op, car_soc).compute_s
    with pytest.raises(DeviceError, match="modal: found power mode '9W'; legal are 5W"):
        in_power_mode(load_device(path), "9W")
    with pytest.raises(DeviceError, match="car-soc: found power mode '5W'; legal are none"):
        load_device("car-soc@5W")
    with pytest.raises(DeviceError, match=r"modal.yaml:4: power_modes\[0\].clocks.gpu: found 'gpu'"):
        load_device(write(tmp_path, "modal", MODES.replace("clocks: {mma", "clocks: {gpu")))


RULES = """\
inherit: car-soc
id: ruled
rules:
  - {id: no-3-bits, bits: [3], because: does not load, source: an engine}
  - {id: whole-ranges, axis: columns, ragged: true, because: the last range would be cut, source: an engine}
  - {id: wide, bits: [4], outputs_below: 33, because: needs over 32 outputs, source: an engine}
  - {id: not-64, bits: [2], axis: columns, group_sizes: [64], because: writes zeros, source: an engine}
"""


@pytest.mark.parametrize(
    ("n", "k", "weight", "rule"),
    [
        (768, 768, (3, "rows", 1, 0), "no-3-bits"),
        (768, 312, (4, "columns", 1, 64), "whole-ranges"),
        (32, 768, (4, "rows", 1, 0), "wide"),
        (768, 768, (2, "columns", 1, 64), "not-64"),
        (33, 768, (4, "rows", 1, 0), None),
        (768, 768, (2, "columns", 1, 128), None),
        (32, 768, (2, "rows", 1, 0), None),
    ],
)
def test_an_engine_rule_becomes_a_mask_with_its_name(tmp_path, n, k, weight, rule):
    device = load_device(write(tmp_path, "ruled", RULES))
    refusal = unsupported(gemm("q", 16, k, n, stored(n, k, *weight)), device)
    assert (refusal is None) if rule is None else (refusal is not None and rule in refusal)


def test_the_schema_for_editors_names_units_and_refuses_unknown_fields():
    schema = device_schema()
    json.dumps(schema)
    assert schema["additionalProperties"] is False and "inherit" in schema["properties"]
    size = schema["$defs"]["Memory"]["properties"]["size"]
    assert size["type"] == "string" and size["examples"] == ["8 MiB"]


@pytest.mark.parametrize("name", bundled_devices())
def test_a_device_comes_back_from_its_own_json(name):
    device = load_device(name)
    assert Device.model_validate(json.loads(device.model_dump_json(by_alias=True))) == device


def test_a_mix_of_lengths_is_the_average_and_memory_the_worst(car_soc):
    short, long = (encoder(layers=1, seq=seq) for seq in (32, 256))
    report = simulate_mix([(19, short), (1, long)], car_soc, inferences_per_s=20)
    one, other = (simulate(graph, car_soc) for graph in (short, long))
    assert report.mean_latency_s == pytest.approx(0.95 * one.latency_s + 0.05 * other.latency_s)
    assert (report.tail_latency_s, report.worst_latency_s) == (one.latency_s, other.latency_s)
    assert report.peak_memory_bytes == other.peak_memory_bytes
    assert report.scratchpad_room_bytes == other.scratchpad_room_bytes < one.scratchpad_room_bytes
    assert report.dram_bandwidth_bytes_per_s == pytest.approx(20 * (0.95 * one.dram_bytes + 0.05 * other.dram_bytes))
    for mix, says in (([], "mix: found weights"), ([(-1, short)], "mix: found weights"), ([(0, short)], "one above")):
        with pytest.raises(DeviceError, match=says):
            simulate_mix(mix, car_soc)
    with pytest.raises(DeviceError, match="legal is one model"):
        simulate_mix([(1, short), (1, encoder(bits=4, layers=1))], car_soc)


def measurements(**changes):
    given = {
        "id": "host",
        "name": "a made-up host",
        "cores": 1,
        "clock_hz": 4e9,
        "activation_bits": 32,
        "memories": (MeasuredMemory("l2", 2**20, 2e11, 5e-9, 0.75), MeasuredMemory("ram", 2**33, 3.6e10, 1e-7)),
        "formats": (
            MeasuredFormat("fp32", 32, "none", "fp32", {1: 1e10, 128: 1e11}),
            MeasuredFormat("w8", 8, "rows", "int8", {1: 2e10, 128: 4e11}),
            MeasuredFormat("w4g128", 4, "columns", "int8", {1: 3e10, 128: 1e11}, group_sizes=(128,), k_multiple=128),
        ),
        "elements_per_s": {"softmax": 1e9, "layernorm": 2e9, "gelu": 1e9, "elementwise": 4e9},
        "launch_s": 7e-6,
        "noise": 0.04,
        "how": "a made-up engine 1.0",
        "held_out": (0.93, 1.08),
    }
    return Measurements(**(given | changes))


def test_a_measured_file_gives_back_what_was_measured(tmp_path):
    """128 x 768 x 768 at 0.4 TMAC/s and 0.1 TMAC/s; where 4 bits ran four times slower, they stay so."""
    device = load_device(write(tmp_path, "host", device_file(measurements())))
    assert device.confidence == "calibrated" and device.latency_interval == (0.93, 1.08)
    macs = 128 * 768 * 768
    for weight, per_s in ((stored(768, 768, 8), 4e11), (stored(768, 768, 4, "columns", size=128), 1e11)):
        assert operation_cost(gemm("q", 128, 768, 768, weight), device).compute_s == pytest.approx(macs / per_s)
    between = operation_cost(gemm("q", 12, 768, 768, stored(768, 768, 32, "none")), device).compute_s
    assert macs / 128 * 12 / 1e11 < between < macs / 128 * 12 / 1e10
    assert operation_cost(pointwise("s", "softmax", 100, 100), device).compute_s == pytest.approx(1e-5)
    sourced, every = sourced_share(device)
    assert sourced > 0.6 * every


def test_a_noisy_or_unchecked_calibration_is_not_called_calibrated(tmp_path):
    for changes in ({"noise": 0.3}, {"held_out": None}):
        text = device_file(measurements(**changes))
        assert load_device(write(tmp_path, "host", text)).confidence == "partly-measured"
    assert "too noisy to call calibrated" in device_file(measurements(noise=0.3))
    with pytest.raises(DeviceError, match="host: found no products or memories"):
        device_file(measurements(formats=()))


def test_a_cache_keeps_all_weights_or_none(tmp_path):
    """A cyclic walk over more than the cache holds finds nothing again; below that the second inference is warm."""
    memories = (MeasuredMemory("l3", 2**22, 1e11, 1e-8), MeasuredMemory("ram", 2**33, 1e9, 1e-7))
    device = load_device(write(tmp_path, "host", device_file(measurements(memories=memories))))
    reports = []
    for matrices in (2, 5):
        graph = nx.DiGraph()
        for position in range(matrices):
            op = gemm(f"m{position}", 1, 1024, 1024, stored(1024, 1024, 8))
            graph.add_node(op.name, op=op)
        reports.append(simulate(graph, device))
    small, large = reports
    assert small.cached and not large.cached
    assert small.latency_s < 0.5 * small.latency_bound_s and large.latency_s == large.latency_bound_s
    assert small.dram_bytes == 2 * (2**20 + 4) + 0
