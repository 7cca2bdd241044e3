"""The contract of every solver in the folder, against exhaustive search."""

import gc
import math
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solvers import ChoiceProblem, SolverError, Status, available, describe, price, solve, violations
from solvers.methods import exhaustive, ilp, lagrangian
from solvers.model.program import program_of
from solvers.search import partial_plans
from solvers.search.outcome import SearchLimits
from solvers.search.presolve import presolve
from solvers.search.pulp_engine import minimise_by_cbc, minimise_by_highs
from solvers.search.relaxation import relax
from solvers.search.scipy_engine import minimise_by_scipy

USABLE = [name for name, (_, usable) in describe().items() if usable]
EXACT = [name for name in USABLE if name not in ("exhaustive", "lagrangian")]
MANY = settings(max_examples=150)


def agrees(result, oracle, problem):
    """Same status, same value to 1e-9 of the magnitudes, and never more of the tie-breaking resource."""
    assert result.status is oracle.status
    if oracle.choice is None:
        assert result.choice is None and math.isnan(result.value)
        return
    assert violations(problem, result.choice) == ()
    scale = np.abs(np.where(problem.mask(), problem.value, 0)).max(axis=1).sum()
    assert result.value == pytest.approx(oracle.value, abs=1e-9 * scale, rel=0)
    assert result.gap <= 1e-6 and result.lower_bound <= result.value
    tie = problem.tie_resource()
    if tie is not None and result.value == pytest.approx(oracle.value, abs=1e-13 * scale, rel=0):
        assert result.usage[tie] <= oracle.usage[tie]


@pytest.mark.parametrize("solver", EXACT)
@MANY
@given(data=st.data())
def test_every_solver_equals_exhaustive_search(solver, choice_problems, data):
    problem = data.draw(choice_problems())
    agrees(solve(problem, solver), solve(problem, "exhaustive"), problem)


@pytest.mark.parametrize("solver", EXACT)
@settings(max_examples=40)
@given(data=st.data())
def test_larger_problems_equal_exhaustive_search(solver, choice_problems, data):
    problem = data.draw(choice_problems(most_items=6, most_options=6))
    agrees(solve(problem, solver), solve(problem, "exhaustive"), problem)


@MANY
@given(data=st.data())
def test_lagrangian_brackets_the_best_value(choice_problems, data):
    """Bound ≤ optimum ≤ value of the plan; infeasible exactly if nothing fits."""
    problem = data.draw(choice_problems(most_items=5, most_options=5, most_resources=3))
    solution, oracle = solve(problem, "lagrangian"), solve(problem, "exhaustive")
    assert (solution.choice is None) == (oracle.choice is None)
    if solution.choice is not None:
        rounding = 1e-9 * np.abs(np.where(problem.mask(), problem.value, 0)).sum()
        assert violations(problem, solution.choice) == ()
        assert solution.lower_bound - rounding <= oracle.value <= solution.value + rounding


@pytest.mark.parametrize("core_columns", [0, 10_000])
def test_lagrangian_with_a_core_too_large_for_partial_plans(core_columns, monkeypatch):
    """A window of the core, or the whole core with limited effort: still a plan that fits, and a true bound."""
    monkeypatch.setattr(lagrangian, "CORE_COLUMNS", core_columns)
    monkeypatch.setattr(lagrangian, "WINDOW_COLUMNS", 20)
    monkeypatch.setattr(lagrangian, "MOST_STATES", 1)
    monkeypatch.setattr(partial_plans, "_WIDTHS", (2,))
    rng = np.random.default_rng(11)
    for _ in range(5):
        value = 10.0 ** rng.uniform(-3, 0, (25, 6))
        usage = {name: rng.uniform(1, 9, (25, 6)) / value**0.3 for name in "ab"}
        capacity = {name: 0.8 * table.mean(axis=1).sum() for name, table in usage.items()}
        problem = ChoiceProblem(tuple(map(str, range(25))), tuple("uvwxyz"), value, usage, capacity)
        answer, exact = solve(problem, "lagrangian"), solve(problem, "ilp")
        assert exact.status is Status.OPTIMAL and violations(problem, answer.choice) == ()
        assert answer.lower_bound <= exact.value * (1 + 1e-6) <= answer.value * (1 + 2e-6)


