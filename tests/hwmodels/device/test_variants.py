"""Variants of a device: inheritance, power modes, engine rules, the editor's schema and measured files."""

import json

import pytest

from hwmodels import bundled_devices
from hwmodels.cost.operation_cost import operation_cost, unsupported
from hwmodels.device.description import Device
from hwmodels.device.errors import DeviceError
from hwmodels.device.loading import device_schema, in_power_mode, load_device

from ..conftest import gemm, stored

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
        ("inherit: nosuch\nid: x\n", "child.yaml:1: inherit: nosuch: found no such file or device"),
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
