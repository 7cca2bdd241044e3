"""Limits on scheduled values: sums bound them from both sides, and the tightest feasible limit is reached."""

import numpy as np
import pytest

from hwmodels import load_device
from qbert_opt.costs.simulate import simulate_storage
from qbert_opt.costs.workload import Workload
from qbert_opt.errors import InfeasibleError, NoPlanFoundError, UsageError
from qbert_opt.planning.constraints import PlanConstraints
from qbert_opt.planning.planner import allocate
from qbert_opt.planning.program import FLOORS, SCHEDULED, PlanningTask
from qbert_opt.planning.recipes import uniform_allocation
from qbert_opt.planning.scheduled_limits import broken, enforced
from qbert_opt.planning.solving import SolverOptions, placed
from qbert_opt.planning.task_solver import solve_task
from qbert_opt.spec.choices import choice
from qbert_opt.spec.limits import Limits


@pytest.mark.parametrize("name", ["car-soc", "rpi4", "tesla-hw3", "h100"])
def test_every_schedule_lies_between_the_two_sums(reference, name):
    """For random plans, streamed and partly resident: floor ≤ scheduled ≤ bound, for latency and energy."""
    rng = np.random.default_rng(1)
    device = load_device(name)
    task = PlanningTask(reference, Limits(), device=device, workload=Workload(32))
    items = task.profile.matrices
    mask, rows = task.problem({}).mask(), range(len(items))
    for _ in range(4):
        columns = [int(rng.choice(np.flatnonzero(row))) for row in mask]
        if task.has_scratchpad and rng.random() < 0.7:
            storage, report, _ = placed(task, columns)
        else:
            storage = {item.module: task.tables.options[j] for item, j in zip(items, columns, strict=True)}
            report = simulate_storage(task.profile, storage, device, task.workload)
        at = [task.tables.options.index(storage[item.module]) for item in items]
        usage = task.problem({}, joint=task.has_scratchpad).usage
        for measure, scheduled in (("latency_s", report.latency_s), ("energy_j", report.energy_j)):
            low = usage[FLOORS[measure]][rows, at].sum() + task.tables.fixed[FLOORS[measure]]
            high = usage[SCHEDULED[measure]][rows, at].sum() + task.tables.fixed[SCHEDULED[measure]]
            assert low * (1 - 1e-9) <= scheduled <= high * (1 + 1e-9)


def test_a_tighter_latency_is_never_better_and_its_bound_never_above_it(reference, car_soc):
    """As the latency limit is lowered, loss and bound rise, and every plan meets its limit."""
    few = {"device": car_soc, "constraints": PlanConstraints(bits=(2, 4, 8), groupings=("rows:1", "columns:64"))}
    relaxed = allocate(reference, Limits(encoder_bytes=25_000_000), **few)
    before = relaxed.lower_bound
    for share in (0.995, 0.98):
        limit = share * relaxed.device.latency_s
        plan = allocate(reference, Limits(encoder_bytes=25_000_000, latency_s=limit), **few)
        assert plan.device.latency_s <= limit
        assert before * (1 - 1e-9) <= plan.lower_bound <= plan.sum_of_scores
        before = plan.lower_bound
        wider = allocate(reference, Limits(encoder_bytes=25_000_000, latency_s=limit + 1e-3), **few)
        assert wider.sum_of_scores < plan.sum_of_scores
        assert plan.next_ms_gain == plan.predicted_loss - wider.predicted_loss  # may fall: other text judges both
    assert relaxed.next_ms_gain is None and relaxed.next_mb_gain > 0


def test_the_nearest_feasible_latency_in_the_message_is_feasible(reference, car_soc):
    """A limit just above the nearest feasible value in the message gives a plan."""
    few = {"device": car_soc, "constraints": PlanConstraints(bits=(2, 8), groupings=("rows:1",))}
    with pytest.raises(InfeasibleError, match=r"nearest feasible \d+\.\d+ ms within") as refused:
        allocate(reference, Limits(encoder_bytes=25_000_000, latency_s=0.01), **few)
    named_s = float(str(refused.value).split("nearest feasible ")[1].split(" ms")[0]) / 1e3
    plan = allocate(reference, Limits(encoder_bytes=25_000_000, latency_s=named_s * 1.001), **few)
    assert plan.device.latency_s <= named_s * 1.001


