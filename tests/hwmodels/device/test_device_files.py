"""Device files: the bundled one loads, and a wrong one is refused with file, line and field."""

import copy

import pytest
import yaml

from hwmodels import bundled_devices, load_device, sourced_share
from hwmodels.device.errors import DeviceError

from ..conftest import SafeDumper

GOOD = """\
schema: qbert-opt/device@1
id: tiny
name: a made-up device
confidence: theoretical
activation_bits: 8
memories:
  - {id: pad, kind: scratchpad, size: 1 MiB, read_bw: 10 GB/s, latency: 10 ns, energy: 1 pJ/bit}
  - id: ddr
    kind: dram
    size: 1 GiB
    dram: {data_rate: 2000 MT/s, bus_bits: 32}
    read_bw: 8 GB/s
    latency: 100 ns
    energy: 8 pJ/bit
units:
  - id: npu
    kind: npu
    cores: 1
    clock: 1 GHz
    path: [pad, ddr]
    launch: 10 us
    double_buffer: true
    energy_mac: {int8: 1 pJ}
    energy_element: 1 pJ
    rates:
      - {op: gemm, type: int8, per_cycle: 64, efficiency: 0.5}
      - {op: softmax, per_cycle: 1, efficiency: 1.0}
      - {op: layernorm, per_cycle: 1, efficiency: 1.0}
      - {op: gelu, per_cycle: 1, efficiency: 1.0}
      - {op: elementwise, per_cycle: 1, efficiency: 1.0}
formats:
  - {id: w8, weight_bits: 8, axis: rows, compute: int8, units: [npu], how: native}
  - {id: w4, weight_bits: 4, axis: rows, compute: int8, units: [npu], how: lut, table_entries: 16}
power: {static: 1 W, tdp: 2 W}
limits: {weights: 64 MB}
provenance:
  '*': {kind: assumed, source: made up}
"""


def write(tmp_path, text):
    path = tmp_path / "tiny.yaml"
    path.write_text(text)
    return str(path)


