"""What a decision is made from: its figures are the plan's and the measurements', its labels cover nothing."""

import html
import itertools
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwmodels import format_bytes, format_seconds, load_device
from qbert_opt.checkpoint.record import FolderRecord, ReadBack, Training
from qbert_opt.costs.engine_target import engine_target
from qbert_opt.costs.simulate import simulate_allocation, simulate_storage
from qbert_opt.costs.stored import Storage, table_choices
from qbert_opt.costs.workload import Workload
from qbert_opt.evaluation.counts import ChangedAnswers
from qbert_opt.evaluation.intervals import Interval
from qbert_opt.planning.plan_bytes import engine_file
from qbert_opt.planning.recipes import given_allocation, uniform_allocation
from qbert_opt.reports.comparison import COLUMNS
from qbert_opt.reports.decision import decision_page
from qbert_opt.reports.frontier_chart import MARK, Box, frontier_chart, place_labels
from qbert_opt.reports.html import html_report
from qbert_opt.reports.measurements import MeasuredModel, Measurements, read_measurements
from qbert_opt.reports.rivals import rivals
from qbert_opt.spec.allocation import write_allocation
from qbert_opt.spec.choices import choice
from qbert_opt.spec.limits import Limits
from qbert_opt.spec.planned import DeviceCost
from qbert_opt.workflows.outcome import Measured, Outcome


def table(page, name):
    """The rows of a table: name, then column -> text of the cell."""
    body = re.search(rf'<table class="cards plain" id="{name}">.*?<tbody>(.*?)</tbody>', page, re.S)[1]
    rows = {}
    for row in re.findall(r"<tr.*?</tr>", body, re.S):
        title = " ".join(re.sub(r"<[^>]*>", " ", re.search(r"<th>(.*?)</th>", row, re.S)[1]).split())
        cells = re.findall(r'<td data-name="([^"]*)"[^>]*>(.*?)</td>', row, re.S)
        rows.setdefault(title, {html.unescape(n): " ".join(re.sub(r"<[^>]*>", " ", c).split()) for n, c in cells})
    return rows


@pytest.fixture(scope="module")
def page(reference, reference_plan, reference_frontier, car_soc):
    devices = (car_soc, load_device("rpi5"))
    return html_report(reference_plan, scores=reference, frontier=reference_frontier, devices=devices)


def test_figures_are_those_of_the_plan_the_scores_and_the_simulator(page, reference, reference_plan, car_soc):
    rows = table(page, "comparison")
    names = list(rows)
    assert names == ["float32", "uniform 8-bit rows:each", "uniform 4-bit columns:32", "this plan"]
    own, int8 = rows["this plan"], rows[names[1]]
    assert tuple(own) == COLUMNS
    plan = reference_plan
    assert own["bytes"] == f"{plan.total_bytes / 1e6:.2f} MB whole model, {plan.encoder_bytes / 1e6:.2f} MB matrices"
    assert f"{plan.predicted_loss:.4g} ± {plan.predicted_std_error:.1g}" in own["loss"]
    uniform = uniform_allocation(reference, choice("8bit/rows:each/gptq"))
    assert f"{uniform.total_bytes / 1e6:.2f} MB" in int8["bytes"]
    assert f"{uniform.predicted_loss:.4g} ± " in int8["loss"]
    for row, cost in (
        (own, simulate_allocation(plan, car_soc, Workload())),
        (int8, simulate_allocation(uniform, car_soc, Workload())),
        (rows["float32"], simulate_storage(plan.profile, None, car_soc, Workload(), float_bits=32)),
    ):
        low, high = map(format_seconds, cost.latency_interval_s)
        assert f"predicted {low} to {high} on car-soc" in row["latency"]
        assert f"predicted {format_bytes(cost.peak_memory_bytes)}" in row["memory"]
    assert f"{plan.profile.float_bytes / 1e6:.2f} MB whole model" in rows["float32"]["bytes"]