@MANY
@given(data=st.data())
def test_partial_plans_that_were_left_out_bound_what_is_claimed(choice_problems, data):
    """With only one or two partial plans kept: bound ≤ optimum ≤ value of the plan, and a claimed proof is correct."""
    problem = data.draw(choice_problems(most_items=6, most_options=5, most_resources=3, families=False))
    program = presolve(program_of(problem))
    if program is None or not len(program.rhs):
        return
    relaxation = relax(program)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(partial_plans, "_WIDTHS", (1, 2))
        result = partial_plans.close(program, relaxation, None, math.inf, SearchLimits())
    best = exhaustive.METHOD.run(program, SearchLimits())
    rounding = 1e-9 * float(np.abs(program.cost).sum()) + 1e-300
    assert result.bound <= best.bound + rounding
    if result.columns is not None:
        cost = float(program.cost[result.columns].sum())
        assert program.fits(result.columns) and cost >= best.bound - rounding
        assert not result.finished or cost - result.bound <= 1e-6 * abs(cost) + rounding
    elif result.finished:
        assert best.columns is None


@pytest.mark.parametrize("solver", EXACT)
def test_sets_of_families_without_any_plan_end_the_search(solver):
    """Only one of three families leaves each item an option, and nothing fits with it: infeasible, no endless loop."""
    problem = ChoiceProblem(
        ("a", "b", "c"), ("x", "y", "z"), np.array([[1.0, 3, 2], [2, 1, 3], [3, 2, 1]]),
        {"r": np.array([[1.0, 4, 9], [4, 1, 9], [9, 4, 1]])}, {"r": 8.0},
        np.array([[True, True, False], [False, True, True], [True, True, True]]),
        families=("p", "q", "s"), max_families=1,
    )  # fmt: skip
    assert solve(problem, solver).status is solve(problem, "exhaustive").status is Status.INFEASIBLE


@pytest.mark.parametrize("engine", [minimise_by_highs, minimise_by_cbc, minimise_by_scipy])
def test_an_engine_that_finds_no_plan_says_so_with_its_bound(engine, ladder):
    """If no plan is below the known one the engine's bound is infinity; else the known plan would look unproven."""
    result = engine(program_of(replace(ladder, capacity={"bytes": 3.0})), (), SearchLimits())
    assert (result.columns, result.bound, result.finished) == (None, math.inf, True)


@pytest.mark.parametrize("solver", USABLE)
def test_a_plan_that_only_the_engine_finds(solver):
    """Only one plan keeps both rows, exactly: the heuristics fail, and their failure must not count as a proof."""
    problem = ChoiceProblem(
        tuple("abcd"), ("x", "y"), np.array([[1.0, 2], [-2, 1], [-2, 2], [-3, 0]]),
        {"r": np.array([[8.0, 4], [8, 5], [5, 7], [5, 8]]), "s": np.array([[2.0, 9], [1, 6], [4, 2], [3, 1]])},
        {"r": 25.0, "s": 14.0},
    )  # fmt: skip
    assert solve(problem, solver).value == 1.0


@pytest.mark.parametrize("solver", ["exhaustive", *EXACT])
def test_by_hand(solver, ladder):
    solution = solve(ladder, solver)
    assert (solution.choice, solution.value, solution.usage) == ((2, 0), 5.0, {"bytes": 10.0})
    assert solution.status is Status.OPTIMAL and solution.binding == ("bytes",)
    assert solution.solver.startswith(solver) and solution.runtime_s > 0
    assert "optimal: value 5" in str(solution)


@pytest.mark.parametrize("solver", EXACT)
@settings(max_examples=40)
@given(data=st.data(), power=st.sampled_from([-15, -12, -6, 6, 12, 15]))
def test_multiplying_all_values_changes_nothing(solver, choice_problems, data, power):
    problem = data.draw(choice_problems())
    larger = replace(problem, value=problem.value * 10.0**power)
    agrees(solve(larger, solver), solve(larger, "exhaustive"), larger)


