"""The papers' plans by rule, and uniform ones."""

import pytest

from qbert_opt.costs.simulate import simulate_allocation
from qbert_opt.costs.workload import Workload
from qbert_opt.errors import InfeasibleError, UsageError
from qbert_opt.planning.recipes import recipe_allocation, uniform_allocation
from qbert_opt.spec.choices import Choice, choice
from qbert_opt.spec.limits import Limits
from qbert_opt.spec.score_parts import BlockSensitivity
from qbert_opt.spec.scores import ScoreTable

OMEGAS = [3.0, 11.0, 1.0, 7.0, 12.0, 5.0, 2.0, 9.0, 4.0, 10.0, 6.0, 8.0]
BY_OMEGA = [4, 1, 9, 7, 11, 3, 10, 5, 8, 0, 6, 2]
LOW, HIGH = Choice(2, "rows:128", "gptq"), {"qbert-2/3": 3, "qbert-2/4": 4}


@pytest.fixture(scope="module")
def qbert_scores(reference):
    """Return the bundled table as if its metric were qbert, with Ω in a known order."""
    omegas = tuple(BlockSensitivity(block=i, omega=o, eigenvalues=(o,) * 10) for i, o in enumerate(OMEGAS))
    document = reference.model_dump() | {"metric": "qbert", "block_sensitivity": omegas}
    return ScoreTable.model_validate(document)


def layer_bytes(profile, bits):
    """Bytes of one of twelve equal layers: codes and 128 ranges of 4 bytes in each of six matrices."""
    return profile.encoder_elements // 12 * bits // 8 + 6 * 128 * 4


@pytest.mark.parametrize("recipe", HIGH)
@pytest.mark.parametrize("count", [0, 1, 5, 12])
@pytest.mark.parametrize("spare", [0, 1000])
def test_the_k_layers_of_largest_omega_get_the_high_width(qbert_scores, recipe, count, spare):
    """As many layers as fit into the budget, by decreasing Ω, with 128 row groups; one byte less costs one layer."""
    profile, high = qbert_scores.profile, HIGH[recipe]
    budget = 12 * layer_bytes(profile, 2) + count * (layer_bytes(profile, high) - layer_bytes(profile, 2)) + spare
    plan = recipe_allocation(qbert_scores, recipe, Limits(encoder_bytes=budget))
    assert {m.block for m in plan.matrices if m.bits == high} == set(BY_OMEGA[:count])
    assert all(m.bits in (2, high) and m.grouping == "rows:128" for m in plan.matrices)
    assert plan.encoder_bytes == budget - spare
    assert plan.status == "unproven" and plan.gap is None and plan.solver == f"recipe {recipe}"
    if count:
        less = recipe_allocation(qbert_scores, recipe, Limits(encoder_bytes=budget - spare - 1))
        assert {m.block for m in less.matrices if m.bits == high} == set(BY_OMEGA[: count - 1])


def test_half_the_layers_without_a_budget(qbert_scores):
    """As in Q-BERT's tables, half of the layers get the high width."""
    plan = recipe_allocation(qbert_scores, "qbert-2/3", Limits())
    assert {m.block for m in plan.matrices if m.bits == 3} == set(BY_OMEGA[:6])


def test_the_total_budget_counts_too(qbert_scores):
    """Tables, biases and head use a part of the total budget."""
    whole = recipe_allocation(qbert_scores, "qbert-2/3", Limits(encoder_bytes=10**9))
    plan = recipe_allocation(qbert_scores, "qbert-2/3", Limits(total_bytes=whole.total_bytes - 1))
    assert sum(m.bits == 3 for m in plan.matrices) == 6 * 11


def test_below_all_layers_at_two_bits(qbert_scores):
    """The message names the smallest feasible budget."""
    floor = 12 * layer_bytes(qbert_scores.profile, 2)
    with pytest.raises(InfeasibleError, match=rf"`recipe` qbert-2/3: needs at least {floor} bytes"):
        recipe_allocation(qbert_scores, "qbert-2/3", Limits(encoder_bytes=floor - 1))


def test_recipes_that_are_refused(reference, qbert_scores):
    """Unknown names, scores without Ω, choices that were not scored."""
    with pytest.raises(UsageError, match=r"`recipe` qbert-1/2: legal: qbert-2/3, qbert-2/4, uniform:CHOICE"):
        recipe_allocation(reference, "qbert-1/2", Limits())
    with pytest.raises(UsageError, match=r"needs scores of `metric` qbert; these are of metric directional"):
        recipe_allocation(reference.model_copy(update={"block_sensitivity": ()}), "qbert-2/3", Limits())
    rtn = ScoreTable.model_validate(qbert_scores.model_dump() | {"method": "rtn"})
    with pytest.raises(UsageError, match=r"2bit/rows:128/rtn was not scored. Score bits 2 with rows:128"):
        recipe_allocation(rtn, "qbert-2/3", Limits())
    with pytest.raises(UsageError, match=r"5bit/rows:1/gptq was not scored. Scored: 2bit/"):
        recipe_allocation(reference, "uniform:5bit/rows:1/gptq", Limits())


def test_uniform(reference, car_soc):
    """Every matrix has the choice, losses are sums of scores, and costs are the simulator's."""
    candidate = choice("3bit/columns:64/gptq")
    plan = recipe_allocation(reference, f"uniform:{candidate.name}", Limits(), device=car_soc, workload=Workload(64, 2))
    assert {m.choice for m in plan.matrices} == {candidate}
    column = reference.choices.index(candidate.name)
    assert plan.predicted_loss == pytest.approx(reference.values()[:, column].sum(), rel=1e-12)
    assert plan.average_bits == 3 + 32 / 64
    report = simulate_allocation(plan, car_soc, Workload(64, 2))
    assert (plan.device.latency_s, plan.device.dram_bytes) == (report.latency_s, report.dram_bytes)
    assert plan.matrices == uniform_allocation(reference, candidate).matrices
