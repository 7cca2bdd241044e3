"""Device files that a calibration writes reproduce the measurements."""

import networkx as nx
import pytest

from hwmodels import (
    DeviceError,
    MeasuredFormat,
    MeasuredGrid,
    MeasuredMemory,
    Measurements,
    device_file,
    load_device,
    operation_cost,
    simulate,
    sourced_share,
)

from ..conftest import gemm, pointwise, stored


def write(tmp_path, name, text):
    (tmp_path / f"{name}.yaml").write_text(text)
    return str(tmp_path / f"{name}.yaml")


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
    """128 x 768 x 768 at 0.4 TMAC/s and 0.1 TMAC/s: where 4 bits measured four times slower, they are predicted so."""
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
    """Cyclic accesses to more than the cache holds never hit; below that the second inference is warm."""
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


GRID = {"rows": (1, 4), "inputs": (1,), "outputs": (8,), "per_s": (1e9, 2e9)}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"noise": float("nan")}, "launch and noise: found nan; legal are finite numbers of at least 0"),
        ({"held_out": (1.2, 0.9)}, "legal is the lowest first"),
        ({"held_out": (float("nan"), 1.0)}, "held-out ratios: found nan"),
        ({"clock_hz": 0.0}, "cores and clock: found 0.0; legal are finite numbers above 0"),
        ({"launch_s": -1e-6}, "launch and noise: found -1e-06"),
        ({"elements_per_s": {"gelu": float("inf")}}, "gelu: found inf"),
        ({"elements_per_s": {"gelu": MeasuredGrid(**GRID | {"rows": (4, 1)})}}, r"gelu: found rows \[4, 1\]; legal"),
        ({"elements_per_s": {"gelu": MeasuredGrid(**GRID | {"rows": (1, 1)})}}, r"gelu: found rows \[1, 1\]; legal"),
        ({"elements_per_s": {"gelu": MeasuredGrid(**GRID | {"per_s": (1e9,)})}}, "gelu: found 1 speeds; legal are"),
        ({"memories": (MeasuredMemory("ram", 2**33, float("nan"), 1e-7),)}, "memory ram: found nan"),
        ({"formats": (MeasuredFormat("w8", 8, "rows", "int8", {1: 0.0}),)}, "format w8: found 0.0"),
    ],
)
def test_impossible_measurements_are_rejected_by_name(changes, says):
    with pytest.raises(DeviceError, match=says) as refused:
        device_file(measurements(**changes))
    assert str(refused.value).startswith("host: ") and str(refused.value).isprintable()


@pytest.mark.parametrize("text", ["1e3", "0o17", "010", "yes", "1:30", "~", "a: b", "0x1f", "- x", "µ"])
def test_words_that_look_like_numbers_come_back_as_words(tmp_path, text):
    """PyYAML writes YAML 1.1, where `1e3` and `0o17` are text; the strict reader would parse them as numbers."""
    device = load_device(write(tmp_path, "host", device_file(measurements(name=text, how=f"{text} 1.0"))))
    assert device.name == text