@pytest.mark.parametrize("solver", EXACT)
@settings(max_examples=30)
@given(data=st.data())
def test_permuting_items_and_options_permutes_the_answer(solver, choice_problems, data):
    """The order of items and options does not matter: value and usage stay the same, and so does a unique plan."""
    problem = data.draw(choice_problems(links=False))
    rows = data.draw(st.permutations(range(len(problem.items))))
    columns = data.draw(st.permutations(range(len(problem.options))))
    turned = replace(
        problem,
        items=tuple(problem.items[i] for i in rows),
        options=tuple(problem.options[o] for o in columns),
        value=problem.value[np.ix_(rows, columns)],
        usage={name: table[np.ix_(rows, columns)] for name, table in problem.usage.items()},
        allowed=problem.allowed[np.ix_(rows, columns)],
    )
    here, there = solve(problem, solver), solve(turned, solver)
    assert here.status is there.status
    if here.choice is not None:
        assert there.value == pytest.approx(here.value, rel=1e-9, abs=1e-12)
        tie = problem.tie_resource()
        assert tie is None or there.usage[tie] == here.usage[tie]


@pytest.mark.parametrize("solver", EXACT)
def test_a_plan_without_equals_is_permuted_with_its_items_and_options(solver):
    """If no two plans have the same value, the same plan is returned under the new indices."""
    rng = np.random.default_rng(6)
    value, table = rng.normal(0, 1, (8, 5)), rng.integers(1, 50, (8, 5)).astype(float)
    items, options = np.array(list("abcdefgh")), np.array(list("vwxyz"))
    problem = ChoiceProblem(tuple(items), tuple(options), value, {"r": table}, {"r": 150.0})
    plan = dict(zip(items, options[list(solve(problem, solver).choice)], strict=True))
    for _ in range(5):
        rows, columns = rng.permutation(8), rng.permutation(5)
        at = np.ix_(rows, columns)
        turned = replace(
            problem, items=tuple(items[rows]), options=tuple(options[columns]), value=value[at], usage={"r": table[at]}
        )
        result = options[columns][list(solve(turned, solver).choice)]
        assert dict(zip(items[rows], result, strict=True)) == plan


@pytest.mark.parametrize("solver", EXACT)
@settings(max_examples=30)
@given(data=st.data(), factor=st.sampled_from([1.0, 1.1, 2.0, math.inf]))
def test_a_looser_capacity_is_never_worse(solver, choice_problems, data, factor):
    problem = data.draw(choice_problems())
    looser = replace(problem, capacity={name: c * factor if c else c for name, c in problem.capacity.items()})
    tight, loose = solve(problem, solver), solve(looser, solver)
    if tight.choice is not None:
        assert loose.value <= tight.value + 1e-9 * abs(tight.value)


@pytest.mark.parametrize("solver", EXACT)
def test_equal_values_are_decided_by_fewest_bytes(solver):
    """Among plans of value 4 the fewest bytes win, across items too; `tie_break` names another resource."""
    problem = ChoiceProblem(
        ("a", "b", "c"), ("x", "y"), np.array([[1.0, 2], [1, 2], [1, 0]]),
        {"bytes": np.array([[3.0, 1], [2, 1], [2, 4]]), "time": np.array([[0.0, 1], [0, 5], [0, 9]])},
        {"bytes": 6.0},
    )  # fmt: skip
    solution = solve(problem, solver)
    assert solution.value == 4 - 0 and solution.usage["bytes"] == 5
    judged_by_time = solve(replace(problem, tie_break="time"), solver)
    assert judged_by_time.value == 4 and judged_by_time.usage["time"] == 1


