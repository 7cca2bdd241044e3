"""Constraints besides limits: links, exclusions, the reverse problem, shortlists and measured local search."""

import json
import math
import re

import numpy as np
import pytest
from scipy.stats import spearmanr

from qbert_opt.errors import InfeasibleError, UsageError
from qbert_opt.evaluation.evaluate import evaluate, outputs
from qbert_opt.planning.constraints import PlanConstraints
from qbert_opt.planning.planner import allocate, allocation_of
from qbert_opt.planning.program import PlanningTask
from qbert_opt.planning.solving import SolverOptions
from qbert_opt.planning.task_solver import solve_task, top_plans
from qbert_opt.quantization.calibration import CalibrationPlan, MatrixQuantizer, calibration_texts
from qbert_opt.spec.allocation import Allocation, read_allocation
from qbert_opt.spec.choices import Choice
from qbert_opt.spec.limits import Limits
from qbert_opt.spec.scores import write_scores
from qbert_opt.workflows.refine import _Around, refine_plan
from qbert_opt.workflows.verify import apply_plan

BUDGET = Limits(encoder_bytes=25_000_000)
DEVICE = ("--device", "car-soc")


def formats(plan):
    """Different formats among the matrices."""
    return {(m.bits, m.grouping, m.form) for m in plan.matrices}


def test_ties_and_formats_hold_and_cost(reference_sums):
    """Query, key and value of a layer share a choice, at most three formats are used, and neither is free."""
    free = allocate(reference_sums, BUDGET)
    plan = allocate(reference_sums, BUDGET, constraints=PlanConstraints(ties=("qkv",), max_formats=3))
    assert plan.status == "optimal" and plan.sum_of_scores > free.sum_of_scores
    assert len(formats(plan)) <= 3 < len(formats(free))
    for block in range(12):
        assert len({m.choice for m in plan.matrices if m.block == block and m.kind in ("query", "key", "value")}) == 1


def test_a_tie_by_name(reference_sums):
    """All matrices whose name contains the given name share one choice; the others do not have to."""
    plan = allocate(reference_sums, BUDGET, constraints=PlanConstraints(ties=("layer.3.",)))
    assert len({m.choice for m in plan.matrices if m.block == 3}) == 1 < len(formats(plan))


def test_excluded_matrices_have_8_bits_and_count(reference_sums):
    """Excluded matrices have 8 bits and one range per row, and the budget counts them."""
    plan = allocate(
        reference_sums,
        Limits(encoder_bytes=30_000_000),
        constraints=PlanConstraints(excluded=("layer.0.",), bits=(2, 3)),
    )
    for m in plan.matrices:
        assert ((m.bits, m.grouping) == (8, "rows:each")) == (m.block == 0)
    assert sum(m.bytes for m in plan.matrices) <= 30_000_000


@pytest.fixture(scope="module")
def most(reference_sums):
    """A limit on the loss that no plan of 2 bits alone keeps, and plans with some matrices of 3 bits do."""
    return 1.2 * allocate(reference_sums, BUDGET).sum_of_scores


@pytest.mark.parametrize("least", ["bytes", "latency", "energy", "dram"])
def test_the_reverse_problem_agrees_with_the_forward_problem(reference_sums, car_soc, most, least):
    """Least use of a resource under a limit on loss: with less than that as the budget, no plan keeps the loss."""
    groupings = ("rows:1", "columns:128") if least in ("bytes", "latency") else ("columns:128",)  # residency doubles it
    few = {"bits": (2, 3, 4), "groupings": groupings}
    plan = allocate(
        reference_sums, Limits(), device=car_soc, constraints=PlanConstraints(max_loss=most, least=least, **few)
    )
    assert plan.sum_of_scores <= most * (1 + 1e-9)
    assert plan.limits[0].source == "--max-loss" and plan.limits[0].binds
    used = {"bytes": plan.encoder_bytes, "dram": plan.device.dram_bytes, "energy": plan.device.energy_j}.get(
        least, plan.device.latency_bound_s
    )
    if least == "energy":  # the schedule is never slower than the bound that the program adds up
        assert used <= plan.lower_bound / (1 - plan.gap) * (1 + 1e-9)
        return
    assert plan.lower_bound <= used * (1 + 1e-9)
    assert plan.gap == pytest.approx(1 - plan.lower_bound / used, abs=1e-9) and plan.gap < 2e-3
    if least == "bytes":
        assert plan.status == "optimal"
        back = allocate(
            reference_sums,
            Limits(encoder_bytes=plan.encoder_bytes - 1),
            device=car_soc,
            constraints=PlanConstraints(**few),
        )
        assert back.lower_bound > most


