"""The frontier, the explanation and the verification of a plan, through the command line."""

import csv
import functools
import io
import itertools
import json
import math

import numpy as np
import pytest
import torch

from qbert_opt.errors import InfeasibleError, UsageError
from qbert_opt.planning.frontier import TradeOff, trade_off
from qbert_opt.planning.planner import allocate
from qbert_opt.planning.program import PlanningTask
from qbert_opt.spec.choices import choice
from qbert_opt.spec.limits import Limits
from qbert_opt.spec.scores import write_scores


def test_a_larger_budget_is_never_worse(reference_frontier):
    """Along the frontier bytes increase and predicted loss decreases, and each point has a proven gap."""
    frontier = reference_frontier
    losses = [p.sum_of_scores for p in frontier.points]
    budgets = [p.capacity["encoder_bytes"] for p in frontier.points]
    assert budgets == sorted(budgets)
    assert all(later <= before * (1 + 1e-9) for before, later in itertools.pairwise(losses))
    assert all(p.gap <= 1e-6 for p in frontier.points)


@pytest.mark.slow
def test_a_point_is_the_plan_that_solve_finds(reference_frontier, reference_sums):
    """At a point's own budget, `solve` has the same sum of scores."""
    for point in reference_frontier.points[5::60]:
        budget = math.floor(point.capacity["encoder_bytes"])
        plan = allocate(reference_sums, Limits(encoder_bytes=budget))
        assert plan.sum_of_scores == pytest.approx(point.sum_of_scores, rel=2e-6)


@pytest.fixture(scope="module")
def tiny_scores(rtn_scores, tmp_path_factory):
    """Scores of a model with 12 matrices, with folds, in a file."""
    path = tmp_path_factory.mktemp("scores") / "scores.json"
    write_scores(rtn_scores, path)
    return path


def test_pareto_writes_json_and_csv(cli, tiny_scores, tmp_path):
    """Both files contain every point; the JSON reads back unchanged."""
    assert cli("pareto", "-s", tiny_scores, "--points", "5", "-o", tmp_path / "f.json").code == 0
    assert cli("pareto", "-s", tiny_scores, "--points", "5", "-o", tmp_path / "f.csv").code == 0
    result = TradeOff.model_validate(json.loads((tmp_path / "f.json").read_text()))
    rows = list(csv.DictReader(io.StringIO((tmp_path / "f.csv").read_text())))
    assert len(rows) == len(result.points) > 5
    assert float(rows[0]["predicted_loss"]) == result.points[0].predicted_loss


@pytest.fixture(scope="module")
def whole_frontiers():
    """Frontiers that nothing interrupted, as JSON by their resources; made by the first test that needs each."""
    return {}


@pytest.mark.parametrize("resources", ["bytes", "bytes,latency"])
@pytest.mark.parametrize("finished", [1, 7])
def test_an_interrupted_frontier_resumes(cli, tiny_scores, tmp_path, monkeypatch, whole_frontiers, resources, finished):
    """Ctrl-C leaves finished points in the .partial file; the next run computes only the others, identically."""
    import solvers
    from qbert_opt.planning import frontier as module

    line = ("pareto", "-s", tiny_scores, "--device", "car-soc", "--resource", resources, "--points", "9", "-q", "-o")
    if resources not in whole_frontiers:
        assert cli(*line, tmp_path / "whole.json").code == 0
        whole_frontiers[resources] = (tmp_path / "whole.json").read_text()
        (tmp_path / "whole.json").unlink()
    result = []

    def watched(problem, resource, *, on_point, stop=None, **rest):
        def seen(point):
            result.append(point)
            on_point(point)
            if len(result) == stop:
                raise KeyboardInterrupt

        return solvers.pareto(problem, resource, on_point=seen, **rest)

    monkeypatch.setattr(module, "pareto", functools.partial(watched, stop=finished))
    assert cli(*line, tmp_path / "f.json").code == 130
    assert (tmp_path / "f.json.partial").exists() and not (tmp_path / "f.json").exists()
    stopped = len(result)
    monkeypatch.setattr(module, "pareto", watched)
    assert cli(*line, tmp_path / "f.json").code == 0
    whole, resumed = map(TradeOff.model_validate_json, (whole_frontiers[resources], (tmp_path / "f.json").read_text()))
    assert stopped == finished and len(result) == len(whole.points)
    assert resumed.points == whole.points
    assert [p.name for p in tmp_path.iterdir()] == ["f.json"]


def test_a_checkpoint_of_another_frontier_is_ignored(cli, tmp_path):
    """A checkpoint of another problem or other budgets is ignored."""
    (tmp_path / "f.json.partial").write_text('of another\n["x", [1.0, 2.0, 0.0, 1.0]]\n')
    assert cli("pareto", "--points", "3", "-o", tmp_path / "f.json", "--quiet").code == 0
    assert [p.name for p in tmp_path.iterdir()] == ["f.json"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--resource", "speed"], "legal: bytes, total-bytes, latency"),
        (["--resource", "latency"], "needs --device"),
        (["-o", "frontier.txt"], "legal endings: .json, .csv"),
    ],
)
def test_pareto_rejects_illegal_options(cli, options, message):
    """A wrong resource, one without a device, or an unknown file extension is one line and exit code 2."""
    run = cli("pareto", *options)
    assert run.code == 2
    assert message in run.complaint