@pytest.mark.parametrize("solver", EXACT)
def test_bytes_hold_exactly_at_large_sizes(solver):
    """Random problems of up to 10⁸ bytes: never a byte too many, and as good as an independent dynamic program."""
    rng = np.random.default_rng(5)
    table = np.sort(rng.integers(1_000_000, 30_000_000, (4, 6)), axis=1).astype(float)
    value = np.sort(10.0 ** rng.uniform(-9, -1, (4, 6)), axis=1)[:, ::-1]
    for capacity in rng.integers(10_000_000, 100_000_000, 12):
        problem = ChoiceProblem(tuple("abcd"), tuple("123456"), value, {"bytes": table}, {"bytes": float(capacity)})
        agrees(solve(problem, solver), solve(problem, "exhaustive"), problem)


@pytest.mark.parametrize("solver", ["exhaustive", *EXACT])
def test_capacity_at_the_floor_below_it_and_infinite(solver, ladder):
    def with_bytes(limit):
        return solve(replace(ladder, capacity={"bytes": limit}), solver)

    assert with_bytes(4.0).choice == (0, 0)
    assert with_bytes(math.inf).choice == (2, 2) and with_bytes(math.inf).binding == ()
    for limit in (3.0, 0.0, -1.0):
        refused = with_bytes(limit)
        assert refused.status is Status.INFEASIBLE and refused.lower_bound == math.inf
        assert refused.nearest_capacity == {"bytes": 4.0} and refused.conflicts == ("bytes",)
        assert "no plan; in conflict: bytes; least feasible: bytes ≥ 4" in str(refused)


@pytest.mark.parametrize("solver", ["exhaustive", *EXACT])
def test_a_floor_of_float_seconds_is_feasible(solver):
    """0.1 summed ten times is 1.0 or 0.9999…: rounding must not make the floor infeasible."""
    seconds = np.tile([0.1, 0.7], (10, 1))
    problem = ChoiceProblem(
        tuple(map(str, range(10))), ("slow", "fast"), np.tile([1.0, 0.0], (10, 1)), {"s": seconds},
        {"s": sum([0.1] * 10)},
    )  # fmt: skip
    assert solve(problem, solver).choice == (0,) * 10


@pytest.fixture(scope="module")
def hard():
    """Four rows that nearly add up to the value: no solver here proves it in minutes."""
    rng = np.random.default_rng(1)
    usage = {name: rng.uniform(1, 100, (60, 20)) for name in "abcd"}
    return ChoiceProblem(
        tuple(map(str, range(60))), tuple(map(str, range(20))), -sum(usage.values()) * rng.uniform(0.9, 1.1, (60, 20)),
        usage, dict.fromkeys("abcd", 2000.0),
    )  # fmt: skip


@pytest.fixture
def uncollected():
    """No garbage collection: in a long run of tests it takes a second, which is not the solver's."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("solver", EXACT)
def test_a_time_limit_never_yields_optimal(solver, hard):
    """Wall-clock time stops the search; the test allows ten seconds of CPU time, because the machine may be slow."""
    for seconds in (1e-6, 0.3):
        start = time.process_time()
        solution = solve(hard, solver, time_limit_s=seconds)
        assert solution.status is (Status.NO_PLAN_FOUND if solution.choice is None else Status.TIME_LIMIT)
        assert solution.choice is None or violations(hard, solution.choice) == ()
        assert solution.lower_bound > -math.inf and time.process_time() - start < 10


@pytest.mark.parametrize("solver", ["exhaustive", *EXACT])
def test_a_search_that_ends_before_any_plan_is_not_infeasible(solver, hard):
    """Neither a plan nor a proof: a status of its own, with a bound and advice."""
    solution = solve(hard, solver, time_limit_s=1e-6)
    assert solution.status is Status.NO_PLAN_FOUND and solution.choice is None and math.isnan(solution.value)
    assert solution.conflicts == () and solution.nearest_capacity == {} and math.isfinite(solution.lower_bound)
    assert "may be one" in str(solution) and "Allow more time" in str(solution)


HARD_BY_HIGHS = """
import signal, time
import numpy as np
from solvers import ChoiceProblem
from solvers.model.program import program_of
from solvers.search.scaled_engine import scaled
from solvers.search.outcome import SearchLimits
from solvers.search.presolve import presolve
from solvers.search.pulp_engine import minimise_by_highs