def test_a_loss_below_the_floor_names_the_nearest(reference_sums):
    """The nearest loss in the message is feasible; a slightly smaller one is not."""
    few = {"bits": (2,), "groupings": ("rows:1", "columns:128"), "least": "bytes"}
    with pytest.raises(InfeasibleError, match=r"`max_loss` = 1e-09: nearest feasible (\S+)\.") as refused:
        allocate(reference_sums, Limits(), constraints=PlanConstraints(max_loss=1e-9, **few))
    nearest = float(str(refused.value).split("nearest feasible ")[1].split(". ")[0])
    again = allocate(reference_sums, Limits(), constraints=PlanConstraints(max_loss=nearest * 1.001, **few))
    assert again.sum_of_scores <= nearest * 1.001
    with pytest.raises(InfeasibleError):
        allocate(reference_sums, Limits(), constraints=PlanConstraints(max_loss=nearest * 0.999, **few))


def test_a_shortlist_is_diverse_sorted_and_near_the_best(reference_sums):
    """Five plans that differ in at least seven matrices; none is better than the first or more than 5 % worse."""
    task = PlanningTask(reference_sums, BUDGET)
    best = solve_task(task, SolverOptions())
    plans = [allocation_of(task, plan) for plan in top_plans(task, best, SolverOptions(), 5, 0.05)]
    losses = [plan.sum_of_scores for plan in plans]
    assert len(plans) == 5 and losses == sorted(losses) and losses[-1] <= 1.05 * losses[0]
    chosen = [[m.choice for m in plan.matrices] for plan in plans]
    for index, one in enumerate(chosen):
        for other in chosen[:index]:
            assert sum(a != b for a, b in zip(one, other, strict=True)) >= 7
    assert all(plan.encoder_bytes <= 25_000_000 for plan in plans)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--max-loss", "0.001"), "belong together"),
        (("--least", "bytes"), "belong together"),
        (("--max-loss", "0.001", "--least", "speed"), "legal: bytes, total-bytes, latency"),
        (("--max-loss", "0.001", "--least", "latency"), "needs --device"),
        (("--max-loss", "nan", "--least", "bytes"), "must be a finite number"),
        (("--budget", "25MB", "--tie", "elsewhere"), "no matrix of"),
        (("--budget", "25MB", "--tie", "layer.1.output.dense"), "A tie needs two"),
        (("--budget", "25MB", "--exclude", "elsewhere"), "no matrix of"),
        (("--budget", "25MB", "--within", "5%"), "belongs to --top-k"),
        (("--budget", "25MB", "--apart", "5"), "belongs to --top-k"),
        (("--budget", "25MB", "--top-k", "2", "--within", "-1%"), "--within -1%: not a share"),
        (("--budget", "25MB", "--top-k", "2", "--apart", "73"), "there are 72 matrices"),
        (("--budget", "25MB", "--refine", "3"), "--refine: needs --model and --data"),
        (
            ("--budget", "25MB", "--refine", "3", "--top-k", "2", "--model", "m", "--data", "d"),
            "Remove --top-k",
        ),
        (("--budget", "25MB", "--recipe", "qbert-2/3", "--tie", "qkv"), "--recipe: is a fixed rule"),
        (("--budget", "25MB", "--tie", "qkv", "--pin", "attn.q=2", "--pin", "attn.k=8"), "no option in common"),
    ],
)
def test_mistakes_in_one_line(cli, arguments, message):
    """Misuse of each constraint."""
    run = cli("solve", *arguments)
    assert message in run.complaint
    assert run.code == 2


