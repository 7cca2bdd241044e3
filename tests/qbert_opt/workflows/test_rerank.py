"""`solve --measure`: plans of a shortlist run in an engine, and the order that their times put them in."""

import re

import numpy as np
import pytest

from qbert_opt.costs.workload import Workload
from qbert_opt.errors import UsageError
from qbert_opt.workflows import rerank
from qbert_opt.workflows.rerank import TimedPlan, ranked, time_plans


@pytest.fixture(scope="module")
def plans(rtn_scores):
    """Three plans of the tiny model, by rising loss."""
    from qbert_opt.planning.planner import SolverOptions, allocation_of
    from qbert_opt.planning.program import PlanningTask
    from qbert_opt.planning.task_solver import solve_task, top_plans
    from qbert_opt.spec.limits import Limits

    task = PlanningTask(rtn_scores, Limits(encoder_bytes=rtn_scores.profile.encoder_elements // 2))
    best = solve_task(task, SolverOptions())
    return [allocation_of(task, plan) for plan in top_plans(task, best, SolverOptions(), 3)]


def numbers(plans, times, spread=0.01, limit_s=None):
    timed = [TimedPlan(i, plan, time_s, spread) for i, (plan, time_s) in enumerate(zip(plans, times, strict=True), 1)]
    return [found.number for found in ranked(timed, limit_s)]


def test_the_fastest_comes_first_and_ties_go_by_loss(plans):
    assert numbers(plans, [3.0, 2.0, 1.0]) == [3, 2, 1]
    assert numbers(plans, [1.02, 1.01, 1.0]) == [1, 2, 3]  # three spreads of 1 % apart: as good as equal
    assert numbers(plans, [1.5, 1.01, 1.0]) == [2, 3, 1]
    assert numbers(plans, [1.5, 1.01, 1.0], spread=0.3) == [1, 2, 3]


def test_a_plan_that_breaks_the_limit_comes_after_those_that_keep_it(plans):
    assert numbers(plans, [1.02, 1.0, 1.04], limit_s=1.01) == [2, 1, 3]
    assert numbers(plans, [3.0, 2.0, 1.0], limit_s=0.5) == [3, 2, 1]


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_what_is_timed_are_the_plans(tiny, plans, rtn_scores, engine, monkeypatch):
    """Each call runs the model with its plan's own weights: the answers are those of torch with the same."""
    import torch

    from qbert_opt.engines.timing import made_up_inputs
    from qbert_opt.planning.recipes import uniform_allocation
    from qbert_opt.quantization.calibration import MatrixQuantizer
    from qbert_opt.spec.choices import choice
    from qbert_opt.workflows.verify import apply_plan

    pytest.importorskip(engine)
    pair = [plans[0], uniform_allocation(rtn_scores, choice("2bit/rows:each/rtn"))]
    kept = {}
    real = rerank.time_calls
    monkeypatch.setattr(rerank, "time_calls", lambda calls, **options: kept.update(calls) or real(calls, **options))
    timed = time_plans(tiny, pair, engine, Workload(9, 2), rounds=3)
    assert [found.number for found in timed] == [1, 2] and all(1e-6 < found.latency_s < 1 for found in timed)
    inputs = made_up_inputs(("input_ids", "attention_mask"), 2, 9)
    answers = []
    for index, plan in enumerate(pair):
        model = apply_plan(tiny, plan, MatrixQuantizer(tiny, plan.profile, "rtn", None)).model
        with torch.no_grad():
            expected = model(**{name: torch.from_numpy(array) for name, array in inputs.items()}).logits.numpy()
        found = kept[index]()["logits"]
        answers.append(found)
        assert np.abs(found - expected).max() < 0.08 * np.abs(expected).max()  # inputs in 8 bits
    assert np.abs(answers[0] - answers[1]).max() > 0.2 * np.abs(expected).max()


def test_the_shortlist_is_measured_from_the_command_line(cli, tmp_path, tiny_folder, rtn_scores):
    from qbert_opt.spec.scores import write_scores

    pytest.importorskip("onnxruntime")
    scores = tmp_path / "scores.json"
    write_scores(rtn_scores, scores)
    line = ("solve", "--scores", scores, "--model", tiny_folder, "--budget", "4bit", "--seq-len", 9, "-q")
    found = cli(*line, "--top-k", 2, "--measure", "onnxruntime", "-o", tmp_path / "p.json")
    assert found.code == 0 and "measured in onnxruntime, one thread" in found.out
    first = re.search(r"(this plan|plan 2) is the fastest measured", found.out)
    assert first and (first[1] == "this plan" or f"use {tmp_path}/p.2.json" in found.out.replace("\n", ""))
    assert (tmp_path / "p.2.json").is_file()


def test_what_cannot_be_measured_is_one_line(cli, tiny, plans):
    assert "--measure: needs --model" in cli("solve", "--budget", "25MB", "--measure", "openvino").complaint
    with pytest.raises(UsageError, match="runs every plan as floats"):
        time_plans(tiny, plans, "torch", Workload(8))
    with pytest.raises(UsageError, match="unknown 'tvm'"):
        time_plans(tiny, plans, "tvm", Workload(8))
    with pytest.raises(UsageError, match="`measure` tidl: can be planned for only"):
        time_plans(tiny, plans, "tidl", Workload(8))
