"""Pictures: they show what they were given, stay readable and small, and refuse what cannot be drawn."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from qbert_opt.costs.workload import Workload
from qbert_opt.errors import InputFileError
from qbert_opt.planning.device_classes import plan_for_each
from qbert_opt.planning.frontier import trade_off
from qbert_opt.planning.measured_points import MeasuredPoint, MeasuredPoints
from qbert_opt.planning.plan_grid import grid_of
from qbert_opt.planning.program import PlanningTask
from qbert_opt.reports.plots import frontier, plan, surface
from qbert_opt.reports.plots.saving import save
from qbert_opt.reports.plots.style import COLOURS, plain
from qbert_opt.spec.allocation import write_allocation
from qbert_opt.spec.limits import Limits
from qbert_opt.spec.scores import write_scores
from qbert_opt.workflows.frontiers import Curve, Mark


@pytest.fixture(scope="module")
def found(reference_frontier):
    return reference_frontier


@pytest.fixture(scope="module")
def on_car_soc(reference, car_soc):
    return trade_off(PlanningTask(reference, Limits(), device=car_soc), ("bytes",), points=20)


def texts(figure):
    return [t.get_text() for axes in figure.axes for t in axes.get_legend().get_texts()]


def test_the_curve_is_the_frontier(found):
    """Every point of the data is in the picture, in its unit; uniform plans are beside it."""
    figure = frontier.draw([Curve("ours", found)], "bytes")
    curve, uniform = figure.axes[0].lines[:2]
    expected = sorted((p.usage["encoder_bytes"] / 1e6, p.predicted_loss) for p in found.points)
    assert np.allclose(np.column_stack(curve.get_data()), expected)
    assert len(uniform.get_xdata()) == len(found.uniform)
    assert figure.axes[0].get_xlabel() == "encoder, MB"
    assert figure.axes[0].get_yscale() == "log"


def test_one_point_no_point_and_a_device_that_cannot(found):
    """One point is a dot, none is said in words, a device without a plan is named with its reason."""
    one = found.model_copy(update={"points": found.points[:1], "uniform": ()})
    none = found.model_copy(update={"points": (), "uniform": ()})
    assert len(frontier.draw([Curve("one", one)], "bytes").axes[0].lines[0].get_xdata()) == 1
    empty = frontier.draw([Curve("none", none), Curve("tiny", None, "does not fit")], "bytes")
    assert "no plan to show" in [t.get_text() for t in empty.axes[0].texts]
    assert {"none: no plan", "tiny: does not fit"} <= set(texts(empty))
    assert "no plan to show" in [t.get_text() for t in surface.draw(two(none)).axes[0].texts]


def two(found):
    return found.model_copy(update={"resources": ("bytes", "bytes")})


def test_a_limit_of_the_device_is_a_line(on_car_soc, cli, reference_sums, tmp_path):
    """The frontier of bytes goes on where the device's memory ends, and says where that is."""
    found = on_car_soc
    [limit] = found.own_limits
    assert limit.capacity == 64_000_000 - found.fixed["total_bytes"] < found.points[-1].usage["encoder_bytes"]
    figure = frontier.draw([Curve("car-soc", found)], "bytes")
    [line] = [line for line in figure.axes[0].lines if line.get_linestyle() == "--"]
    assert set(line.get_xdata()) == {limit.capacity / 1e6}
    assert "car-soc: limits.weights" in texts(figure)
    write_scores(reference_sums, tmp_path / "scores.json")
    printed = cli("pareto", "-s", tmp_path / "scores.json", "--device", "car-soc", "--points", "5").out
    assert f"limits.weights leaves {limit.capacity / 1e6:.2f} MB" in printed


def test_the_same_frontier_twice_has_both_names(found):
    """Two devices with one frontier share a curve; otherwise one would hide the other."""
    figure = frontier.draw([Curve("a", found), Curve("b", found)], "bytes")
    assert f"a, b: best plans for {len(found.points)} budgets" in texts(figure)


def test_marks_stand_where_they_were_measured(found):
    """A measured point has its interval; a mark without the resource is left out."""
    marks = [
        Mark("measured: x", "measured", {"bytes": 30e6}, 1e-3, 5e-4, 2e-3),
        Mark("elsewhere", "recipe", {"latency": 1.0}, 1e-3),
    ]
    figure = frontier.draw([Curve("ours", found)], "bytes", marks)
    assert "measured: x" in texts(figure) and "elsewhere" not in texts(figure)
    *_, bar = figure.axes[0].collections
    assert np.allclose(bar.get_segments()[0], [[30, 5e-4], [30, 2e-3]])


