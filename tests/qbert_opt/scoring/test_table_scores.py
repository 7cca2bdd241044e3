"""Scores of embedding tables: against dense gradients and measured KL, and from a score file to a model."""

import copy

import pytest
import torch
from pydantic import ValidationError

from qbert_opt.checkpoint.reader import load_quantized
from qbert_opt.curvature.columns import FactorPlan, output_factors
from qbert_opt.curvature.factors import factor_pass
from qbert_opt.evaluation.evaluate import kl_divergence
from qbert_opt.models.batches import logits, tokenize
from qbert_opt.models.structure import profile_model
from qbert_opt.quantization.calibration import BATCH_SIZE, CalibrationPlan, quantize_rows, quantize_table, weight_of
from qbert_opt.scoring.sensitivity import measure_sensitivity
from qbert_opt.scoring.table_reads import (
    reads_of,
)
from qbert_opt.scoring.table_scores import row_losses
from qbert_opt.spec.allocation import read_allocation
from qbert_opt.spec.grids import grid
from qbert_opt.spec.score_parts import TableScores
from qbert_opt.spec.scores import ScoreTable, read_scores
from qbert_opt.spec.tables import table_grid

TABLES = [f"bert.embeddings.{name}_embeddings" for name in ("word", "position", "token_type")]
CHOICES = grid((2, 4), ("rows:each", "columns:16"), "rtn")


@pytest.fixture(scope="module")
def batches(tiny, sentences):
    """Texts of many lengths in padded batches."""
    return tokenize(tiny.tokenizer, sentences.texts[:40], batch_size=BATCH_SIZE)


@pytest.fixture(scope="module")
def table_scores(tiny, sentences):
    """The tiny model's scores with tables."""
    return measure_sensitivity(
        tiny,
        sentences,
        grid((2, 8), ("rows:each",), "rtn"),
        plan=CalibrationPlan(20, 60, 0),
        table_choices=table_grid(),
    )


@pytest.mark.parametrize("module", TABLES)
def test_the_gathered_form_is_the_dense_one(tiny, batches, sentences, module):
    """½ Σ_f <∂f/∂table, ΔW>² with dense gradients of one text at a time, padded batches and shared positions or not."""
    weight = weight_of(tiny.model, module)
    samples = factor_pass(tiny.model, batches, [module])[module]
    losses, *_ = row_losses(samples, reads_of(samples, len(weight)), weight, CHOICES, torch.Generator())
    errors = torch.stack([q.dequantize() - weight for q in quantize_table(tiny.model, module, CHOICES)])
    parameter = tiny.model.get_parameter(f"{module}.weight")
    for index in (0, 7, 31):
        [alone] = tokenize(tiny.tokenizer, [sentences.texts[index]], batch_size=1)
        outputs = tiny.model(**alone.inputs).logits
        factors = output_factors(outputs)
        expected = torch.zeros(len(CHOICES), dtype=torch.float64)
        for f in range(factors.shape[-1]):
            [dense] = torch.autograd.grad((factors[:, :, f] * outputs).sum(), parameter, retain_graph=True)
            expected += (errors.double() * dense.double()).sum((1, 2)).square() / 2
        torch.testing.assert_close(losses[index], expected, rtol=2e-3, atol=1e-12)


@pytest.mark.parametrize("module", TABLES)
def test_small_errors_cost_what_is_predicted(tiny, batches, module):
    """At temperature 1, the mean over texts is the measured KL of a small change of the table."""
    weight = weight_of(tiny.model, module)
    samples = factor_pass(tiny.model, batches, [module])[module]
    shrunk = 1e-2
    [choice] = grid((2,), ("rows:each",), "rtn")
    losses, *_ = row_losses(samples, reads_of(samples, len(weight)), weight, [choice], torch.Generator())
    [quantized] = quantize_rows(weight, [choice])
    changed = copy.deepcopy(tiny.model).double()
    reference = logits(copy.deepcopy(tiny.model).double(), batches)
    with torch.no_grad():
        changed.get_parameter(f"{module}.weight").add_(shrunk * (quantized.dequantize() - weight).double())
    measured = kl_divergence(reference, logits(changed, batches)).mean()
    assert float(measured) == pytest.approx(shrunk**2 * float(losses.mean()), rel=0.05)


def test_rows_are_quantized_independently(tiny):
    """Codes of some rows equal those of the whole table, so only rows that are read need quantizing."""
    weight = weight_of(tiny.model, TABLES[0])
    some = torch.tensor([5, 1, 40])
    for method in ("rtn", "mse"):
        choices = grid((2, 3, 8), ("rows:each", "columns:8"), method)
        for whole, part in zip(quantize_rows(weight, choices), quantize_rows(weight[some], choices), strict=True):
            assert torch.equal(whole.codes[some], part.codes)
            assert torch.equal(whole.dequantize()[some], part.dequantize())


def test_more_bits_cost_less_and_unread_tables_cost_nothing(tiny, table_scores):
    """Scores fall with bits; a masked table has a reason; positions and token types are scored too."""
    tables = table_scores.tables
    assert tables.modules == tuple(TABLES)
    assert set(tables.masks[TABLES[0]]) == {f"{b}bit/columns:{g}/mse" for b in (2, 3, 4, 6, 8) for g in (64, 128)}
    by_bits = {name: [row[tables.choices.index(name)] for row in tables.value] for name in tables.choices[::3]}
    for row in zip(*by_bits.values(), strict=True):
        assert row[0] > row[2] > row[4] >= 0
    profile = profile_model(tiny)
    assert {t.module for t in profile.tables} == set(TABLES)