@pytest.mark.slow
def test_the_fastest_plan_is_predicted_by_its_own_scores(reference, car_soc):
    """Where only the fastest plan meets a latency, no text chose it: slower plans do not predict its loss."""
    few = PlanConstraints(bits=(2, 8), groupings=("rows:1", "columns:128"))
    task = PlanningTask(reference, Limits(encoder_bytes=25_000_000, latency_s=0.01), device=car_soc, constraints=few)
    with pytest.raises(InfeasibleError, match="nearest feasible") as refused:
        solve_task(task, SolverOptions())
    named_s = float(str(refused.value).split("nearest feasible ")[1].split(" ms")[0]) / 1e3
    task = task.under(Limits(encoder_bytes=25_000_000, latency_s=named_s * 1.0001))
    plan = solve_task(task, SolverOptions())
    assert plan.judged.folds == len(task.folds)
    assert plan.judged.loss == pytest.approx(plan.solution.value, rel=1e-6)
    assert plan.problem.capacity[SCHEDULED["latency_s"]] == pytest.approx(plan.solution.usage[SCHEDULED["latency_s"]])


def test_a_search_that_is_cut_short_proves_nothing(reference_sums, car_soc):
    """A latency that a plan keeps is not called infeasible where the time is over before the caps were tightened."""
    few = PlanConstraints(bits=(2, 4, 8), groupings=("rows:1", "columns:64"))
    free = PlanningTask(reference_sums, Limits(encoder_bytes=25_000_000), device=car_soc, constraints=few)
    relaxed = solve_task(free, SolverOptions())
    limit = 0.99 * relaxed.report.latency_s
    task = free.under(Limits(encoder_bytes=25_000_000, latency_s=limit))
    assert broken(task, relaxed)
    with pytest.raises(NoPlanFoundError, match=r"`time_limit` = 1e-09 s: .* and there may be one") as stop:
        enforced(task, relaxed, SolverOptions(time_limit_s=1e-9))
    assert stop.value.exit_code == 2
    assert enforced(task, relaxed, SolverOptions()).report.latency_s <= limit


def test_what_the_lower_sums_rule_out_is_infeasible(reference_sums, car_soc):
    """A latency of a nanosecond is below the sum that no schedule undercuts: that is a proof."""
    few = PlanConstraints(bits=(2, 4), groupings=("rows:1",))
    with pytest.raises(InfeasibleError, match=r"--max-latency = 0\.0+ ms|--max-latency = .* is below the floor"):
        allocate(reference_sums, Limits(latency_s=1e-9), device=car_soc, constraints=few)


@pytest.mark.parametrize("name", ["seq_len", "batch_size"])
@pytest.mark.parametrize("count", [0, -1, 16.5, 16.0, True, "16", None, float("nan")])
def test_a_workload_has_whole_counts(name, count):
    """Refused where it is made, by name: the operations' own errors speak of m, k, n."""
    with pytest.raises(UsageError, match=f"`{name}`: .* is not a whole number of at least 1"):
        Workload(**{name: count})


def test_numpys_whole_numbers_count_too():
    """They are stored as Python's, which JSON can hold."""
    workload = Workload(np.int64(16), np.int32(2))
    assert (workload.seq_len, workload.batch_size, workload.tokens) == (16, 2, 32)
    assert type(workload.seq_len) is type(workload.batch_size) is int and workload == Workload(16, 2)


def test_uniform_plans_beside_a_plan_meet_its_latency(reference, car_soc):
    """As they are simulated; the best by bytes alone is too slow here and is not recommended."""
    most = 0.019
    plan = allocate(reference, Limits(encoder_bytes=25_000_000, latency_s=most), device=car_soc)
    by_bytes = allocate(reference, Limits(encoder_bytes=25_000_000), device=car_soc)
    fast = {
        name: uniform_allocation(reference, choice(name), device=car_soc).device.latency_s <= most
        for name in {rival.choice for rival in (*plan.uniform, *by_bytes.uniform)}
    }
    assert plan.uniform and all(fast[rival.choice] for rival in plan.uniform)
    assert not all(fast[rival.choice] for rival in by_bytes.uniform)
