"""The bundled devices, against public figures that follow from their files."""

import pytest

from hwmodels import bundled_devices, load_device
from hwmodels.cost.operation_cost import operation_cost, unsupported
from hwmodels.device.provenance import figures
from hwmodels.schedule.simulate import simulate

from ..conftest import encoder, gemm, pointwise, stored


@pytest.mark.parametrize(
    ("name", "unit", "number_type", "tera_ops"),
    [
        ("car-soc", "mma", "int8", 8),
        ("coral", "tpu", "int8", 4),
        ("imx8mp", "npu", "int8", 2.3),
        ("imx93-u65", "u65", "int8", 0.5),
        ("imx95", "neutron", "int8", 2),
        ("ethos-u85", "u85", "int8", 4),
        ("tesla-hw3", "npu", "int8", 36.86),
        ("sa8155p", "hexagon", "int8", 8),
        ("sa8295p", "hexagon", "int8", 45),
        ("orin-nano", "gpu", "int8", 20),
        ("orin-nano@super", "gpu", "int8", 33.5),
        ("agx-orin", "gpu", "int8", 85),
        ("agx-orin", "gpu", "fp32", 5.3),
        ("xavier", "gpu", "int8", 22),
        ("t4", "gpu", "int8", 130),
        ("t4", "gpu", "fp32", 8.141),
        ("a100", "gpu", "fp16", 312),
        ("a100", "gpu", "int8", 624),
        ("h100", "gpu", "fp16", 989),
        ("h200", "gpu", "int8", 1979),
        ("rpi4", "a72", "fp32", 0.0479),
        ("rpi5", "a76", "int8", 0.614),
        ("rpi5", "a76", "fp32", 0.1535),
        ("snapdragon-8-gen2", "a715", "fp32", 0.1792),
        ("snapdragon-8-gen3", "a720", "int8", 0.96),
        ("dimensity-9300", "x4", "int8", 1.459),
        ("apple-a18-pro", "performance", "fp16", 0.5184),
    ],
)
def test_peaks_are_the_dense_ones(name, unit, number_type, tera_ops):
    """2 × products per cycle × cores × clock; a datasheet's sparse figure would be twice that."""
    device = load_device(name)
    result = next(part for part in device.units if part.id == unit)
    rate = next(rate for rate in result.rates if (rate.op, rate.type) == ("gemm", number_type))
    assert 2 * rate.per_cycle * result.cores * result.clock_hz / 1e12 == pytest.approx(tera_ops, rel=0.05)


@pytest.mark.parametrize("name", bundled_devices())
def test_every_device_runs_an_encoder_and_states_its_sources(name):
    device = load_device(name)
    report = simulate(encoder(layers=1, seq=64), device)
    assert 0 < report.latency_s <= report.latency_bound_s
    assert report.sourced_figures >= 8 and device.confidence != "calibrated"
    assert all(figure.provenance.source for figure in figures(device))


def test_undisputed_rankings():
    """BERT-base at 8 bits: a Pi 5 beats a Pi 4, car SoCs beat both, and a Coral is limited by its PCIe lane."""
    graph = encoder(bits=8)
    latency_s = {name: simulate(graph, load_device(name)).latency_s for name in bundled_devices()}
    assert latency_s["rpi4"] > latency_s["rpi5"] > latency_s["car-soc"] > latency_s["tda4vh"]
    assert latency_s["coral"] > 84_934_656 / 500e6
    assert latency_s["orin-nano"] > latency_s["agx-orin"]
    assert latency_s["rpi5"] > latency_s["snapdragon-8-gen2"] > latency_s["dimensity-9300"]


def test_a_per_tensor_npu_leaves_row_groups_to_its_processor():
    """The Neutron NPU supports one scale per tensor, so 128 row groups run on the Cortex-A55."""
    device = load_device("imx95")
    for groups, unit in ((1, "neutron"), (128, "a55")):
        assert operation_cost(gemm("q", 128, 768, 768, stored(768, 768, 8, groups=groups)), device).unit == unit


def test_units_that_share_no_memory_on_chip_hand_over_through_dram():
    """The Neutron NPU has no GELU, so its 98,304 inputs and outputs cross DDR; those of the MMA stay in MSMC."""
    softmax = pointwise("s", "softmax", 128, 768)
    assert operation_cost(softmax, load_device("imx95")).dram_bytes == 2 * 128 * 768
    assert operation_cost(softmax, load_device("car-soc")).dram_bytes == 0


def test_masks_follow_the_engines():
    """Only the car SoC supports three bits; int4 is masked where the vendor does not support it."""
    three, four = stored(768, 768, 3, groups=128), stored(768, 768, 4, "columns", size=128)
    runs = {name: unsupported(gemm("q", 16, 768, 768, three), load_device(name)) is None for name in bundled_devices()}
    assert {name for name, does in runs.items() if does} == {"car-soc", "tda4vh"}
    assert unsupported(gemm("q", 16, 768, 768, four), load_device("t4")) is not None
    assert unsupported(gemm("q", 16, 768, 768, four), load_device("orin-nano")) is None
    ragged = unsupported(gemm("q", 16, 312, 312, stored(312, 312, 4, "columns", size=128)), load_device("rpi5"))
    assert ragged is not None and "whole-ranges" in ragged
