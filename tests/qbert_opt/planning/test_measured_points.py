"""Measured points: what `evaluate --json` writes is what `--measured` reads; contradictions are rejected."""

import json

import pytest

from qbert_opt.errors import InputFileError
from qbert_opt.planning.measured_points import SCHEMA, read_measured
from qbert_opt.spec.allocation import write_allocation

POINT = {"name": "plan", "loss": 0.1, "low": 0.05, "high": 0.2, "encoder_bytes": 100}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"low": 0.15}, r"points.0: plan: loss 0.1 is outside its interval 0.15 to 0.2"),
        ({"high": 0.09}, r"points.0: plan: loss 0.1 is outside its interval 0.05 to 0.09"),
        ({"low": None}, r"points.0: plan: has only one end of an interval"),
        ({"encoder_bytes": -1}, r"points.0.encoder_bytes: .*greater than 0, found -1"),
        ({"latency_s": 0}, r"points.0.latency_s: .*greater than 0, found 0"),
        ({"loss": "0.1"}, r"points.0.loss: .*valid number, found '0.1'"),
    ],
)
def test_kind_7_points_outside_their_interval(tmp_path, change, message):
    """A point lies inside its interval, and sizes and times are positive numbers."""
    path = tmp_path / "m.json"
    path.write_text(json.dumps({"schema": SCHEMA, "points": [POINT | change]}))
    with pytest.raises(InputFileError, match=message):
        read_measured(path)


def test_no_points_are_refused(tmp_path):
    """A file without a point is an error instead of an empty plot."""
    path = tmp_path / "m.json"
    path.write_text(json.dumps({"schema": SCHEMA, "points": []}))
    with pytest.raises(InputFileError, match=r"holds no measured points. 'evaluate --reference MODEL --json' writes"):
        read_measured(path)


def test_kind_11_evaluate_writes_what_report_reads(cli, tmp_path, tiny_folder, data_file, gptq_plan):
    """`evaluate --json > FILE` and `report --measured FILE` fit together."""
    plan, measured = tmp_path / "plan.json", tmp_path / "measured.json"
    write_allocation(gptq_plan, plan)
    out = tmp_path / "out"
    assert cli("quantize", plan, "--model", tiny_folder, "--data", data_file, "-o", out).code == 0
    run = cli("evaluate", out, "--data", data_file, "--reference", tiny_folder, "--json")
    assert run.code == 0
    measured.write_text(run.out)
    points = read_measured(measured)
    [point] = points.points
    assert point.name == "out" and point.encoder_bytes == gptq_plan.encoder_bytes
    assert point.loss == json.loads(run.out)["kl"]["value"]
    assert "120 texts" in points.what
    report = cli("report", plan, "--measured", measured, "-o", tmp_path / "r.html")
    assert report.code == 0
    assert f"{point.loss:.4g}" in (tmp_path / "r.html").read_text()