def test_a_device_that_was_not_measured_gives_a_band_and_no_figure(page, reference_plan, car_soc):
    cost = simulate_allocation(reference_plan, car_soc, Workload())
    point = format_seconds(cost.latency_s)
    decided_on, facts = page.split("As scheduled from the device file ")
    assert facts.startswith(point) and point not in decided_on.replace(f"compute: {point}", "")
    measured = car_soc.model_copy(update={"confidence": "calibrated", "interval": (0.95, 1.05)})
    assert f"{point} (" in html_report(reference_plan, devices=(measured,))


def test_a_device_that_cannot_run_the_plan_says_why_beside_those_that_can(page, reference_plan):
    rows = table(page, "devices")
    first = next(m for m in reference_plan.matrices if m.axis == "rows" and m.bits < 8)  # in a file's order
    assert list(rows["rpi5 Raspberry Pi 5 (BCM2712), four Cortex-A76"].values()) == [
        f"cannot run it: {first.module}: found {first.bits}-bit weights along rows in a gemm; make a plan for it with "
        "solve --device"
    ]
    assert "Meets the limits of car-soc; not those of rpi5." in page


def test_what_is_not_measured_says_how_to_measure_it(page):
    own = table(page, "comparison")["this plan"]
    for column in COLUMNS[1:6]:
        assert own[column].endswith("not measured")
    assert "qbert-opt evaluate FOLDER --data TEXT --reference MODEL" in page
    assert "qbert-opt optimize --model MODEL" in page


def test_float32_runs_where_floats_do(reference_plan):
    """Engines that compute in integers throughout do not run it."""
    row = table(html_report(reference_plan), "comparison")["float32"]
    runs = row["runs today in"].split(", ")
    assert {"onnxruntime", "openvino", "torch (dequantized)"} <= set(runs) and not {"tidl", "qnn", "integer"} & set(
        runs
    )


def evaluation(path, plan, **more):
    """A file as `evaluate --json` writes it."""
    timing = {
        "engine_label": "onnxruntime 1.31.1", "threads": 1, "cpu_s": [0.02, 0.03, 0.021], "wall_s": [1.0, 1.0, 1.0],
        "private_bytes": 90_000_000, "floor_bytes": 30_000_000,
    }  # fmt: skip
    point = {"name": "out", "loss": 0.004, "low": 0.003, "high": 0.005, "encoder_bytes": plan.encoder_bytes}
    document = {
        "schema": "qbert-opt/measured@1", "what": "KL on text", "points": [point], "kind": "classes",
        "num_samples": 872, "flipped": 20, "lost": 12, "won": 4,
        "timing": {"model": {**timing, "cpu_s": [0.1]}, "out": timing},
    }  # fmt: skip
    path.write_text(json.dumps(document | more))
    return path


def test_a_uniform_rival_has_tables_that_the_plans_engine_holds(reference_plan):
    """llama.cpp holds no offsets, which tables have by default."""
    profile, target = reference_plan.profile, engine_target("llama-cpp")
    block = choice("8bit/columns:32/gptq/signed")
    choices = {m.module: block for m in profile.matrices} | table_choices(profile, target)
    file = engine_file(profile, {module: Storage(one) for module, one in choices.items()}, target)
    plan = given_allocation(profile, choices).model_copy(update={"engine": file})
    uniform = next(r for r in rivals(plan, uniform_8bit=block.name) if r.name == "uniform 8-bit")
    assert "llama-cpp" in uniform.engines and uniform.engine_bytes == file.total_bytes
    assert [table.choice for table in uniform.plan.tables] == [table.choice for table in plan.tables]


