"""Bits first, then residency, under a limit on traffic: the same loss as both together, and within every limit."""

import numpy as np
import pytest

from qbert_opt.planning import traffic_limit
from qbert_opt.planning.frontier import trade_off
from qbert_opt.planning.planner import allocate
from qbert_opt.planning.program import PlanningTask
from qbert_opt.planning.solving import SolverOptions, search
from qbert_opt.planning.traffic_limit import ROOM, TRAFFIC, bits_first, search_within
from qbert_opt.spec.limits import Limits
from solvers import ChoiceProblem, Status, solve

CHOICES = 3


def drawn(seed, items=5):
    """A program of few items, in which some choices cannot be resident and a resident one may cost some traffic."""
    generator = np.random.default_rng(seed)
    size = np.sort(generator.integers(1, 30, (items, CHOICES)), axis=1).astype(float)
    value = np.sort(generator.random((items, CHOICES)), axis=1)[:, ::-1]
    left = generator.integers(0, 3, size.shape).astype(float)  # traffic of a resident weight
    usage = {
        TRAFFIC: np.hstack([size, left]),
        ROOM: np.hstack([np.zeros_like(size), size]),
        "encoder_bytes": np.hstack([size, size]),
    }
    allowed = np.ones((items, 2 * CHOICES), dtype=bool)
    allowed[:, CHOICES:] = generator.random(size.shape) < 0.8
    least, most = size.min(axis=1).sum(), size.max(axis=1).sum()
    room = float(generator.integers(0, int(most / 2) + 1))
    return ChoiceProblem(
        items=tuple(f"item {i}" for i in range(items)),
        options=tuple(f"{kind} {j}" for kind in ("streamed", "resident") for j in range(CHOICES)),
        value=np.hstack([value, value]),
        usage=usage,
        capacity={
            TRAFFIC: float(generator.uniform(least - room, most)), ROOM: room,
            "encoder_bytes": float(generator.uniform(least, most)),
        },
        allowed=allowed,
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(60))
def test_the_loss_is_that_of_exhaustive_search(seed):
    """Whether or not the best bits under the sum of both limits can be placed."""
    problem = drawn(seed)
    truth = solve(problem, "exhaustive")
    found = search_within(problem, CHOICES, SolverOptions())
    assert (found.choice is None) == (truth.choice is None)
    if truth.choice is not None:
        assert found.status is Status.OPTIMAL and found.value == pytest.approx(truth.value, abs=1e-12)
        assert found.lower_bound <= truth.value + 1e-12
        for name, limit in problem.capacity.items():
            assert found.usage[name] <= limit


def test_both_cases_occur():
    """Of the programs above, the bits of most can be placed, and those of some cannot."""
    placed = [bits_first(drawn(seed), CHOICES, SolverOptions()) is not None for seed in range(60)]
    feasible = [solve(drawn(seed), "exhaustive").choice is not None for seed in range(60)]
    assert sum(placed) > 20
    assert sum(feasible) - sum(placed) >= 3


def test_the_reference_needs_no_joint_program(reference_sums, car_soc, monkeypatch):
    """On the bundled scores the bits are placed at once, which proves them best."""
    monkeypatch.setattr(traffic_limit, "search", _never_together)
    plan = allocate(reference_sums, Limits(bandwidth_bytes_per_s=1.2e9, inferences_per_s=30), device=car_soc)
    assert plan.gap <= 1e-6 and plan.device.bandwidth_bytes_per_s <= 1.2e9


def _never_together(problem, options):
    """Search, unless the program decides bits and residency under a limit on traffic."""
    if TRAFFIC in problem.capacity and (problem.mask().sum(axis=1) > 2).all():
        pytest.fail("solved bits and residency together")
    return search(problem, options)


def test_a_latency_beside_the_traffic_does_not_forget_residency(reference_sums, car_soc):
    """The bound holds for plans with weights on chip: a plan that meets both limits never has a smaller sum."""
    traffic = {"bandwidth_bytes_per_s": 9e8, "inferences_per_s": 30}
    free = allocate(reference_sums, Limits(**traffic), device=car_soc)
    fewer = allocate(reference_sums, Limits(**traffic, encoder_bytes=free.encoder_bytes - 500_000), device=car_soc)
    assert fewer.device.latency_s < free.device.latency_s
    both = allocate(reference_sums, Limits(**traffic, latency_s=fewer.device.latency_s), device=car_soc)
    assert both.device.latency_s <= fewer.device.latency_s
    assert both.device.bandwidth_bytes_per_s <= 9e8
    assert both.lower_bound <= fewer.sum_of_scores
    assert both.sum_of_scores <= 1.02 * fewer.sum_of_scores


def test_a_frontier_beside_the_traffic_does_not_forget_residency(reference_sums, car_soc):
    """Its best plan is the best plan under the limit, and every plan keeps the limit."""
    limits = Limits(bandwidth_bytes_per_s=9e8, inferences_per_s=30)
    task = PlanningTask(reference_sums, limits, device=car_soc)
    found = trade_off(task, ("bytes",), points=5)
    best = allocate(reference_sums, limits, device=car_soc)
    assert min(point.sum_of_scores for point in found.points) == pytest.approx(best.sum_of_scores, rel=1e-6)
    assert all(point.usage[TRAFFIC] <= task.capacity()[TRAFFIC] for point in found.points)
    assert all(point.gap <= 1e-6 for point in found.points)
