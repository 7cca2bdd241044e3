"""Which rows of tables texts read, what the rows that they never read cost, and tables in tiers."""

import copy
from dataclasses import replace

import pytest
import torch

from qbert_opt.curvature.factors import SampleFactors, factor_pass
from qbert_opt.models.batches import tokenize
from qbert_opt.models.loading import weights_sha256
from qbert_opt.models.outputs import collect
from qbert_opt.models.structure import profile_model
from qbert_opt.models.tiers import split_table
from qbert_opt.quantization.calibration import CalibrationPlan, quantize_rows, quantize_table, weight_of
from qbert_opt.scoring.sensitivity import measure_sensitivity
from qbert_opt.scoring.table_reads import (
    Reads,
    answers_and_reads,
    missed_losses,
    reads_of,
    unseen_losses,
    unseen_mass,
)
from qbert_opt.scoring.table_scores import row_losses
from qbert_opt.spec.grids import grid
from qbert_opt.spec.tables import table_grid

TABLES = [f"bert.embeddings.{name}_embeddings" for name in ("word", "position", "token_type")]
CHOICES = grid((2, 4), ("rows:each", "columns:16"), "rtn")


@pytest.fixture(scope="module")
def in_tiers(tiny):
    """The tiny model with its 64 words in three tiers; no text reads the first, padding and unknown words."""
    model = copy.deepcopy(tiny.model)
    model.config.table_tiers = [2, 52, 10]
    split_table(model, "tiny")
    return replace(tiny, model=model, sha256=weights_sha256(model))


def test_rows_that_the_text_never_reads(tiny, sentences):
    """Shares equal a count by hand; if unread rows have ten times the error, the factor reflects it."""
    texts = sentences.texts[:6]
    [batch] = tokenize(tiny.tokenizer, texts, batch_size=6)
    ids = batch.inputs["input_ids"][batch.mask]
    counts = torch.bincount(ids, minlength=64)
    samples = factor_pass(tiny.model, [batch], TABLES[:1])[TABLES[0]]
    weight = weight_of(tiny.model, TABLES[0]).clone()
    weight[counts == 0] *= 10
    generator = torch.Generator().manual_seed(0)
    reads = reads_of(samples, len(weight))
    assert torch.equal(reads.counts, counts)
    _, share, factor = row_losses(samples, reads, weight, CHOICES, generator)
    assert share == float((counts == 0).double().mean())
    assert unseen_mass([reads]) == [float((counts == 1).sum()) / len(ids)]
    assert factor > 3
    _, _, same = row_losses(samples, reads, torch.randn(64, 32), CHOICES, generator)
    assert 0.3 < same < 3


def test_reads_of_a_forward_pass_are_those_of_the_factors(tiny, in_tiers, sentences):
    """Words in tiers or not, positions that texts share and token types; padding is not counted, answers are the same.

    Text that is cut into other batches is read alike.
    """
    for loaded in (tiny, in_tiers):
        tables = profile_model(loaded).tables
        batches = tokenize(loaded.tokenizer, sentences.texts[:12], batch_size=5)
        outputs, finite, found = answers_and_reads(loaded.head, loaded.model, batches, tables)
        assert finite == [True] * len(batches)
        assert torch.equal(outputs.values, collect(loaded.head, loaded.model, batches).values)
        factors = factor_pass(loaded.model, batches, [table.module for table in tables])
        assert {t.module: reads_of(factors[t.module], t.rows).counts.tolist() for t in tables} == {
            name: counts.tolist() for name, counts in found.items()
        }


def test_a_tier_costs_what_its_rows_cost_in_the_whole_table(tiny, in_tiers, sentences):
    """Against the whole table with errors in the tier's rows only; reads are those of its own rows."""
    batches = tokenize(tiny.tokenizer, sentences.texts[:12], batch_size=4)
    names = [table.module for table in profile_model(in_tiers).tables if table.tier_of == TABLES[0]]
    assert names == [f"{TABLES[0]}.tier{n}" for n in range(3)]
    whole = factor_pass(tiny.model, batches, TABLES[:1])[TABLES[0]]
    tiers = factor_pass(in_tiers.model, batches, names)
    weight, start = weight_of(tiny.model, TABLES[0]), 0
    counts = reads_of(whole, len(weight)).counts
    gram = torch.zeros(32, 32)
    for name in names:
        samples, part = tiers[name], weight_of(in_tiers.model, name)
        reads = reads_of(samples, len(part))
        assert torch.equal(reads.counts, counts[start : start + len(part)])
        losses, *_ = row_losses(samples, reads, part, CHOICES, torch.Generator())
        errors = torch.stack([q.dequantize() - weight for q in quantize_table(tiny.model, TABLES[0], CHOICES)])
        errors[:, :start] = 0
        errors[:, start + len(part) :] = 0
        expected = torch.zeros(len(whole), len(CHOICES), dtype=torch.float64)
        for n, sample in enumerate(whole):
            pulls = torch.einsum("ftd,ctd->cf", sample.gradients, errors[:, sample.inputs[:, 0].long()])
            expected[n] = pulls.double().square().sum(1) / 2
        torch.testing.assert_close(losses, expected, rtol=1e-3, atol=1e-9)
        gram += reads.gram
        start += len(part)
    torch.testing.assert_close(gram, reads_of(whole, len(weight)).gram)