def test_measured_figures_stand_beside_the_predicted_ones(reference_plan, tmp_path, cli):
    """Every figure of the file comes back; the intervals are the exact and the paired one."""
    write_allocation(reference_plan, tmp_path / "plan.json")
    given = evaluation(tmp_path / "m.json", reference_plan)
    done = cli("report", tmp_path / "plan.json", "--measured", given, "-o", tmp_path / "r.html")
    assert done.code == 0, done.err
    rows = table((tmp_path / "r.html").read_text(), "comparison")
    own, changed = rows["this plan"], ChangedAnswers(872, 20, 12, 4)
    for column, share in (("accuracy drop, points", changed.drop), ("answers changed, %", changed.flips)):
        figure = f"{100 * share.value:.2f} [{100 * share.low:.2f}, {100 * share.high:.2f}]"
        assert own[column].endswith(f"measured {figure}")
    assert own["loss"].endswith("measured 0.004 [0.003, 0.005]")
    assert own["latency"].endswith("measured 21 ms in onnxruntime 1.31.1")
    assert own["memory"].endswith("measured 60.00 MB private")
    assert rows["float32"]["latency"].endswith("measured 100 ms in onnxruntime 1.31.1")


def test_measurements_of_another_plan_are_not_taken_for_this_plans(reference_plan, tmp_path):
    other = {"name": "other", "loss": 1.0, "encoder_bytes": reference_plan.encoder_bytes + 1}
    path = evaluation(tmp_path / "m.json", reference_plan, points=[other])
    found = read_measurements([path], reference_plan)
    assert found.plan is None and [m.name for m in found.others] == ["other"]
    assert '"this plan"' not in str(found)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"flipped": 900}, "flipped: 900 of 872 texts"),
        ({"lost": -1}, "lost"),
        ({"points": []}, "holds no measured points"),
        ({"schema": "other@1"}, "schema is 'other@1'"),
        ({"timing": {"a": {"engine_label": "x", "cpu_s": [], "wall_s": [1.0]}}}, "timing.a.cpu_s"),
    ],
)
def test_a_wrong_file_of_measurements_is_one_line(cli, reference_plan, tmp_path, wrong, says):
    write_allocation(reference_plan, tmp_path / "plan.json")
    given = evaluation(tmp_path / "m.json", reference_plan, **wrong)
    found = cli("report", tmp_path / "plan.json", "--measured", given, "-o", tmp_path / "r.html")
    assert found.code == 4 and says in found.complaint
    assert not (tmp_path / "r.html").exists()


def outcome(plan, **more):
    """What `optimize` found, made up."""
    share = Interval(0.01, 0.005, 0.02)
    own = Measured(
        name="this plan", stored_bytes=plan.total_bytes, engine_bytes=60_000_000, num_texts=500, drop=share,
        flips=share,
        flipped=5, kl=Interval(3e-3, 2e-3, 4e-3), predicted_flips=Interval(0.012, 0.004, 0.03), latency_s=0.02,
    )  # fmt: skip
    whole = plan.profile.float_bytes
    uniform = own.model_copy(update={"name": "uniform 8-bit", "stored_bytes": 2 * plan.total_bytes, "latency_s": 0.03})
    fields = {
        "model": "m", "engine": "onnxruntime 1.31.1", "device": None, "activations": "int8", "loss_unit": "nats of KL",
        "texts": "500 check", "original": Measured(name="float32", stored_bytes=whole, num_texts=500, latency_s=0.1),
        "uniform": uniform, "uniform_choice": "8bit/rows:each/gptq", "uniform_suffices": False, "plan": own,
    }  # fmt: skip
    return Outcome(**fields | more)


def test_what_optimize_measured_fills_every_row(reference_plan, tmp_path):
    path = tmp_path / "optimized.json"
    path.write_text(outcome(reference_plan).model_dump_json(by_alias=True))
    page = html_report(reference_plan, measured=read_measurements([path], reference_plan))
    rows = table(page, "comparison")
    own = rows["this plan"]
    assert own["answers changed, %"] == "predicted 1.20 [0.40, 3.00] measured 1.00 [0.50, 2.00]"
    assert own["bytes"].endswith("measured 60.00 MB engine file")
    assert rows["uniform 8-bit rows:each"]["latency"].endswith("measured 30 ms in onnxruntime 1.31.1")
    assert rows["float32"]["latency"].endswith("measured 100 ms in onnxruntime 1.31.1")
    assert "Every limit holds. 60.00 MB" in page