def test_a_path_comes_first_and_a_bundled_name_second(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_device("car-soc.yaml") == load_device("car-soc")
    (tmp_path / "car-soc.yaml").write_text(GOOD)
    assert load_device("car-soc.yaml").id == "tiny" and load_device("car-soc").id == "car-soc"


@pytest.mark.parametrize("name", bundled_devices())
def test_every_bundled_device_loads_and_says_what_is_sourced(name):
    device = load_device(name)
    sourced, figures = sourced_share(device)
    assert device.id == name and 0 < sourced <= figures


def test_an_unknown_device_names_the_known_ones(tmp_path):
    with pytest.raises(DeviceError, match=r"carsoc: found no such file.*car-soc.*did you mean 'car-soc'"):
        load_device("carsoc")
    with pytest.raises(DeviceError, match="found a folder"):
        load_device(str(tmp_path))
    with pytest.raises(DeviceError, match="x: found no such file"):
        load_device("x" * 10_000)
    with pytest.raises(DeviceError, match="legal names are"):
        load_device("no/such/car-soc.yaml")


WRONG = [
    ("size: 1 MiB", "size: 1 MIB", "tiny.yaml:7: memories[0].size: found '1 MIB', whose unit"),
    ("size: 1 MiB", "size: 1", "tiny.yaml:7: memories[0].size: found 1 without a unit"),
    ("size: 1 MiB", "size: 0 B", "tiny.yaml:7: memories[0].size: found '0 B'; legal is more than zero"),
    ("size: 1 MiB", "size: -1 MiB", "tiny.yaml:7: memories[0].size: found '-1 MiB', which is negative"),
    ("size: 1 MiB", "size: .nan", "tiny.yaml:7: memories[0].size: found nan without a unit"),
    ("size: 1 MiB", "size: 1 GB/s", "tiny.yaml:7: memories[0].size: found '1 GB/s', whose unit is not one of bytes"),
    ("size: 1 MiB", "size: 9e20 MiB", "tiny.yaml:7: memories[0].size: found '9e20 MiB', which is out of range"),
    ("size: 1 MiB", "sise: 1 MiB", "tiny.yaml:7: memories[0].size: found nothing; legal is bytes"),
    ("    latency: 100 ns", "    latency: 100 ns\n    latncy: 1 ns", "did you mean 'latency'?"),
    ("read_bw: 8 GB/s", "read_bw: 8 GB", "tiny.yaml:12: memories[1].read_bw: found '8 GB', whose unit"),
    ("read_bw: 8 GB/s", "read_bw: 16 GB/s", "tiny.yaml:12: memories[1].read_bw: found 16.000 GB/s; legal is"),
    ("    clock: 1 GHz\n", "", "tiny.yaml:16: units[0].clock: found nothing; legal is frequency"),
    ("cores: 1", "cores: 0", "tiny.yaml:18: units[0].cores: found 0; legal is at least 1"),
    ("cores: 1", "cores: .inf", "units[0].cores: found inf; legal is a whole number"),
    ("efficiency: 0.5", "efficiency: 1.5", "tiny.yaml:26: units[0].rates[0].efficiency: found 1.5; legal is at most 1"),
    ("efficiency: 0.5", "efficiency: .nan", "units[0].rates[0].efficiency: found nan; legal is"),
    ("path: [pad, ddr]", "path: [pad, dddr]", "tiny.yaml:20: units[0].path[1]: found 'dddr'; legal are the memories"),
    ("path: [pad, ddr]", "path: [pad]", "tiny.yaml:20: units[0].path: found pad, a scratchpad, as the last memory"),
    ("path: [pad, ddr]", "path: [ddr, pad]", "tiny.yaml:20: units[0].path: found ddr larger than its parent pad"),
    ("path: [pad, ddr]", "path: [pad, pad, ddr]", "units[0].path[1]: found 'pad' twice; legal is each memory once"),
    ("efficiency: 0.5", "efficiency: 0.5, tile: [64, 64]", "tile[2]: found nothing; legal is 3 or more values in this"),
    ("schema: qbert-opt/device@1", "schema: qbert-opt/device@1\ninherit: [a]", "legal is the name or file of a device"),
    ("kind: npu", "kind: tpu", "tiny.yaml:17: units[0].kind: found 'tpu'; legal is 'cpu', 'npu', 'dsp' or 'gpu'"),
    ("compute: int8, units: [npu], how: native", "compute: int16, units: [npu], how: native", "legal are the types"),
    ("units: [npu], how: native", "units: [gpu], how: native", "found 'gpu'; legal are the units npu"),
    ("how: native", "how: native, unpack_cycles_per_weight: 1.0", "found unpack cycles"),
    ("table_entries: 16", "table_entries: 8", "tiny.yaml:33: formats[1].table_entries: found 8; legal is 16"),
    ("id: w4, weight_bits: 4, axis: rows", "id: w4, weight_bits: 4, axis: columns", "groups that do not match"),
    ("id: w4", "id: w8", "formats[1].id: found 'w8' twice"),
    ("energy_mac: {int8: 1 pJ}", "energy_mac: {int16: 1 pJ}", "legal are those of energy_mac"),
    ("energy_mac: {int8: 1 pJ}", "energy_mac: {int9: 1 pJ}", "found 'int9'; legal is 'int4'"),
    ("      - {op: gelu, per_cycle: 1, efficiency: 1.0}\n", "", "found no rate for gelu"),
    ("static: 1 W", "static: 3 W", "tiny.yaml:34: power.static: found more than tdp"),
    ("weights: 64 MB", "weights: 64 GB", "tiny.yaml:35: limits.weights: found 64000000000 bytes"),
    ("weights: 64 MB", "weights: 64", "tiny.yaml:35: limits.weights: found 64 without a unit"),
    ("power:", "reserved: [{memory: ddr, size: 2 GiB}]\npower:", "legal is less than its size"),
    ("'*': {kind: assumed", "'units.*': {kind: assumed", "found no entry for memories.pad.size"),
    ("kind: assumed", "kind: guessed", "legal is 'datasheet'"),
    ("schema: qbert-opt/device@1", "schema: qbert-opt/device@9", "tiny.yaml:1: schema: found 'qbert-opt/device@9'"),
    ("name: a made-up device", "name: *x", "tiny.yaml:3: found the alias '*x'; legal is plain values"),
    ("name: a made-up device", "name: x\nname: y", "tiny.yaml:4: found the key 'name' again; legal is each key once"),
    ("name: a made-up device", "name: x\n? [a]\n: y", "tiny.yaml:4: found a list or mapping as a key"),
    ("name: a made-up device", "name: !!python/object:os.system x", "tiny.yaml:3: found the tag"),
    ("name: a made-up device", "name: {unclosed", "tiny.yaml:"),
    ("name: a made-up device", "name: \x01", "tiny.yaml:3: found the control character U+0001"),
    ("cores: 1", "cores: " + "9" * 5000, "tiny.yaml:18: found"),
    ("cores: 1", "co\tres: 1", "units[0].cores: found nothing"),
    ("    cores: 1", "    cores: 1\n    co\tres: 1", "tiny.yaml:19: units[0].'co\\tres': found an unknown field"),
    ("    cores: 1", "    cores: 1\n    " + "9" * 500 + ": 1", "9...: found an unknown field"),
]  # fmt: skip


@pytest.mark.parametrize(("right", "wrong", "says"), WRONG)
def test_a_wrong_field_is_refused_with_file_line_and_field(tmp_path, right, wrong, says):
    assert right in GOOD
    with pytest.raises(DeviceError) as refused:
        load_device(write(tmp_path, GOOD.replace(right, wrong, 1)))
    message = str(refused.value)
    assert says in message and message.isprintable() and "legal" in message and len(message) < 500


def _leaves(value, path=()):
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in pairs:
        yield (*path, key)
        yield from _leaves(item, (*path, key))


FULL = """\
rules:
  - {id: odd, bits: [3], axis: columns, group_sizes: [16], ragged: true, outputs_below: 9, because: slow, source: all}
power_modes:
  - {id: low, tdp: 1 W, static: 0.5 W, clocks: {npu: 500 MHz}, cores: {npu: 1}, read_bw: {ddr: 4 GB/s}}
reserved:
  - {memory: ddr, size: 10 MB}
interval: [0.5, 2.0]
year: 2020
automotive: true
limits: {weights: 64 MB, peak_ram: 64 MB, latency: 30 ms, energy: 1 J, dram_bandwidth: 4 GB/s}
"""
JUNK = [None, -1, True, [], {"a": 1}, float("nan"), 10**30, "9e30 GB"]
NOWHERE = ("-1", "nan", str(10**30), "9e30 GB")  # legal in no field but free text
FREE_TEXT = ("name", "because", "source", "note")  # any words are legal there


def full():
    """A device that states every field of the schema."""
    data = yaml.safe_load(GOOD) | yaml.safe_load(FULL)
    grid = {"rows": [1, 4], "inputs": [1], "outputs": [8], "efficiency": [0.5, 0.9]}
    data["units"][0]["rates"][0] |= {"efficiency_by_shape": grid, "launch": "1 us", "tile": [1, 8, 8]}
    data["formats"][0] |= {"efficiency_by_rows": {1: 0.5}, "loaded_bits": 8, "k_multiple": 1, "row_groups": [1]}
    return data


@pytest.mark.parametrize("junk", JUNK, ids=repr)
def test_no_field_lets_junk_through_as_another_error(tmp_path, junk):
    """Every value of the file replaced by junk: the file loads (if the junk is legal) or is rejected in one line."""
    good = full()
    load_device(write(tmp_path, yaml.dump(good, Dumper=SafeDumper)))
    paths, accepted = list(_leaves(good)), []
    for path in paths:
        data = copy.deepcopy(good)
        inside = data
        for key in path[:-1]:
            inside = inside[key]
        inside[path[-1]] = junk
        try:
            load_device(write(tmp_path, yaml.dump(data, Dumper=SafeDumper)))
            accepted += [path] if path[-1] not in FREE_TEXT else []
        except DeviceError as error:
            assert "tiny.yaml:" in str(error) and "\n" not in str(error)
    assert not (str(junk) in NOWHERE and accepted)
    assert len(accepted) < len(paths) / 4


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n",
        "[" * 50_000,
        "- " * 50_000 + "x",
        "a: 1\n" + "b: 1\n" * 300_000,
        "x" * 100_000_000,
        "",
        "- 1\n",
        "just text",
        "a: [" + "1," * 60_000 + "1]\n",
    ],
    ids=["aliases", "deep", "deep blocks", "long", "100 MB", "empty", "list", "text", "many values"],
)
def test_bombs_are_refused_quickly(tmp_path, text, calls_of):
    path = write(tmp_path, text)

    def refuse():
        with pytest.raises(DeviceError, match=r"tiny\.yaml:\d+: found") as refused:
            load_device(path)
        assert len(str(refused.value)) < 400

    assert calls_of(refuse) < 2_000_000  # half a second; the longest legal file makes a million calls


def test_binary_files_are_rejected(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_bytes(b"\xff\xfe\x00junk")
    with pytest.raises(DeviceError, match=r"tiny\.yaml:1: found UTF-16 text; legal is UTF-8"):
        load_device(str(path))
