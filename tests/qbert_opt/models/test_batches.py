"""Batches cut and joined again: no sample lost, no answer changed."""

import torch

from qbert_opt.models.batches import TokenBatch, apart, joined, logits, single_samples, tokenize


def test_chosen_samples_apart(tiny, sentences):
    """Each batch holds only chosen ones or none, all come once, alike in length, and every answer is the same."""
    batches = tokenize(tiny.tokenizer, sentences.texts[:50], batch_size=8)
    chosen = frozenset({0, 7, 8, 9, 31, 49})
    again = apart(batches, lambda index: -(index in chosen))
    assert sorted(index for batch in again for index in batch.indices) == list(range(50))
    assert [len(batch.indices) for batch in again] == [6, 8, 8, 8, 8, 8, 4]
    assert all(len({index in chosen for index in batch.indices}) == 1 for batch in again)
    assert max(int(batch.mask.sum(1).max() - batch.mask.sum(1).min()) for batch in again[1:]) <= 3
    torch.testing.assert_close(logits(tiny.model, again), logits(tiny.model, batches), rtol=0, atol=1e-5)
    assert apart([], int) == []


def test_selected_samples_keep_their_rows(tiny, sentences):
    """Some samples of a batch, with their numbers and tokens."""
    [batch] = tokenize(tiny.tokenizer, sentences.texts[:5], batch_size=5)
    some = batch.select([True, False, False, True, False])
    assert some.indices == (batch.indices[0], batch.indices[3])
    assert torch.equal(some.inputs["input_ids"], batch.inputs["input_ids"][[0, 3]])


def test_inputs_of_any_shape_are_joined():
    """Vectors per token are padded along the tokens, what belongs to a sample is not, masks and positions are."""
    singles = [
        TokenBatch(
            {"x": torch.ones(1, n, 2), "attention_mask": torch.ones(1, n, dtype=torch.int64), "of": torch.ones(1, 5)},
            (n,),
            torch.ones(1, n, dtype=torch.bool),
        )
        for n in (3, 1)
    ]
    both = joined(singles)
    assert both.inputs["x"].shape == (2, 3, 2) and both.inputs["of"].shape == (2, 5) and both.indices == (3, 1)
    counts = [both.mask, both.labelled, both.inputs["x"][:, :, 0]]
    assert [count.sum(1).tolist() for count in counts] == [[3, 1]] * 3
    assert [single.indices for single in single_samples([both])] == [(3,), (1,)]


def test_where_nothing_is_padded_nothing_gets_padding():
    """Samples of different length that came without padding stay apart: a model may not know what padding is."""
    batches = [
        TokenBatch(
            {"x": torch.ones(2, n, 2), "attention_mask": torch.ones(2, n, dtype=torch.int64)}, (10 * n, 10 * n + 1)
        )
        for n in (2, 5)
    ]
    again = apart(batches, lambda index: -(index in (20, 50)))
    assert sorted(batch.indices for batch in again) == [(20,), (21,), (50,), (51,)]
    assert all(bool(batch.mask.all()) for batch in again)