def test_optimized_of_another_plan_is_refused(cli, reference_plan, gptq_plan, tmp_path):
    write_allocation(gptq_plan, tmp_path / "plan.json")
    (tmp_path / "optimized.json").write_text(outcome(reference_plan).model_dump_json(by_alias=True))
    given = ("--measured", tmp_path / "optimized.json")
    found = cli("report", tmp_path / "plan.json", *given, "-o", tmp_path / "r.html")
    assert found.code == 4 and "Give the allocation.json that lies beside it" in found.complaint


def test_the_verdict_is_for_uniform_8_bits_where_they_do(gptq_scores):
    """A budget in which uniform 8-bit fits, and loses less: the report does not sell its own plan."""
    from qbert_opt.planning.planner import allocate

    uniform = uniform_allocation(gptq_scores, choice("8bit/rows:each/gptq"))
    plan = allocate(gptq_scores, Limits(encoder_bytes=uniform.encoder_bytes))
    worse = plan.model_copy(update={"predicted_loss": 2 * uniform.predicted_loss, "uniform": ()})
    assert "Uniform 8-bit meets every limit and is predicted to lose less: take it" in html_report(
        worse, scores=gptq_scores
    )
    tight = allocate(gptq_scores, Limits(encoder_bytes=uniform.encoder_bytes // 2))
    assert "Take this plan" in html_report(tight, scores=gptq_scores)
    assert "which breaks --budget" in html_report(tight, scores=gptq_scores)


def test_a_trained_folder_promises_nothing_until_it_is_measured(reference, reference_plan, reference_frontier):
    training = Training(method="blocks", data="train.tsv", data_sha256="0", num_texts=9000, steps=10, seed=0)
    back = ReadBack(data="held", num_texts=32, loss=0.00123, loss_unit="nats")
    record = FolderRecord(version="1", files={}, training=training, read_back=back)
    page = html_report(reference_plan, scores=reference, frontier=reference_frontier, record=record)
    first = page[: page.index('id="frontier"')]
    assert "nothing is promised until it is measured" in first and "9000 texts of train.tsv" in first
    assert f"{reference_plan.predicted_loss:.4g}" not in first
    loss = table(page, "comparison")["this plan"]["loss"]
    assert loss == "prediction void: trained after planning measured 0.00123 on 32 texts, when written"
    assert 'class="chosen"' not in page
    found = Measurements(MeasuredModel("x", "f", 100, reference_plan.encoder_bytes, loss=Interval(0.5, 0.4, 0.6)))
    page = html_report(reference_plan, record=record, measured=found)
    assert "loss 0.5 [0.4, 0.6];" in page.replace("].", "];") and "times the predicted one" not in page


def test_without_a_device_it_takes_the_plans_own_if_that_is_bundled(reference_plan, car_soc):
    own = simulate_allocation(reference_plan, car_soc, Workload())
    cost = DeviceCost(
        name="car-soc", seq_len=128, batch_size=1, latency_s=own.latency_s, latency_bound_s=1.0, peak_memory_bytes=1,
        peak_bound_bytes=1, dram_bytes=1, bandwidth_bytes_per_s=1.0, energy_j=1.0, dynamic_energy_j=1.0, unpack_s=0.0,
        confidence="theoretical",
    )  # fmt: skip
    made_for = reference_plan.model_copy(update={"device": cost})
    assert "On car-soc: " in decision_page(made_for)
    other = made_for.device.model_copy(update={"latency_s": 2 * own.latency_s})  # another file of the same name
    assert "No device was given" in decision_page(made_for.model_copy(update={"device": other}))


def test_a_plan_made_without_scores_has_no_predicted_loss(reference_plan):
    """Its losses are written as 0; the report does not show that as a prediction."""
    modules = [m.module for m in reference_plan.profile.matrices]
    plan = given_allocation(reference_plan.profile, dict.fromkeys(modules, choice("4bit/columns:64/rtn")))
    page = html_report(plan)
    assert "Its loss is not predicted, because it was made without scores" in page
    assert table(page, "comparison")["this plan"]["loss"] == "not predicted: give --scores not measured"


def test_a_quantized_folder_shows_what_was_measured_when_it_was_written(
    cli, tiny_folder, data_file, gptq_plan, tmp_path
):
    """The folder and the plan inside it give the same page; a damaged folder is one line."""
    write_allocation(gptq_plan, tmp_path / "plan.json")
    out = tmp_path / "out"
    done = cli("quantize", tmp_path / "plan.json", "--model", tiny_folder, "--data", data_file, "-o", out)
    assert done.code == 0, done.err
    for path in (out, out / "allocation.json"):
        assert cli("report", path, "-o", tmp_path / "r.html").code == 0
        loss = table((tmp_path / "r.html").read_text(), "comparison")["this plan"]["loss"]
        assert re.fullmatch(r"predicted .* measured \S+ on \d+ texts, when written", loss)
    weights = out / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    found = cli("report", out, "-o", tmp_path / "s.html")
    assert found.code == 4 and "model.safetensors" in found.complaint
    assert not (tmp_path / "s.html").exists()
    assert cli("report", tmp_path, "-o", tmp_path / "s.html").code == 4  # a folder without a plan


def boxes(chart):
    labels = [Box(one["left"], one["top"], one["right"], one["bottom"]) for one in chart["labels"]]
    marks = [(m["x"], m["y"]) for m in (*chart["uniform"], *chart["measured"], *chart["chosen"])]
    return labels, [Box(x - MARK, y - MARK, x + MARK, y + MARK) for x, y in marks]


@pytest.mark.parametrize(("width", "height"), [(1240, 420), (480, 340)])
def test_labels_cover_no_point_and_no_label(reference_frontier, reference_plan, width, height):
    """On the real frontier: not the marks, not the curve, not each other; the plan has its label."""
    found = [MeasuredModel("ours", "f", None, reference_plan.encoder_bytes, loss=Interval(3e-3, 2e-3, 4e-3))]
    chart = frontier_chart(reference_plan, reference_frontier, found, width=width, height=height)
    labels, marks = boxes(chart)
    assert {"this plan", "measured: ours"} <= {one["text"] for one in chart["labels"]}
    numbers = [float(n) for n in re.findall(r"[\d.]+", chart["path"])]
    corners = list(zip(numbers[::2], numbers[1::2], strict=True))
    curve = [Box(min(a, c), min(b, d), max(a, c), max(b, d)) for (a, b), (c, d) in itertools.pairwise(corners)]
    for label in labels:
        assert not any(label.meets(other) for other in (*marks, *curve))
        assert label.left >= 0 and label.right <= width and label.top >= 0 and label.bottom <= height
    assert not any(one.meets(two) for one, two in itertools.combinations(labels, 2))


places = st.tuples(st.floats(0, 300), st.floats(0, 200))


@given(st.lists(places, max_size=25))
def test_labels_cover_nothing_wherever_points_lie(points):
    frame = Box(0, 0, 300, 200)
    taken = [Box(x - MARK, y - MARK, x + MARK, y + MARK) for x, y in points]
    placed = place_labels([(f"plan {i}", x, y) for i, (x, y) in enumerate(points)], taken, frame)
    for label in placed:
        assert not any(label.box.meets(box) for box in taken)
        assert frame.left <= label.box.left and label.box.right <= frame.right
    assert not any(one.box.meets(two.box) for one, two in itertools.combinations(placed, 2))
    assert len(placed) == len(points) or len(points) > 1  # a single label always has room


def test_the_budget_table_is_the_frontiers(page, reference_frontier):
    losses = {}
    for p in reference_frontier.points:
        told = f"{p.predicted_loss:.4g} ± {p.predicted_std_error:.1g}"
        losses.setdefault(f"{p.usage['encoder_bytes'] / 1e6:.2f} MB", []).append(told)
    body = re.search(r'id="budgets">.*?</table>', page, re.S)[0]
    shown = re.findall(r'best plan</th>\s*<td data-name="matrices">([\d.]+ MB)</td>', body)
    assert len(shown) >= 5 and set(shown) <= set(losses)
    for size in shown:
        assert any(told in body for told in losses[size])