rng = np.random.default_rng(1)
usage = {name: rng.uniform(1, 100, (60, 20)) for name in "abcd"}
value = -sum(usage.values()) * rng.uniform(0.9, 1.1, (60, 20))
names = tuple(map(str, range(60)))
core = scaled(presolve(program_of(ChoiceProblem(names, names[:20], value, usage, dict.fromkeys("abcd", 2000.0)))))[0]
before = signal.getsignal(signal.SIGINT)
print("running", flush=True)
try:
    minimise_by_highs(core, (), SearchLimits(deadline=time.perf_counter() + 60))
except KeyboardInterrupt:
    print("interrupted" if signal.getsignal(signal.SIGINT) is before else "handler lost", flush=True)
"""


@pytest.mark.skipif(find_spec("highspy") is None, reason="needs HiGHS")
def test_ctrl_c_works_while_highs_runs():
    """Within half a second of minutes of native code; and Ctrl-C works as usual afterwards."""
    command = [sys.executable, "-c", HARD_BY_HIGHS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "running\n"
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        start = time.monotonic()
        assert process.stdout.read() == "interrupted\n"
        assert process.wait() == 0 and time.monotonic() - start < 30


@pytest.mark.parametrize("solver", EXACT)
def test_the_same_problem_gives_the_same_answer(solver):
    rng = np.random.default_rng(2)
    problem = ChoiceProblem(
        tuple(map(str, range(12))), tuple(map(str, range(8))), rng.integers(0, 4, (12, 8)).astype(float),
        {"bytes": rng.integers(1, 9, (12, 8)).astype(float)}, {"bytes": 40.0},
    )  # fmt: skip
    assert solve(problem, solver).choice == solve(problem, solver).choice


def test_a_loose_gap_is_called_feasible_unless_proven():
    """`optimal` is a gap of at most 1e-6, whatever gap the caller accepts."""
    rng = np.random.default_rng(3)
    value = 10.0 ** rng.uniform(-6, -1, (40, 12))
    usage = {name: rng.uniform(1, 9, (40, 12)) for name in "ab"}
    problem = ChoiceProblem(
        tuple(map(str, range(40))), tuple(map(str, range(12))), value, usage, {"a": 130.0, "b": 130.0}
    )
    solution = solve(problem, "milp", relative_gap=0.5)
    assert solution.status is (Status.OPTIMAL if solution.gap <= 1e-6 else Status.FEASIBLE)
    assert solution.gap <= 0.5


def test_illegal_requests(ladder):
    with pytest.raises(SolverError, match=r"solver: 'cplex' is unknown\. Choose one of auto, .*ilp"):
        solve(ladder, "cplex")
    with pytest.raises(SolverError, match="time_limit_s: is 0"):
        solve(ladder, time_limit_s=0)
    with pytest.raises(SolverError, match="relative_gap: is -1"):
        solve(ladder, relative_gap=-1)
    many = ChoiceProblem(
        tuple(map(str, range(24))),
        ("x", "y"),
        np.tile([0.0, 1], (24, 1)),
        {"r": np.tile([1.0, 0], (24, 1))},
        {"r": 3},
    )
    with pytest.raises(SolverError, match=r"exhaustive: there are 1.68e\+07 plans"):
        solve(many, "exhaustive")


def test_a_solver_without_its_package_says_so(ladder, monkeypatch):
    monkeypatch.setattr(ilp.METHOD, "usable", lambda: False)
    with pytest.raises(SolverError, match="solver 'ilp': a package that it needs is missing"):
        solve(ladder, "ilp")


def test_names_come_from_the_folder_and_nothing_heavy_is_imported():
    assert {"auto", "exhaustive", "ilp", "milp"} <= set(available())
    assert all(line.endswith(".") for line, _ in describe().values())
    heavy = (
        "import solvers, sys; solvers.available(); print([m for m in ('pulp', 'scipy', 'highspy') if m in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"


def test_value_is_repriced_from_the_tables(ladder):
    solution = solve(ladder)
    assert (solution.value, solution.usage) == price(ladder, solution.choice)