def test_explain_names_the_neighbours_of_every_choice(cli):
    """`--explain` shows for each matrix what the next better and the next worse choice would cost."""
    run = cli("solve", "--budget", "25MB", "--explain")
    assert run.code == 0
    assert run.out.count("next better") + run.out.count("has its best choice") == 72
    assert "gains" in run.out and "frees" in run.out


def test_an_applied_plan_is_the_written_model(tiny, data_file, tmp_path, cli):
    """The weights that `--verify` measures are bit for bit those that `quantize` writes."""
    from qbert_opt.checkpoint.reader import load_quantized
    from qbert_opt.data.texts import read_texts
    from qbert_opt.spec.allocation import read_allocation
    from qbert_opt.workflows.quantize import writing_quantizer
    from qbert_opt.workflows.verify import apply_plan

    scores, plan, out = tmp_path / "s.json", tmp_path / "a.json", tmp_path / "out"
    grid = ["--groupings", "rows:1,rows:each,columns:32", "--calibration-samples", "50", "--scoring-samples", "50"]
    common = ["--model", tiny.name, "--data", data_file]
    assert cli("sensitivity", *common, *grid, "-o", scores).code == 0
    assert cli("solve", "--scores", scores, "--budget", "3.3bit", "-o", plan).code == 0
    assert cli("quantize", plan, *common, "-o", out).code == 0
    allocation = read_allocation(plan)
    applied = apply_plan(tiny, allocation, writing_quantizer(tiny, allocation, read_texts(data_file)))
    written, _ = load_quantized(out)
    for name, parameter in written.model.named_parameters():
        assert torch.equal(parameter, applied.model.get_parameter(name)), name
    verified = cli("solve", "--scores", scores, "--budget", "3.3bit", *common, "--verify", data_file)
    assert verified.code == 0, verified.err
    assert "this plan" in verified.out and "uniform" in verified.out and "measures better" in verified.out


def test_a_uniform_plan_gives_every_matrix_its_choice(rtn_scores):
    """A choice that some matrix cannot take makes none; 128 inputs are no group of matrices with 32."""
    found = trade_off(PlanningTask(rtn_scores, Limits()), ("bytes",), points=5)
    profile = rtn_scores.profile
    for plan in found.uniform:
        same = sum(choice(plan.choice).bytes(m.rows, m.columns, heads=profile.heads) for m in profile.matrices)
        assert plan.usage["encoder_bytes"] == same
    assert found.uniform


@pytest.mark.parametrize("size", ["encoder_bytes", "total_bytes"])
def test_a_budget_of_exactly_the_least_plan_holds(rtn_scores, size):
    """One byte less is infeasible, for a plan and for a frontier over other resources."""
    tables, legal = (task := PlanningTask(rtn_scores, Limits())).tables, task.legal
    floor = int(np.where(legal, tables.usage[size], np.inf).min(axis=1).sum() + tables.fixed[size])
    assert getattr(allocate(rtn_scores, Limits(**{size: floor})), size) == floor
    below = Limits(**{size: floor - 1})
    with pytest.raises(InfeasibleError, match=r"is below the floor: nearest feasible"):
        allocate(rtn_scores, below)
    if size == "encoder_bytes":
        with pytest.raises(InfeasibleError, match=r"no plan meets the limits on other resources: .*\. Raise them\.$"):
            trade_off(PlanningTask(rtn_scores, below), ("total-bytes",), points=3)


@pytest.mark.parametrize(("resources", "points"), [(("bytes", "bytes"), 5), ((), 5), (("bytes",), 1)])
def test_a_frontier_of_nothing_is_refused(rtn_scores, resources, points):
    with pytest.raises(UsageError, match=r"`(resources|points)`.*give"):
        trade_off(PlanningTask(rtn_scores, Limits()), resources, points=points)


def test_curves_of_one_picture_are_of_one_model(cli, rtn_scores, tmp_path):
    """`--compare` is for another metric or quantizer; scores of another model measure another loss."""
    (tmp_path / "own.json").write_text(rtn_scores.model_dump_json(by_alias=True))
    document = rtn_scores.model_dump(mode="json", by_alias=True)
    document["profile"] |= {"sha256": "f" * 64, "name": "another"}
    (tmp_path / "other.json").write_text(json.dumps(document))
    command = ("pareto", "-s", tmp_path / "own.json", "--points", 3, "--plot", tmp_path / "f.svg")
    assert cli(*command, "--compare", f"same={tmp_path / 'own.json'}").code == 0
    found = cli(*command, "--compare", f"o={tmp_path / 'other.json'}")
    assert found.code == 4 and "scores of another, not of" in found.complaint