@pytest.mark.parametrize("every", [5, 3, 1])
def test_names_lie_on_no_marker_and_on_no_other_name(on_car_soc, every):
    found = on_car_soc.model_copy(update={"points": on_car_soc.points[::every]})
    uniform = found.uniform[0]
    beside = Mark("chosen", "chosen", {"bytes": uniform.usage["encoder_bytes"] * 1.05}, uniform.predicted_loss * 1.2)
    figure = frontier.draw([Curve("car-soc", found)], "bytes", [beside])
    figure.canvas.draw()
    [axes] = figure.axes
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) >= 2
    assert not any(boxes[i].overlaps(boxes[j]) for i in range(len(boxes)) for j in range(i))
    curve, *others = [line for line in axes.lines if line.get_marker() not in ("None", "")]
    shown = [curve.get_xydata()[:: curve.get_markevery()], *(line.get_xydata() for line in others)]
    at = axes.transData.transform(np.concatenate(shown))
    assert not any(box.contains(x, y) for box in boxes for x, y in at)


def test_losses_have_their_standard_error(found):
    """A band along the curve and a bar at each uniform plan; on a logarithmic axis no end reaches zero."""
    figure = frontier.draw([Curve("ours", found)], "bytes")
    band, bars = figure.axes[0].collections
    lowest = min(p.predicted_loss - p.predicted_std_error for p in found.points if p.predicted_std_error)
    assert band.get_paths()[0].vertices[:, 1].min() > 0 and lowest < found.points[0].predicted_loss
    for segment, rival in zip(bars.get_segments(), found.uniform, strict=True):
        assert segment[1][1] == pytest.approx(rival.predicted_loss + rival.predicted_std_error)
        assert segment[0][1] > 0


def test_a_surface_has_a_dot_for_each_plan(rtn_scores, car_soc):
    found = trade_off(PlanningTask(rtn_scores, Limits(), device=car_soc), ("bytes", "energy"), points=20)
    assert len(found.points) > 5
    dots, squares = surface.draw(found).axes[0].collections
    assert len(dots.get_offsets()) == len(found.points)
    assert len(squares.get_offsets()) == len(found.uniform)


def test_colours_differ_for_the_colour_blind():
    """Any two colours differ in lightness or stay apart when red and green are one (deuteranopia, Viénot 1999)."""
    to_lms = np.array([[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714], [0.0299566, 0.184309, 1.46709]])
    blind = np.array([[1, 0, 0], [0.494207, 0, 1.24827], [0, 0, 1]])
    see = np.linalg.inv(to_lms) @ blind @ to_lms
    seen = [see @ np.array(to_rgb(c)) ** 2.2 for c in COLOURS]
    apart = [np.abs(seen[i] - seen[j]).max() for i in range(len(seen)) for j in range(i)]
    assert min(apart) > 0.05


def test_thousands_of_layers_stay_readable_and_small(reference, reference_plan, tmp_path):
    """2,400 matrices: colours without text, few ticks, a file under 300 kB."""
    many, scores = stretched(reference_plan, reference, 400)
    figure = plan.draw(many, scores)
    assert not figure.axes[0].texts
    assert len(figure.axes[0].get_yticks()) <= 41
    assert max(figure.get_size_inches()) <= 24
    for ending in ("png", "svg"):
        save(figure, tmp_path / f"many.{ending}")
        assert (tmp_path / f"many.{ending}").stat().st_size < 300_000


def stretched(plan_, scores, blocks):
    """The reference plan repeated to so many layers."""
    source = [m for m in plan_.matrices if m.block == 0]
    matrices = tuple(m.model_copy(update={"block": b}) for b in range(blocks) for m in source)
    rows = scores.value[:6] * blocks
    specs = tuple(m.model_copy(update={"block": b}) for b in range(blocks) for m in scores.profile.matrices[:6])
    profile = scores.profile.model_copy(update={"matrices": specs})
    return plan_.model_copy(update={"matrices": matrices}), scores.model_copy(
        update={"value": rows, "profile": profile}
    )


