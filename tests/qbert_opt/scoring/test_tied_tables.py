"""A decoder's table that is also its output layer: against the exact second order of the KL, and in plans."""

import numpy as np
import pytest
import torch
from decoders import save, sentences
from transformers import AutoModelForCausalLM

import qbert_opt
from qbert_opt.curvature.columns import FactorPlan, output_columns
from qbert_opt.models.batches import tokenize
from qbert_opt.models.loading import load_model
from qbert_opt.models.outputs import answers, collect, head_of, rows_per_sample
from qbert_opt.models.structure import profile_model
from qbert_opt.planning.planner import allocate
from qbert_opt.quantization.calibration import CalibrationPlan, quantize_rows, weight_of
from qbert_opt.runtime.memory_budget import MemoryShares
from qbert_opt.scoring.sensitivity import measure_sensitivity
from qbert_opt.scoring.table_reads import reads_of
from qbert_opt.scoring.table_scores import row_losses
from qbert_opt.scoring.task import ScoringTask
from qbert_opt.scoring.tied_tables import heads_reading, tied_factors
from qbert_opt.spec.grids import grid
from qbert_opt.spec.limits import Limits
from qbert_opt.spec.tables import table_grid
from qbert_opt.workflows.quantize import quantize_model

STEP = 1e-3
SEEDS = 16


@pytest.fixture(scope="module", params=["llama with tied tables", "gpt2", "gemma2"])
def case(request, tmp_path_factory):
    """A decoder in float64, texts, its table, and a rounding of it."""
    loaded = load_model(save(tmp_path_factory.mktemp("tied") / "model", request.param))
    loaded.model.double()
    batches = tokenize(loaded.tokenizer, sentences(8, seed=4).texts, batch_size=4, kind="next_tokens")
    profile = profile_model(loaded)
    [table] = [one for one in profile.tables if heads_reading(profile, one)]
    [choice] = table_grid((3,), ("rows:each",))
    return loaded.model, profile, batches, table, choice


def task_of(case, seed, memory=1 << 28):
    model, profile, batches, _, _ = case
    return ScoringTask(model, profile, batches, None, lambda _: iter(()), MemoryShares(memory), seed)


def losses(case, seed, memory=1 << 28):
    """Losses of the texts."""
    model, _, _, table, choice = case
    lookups, beside = tied_factors(task_of(case, seed, memory), table, [choice], FactorPlan())
    reads, draw = reads_of(lookups, table.rows), torch.Generator()
    weight = weight_of(model, table.module)
    return row_losses(lookups, reads, weight, [choice], draw, beside)[0][:, 0]


@torch.no_grad()
def test_the_mean_over_draws_is_the_exact_second_order(case):
    """Half the mean of zᵀ (diag(p) - p pᵀ) z, z being the logits' derivative along the rounding of both uses."""
    model, _, batches, table, choice = case
    weight, head = weight_of(model, table.module), head_of(model)
    change = quantize_rows(weight, [choice])[0].dequantize() - weight
    original, moved = weight.clone(), []
    for sign in (1, -1):
        weight.copy_(original + sign * STEP * change)
        moved.append(collect(head, model, batches).values)
    weight.copy_(original)
    p = collect(head, model, batches).values.softmax(-1)
    slope = (moved[0] - moved[1]) / (2 * STEP)
    exact = float(((p * slope.square()).sum(-1) - (p * slope).sum(-1).square()).mean()) / 2
    found = np.array([float(losses(case, seed).mean()) for seed in range(SEEDS)])
    assert abs(found.mean() - exact) < 4 * found.std(ddof=1) / SEEDS**0.5


def test_the_sums_are_those_of_the_dense_gradient(case):
    """<∂f/∂W, Δ> of every factor, W being one parameter that is read in two places."""
    model, _, batches, table, choice = case
    weight, head = weight_of(model, table.module), head_of(model)
    change = quantize_rows(weight, [choice])[0].dequantize() - weight
    found, parameter = losses(case, 3), model.get_parameter(f"{table.module}.weight").requires_grad_()
    rows = rows_per_sample(head.kind, batches)
    for batch in batches:
        outputs = answers(head, model, batch)
        for index in batch.indices[:2]:
            expected = 0.0
            for cotangent in output_columns(head, outputs, FactorPlan(seed=3))[0]:
                own = torch.where((outputs.samples == index)[:, None], cotangent, 0.0) * rows**-0.5
                [dense] = torch.autograd.grad(outputs.values, parameter, own, retain_graph=True)
                expected += float((dense * change).sum()) ** 2 / 2
            assert float(found[index]) == pytest.approx(expected, rel=1e-6)


def test_texts_in_parts_have_the_same_scores(case):
    """The factors of an output layer are as wide as the vocabulary; little memory takes a few texts at a time."""
    model, _, batches, _, _ = case
    longest = max(batch.mask.shape[1] for batch in batches)
    columns = model.get_output_embeddings().weight.shape
    room = 4 * longest * (columns[1] + 4 * columns[0]) * 16 // 5 + 16
    torch.testing.assert_close(losses(case, 3, room), losses(case, 3))
    with pytest.raises(qbert_opt.UsageError, match="one sample's factors"):
        losses(case, 3, room // 2)


def test_a_tied_table_is_an_item_of_the_plan_and_comes_back_tied(tmp_path):
    """Fewer bits cost more; a plan within a total budget gives it a width, which the folder has in both places."""
    loaded = load_model(save(tmp_path / "model", "llama with tied tables"))
    data = sentences(24, seed=1)
    scores = measure_sensitivity(
        loaded, data, grid((3, 8), ("rows:each",), "rtn"), plan=CalibrationPlan(8, 16, 0),
        table_choices=table_grid((2, 4, 8), ("rows:each",)),
    )  # fmt: skip
    [row] = scores.tables.value
    assert scores.tables.modules == ("model.embed_tokens",) and row[0] > 4 * row[1] > 16 * row[2] > 0
    small = allocate(scores, Limits(total_bytes=11_000))
    [table] = small.tables
    assert table.bits < 8
    free = allocate(scores, Limits(encoder_bytes=small.encoder_bytes))
    assert free.tables[0].bits == 8 and free.sum_of_scores >= row[2]
    folder = quantize_model(loaded, small, data, tmp_path / "out").folder
    qbert_opt.register()
    back = AutoModelForCausalLM.from_pretrained(folder).dequantize()
    assert back.lm_head.weight is back.model.embed_tokens.weight
    weight = weight_of(loaded.model, table.module)
    expected = quantize_rows(weight, [table.choice])[0].dequantize()
    assert torch.equal(back.lm_head.weight, expected)