def test_infeasible_links_are_named(cli):
    """One format for all matrices, at a size that no format has."""
    limits = ("--budget", "3bit", "--max-formats", "1", "--pin", "layer.0.=8")
    run = cli("solve", *limits)
    assert run.code == 3 and "--max-formats 1 conflicts with them" in run.complaint


def test_the_command_line_writes_a_shortlist(cli, tmp_path, tmp_path_factory, three_layers):
    """`--top-k 3 -o p.json` writes p.json, p.2.json, p.3.json; `--json` prints a list."""
    scores = tmp_path_factory.mktemp("scores") / "scores.json"
    write_scores(three_layers, scores)
    line = ("solve", "--scores", scores, "--budget", "2.5bit", "--top-k", "3", "--within", "5%")
    run = cli(*line, "-o", tmp_path / "p.json")
    assert run.code == 0 and "3 plans" in run.out, run.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p.2.json", "p.3.json", "p.json"]
    printed = [Allocation.model_validate(plan) for plan in json.loads(cli(*line, "--json").out)]
    assert [p.sum_of_scores for p in printed] == [
        read_allocation(tmp_path / name).sum_of_scores for name in ("p.json", "p.2.json", "p.3.json")
    ]


def test_the_command_line_solves_the_reverse_problem(cli, most):
    """The report shows what was minimized, how close to optimal it is proven to be, and that the loss is a limit."""
    run = cli("solve", "--max-loss", f"{most:.4g}", "--least", "bytes", "--tie", "qkv", "--explain")
    assert run.code == 0, run.err
    assert "of the least encoder bytes, at least" in run.out
    predicted, allowed = re.search(r"limit +--max-loss: predicted loss (\S+) of (\S+)", run.out).groups()
    assert float(allowed) == float(f"{most:.4g}") and 0 < float(predicted) <= most
    bound = re.search(r"among plans whose sum of scores is at most (\S+)", run.out).group(1)
    assert 0 < float(bound.rstrip(",;.)")) <= most


@pytest.fixture(scope="module")
def around(tiny, file_texts, rtn_scores):
    """A task on the tiny model at 3 bits per weight, its plan, quantizer and texts."""
    task = PlanningTask(rtn_scores, Limits(encoder_bytes=int(rtn_scores.profile.encoder_elements * 3 / 8)))
    plan = solve_task(task, SolverOptions())
    fit, scored = calibration_texts(file_texts, CalibrationPlan(40, 40, 0))
    return task, plan, MatrixQuantizer(tiny, rtn_scores.profile, "rtn", fit), scored


def test_what_refine_measures_is_what_evaluate_measures(tiny, around):
    """KL of the plan on the scoring texts, computed by independent code."""
    task, plan, quantizer, scored = around
    measured = _Around(task, tiny, quantizer, scored).measure(plan.solution.choice)
    applied = apply_plan(tiny, allocation_of(task, plan), quantizer)
    assert measured == pytest.approx(evaluate(applied, scored, outputs(tiny, scored)).loss.value, rel=1e-5)


@pytest.mark.parametrize(("bits", "order", "off"), [(8, 0.95, 0.05), (4, 0.9, 0.1)])
def test_proposals_are_the_second_order_of_what_is_measured(tiny, around, bits, order, off):
    """Around an 8-bit plan other groupings change the loss as proposed; at 4 bits curvature explains most of it."""
    task, _, quantizer, scored = around
    looking = _Around(task, tiny, quantizer, scored)
    names = [c.name for c in task.choices]
    start = [names.index("8bit/rows:1/rtn")] * len(task.items)
    before, proposed = looking.measure(start), looking.propose(start, 1)
    pairs = []
    for i in range(len(start)):
        assert proposed[i, start[i]] == 0
        for j in np.flatnonzero(task.legal[i]):
            if task.choices[j].bits == bits and j != start[i]:
                pairs.append((proposed[i, j], looking.measure([*start[:i], int(j), *start[i + 1 :]]) - before))
    predicted, measured = np.array(pairs).T
    assert spearmanr(predicted, measured).statistic > order
    assert np.median(measured / predicted) == pytest.approx(1, abs=off)