def test_odd_names_are_drawn_as_they_are(reference, reference_plan, tmp_path):
    """Dollar signs, HTML and line breaks in a model's name are neither mathematics nor markup."""
    name = "$x_{1$ <script>alert(1)</script>\n& more"
    profile = reference_plan.profile.model_copy(update={"name": name})
    odd = reference_plan.model_copy(update={"profile": profile})
    save(plan.draw(odd, reference), tmp_path / "odd.svg")
    text = (tmp_path / "odd.svg").read_text()
    assert "<script>alert" not in text
    assert plain("a$b\nc") == r"a\$b?c"
    assert len(plain("x" * 500)) == 48


def test_several_matrices_of_a_kind_have_cells_of_their_own():
    """A layer with four matrices called linear shows four."""
    matrices = [SimpleNamespace(kind="linear", block=b) for b in (0, 0, 0, 1)]
    grid = grid_of(matrices)
    assert [grid.cells[i] for i in range(4)] == [(0, 0), (0, 1), (0, 2), (1, 0)]
    assert grid.title(1, {}) == "linear 2"


def test_devices_that_cannot_are_rows_too(reference_sums, car_soc):
    """A device that is too slow has a reason, not a gap in the list; its schedule's bounds do not prove that."""
    from hwmodels import load_device

    both = plan_for_each(reference_sums, [car_soc, load_device("imx93-u65")], Limits(), Workload(128))
    assert both[0].plan is not None and both[0].plan.device.name == "car-soc"
    assert both[1].plan is None and "without a plan, and there may be one: imx93-u65: limits.latency" in both[1].reason


def test_pareto_draws_what_it_says(cli, tmp_path, gptq_scores, gptq_plan):
    """PNG and SVG, a chosen plan, measured points and a second table; every file is written whole."""
    scores = tmp_path / "scores.json"
    write_scores(gptq_scores, scores)
    write_allocation(gptq_plan, tmp_path / "plan.json")
    points = MeasuredPoints(points=(MeasuredPoint(name="ours", loss=2e-3, encoder_bytes=gptq_plan.encoder_bytes),))
    (tmp_path / "measured.json").write_text(points.model_dump_json(by_alias=True))
    marks = ("--plan", tmp_path / "plan.json", "--measured", tmp_path / "measured.json")
    line = ("pareto", "-s", scores, "--points", "5", *marks, "--compare", f"again={scores}")
    for ending in ("svg", "png"):
        done = cli(*line, "--plot", tmp_path / f"f.{ending}")
        assert done.code == 0, done.err
        assert (tmp_path / f"f.{ending}").stat().st_size < 200_000
    assert "<svg" in (tmp_path / "f.svg").read_text()


def test_devices_as_table_and_json(cli, tmp_path, reference_sums):
    write_scores(reference_sums, tmp_path / "scores.json")
    line = ("pareto", "-s", tmp_path / "scores.json", "--devices", "car-soc,imx93-u65")
    found = cli(*line, "--points", "5", "--plot", tmp_path / "d.svg")
    assert found.code == 0
    assert "imx93-u65" in found.out and "binding limit latency_s" in " ".join(found.out.split())
    rows = json.loads(cli(*line, "--json").out)
    assert [row["device"] for row in rows] == ["car-soc", "imx93-u65"]
    assert rows[1]["plan"] is None and rows[1]["reason"]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--plot", "f.pdf"], 2, "Legal: .png, .svg"),
        (["--compare", "x"], 2, "is shown in the plot only"),
        (["--plot", "f.png", "--compare", "x"], 2, "not of the form LABEL=scores.json"),
        (["--device", "car-soc", "--devices", "rpi5"], 2, "give one of them"),
        (["--devices", "rpi5", "-o", "f.csv"], 2, "frontier of one --device"),
        (["--devices", "rpi5,nothing"], 2, "nothing"),
        (["--resource", "bytes,dram,energy"], 2, "at most two"),
        (["--plot", "f.png", "--measured", "none.json"], 4, "no such file"),
    ],
)
def test_pictures_that_cannot_be_drawn_are_refused(cli, options, code, message):
    points = [] if "--devices" in options else ["--points", "3"]  # which belong to a frontier
    found = cli("pareto", *points, *options)
    assert found.code == code
    assert message in found.err


def test_a_plan_of_another_model_is_not_marked(cli, tmp_path, gptq_plan):
    write_allocation(gptq_plan, tmp_path / "plan.json")
    found = cli("pareto", "--points", "3", "--plot", tmp_path / "f.png", "--plan", tmp_path / "plan.json")
    assert found.code == InputFileError.exit_code
    assert "the plan is for" in found.err
