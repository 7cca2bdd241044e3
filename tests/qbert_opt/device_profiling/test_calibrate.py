"""Calibration: of a made-up machine whose laws are known, of a noisy one, and of torch on small grids."""

import re

import numpy as np
import pytest

from hwmodels import DeviceError, load_device
from qbert_opt.device_profiling import calibrate, engine_bench, fitting, kernels
from qbert_opt.device_profiling.bench import FINE, BenchFormat, Grid, Shape, Subject
from qbert_opt.device_profiling.benches import torch as torch_bench
from qbert_opt.device_profiling.board import machine
from qbert_opt.device_profiling.shapes import profile_of
from qbert_opt.errors import UsageError
from qbert_opt.runtime import cpu_timing

START, OPERATION, SLOWER = 200e-6, 3e-6, 1.1  # of whole models, beside their kernels
DRAM = 20e9


class MadeUp:
    """A machine of 100 GMAC/s that loses speed with few rows; its clock is advanced by its calls."""

    engine = None
    label = "a made-up engine"
    making_s, slowed = 0.0, 1.0
    activation_bits = 32
    grid = FINE
    subjects = tuple(Subject(shape, seq_len) for shape in torch_bench.SHAPES for seq_len in torch_bench.LENGTHS)
    formats = (
        BenchFormat("f32", 32, "none", "fp32", "fp32"),
        BenchFormat("f16", 16, "none", "fp32", "fp32", loaded_bits=32),
        BenchFormat("w4-columns", 4, "columns", "fp32", "fp32", (64,), 32),
    )

    def __init__(self, noise=0.0):
        self.now_s, self.noise, self.random = 0.0, noise, np.random.default_rng(0)

    def process_time_ns(self):
        return round(self.now_s * 1e9)

    def taking(self, seconds):
        self.now_s += self.making_s

        def call():
            factor = np.exp(self.noise * self.random.standard_normal()) if self.noise else 1.0
            self.now_s += self.slowed * seconds * factor

        return call

    def nothing(self):
        return self.taking(1e-9)

    def product_s(self, rows, inputs, outputs):
        return 2e-6 + rows * inputs * outputs / (100e9 * rows / (rows + 12))

    def attention_s(self, seq_len, heads, depth):
        return 15e-6 + heads * (2 * seq_len**2 * depth / 40e9 + seq_len**2 / 0.5e9)

    def pointwise_s(self, kind, rows, width):
        return 4e-6 + rows * width / {"gelu": 1e9, "layernorm": 2e9, "elementwise": 4e9, "gather": 5e9}[kind]

    def product(self, form, rows, inputs, outputs, pool_bytes):
        return self.taking(self.product_s(rows, inputs, outputs))

    def pointwise(self, kind, rows, width):
        return self.taking(self.pointwise_s(kind, rows, width))

    def attention(self, seq_len, heads, depth):
        return self.taking(self.attention_s(seq_len, heads, depth))

    def model(self, subject):
        return self.taking(self.model_s(subject.shape, subject.seq_len))

    def model_s(self, shape, s):
        h, inner = shape.hidden, shape.inner
        layer = 4 * self.product_s(s, h, h) + self.product_s(s, h, inner) + self.product_s(s, inner, h)
        layer += self.attention_s(s, shape.heads, h // shape.heads) + self.pointwise_s("gelu", s, inner)
        layer += 2 * (self.pointwise_s("elementwise", s, h) + self.pointwise_s("layernorm", s, h))
        first = 3 * self.pointwise_s("gather", s, h) + self.pointwise_s("elementwise", s, h)
        first += self.pointwise_s("layernorm", s, h) + self.product_s(1, h, h)
        whole = SLOWER * (shape.layers * layer + first) + OPERATION * (6 + 14 * shape.layers) + START
        weights = 4 * shape.layers * (4 * h * h + 2 * h * inner)
        return whole + (weights / DRAM if weights > 2**20 else 0.0)


@pytest.fixture
def made_up(monkeypatch):
    """Give a function that calibrates a made-up machine of some noise."""

    def run(noise=0.0, rounds=5):
        bench = MadeUp(noise)
        monkeypatch.setattr(cpu_timing.time, "process_time_ns", bench.process_time_ns)
        caches = (machine.Cache(1, 32 * 1024), machine.Cache(2, 2**20), machine.Cache(3, 64 * 2**20))
        monkeypatch.setattr(machine, "system_caches", lambda: caches)
        speeds = {size: (200e9 if size <= 2**20 else 50e9 if size <= 2**25 else 15e9) for size in machine.STEPS}
        ladder = {size: bench.taking(size / speed) for size, speed in speeds.items()}
        monkeypatch.setattr(machine, "ladder_calls", lambda: ladder)
        return bench, calibrate.calibrate(bench, rounds=rounds)

    return run


def test_the_laws_of_a_known_machine_come_back(made_up):
    """Speeds at the points of the grid, the speed of memories."""
    bench, found = made_up()
    device = calibrate.as_device(found.measurements)
    grid = found.measurements.formats[0].macs_per_s
    at = (FINE.rows.index(64) * 6 + FINE.sizes.index(512)) * 6 + FINE.sizes.index(1024)
    expected = 64 * 512 * 1024 / bench.product_s(64, 512, 1024) / found.correction.scale
    assert grid.per_s[at] == pytest.approx(expected, rel=1e-3)
    assert device.far_memory.read_bytes_per_s == pytest.approx(DRAM, rel=0.1)
    assert [found.read_bytes_per_s for found in device.memories[:3]] == pytest.approx([200e9, 200e9, 50e9])
    assert found.correction.scale == pytest.approx(SLOWER, rel=0.12)
    operations = 6 + 14 * bench.subjects[4].shape.layers
    beside = found.correction.launch_s * operations + found.correction.start_s
    assert beside == pytest.approx(OPERATION * operations + START, rel=0.25)
    assert found.measurements.noise == 0 and found.measurements.is_calibrated
    assert device.confidence == "calibrated"


def test_models_that_it_never_saw_come_out_as_the_machine_runs_them(made_up):
    """Interpolated in the logarithms between grid points, with weights in the cache and beyond it."""
    bench, found = made_up()
    device = calibrate.as_device(found.measurements)
    shapes = [Shape("a", 4, 312, 12, 1200), Shape("b", 6, 384, 12, 1536), Shape("c", 12, 768, 12, 3072)]
    for shape in shapes:
        for seq_len in (20, 48, 96, 224):
            predicted = fitting.simulated(device, Subject(shape, seq_len), 32).latency_s
            assert predicted == pytest.approx(bench.model_s(shape, seq_len), rel=0.08)


def test_a_noisy_machine_is_not_called_calibrated(made_up):
    _, found = made_up(noise=0.35, rounds=7)
    assert found.measurements.noise > 0.2
    assert calibrate.as_device(found.measurements).confidence == "partly-measured"
    assert "too noisy to call calibrated" in found.text


@pytest.fixture
def walled(made_up, monkeypatch):
    """Give a function that calibrates for some seconds of a made-up clock: rounds, and seconds that went by."""
    bench, _ = made_up(rounds=3)
    bench.making_s = 0.02
    monkeypatch.setattr(calibrate, "assemble", lambda *_, **__: None)  # the fit takes none of the made-up time

    def run(limit_s, slowed):
        bench.slowed = slowed
        monkeypatch.setattr(cpu_timing.time, "monotonic", lambda: bench.now_s)
        rounds, started_s = [], bench.now_s
        try:
            calibrate.calibrate(
                bench, rounds=30, limit_s=limit_s, on_step=lambda done, total, what: rounds.append(done)
            )
        except UsageError as error:
            return str(error), bench.now_s - started_s
        return len(rounds), bench.now_s - started_s

    return run


@pytest.mark.parametrize("slowed", [0.01, 1.0, 30.0])
def test_a_calibration_takes_the_time_that_it_was_given_or_says_how_much_it_needs(walled, slowed):
    """For every budget: at least three rounds within 1.2 times of it, or a refusal within 1.2 times of it."""
    refused, done = 0, 0
    for limit_s in (1, 4, 8, 12, 20, 40, 80, 160, 320):
        outcome, took_s = walled(limit_s, slowed)
        assert took_s <= 1.2 * limit_s
        if isinstance(outcome, int):
            done += 1
            assert outcome >= 3
            continue
        refused += 1
        assert not done  # a longer budget than one that works is not refused
        for _ in range(3):  # the advice is exact once a round is done, an estimate before
            needed_s = float(re.fullmatch(r".* Allow at least (\d+)\.", outcome)[1])
            assert needed_s > limit_s
            outcome, _ = walled(needed_s, slowed)
            if isinstance(outcome, int):
                break
        assert isinstance(outcome, int)
    assert refused and done


def test_a_budget_that_is_too_short_names_its_flag(cli, small, tmp_path, monkeypatch):
    clock = iter(range(0, 10**9, 40))
    monkeypatch.setattr(cpu_timing.time, "monotonic", lambda: next(clock))
    complaint = cli("calibrate", "-o", tmp_path / "host.yaml", "--seconds", 60, "-q").complaint
    assert re.search(r"--seconds = 60 s: too short on this machine, .*Allow at least \d+\.", complaint)
    assert not list(tmp_path.iterdir())


def test_spread_is_the_standard_deviation_of_a_reading():
    readings = tuple(np.random.default_rng(1).normal(1.0, 0.07, 5_000))
    assert cpu_timing.Timing(readings).spread == pytest.approx(0.07, rel=0.05)


def test_a_shape_has_the_profile_of_the_real_model():
    """Every matrix, table and loose element of a BertModel, counted without one."""
    import torch
    from transformers import BertConfig, BertModel

    shape = Shape("s", 2, 64, 4, 128, vocabulary=100, positions=32)
    config = BertConfig(
        vocab_size=100, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
        max_position_embeddings=32,
    )  # fmt: skip
    with torch.device("meta"):
        model = BertModel(config)
    assert profile_of(shape).float_bytes == 4 * sum(p.numel() for p in model.parameters())


SMALL = Grid((1, 16), (32, 64), 64 * 64)
POINTS = {"POOL": 2**18, "POINT_ROWS": (1, 16), "WIDTHS": (32, 64), "LENGTHS": (8, 16)}
SHAPES = tuple(Shape(f"s{h}", 1, h, 2, 2 * h, vocabulary=110, positions=32) for h in (32, 64, 96))


@pytest.fixture
def small(monkeypatch):
    """Calibrate on small grids, for the sake of time."""
    for name, value in POINTS.items():
        monkeypatch.setattr(kernels, name, value)
    monkeypatch.setattr(machine, "STEPS", tuple(2**14 * 2**step for step in range(8)))
    for module, grid in ((torch_bench, "FINE"), (engine_bench, "COARSE")):
        monkeypatch.setattr(module, grid, SMALL)
        monkeypatch.setattr(module, "SHAPES", SHAPES)
        monkeypatch.setattr(module, "LENGTHS", (8, 16))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_torch_is_calibrated_from_the_command_line(cli, tmp_path, small, precision):
    """A file that loads, in which every stored width runs as floats."""
    out = tmp_path / "host.yaml"
    found = cli("calibrate", "-o", out, "--precision", precision, "--rounds", 3, "-q")
    assert found.code == 0 and "readings spread by" in found.out
    device = load_device(str(out))
    assert ("NOT calibrated" in found.out) == (device.confidence != "calibrated")
    latency_s = fitting.simulated(device, Subject(SHAPES[1], 12), 32).latency_s
    assert 1e-5 < latency_s < 0.1
    four = next(form for form in device.formats if form.weight_bits == 4 and form.axis == "columns")
    assert four.loaded_bits == device.activation_bits == (32 if precision == "fp32" else 16)


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_an_engine_is_calibrated_from_the_command_line(cli, tmp_path, small, monkeypatch, engine):
    """Every stored form has its own speeds and is priced by them; 3 bits run as 4; floats run too."""
    pytest.importorskip(engine)
    monkeypatch.setattr(engine_bench, "GROUP_SIZES", (16, 32))
    monkeypatch.setattr(engine_bench, "STORED", ((), ("8bit/rows:each/rtn", "2bit/columns:32/rtn")))
    out = tmp_path / "host.yaml"
    found = cli("calibrate", "--engine", engine, "-o", out, "--rounds", 3, "-q")
    assert found.code == 0 and engine in found.out
    device = load_device(str(out))
    mixed = Subject(SHAPES[1], 12, ("3bit/columns:16/rtn", "2bit/rows:1/rtn", "8bit/columns:32/rtn"))
    report = fitting.simulated(device, mixed, 32)
    assert {row.cost.format for row in report.operations} >= {"w3-columns16", "w2-rows", "w8-columns32", "w8-rows"}
    assert 1e-5 < report.latency_s < 0.1 and fitting.simulated(device, Subject(SHAPES[1], 12), 32).latency_s > 1e-5
    by_id = {form.id: form for form in device.formats}
    held = {"openvino": (4 + 1 + 6, 9), "onnxruntime": (4, None)}[engine]
    assert (by_id["w3-columns16"].loaded_bits, by_id["w8-rows"].loaded_bits) == held
    assert by_id["w3-rows"].efficiency_by_shape == by_id["w4-rows"].efficiency_by_shape


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_a_synthetic_model_of_an_engine_answers_like_torch(engine, monkeypatch):
    """What is timed is the model that its profile describes: same weights, same answers, in float32."""
    import torch

    pytest.importorskip(engine)
    subject = Subject(SHAPES[1], 12, ("4bit/columns:32/rtn", "8bit/rows:each/rtn"))
    made = []
    make = engine_bench._encoder
    monkeypatch.setattr(engine_bench, "_encoder", lambda subject: made.append(make(subject)) or made[0])
    answer, _ = engine_bench.EngineBench(engine, "float32", engine_bench.container).model(subject)().values()
    network, stored = made[0]
    assert len(stored) == 6 + 3
    ids = np.random.default_rng(0).integers(5, 100, (1, 12))
    with torch.no_grad():
        expected = network(input_ids=torch.from_numpy(ids)).last_hidden_state.numpy()
    assert np.abs(answer - expected).max() < 2e-3 * np.abs(expected).max()


def test_a_gather_does_not_run_at_the_speed_of_a_product(made_up, tmp_path):
    """A format's own speeds are those of its products; rows of a table come at the speed of gathers."""
    from dataclasses import replace

    from hwmodels import MeasuredFormat, MeasuredGrid, Operation, StoredWeight, device_file, operation_cost

    _, found = made_up(rounds=3)
    slow = MeasuredFormat("w8-rows", 8, "rows", "int8", MeasuredGrid((1,), (1,), (1,), (1e6,)))
    path = tmp_path / "host.yaml"
    path.write_text(device_file(replace(found.measurements, formats=(*found.measurements.formats, slow))))
    table = Operation("t", "gather", 32, 500, 128, 0, 32 * 128, weight=StoredWeight(8, "rows", 500, 1, 64_000, 2000))
    rate = found.measurements.elements_per_s["gather"]
    assert operation_cost(table, load_device(str(path))).compute_s < 2 * 32 * 128 / min(rate.per_s)


def test_a_wrong_engine_precision_or_folder_is_one_line(cli, tmp_path):
    assert (
        "--engine tvm: unknown. Available: " in cli("calibrate", "--engine", "tvm", "-o", tmp_path / "x.yaml").complaint
    )
    assert "--precision fp8: not supported by torch" in cli("calibrate", "--precision", "fp8").complaint
    assert "does not exist" in cli("calibrate", "-o", tmp_path / "no" / "x.yaml").complaint


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"rows": [4, 1]}, "found rows [4, 1]; legal are sizes that rise"),
        ({"efficiency": [0.5]}, "found 1 efficiencies; legal are rows x inputs x outputs = 2"),
        ({"efficiency": [0.5, 1.5]}, "found 1.5"),
        ({"rows": [0, 4]}, "found 0"),
        ({"depth": [1]}, "depth"),
    ],
)
def test_a_wrong_grid_is_refused_with_file_line_and_field(made_up, tmp_path, wrong, says):
    import yaml

    _, found = made_up(rounds=3)
    described = yaml.safe_load(found.text)
    grid = {"rows": [1, 4], "inputs": [1], "outputs": [8], "efficiency": [0.5, 1.0]}
    described["units"][0]["rates"][0]["efficiency_by_shape"] = grid | wrong
    path = tmp_path / "host.yaml"
    path.write_text(yaml.safe_dump(described))
    with pytest.raises(DeviceError, match=r"host.yaml:\d+: units\[0\].rates\[0\].efficiency_by_shape") as refused:
        load_device(str(path))
    assert says in str(refused.value)
