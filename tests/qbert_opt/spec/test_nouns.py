"""How the main types look in a notebook or a debugger: a line or two, not JSON."""

import dataclasses
import inspect
from types import SimpleNamespace

import numpy as np
import pytest

import hwmodels
import qbert_opt as qb
import solvers
from qbert_opt.evaluation.intervals import Interval
from qbert_opt.workflows import outcome
from solvers.model.program import Program
from solvers.search.outcome import Outcome

SHORT = 300
WORKLOAD = qb.Workload(32)


@pytest.fixture(scope="module")
def nouns():
    """One of every public noun, made from the bundled scores and a bundled device, by its class."""
    scores, device = qb.reference_scores(), qb.load_device("car-soc")
    limits = qb.Limits(encoder_bytes=25_000_000)
    plan = qb.allocate(scores, limits)
    problem = qb.PlanningTask(scores, limits).problem({"encoder_bytes": 25e6})
    solution = solvers.solve(problem)
    report = qb.simulate_allocation(plan, device, WORKLOAD)
    operation = hwmodels.Operation("layer 1 query", "gemm", 32, 768, 768, 32 * 768, 32 * 768)
    weight = hwmodels.StoredWeight(2, "rows", 768, 1, 147456, 3072)
    work = hwmodels.IntegerWork(multiplies=2, additions=7, table_reads=1, table_bytes=256)
    grid = hwmodels.MeasuredGrid((1, 16, 128), (312, 768), (312, 768), (1e9,) * 12)
    form = hwmodels.MeasuredFormat("w8", 8, "rows", "int8", grid)
    memory = hwmodels.MeasuredMemory("dram", 2**33, 1e10, 1e-7)
    machine = hwmodels.Measurements("host", "A machine", 2, 3e9, 8, (memory,), (form,), {"add": grid}, 1e-6, 0.01, "by")
    mix = qb_mix(plan, device)
    measured = qb.Evaluation(500, accuracy=Interval(0.9, 0.88, 0.92), macro_f1=0.89, kl=Interval(0.01, 0.009, 0.011))
    reason = solvers.explain(problem, solution.choice)[0]
    texts = qb.read_texts("snips/dev")
    model = SimpleNamespace(weights=list(range(10_000)))
    made = [
        scores, scores.profile, device, plan, limits, problem, solution, report, operation, work, weight, grid, form,
        memory, machine, mix, measured, reason, texts, qb.LoadedModel("a model", model, model, "0" * 64), WORKLOAD,
        qb.CalibrationPlan(256, 256, 0), qb.RecoverySettings(), qb.SolverOptions(),
        qb.PlanConstraints(pins={"query": 8}),
        qb.PlanningTask(scores, limits, device=device), qb.Storage(qb.default_grid("gptq")[0]),
        qb.default_grid("gptq")[0],
        qb.Optimized(plan, report, measured, "dev.tsv", qb_folder(), None, compared(plan)), report.operations[0].cost,
        report.memory.tensors[0], solvers.SearchLimits(), solvers.uniform_plans(problem)[0],
        solvers.Refinement((0,) * 500, 1.0, 2.0, (((0,) * 500, 1.0),) * 9, 3, True),
        Outcome(solution.choice, 0.0, True), qb.trade_off(qb.PlanningTask(scores, limits), ("bytes",), points=3),
        *(step for step in (reason.better, reason.worse) if step is not None),
    ]  # fmt: skip
    return {type(noun): noun for noun in made}


def compared(plan):
    """What `optimize` compared, as small as it can be."""
    row = outcome.Measured(name="a model", stored_bytes=plan.total_bytes, num_texts=500)
    return outcome.Outcome(
        model="m", engine=None, device=None, activations=None, loss_unit=plan.loss_unit, texts="500", original=row,
        uniform=None, uniform_choice=None, uniform_suffices=False, plan=row,
    )  # fmt: skip


def test_every_noun_is_short_when_shown(nouns):
    """`repr` in a notebook or a debugger is one line; `str` has no more than a screen."""
    for kind, noun in nouns.items():
        assert "\n" not in repr(noun) and len(repr(noun)) < SHORT, f"{kind.__name__}: {repr(noun)[:400]}"
        assert str(noun).count("\n") < 8 and len(str(noun)) < 2 * SHORT, kind.__name__


def test_no_public_noun_is_forgotten(nouns):
    """Classes of the three façades, without errors, Protocols, and what a folder or a whole search is needed for."""
    elsewhere = {qb.Predictor, solvers.Frontier, solvers.FrontierPoint, Program, solvers.Status}
    for house in (qb, hwmodels, solvers):
        for name in house.__all__:
            kind = getattr(house, name)
            if inspect.isclass(kind) and not issubclass(kind, Exception) and not getattr(kind, "_is_protocol", False):
                assert kind in nouns or kind in elsewhere, f"{house.__name__}.{name}"


def test_a_frontier_of_a_problem_is_short():
    """Of two items with two options."""
    problem = solvers.ChoiceProblem(("a", "b"), ("x", "y"), [[0, 1], [0, 1]], {"bytes": [[2, 1], [2, 1]]}, {})
    frontier = solvers.pareto(problem, "bytes", points=3)
    for noun in (problem, frontier, frontier.points[0]):
        assert "\n" not in repr(noun) and len(repr(noun)) < SHORT


def test_what_is_shown_are_the_figures_that_matter(nouns):
    """Size, loss and proof of a plan; latency of a report; what a device is."""
    plan, scores = nouns[qb.Allocation], nouns[qb.ScoreTable]
    assert f"encoder_bytes={plan.encoder_bytes}" in repr(plan) and f"{plan.predicted_loss:.4g} ± " in str(plan)
    assert f"{plan}" == str(plan)
    for noun in (scores, scores.profile, plan):
        assert str(noun).count("\n") <= 1 and scores.profile.name in str(noun)
    report = nouns[qb.CostReport]
    assert "latency_s=" in repr(report) and "DRAM traffic" in str(report) and "car-soc" in str(report)
    assert "car-soc" in repr(nouns[qb.Device]) and "TDA4VM" in str(nouns[qb.Device])


def qb_mix(plan, device):
    """A report over two lengths."""
    from qbert_opt.costs.simulate import simulate_lengths

    return simulate_lengths(plan, device, {16: 1.0, 32: 1.0}, batch_size=1)


def qb_folder():
    """A folder that need not exist."""
    from pathlib import Path

    return Path("out")


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(qb.Limits)])
@pytest.mark.parametrize("limit", [float("nan"), -1, True, "24kB", [24000]])
def test_what_is_no_number_is_no_limit(name, limit):
    """A latency of nan was no limit at all, and a budget of True one byte."""
    with pytest.raises(qb.UsageError, match=rf"`{name}`: .* is no limit\. Give a number of at least 0, or none"):
        qb.Limits(**{name: limit})
    for legal in (None, 0, 24000, 2.5, np.int64(24000), np.float32(0.5), float("inf")):
        assert getattr(qb.Limits(**{name: legal}), name) is legal