def test_squared_errors_of_tables_are_of_earlier_files(table_scores):
    """They are read where a file has them, in their shape, and not written; those of matrices must be there."""
    tables = table_scores.tables
    assert tables.weight_error == () and "weight_error" not in tables.model_dump()
    older = tables.model_dump() | {"weight_error": tables.value}
    assert TableScores.model_validate(older).weight_error == tables.value
    with pytest.raises(ValidationError, match="weight_error is not"):
        TableScores.model_validate(older | {"weight_error": tables.value[:1]})
    with pytest.raises(ValidationError, match="weight_error is not"):
        ScoreTable.model_validate(table_scores.model_dump(by_alias=True) | {"weight_error": ()})


def test_from_scores_to_the_written_model(cli, tiny_folder, data_file, tmp_path):
    """sensitivity, solve under a total budget, quantize, load: tables have the plan's bits, bytes are the plan's."""
    scores, plan, out = (tmp_path / name for name in ("scores.json", "plan.json", "out"))
    run = cli(
        "sensitivity", "--model", tiny_folder, "--data", data_file, "--method", "rtn", "--bits", "2,8",
        "--groupings", "rows:each,columns:16", "--table-bits", "2,3,4,8", "--calibration-samples", 40,
        "--scoring-samples", 40, "-o", scores,
    )  # fmt: skip
    assert run.code == 0, run.err
    table = read_scores(scores)
    assert table.tables is not None and len(table.tables.choices) == 12
    run = cli("solve", "--scores", scores, "--total-budget", "12000B", "-o", plan)
    assert run.code == 0, run.err
    assert "rounding of activations not included" in run.out
    result = read_allocation(plan)
    assert min(t.bits for t in result.tables) < 8
    assert result.total_bytes <= 12_000
    run = cli("quantize", plan, "--model", tiny_folder, "--data", data_file, "-o", out)
    assert run.code == 0, run.err
    assert f"all tensors {result.total_bytes:,} bytes" in run.out
    loaded, _ = load_quantized(out)
    for planned in result.tables:
        weight = weight_of(loaded.model, planned.module)
        assert max(len(row.unique()) for row in weight) <= 2**planned.bits


def test_tables_can_be_left_unscored(cli, tiny_folder, data_file, tmp_path):
    """`--table-bits none` keeps tables at 8 bits, and the plan states that the prediction excludes them."""
    scores = tmp_path / "scores.json"
    run = cli(
        "sensitivity", "--model", tiny_folder, "--data", data_file, "--method", "rtn", "--bits", "8", "--groupings",
        "rows:each", "--table-bits", "none", "--calibration-samples", 20, "--scoring-samples", 20, "-o", scores,
    )  # fmt: skip
    assert run.code == 0, run.err
    assert read_scores(scores).tables is None
    assert "rounding of tables and activations not included" in cli("solve", "-s", scores, "-b", "9bit").out
    assert "--table-bits nine: 'nine' is not a bit width" in cli(
        "sensitivity", "--model", tiny_folder, "--data", data_file, "--table-bits", "nine"
    ).complaint  # fmt: skip


def test_samples_may_have_different_numbers_of_factors(tiny, sentences):
    """Some texts have one column, others all: each text's loss is the same as with its own kind only."""
    batches = tokenize(tiny.tokenizer, sentences.texts[:12], batch_size=4)
    weight = weight_of(tiny.model, TABLES[0])

    def losses(carrying):
        result = factor_pass(tiny.model, batches, TABLES[:1], FactorPlan(2.0, frozenset(carrying)))[TABLES[0]]
        reads = reads_of(result, len(weight))
        return row_losses(result, reads, weight, CHOICES, torch.Generator().manual_seed(0))[0]

    mixed, exact, drawn = losses({1, 7}), losses(range(12)), losses({})
    expected = torch.stack([(exact if i in (1, 7) else drawn)[i] for i in range(12)])
    torch.testing.assert_close(mixed, expected, rtol=1e-3, atol=1e-6 * float(exact.max()))


def test_weighted_losses_are_weighted_dense_ones(tiny, sentences):
    """The loss of a text of weight w is w times its own from dense gradients, in float64."""
    weights = (0.25, 3.0, 1.0, 0.5)
    batches = tokenize(tiny.tokenizer, sentences.texts[:4], batch_size=4)
    weight = weight_of(tiny.model, TABLES[0])
    samples = factor_pass(tiny.model, batches, TABLES[:1], FactorPlan(weights=weights))[TABLES[0]]
    losses, *_ = row_losses(samples, reads_of(samples, len(weight)), weight, CHOICES, torch.Generator())
    errors = torch.stack([q.dequantize() - weight for q in quantize_table(tiny.model, TABLES[0], CHOICES)]).double()
    model = copy.deepcopy(tiny.model).double()
    for index, expected_weight in enumerate(weights):
        [alone] = tokenize(tiny.tokenizer, [sentences.texts[index]], batch_size=1)
        outputs = model(**alone.inputs).logits
        parameter, expected = model.get_parameter(f"{TABLES[0]}.weight"), torch.zeros(len(CHOICES)).double()
        for column in output_factors(outputs).unbind(-1):
            [dense] = torch.autograd.grad((column * outputs).sum(), parameter, retain_graph=True)
            expected += expected_weight * (errors * dense).sum((1, 2)).square() / 2
        torch.testing.assert_close(losses[index], expected, rtol=1e-3, atol=1e-12)
