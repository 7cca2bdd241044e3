"""`simulate --per-op`, `--roofline`, `--timeline`: what each operation waits for, and pictures of it."""

import csv
import io
import json

import pytest

from hwmodels import REMEDIES
from qbert_opt.costs.simulate import simulate_allocation
from qbert_opt.costs.workload import Workload
from qbert_opt.reports.operations import operation_rows


@pytest.fixture(scope="module")
def plan_file(reference_plan, tmp_path_factory):
    from qbert_opt.spec.allocation import write_allocation

    path = tmp_path_factory.mktemp("plan") / "allocation.json"
    write_allocation(reference_plan, path)
    return path


@pytest.fixture(scope="module")
def report(reference_plan, car_soc):
    return simulate_allocation(reference_plan, car_soc, Workload(128))


def test_rows_add_up_to_the_report(report):
    rows = operation_rows(report)
    assert sum(row["latency_bound_s"] for row in rows) == pytest.approx(report.latency_bound_s)
    assert sum(row["dram_bytes"] for row in rows) == report.dram_bytes
    assert sum(row["macs"] for row in rows) == sum(found.cost.macs for found in report.operations)
    assert all(row["helps"] == REMEDIES[row["bound"]] for row in rows)
    assert [row["start_s"] for row in rows] == sorted(row["start_s"] for row in rows)


def test_csv_and_json_say_the_same(cli, plan_file, report):
    """Every operation, with all its digits."""
    line = ("simulate", plan_file, "--device", "car-soc", "--per-op")
    as_json, as_csv = json.loads(cli(*line, "json").out), list(csv.DictReader(io.StringIO(cli(*line, "csv").out)))
    assert len(as_json) == len(as_csv) == len(report.operations)
    for one, other in zip(as_json, as_csv, strict=True):
        assert {name: str(value) for name, value in one.items()} == other


def test_the_table_names_every_operation_and_what_would_help(cli, plan_file, report):
    found = cli("simulate", plan_file, "--device", "car-soc", "--per-op", "table").out
    folded = "".join(found.split())
    assert "block.11.softmax" in found and all(bound in found for bound in report.bound_shares)
    assert all(REMEDIES[bound] in found for bound in report.bound_shares)
    assert "…" not in folded


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_pictures_are_written(cli, plan_file, tmp_path, ending):
    roofline, timeline = tmp_path / f"roofline.{ending}", tmp_path / f"timeline.{ending}"
    found = cli("simulate", plan_file, "--device", "car-soc", "--roofline", roofline, "--timeline", timeline)
    assert found.code == 0
    start = b"\x89PNG" if ending == "png" else b"<?xml"
    assert all(path.read_bytes().startswith(start) and path.stat().st_size > 5000 for path in (roofline, timeline))


def test_the_timeline_holds_every_tensor_where_it_lies(report):
    from qbert_opt.reports.plots.memory import draw

    axes = draw(report).axes[0]
    boxes = {(round(box.get_x()), round(box.get_y() * 1e6), round(box.get_height() * 1e6)) for box in axes.patches}
    assert boxes == {(t.start, t.offset_bytes, t.size_bytes) for t in report.memory.tensors}


def test_no_product_lies_above_its_roof(report, car_soc):
    """What streams stays under bandwidth x intensity, what is on chip under operations / launch, all under the peak."""
    from qbert_opt.reports.plots.roofline import draw

    far = car_soc.far_memory
    bandwidth = far.read_bytes_per_s * far.efficiency * far.contention
    products = [row.cost for row in report.operations if row.cost.macs]
    drawn = [
        {tuple(map(float, point)) for marks in axes.collections for point in marks.get_offsets()}
        for axes in draw(report, car_soc).axes
    ]
    expected = [
        {(2 * c.macs / c.dram_bytes, 2 * c.macs / c.latency_bound_s) for c in products if c.dram_bytes},
        {(2.0 * c.macs, 2 * c.macs / c.latency_bound_s) for c in products if not c.dram_bytes},
    ]
    assert all(expected)
    assert drawn == expected
    launch_s = max(c.launch_s for c in products if not c.dram_bytes)
    for points, slope in zip(drawn, (bandwidth, 1 / launch_s), strict=True):
        assert all(up <= min(2 * 4096e9, across * slope) * (1 + 1e-9) for across, up in points)


