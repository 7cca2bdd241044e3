"""The reverse problem: least latency or bytes under a limit on loss."""

import pytest

from qbert_opt.data.reference import reference_scores
from qbert_opt.errors import InfeasibleError
from qbert_opt.planning import loss_limit
from qbert_opt.planning.constraints import PlanConstraints
from qbert_opt.planning.planner import allocate
from qbert_opt.spec.limits import Limits
from qbert_opt.spec.quantities import shown_apart


@pytest.fixture(scope="module")
def solved():
    """Least latency on the bundled device, and the bounds on the sum that were tried for it, with the loss of each.

    The last is allowed any loss; the others 0.63 and 8 times the loss of that plan.
    """
    from hwmodels import load_device

    few = {"bits": (2, 4, 8), "groupings": ("columns:128",)}  # one grouping: seconds, where two take a minute
    plans, bounds, asked = [], [], loss_limit._answer
    for times in (None, 8.0, 0.63):
        bounds.insert(0, [])

        def counted(task, *rest):
            answer = asked(task, *rest)
            bounds[0].append((task.largest_sum, answer.loss))
            return answer

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loss_limit, "_answer", counted)
            most = 1e3 if times is None else times * plans[-1].predicted_loss
            constraints = PlanConstraints(least="latency", max_loss=most, **few)
            device = load_device("car-soc")
            plans.insert(0, allocate(reference_scores(), Limits(), device=device, constraints=constraints))
    return plans, bounds


@pytest.fixture(scope="module")
def fastest(solved):
    """The plans."""
    return solved[0]


def test_of_equal_latencies_the_least_loss_is_taken(fastest):
    """The allowed loss is not spent on a gain of a thousandth of the latency."""
    _, some, much = fastest
    assert much.sum_of_scores == pytest.approx(some.sum_of_scores, rel=0.05)
    assert much.sum_of_scores < 1e-3 * much.limits[0].capacity
    for plan in fastest:
        assert plan.device.latency_bound_s <= plan.lower_bound * (1 + 2.1e-3)
        assert plan.status == ("optimal" if plan.gap <= 1e-6 else "feasible")


def test_a_loss_binds_where_the_goal_would_be_lower_without_it(fastest):
    """At an eighth of the allowed loss the limit does not bind; a tight limit does."""
    assert [plan.limits[0].binds for plan in fastest] == [True, False, False]
    tight, some, _ = fastest
    assert tight.lower_bound > 1.001 * some.lower_bound
    assert all(plan.predicted_loss <= plan.limits[0].capacity for plan in fastest)


def test_a_limit_on_loss_costs_few_programs(solved):
    """Programs with residency are slow: the limit comes first, later bounds lie between a kept and a failed one."""
    [plan, *_], [bounds, *_] = solved
    most = plan.limits[0].capacity
    assert plan.predicted_loss <= most
    slow = [tried for tried in bounds if tried[0] is not None]  # without a bound the loss is minimized, which is quick
    assert slow[0][0] == most and slow[0][1] > most and len(slow) <= 4
    assert slow[1][0] < most
    for number, (bound, _) in enumerate(slow[2:], start=2):
        kept = [tried for tried, loss in slow[:number] if loss <= most]
        failed = [tried for tried, loss in slow[:number] if loss > most]
        assert max(kept) < bound < min(failed)


def test_the_nearest_feasible_value_differs_from_the_limit():
    """Two values that a message distinguishes are printed with different digits, and following its advice works."""
    with pytest.raises(InfeasibleError) as stop:
        allocate(reference_scores(), Limits(encoder_bytes=21_230_000))
    assert "21,230,000 bytes is below the floor: nearest feasible 21,233,952 bytes" in str(stop.value)
    assert allocate(reference_scores(), Limits(encoder_bytes=21_233_952)).encoder_bytes == 21_233_952
    assert shown_apart("latency_s", 0.0100001, 0.0100002) == ["0.0100001 s", "0.0100002 s"]
    assert shown_apart("encoder_bytes", 2e6, 3e6) == ["2.00 MB", "3.00 MB"]