def test_refine_never_measures_worse_and_keeps_the_budget(tiny, around):
    """With at most eight measurements; the bound remains the program's, and the status does not improve."""
    task, plan, quantizer, scored = around
    refined, refinement = refine_plan(task, plan, tiny, quantizer, scored, 8)
    assert len(refinement.history) <= 8 and refinement.measured <= refinement.start
    assert refined.solution.usage["encoder_bytes"] <= task.limits.encoder_bytes
    assert refined.solution.lower_bound <= refined.solution.value * (1 + 1e-9)
    if refinement.accepted:
        assert refined.solution.status == "feasible" and math.isfinite(refined.solution.gap)


def test_refine_from_the_command_line(cli, tmp_path, tiny_folder, data_file, rtn_scores):
    """From scores, model and data to a plan and one line about the measurements."""
    write_scores(rtn_scores, tmp_path / "s.json")
    line = ("--scores", tmp_path / "s.json", "--model", tiny_folder, "--data", data_file, "--budget", "3bit")
    run = cli("solve", *line, "--refine", "4", "-o", tmp_path / "p.json")
    assert run.code == 0, run.err
    assert "refined          measured " in run.out
    assert read_allocation(tmp_path / "p.json").average_bits <= 3


def test_excluded_needs_its_form(reference_sums):
    """If 8 bits per row was not scored, nothing can be excluded."""
    narrow = reference_sums.model_copy(
        update={
            "choices": reference_sums.choices[:7],
            "value": tuple(row[:7] for row in reference_sums.value),
            "std_error": tuple(row[:7] for row in reference_sums.std_error),
            "weight_error": tuple(row[:7] for row in reference_sums.weight_error),
        }
    )
    with pytest.raises(
        UsageError,
        match=r"`excluded` layer\.0\.: an excluded matrix has 8 bits and grouping rows:each, which was not scored",
    ):
        allocate(narrow, Limits(encoder_bytes=30_000_000), constraints=PlanConstraints(excluded=("layer.0.",)))


def test_a_misspelt_constraint_names_the_legal_ones():
    """A wrong field or value is one line that names the Python parameter."""
    with pytest.raises(
        UsageError, match=r"has no field 'pinz'. Legal: bits, groupings, table_bits, engine, portable, pins, excluded"
    ):
        PlanConstraints(pinz={"layer.0.": 8})
    with pytest.raises(UsageError, match=r"`pins\.query`: .*integer.*found 'eight'"):
        PlanConstraints(pins={"query": "eight"})
    with pytest.raises(UsageError, match=r"`max_formats`: .*greater than or equal to 1; found 0"):
        PlanConstraints(max_formats=0)


def test_choices_are_limited_to_what_the_engine_runs(reference_sums, rtn_scores):
    """An engine's rules mask choices, in the order of the table; an engine that runs everything changes nothing."""
    from qbert_opt.engines.session import rules_of

    free, for_torch = (
        allocate(reference_sums, BUDGET),
        allocate(reference_sums, BUDGET, constraints=PlanConstraints(engine="torch")),
    )
    assert [m.choice for m in free.matrices] == [m.choice for m in for_torch.matrices]
    plan = allocate(reference_sums, BUDGET, constraints=PlanConstraints(engine="onnxruntime"))
    rules = rules_of("onnxruntime")
    assert all(rules.refusal(m.choice) is None for m in plan.matrices)
    assert rules.refusal(Choice(4, "columns:24", "rtn")) == "columns:24; its blocks are multiples of 16 inputs"
    assert rules.refusal(Choice(4, "rows:each", "kmeans", "codebook")).startswith("form codebook; it supports offset")
    with pytest.raises(
        UsageError, match=r"unknown 'abacus'. Available: integer, litert, llama-cpp, onnxruntime, onnxruntime-arm64, "
    ):
        allocate(reference_sums, BUDGET, constraints=PlanConstraints(engine="abacus"))
