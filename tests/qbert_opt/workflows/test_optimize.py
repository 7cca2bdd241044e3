"""The whole path in one call: what it returns is what the single steps give."""

import pytest

import qbert_opt as qb
from qbert_opt.engines.session import rules_of


@pytest.fixture(scope="module")
def optimized(tiny_folder, data_file, tmp_path_factory):
    """A tiny model at 4 bits per weight, planned for a device, exported where an engine is installed."""
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("optimize") / "out"
    return qb.optimize(
        tiny_folder, data_file, folder, budget="5bit", device="rpi5", engine="onnxruntime", activations="float32",
        test_data=data_file,
        calibration=qb.CalibrationPlan(40, 40, 0), method="rtn", workload=qb.Workload(seq_len=9),
    )  # fmt: skip


def test_the_folder_holds_every_step(optimized):
    """Scores, plan, quantized model and exported files; the plan keeps its budget."""
    scores = qb.read_scores(optimized.folder / "scores.json")
    plan = qb.read_allocation(optimized.folder / "allocation.json")
    assert plan == optimized.plan and plan.average_bits <= 5
    assert all(rules_of("onnxruntime").refusal(m.choice) is None for m in plan.matrices)
    assert plan == qb.read_allocation(optimized.quantized / "allocation.json")
    assert scores.profile == plan.profile
    assert optimized.exported.engine == "onnxruntime" and (optimized.folder / "onnxruntime" / "model.onnx").is_file()
    assert optimized.predicted.latency_s == pytest.approx(plan.device.latency_s)


def test_measured_is_what_evaluate_measures(optimized, tiny_folder, data_file):
    """The same loss as loading the folder and evaluating it by hand."""
    texts = qb.read_texts(data_file)
    loaded, _ = qb.load_quantized(optimized.quantized)
    again = qb.evaluate(loaded, texts, qb.outputs(qb.load_model(tiny_folder), texts))
    assert optimized.measured.loss.value == pytest.approx(again.loss.value, rel=1e-6)
    lines = str(optimized).splitlines()
    assert f"{optimized.plan.total_bytes:,} bytes" in lines[0] and any("measured loss" in line for line in lines)


def test_mistakes_come_before_the_work(tiny_folder, data_file, tmp_path):
    """Nothing limits the plan, a folder that is taken, a device that does not exist."""
    with pytest.raises(qb.UsageError, match="no limit given"):
        qb.optimize(tiny_folder, data_file, tmp_path / "out")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("")
    with pytest.raises(qb.UsageError, match="exists and is not an empty folder"):
        qb.optimize(tiny_folder, data_file, tmp_path / "taken", budget="4bit")
    with pytest.raises(qb.UsageError, match="`budget` 25 MBit"):
        qb.optimize("no such model", data_file, tmp_path / "out", budget="25 MBit", limits=qb.Limits())
    with pytest.raises(qb.UsageError, match="unknown 'abacus'"):
        qb.optimize("no such model", data_file, tmp_path / "out", budget="4bit", engine="abacus")
    with pytest.raises(qb.DeviceError, match="no such file or device"):
        qb.optimize(tiny_folder, data_file, tmp_path / "out", budget="4bit", device="toaster")
    assert issubclass(qb.DeviceError, qb.QbertOptError) and not (tmp_path / "out").exists()