def test_rows_never_read_by_hand():
    """Five reads, two rows read once: 2 / 5 of new reads; two unread rows here, one there, so 4 / 15 and 2 / 15."""
    here = Reads(torch.tensor([3, 0, 1, 0]), torch.zeros(2, 2))
    there = Reads(torch.tensor([1, 0]), torch.zeros(2, 2))
    assert unseen_mass([here, there]) == pytest.approx([4 / 15, 2 / 15])
    assert unseen_mass([Reads(torch.tensor([1, 2]), torch.zeros(2, 2))]) == [0]
    # 2-bit codes of (0, 1, 2, 4) are 0, 4/3, 8/3, 4: errors 0, 1/3 or -2/3 ...; the other row is exact
    weight = torch.tensor([[9.0, 9, 9, 9], [0, 1, 2, 4], [9, 9, 9, 9], [0, 0, 0, 0]])
    [choice] = grid((2,), ("rows:each",), "rtn")
    [quantized] = quantize_rows(weight[1:2], [choice])
    error = quantized.dequantize()[0] - weight[1]
    assert error.tolist() == pytest.approx([0, 1 / 3, 2 / 3, 0], abs=1e-2)
    gram = torch.diag(torch.tensor([1.0, 9, 18, 5]))
    found = unseen_losses(here, gram, 4 / 15, weight, [choice], torch.Generator())
    assert float(found) == pytest.approx(4 / 15 * (9 / 9 + 18 * 4 / 9) / 2 / 2, rel=0.02)  # a half; a mean of two rows
    assert float(unseen_losses(here, gram, 0.0, weight, [choice], torch.Generator())) == 0


def test_rows_that_only_the_pool_reads_by_hand():
    """Six reads in the pool: two of row 2, which no drawn text reads, one of row 1, none of row 3."""
    samples = [SampleFactors(0, torch.tensor([[0.0], [1.0]]), torch.ones(1, 2, 4))]
    reads = reads_of(samples, 4, torch.tensor([3, 1, 2, 0]))
    assert reads.counts.tolist() == [3, 1, 2, 0] and reads.missed.tolist() == [2] and reads.unread.tolist() == [3]
    assert unseen_mass([reads]) == [1 / 6]
    assert reads_of(samples, 4).missed is None and reads_of(samples, 4).counts.tolist() == [1, 1, 0, 0]
    weight = torch.tensor([[0.0, 9, 9, 9], [9, 9, 9, 9], [0, 1, 2, 4], [0, 0, 0, 0]])
    [choice] = grid((2,), ("rows:each",), "rtn")  # errors of row 2: 0, 1/3, 2/3, 0
    gram = torch.diag(torch.tensor([1.0, 9, 18, 5]))
    found = missed_losses(reads, gram / 3 / 6, weight, [choice])  # three drawn texts
    assert float(found) == pytest.approx(2 / 6 * (9 / 9 + 18 * 4 / 9) / 2 / 3, rel=0.02)
    assert float(missed_losses(reads_of(samples, 4), gram, weight, [choice])) == 0


def test_a_tier_that_no_text_reads_is_not_free(in_tiers, sentences):
    """Its score is the bound exactly, in every part of the text; it falls with bits, and the others are as measured."""
    scores = measure_sensitivity(
        in_tiers, sentences, grid((2,), ("rows:each",), "rtn"), plan=CalibrationPlan(20, 6, 0),
        table_choices=table_grid((2, 4, 8), ("rows:each",)),
    )  # fmt: skip
    tables = scores.tables
    rare = tables.modules.index(f"{TABLES[0]}.tier0")
    assert tables.unseen_rows[rare] == 1 and tables.unseen_reads[rare] > 0
    assert tables.value[rare][0] > tables.value[rare][1] > tables.value[rare][2] > 0
    for part in tables.fold_value:
        assert part[rare] == pytest.approx(tables.value[rare], rel=1e-5)
    assert tables.value[rare + 1][0] > tables.value[rare][0]
