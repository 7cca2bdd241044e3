"""The search by gradient: its gradients, what it prefers, and its plans under a budget."""

import copy
import itertools

import numpy as np
import pytest
import torch

from qbert_opt.models.batches import logits as answers
from qbert_opt.models.batches import tokenize
from qbert_opt.models.heads.losses import kl_divergence
from qbert_opt.models.structure import profile_model
from qbert_opt.planning.planner import allocate
from qbert_opt.quantization.calibration import CalibrationPlan, MatrixQuantizer
from qbert_opt.runtime.memory_budget import MemoryShares
from qbert_opt.scoring.metrics import differentiable
from qbert_opt.scoring.sensitivity import measure_sensitivity
from qbert_opt.scoring.task import ScoringTask
from qbert_opt.spec.choices import choice
from qbert_opt.spec.grids import grid
from qbert_opt.spec.limits import Limits

CHOICES = grid((2, 3, 4), ("columns:16",), "rtn")


@pytest.fixture
def make_task(tiny, sentences):
    """Makes a task of some matrices of the tiny model, with the given sizes of every matrix' choices."""

    def make(indices, sizes, budget, choices=CHOICES):
        whole = profile_model(tiny)
        profile = whole.model_copy(update={"matrices": tuple(whole.matrices[i] for i in indices)})
        quantizer = MatrixQuantizer(tiny, profile, "rtn", None)
        return ScoringTask(
            model=copy.deepcopy(tiny.model), profile=profile,
            batches=tokenize(tiny.tokenizer, sentences.take(range(40)).texts, batch_size=20), targets=None,
            perturbations=lambda matrix: iter([quantizer.errors(matrix, choices)]), shares=MemoryShares(1 << 30),
            seed=0, sizes={m.module: sizes for m in profile.matrices}, budget_bytes=budget,
        )  # fmt: skip

    return make


def test_gradients_are_those_of_finite_differences(make_task):
    """∂KL/∂β of three matrices' mixtures with Gumbel noise, in float64."""
    task = make_task((0, 4, 7), (2, 3, 4), 9)
    task.model.double()
    rounded = [differentiable._mixture(task, index) for index in range(3)]
    mixtures = [differentiable.Mixture(one.layer, one.original, one.errors.double(), one.sizes) for one in rounded]
    generator = torch.Generator().manual_seed(1)
    logits = [torch.randn(3, generator=generator, dtype=torch.float64) for _ in mixtures]
    noise = [torch.randn(3, generator=generator, dtype=torch.float64) for _ in mixtures]
    sample = task.batches[0], differentiable._reference(task, task.batches[0])

    def loss():
        return differentiable.mixed_loss(task, mixtures, logits, noise, 0.7, sample)

    _, slopes = loss()
    for beta, slope in zip(logits, slopes, strict=True):
        for k in range(3):
            around = []
            for step in (1e-5, -2e-5):
                beta[k] += step
                around.append(loss()[0])
            beta[k] += 1e-5
            assert (around[0] - around[1]) / 2e-5 == pytest.approx(slope[k].item(), rel=1e-5, abs=1e-12)
            assert slope[k] != 0


@pytest.mark.parametrize(("budget", "sign"), [(5, 1), (9, 0), (12, -1)])
def test_the_size_pulls_towards_the_budget(make_task, budget, sign):
    """±∂ log E[bytes] / ∂β against autograd of the formula; nothing within the slack (three matrices of 3 bytes)."""
    task = make_task((0, 4, 7), (2, 3, 4), budget)
    mixtures = [differentiable._mixture(task, index) for index in range(3)]
    betas = [torch.zeros(3, dtype=torch.float64, requires_grad=True) for _ in mixtures]
    expected = sum((beta.softmax(0) * torch.tensor([2.0, 3.0, 4.0])).sum() for beta in betas)
    assert expected.item() == pytest.approx(9)
    for slope, right in zip(
        differentiable.size_slopes(mixtures, [beta.detach() for beta in betas], budget),
        torch.autograd.grad(sign * expected.log(), betas),
        strict=True,
    ):
        torch.testing.assert_close(slope, right)


@pytest.mark.parametrize("index", [1, 5, 10])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_of_two_choices_of_one_size_the_smaller_measured_loss_is_preferred(make_task, index, order):
    """One matrix, two roundings said to take as many bytes: only the loss can tell them apart."""
    pair = (choice("3bit/rows:1/rtn"), choice("3bit/columns:16/rtn"))
    task = make_task((index,), (100, 100), 100, [pair[i] for i in order])
    [(_, estimate)] = differentiable.score(task, [0])
    truth, measured = answers(task.model, task.batches), []
    matrix = task.profile.matrices[0]
    for error in next(task.perturbations(matrix)):
        changed = copy.deepcopy(task.model)
        with torch.no_grad():
            changed.get_parameter(f"{matrix.module}.weight").add_(error)
        measured.append(kl_divergence(truth, answers(changed, task.batches)).mean().item())
    assert (estimate.value[0] < estimate.value[1]) == (measured[0] < measured[1])
    assert (estimate.value[0] - estimate.value[1]).abs() > 0.1


@pytest.fixture(scope="module")
def learned(tiny, sentences):
    """Scores that are learned at 3 bits and the groups' ranges."""
    budget = profile_model(tiny).encoder_elements * 5 // 8
    choices = grid((2, 4), ("columns:16",), "rtn")
    return budget, measure_sensitivity(
        tiny, sentences, choices, metric="differentiable", plan=CalibrationPlan(2, 40, 0), budget_bytes=budget
    )


def test_the_plan_is_the_best_one_within_the_budget(learned):
    """Of all 2^12 plans; where the most probable choices fit, these."""
    budget, table = learned
    assert f"at {budget:,} bytes" in table.contains
    scores, heads = table.values(), table.profile.heads
    sizes = np.array([[c.bytes(m.rows, m.columns, heads=heads) for c in table.grid()] for m in table.profile.matrices])
    rows = np.arange(len(scores))
    plans = np.array(list(itertools.product(range(2), repeat=len(scores))))
    used, sums = sizes[rows, plans].sum(1), scores[rows, plans].sum(1)
    best = scores.argmin(1)
    for limit in (budget, int(sizes.min(1).sum()), int(sizes[rows, best].sum()), int(sizes[rows, best].sum()) - 1):
        plan = allocate(table, Limits(encoder_bytes=limit))
        assert plan.encoder_bytes <= limit
        assert plan.sum_of_scores == pytest.approx(sums[used <= limit].min(), rel=1e-9)
        if limit >= sizes[rows, best].sum():
            assert [part.choice for part in plan.matrices] == [table.grid()[k] for k in best]


def test_other_verbs_say_where_the_budget_is_given(cli, tiny_folder, data_file, tmp_path):
    """A metric that learns at a budget is refused where none is; one below every choice is infeasible."""
    files = ("--model", tiny_folder, "--data", data_file, "--metric", "differentiable", "-q")
    said = cli("optimize", *files, "--budget", "4bit", "-o", tmp_path / "out")
    assert said.code == 2 and "Give --budget to sensitivity, and its scores to other verbs" in said.complaint
    samples = ("--calibration-samples", 9, "--scoring-samples", 9)
    said = cli("sensitivity", *files, *samples, "--budget", "1bit", "-o", tmp_path / "s.json")
    assert said.code == 3 and "the smallest choices take" in said.complaint