def test_marks_of_the_roofline_are_spread_out_and_inside(report, car_soc):
    """No panel has its products on one edge: they span a part of its width, and none lies outside."""
    from qbert_opt.reports.plots.roofline import draw

    for axes in draw(report, car_soc).axes:
        places = [p for marks in axes.collections for p in axes.transData.transform(marks.get_offsets())]
        inside = [axes.transAxes.inverted().transform(place) for place in places]
        assert all(0 < x < 1 and 0 < y < 1 for x, y in inside)
        across = [x for x, _ in inside]
        assert max(across) < 0.95 and max(across) - min(across) > 0.05


def test_two_units_make_a_timeline_in_seconds(reference_plan):
    from hwmodels import load_device
    from qbert_opt.costs.operations import Storage
    from qbert_opt.costs.simulate import simulate_storage
    from qbert_opt.reports.plots.memory import draw
    from qbert_opt.spec.choices import Choice

    storage = {m.module: Storage(Choice(8, "rows:each", "rtn")) for m in reference_plan.profile.matrices}
    found = simulate_storage(reference_plan.profile, storage, load_device("coral"), Workload(32))
    assert len({row.cost.unit for row in found.operations}) == 2
    axes = draw(found).axes[0]
    assert axes.get_xlabel() == "time in seconds"
    assert axes.get_xlim()[1] == pytest.approx(found.latency_s)


def test_wrong_forms_and_endings_are_one_line(cli, plan_file, tmp_path):
    line = ("simulate", plan_file, "--device", "car-soc")
    assert "--per-op xml: unknown form. Legal: table, csv, json" in cli(*line, "--per-op", "xml").complaint
    assert "--roofline" in cli(*line, "--roofline", tmp_path / "x.gif").complaint
    assert "--timeline" in cli(*line, "--timeline", tmp_path / "x.gif").complaint


def test_a_histogram_of_lengths_is_the_average_of_its_lengths(cli, plan_file, reference_plan, car_soc):
    line = ("simulate", plan_file, "--device", "car-soc", "--lengths", "16:30,64:50,128:20", "--rate", 5)
    found = json.loads(cli(*line, "--json").out)
    alone = [simulate_allocation(reference_plan, car_soc, Workload(n)) for n in (16, 64, 128)]
    mean_s = sum(share * one.latency_s for share, one in zip((0.3, 0.5, 0.2), alone, strict=True))
    assert found["mean_latency_s"] == pytest.approx(mean_s)
    assert found["worst_latency_s"] == found["tail_latency_s"] == pytest.approx(alone[2].latency_s)
    assert found["inferences_per_s"] == 5
    text = cli(*line).out
    assert "on average" in text and "50.0 %" in text and "at 5.0 inferences/s" in text


@pytest.mark.parametrize("wrong", ["16", "16:x", "0:1", "16:1,16:2", "16:-1", "16:nan", "a:1", "16:0", ""])
def test_a_wrong_histogram_is_one_line(cli, plan_file, wrong):
    assert "--lengths" in cli("simulate", plan_file, "--device", "car-soc", "--lengths", wrong).complaint


def test_a_device_that_cannot_hold_the_model_is_infeasible(cli, tmp_path):
    """All but 35 MB belong to other software; not even 2 bits everywhere fit: exit 3 with what would."""
    device = tmp_path / "full.yaml"
    device.write_text(
        "inherit: car-soc\nid: full\nlimits: {}\nreserved: [{memory: ddr, size: 4260 MB}]\n"
        "provenance: {reserved.*: {kind: assumed, source: made up}}\n"
    )
    found = cli("solve", "--budget", "25MB", "--device", device)
    assert found.code == 3
    assert "full: memory = 34.97 MB is below the floor: nearest feasible" in found.complaint


def test_what_stays_on_chip_can_be_capped(cli):
    """A plan may keep less in the scratchpad than there is room for."""
    line = ("solve", "--budget", "25MB", "--device", "car-soc", "--json")
    kept = {}
    for cap in ("0MB", "2MB", "64MB"):
        plan = json.loads(cli(*line, "--max-scratchpad", cap).out)
        kept[cap] = sum(m["bytes"] for m in plan["matrices"] if m["residency"] == "resident")
    assert kept["0MB"] == 0 < kept["2MB"] <= 2_000_000 < kept["64MB"]
    assert "--max-scratchpad: needs --device" in cli("solve", "--max-scratchpad", "1MB", "--budget", "25MB").complaint


def test_the_printed_schema_knows_inheritance(cli):
    assert "inherit" in json.loads(cli("devices", "schema").out)["properties"]
