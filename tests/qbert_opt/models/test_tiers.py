"""A table in tiers answers as the whole one, and every tier is a table of its own."""

import json

import pytest
import torch
from families import tiny_model
from subwords import save
from torch import nn

from qbert_opt.errors import InputFileError, UsageError
from qbert_opt.models.loading import load_model
from qbert_opt.models.tiers import FIELD, TieredEmbedding, numbered, split_table, tier_sizes


@pytest.mark.parametrize("sizes", [(1, 9), (4, 3, 3), (9, 1), (1,) * 10])
def test_the_rows_and_their_gradients_are_those_of_the_whole_table(sizes):
    """Every id, in any order and shape: to the last bit; each row's gradient reaches its own tier."""
    torch.manual_seed(0)
    table = nn.Embedding(10, 4, padding_idx=3)
    tiers = TieredEmbedding(table, sizes)
    ids = torch.tensor([[0, 9, 3, 3], [1, 2, 4, 5], [6, 7, 8, 0]])
    seen, expected = tiers(ids), table(ids)
    assert torch.equal(seen, expected)
    pull = torch.randn_like(expected)
    (seen * pull).sum().backward()
    (expected * pull).sum().backward()
    assert torch.equal(torch.cat([tier.weight.grad for tier in tiers.children()]), table.weight.grad)
    assert [name for name, _ in tiers.named_children()] == [f"tier{n}" for n in range(len(sizes))]
    assert [len(tier.weight) for tier in tiers.children()] == list(sizes)


@pytest.mark.parametrize(
    "family", ["roberta", "distilbert", "electra", "albert", "mpnet", "deberta-v2", "mobilebert", "modernbert"]
)
def test_families(family):
    """Whatever the table is called: the answers are the same floats."""
    whole, split = tiny_model(family), tiny_model(family)
    split.load_state_dict(whole.state_dict())
    split.config.table_tiers = [20, 14, 30]
    split_table(split, "split")
    ids = torch.tensor([[2, 19, 20, 33, 34, 63, 3]])
    assert isinstance(split.get_input_embeddings(), TieredEmbedding)
    assert torch.equal(split(input_ids=ids).logits, whole(input_ids=ids).logits)


def test_sizes_by_hand():
    """Shares are of the rows, the last tier is the rest."""
    assert tier_sizes((0.2,), 10) == (2, 8)
    assert tier_sizes((0.05, 0.15), 100) == (5, 15, 80)
    assert tier_sizes((0.01,) * 15, 100) == (1,) * 15 + (85,)
    for shares, rows, refusal in (
        ((0.0,), 10, "`tiers` 0%: give shares above 0 %"),
        ((1.0,), 10, "`tiers` 100%: give shares above 0 %"),
        ((0.5, 0.5), 10, "`tiers` 50%,50%: give shares above 0 %, below 100 % together"),
        ((0.01,), 10, "`tiers` 1%: tier 1 would be empty, of 10 rows"),
        ((0.5, 0.49), 10, "`tiers` 50%,49%: tier 3 would be empty"),
        ((0.25, 0.25, 0.25), 2, "`tiers` 25%,25%,25%: tier 1 would be empty, of 2 rows"),
        ((0.01,) * 16, 1000, "`tiers`: 16 shares make 17 tiers. Give at most 15"),
    ):
        with pytest.raises(UsageError, match=refusal):
            tier_sizes(shares, rows)


def test_order_by_hand():
    """Special tokens, then the most used; of equals the first; tokens behind the vocabulary stay there."""
    counts = {1: 5, 3: 7, 4: 7, 9: 100}
    found = numbered([0, 1, 2, 3, 4, 9], (3, 3), counts, first={2}, last={9})
    assert found == {2: 0, 3: 1, 4: 2, 0: 3, 1: 4, 9: 5}
    assert list(found.values()) == [0, 1, 2, 3, 4, 5]


def test_a_folder_that_names_wrong_tiers_is_one_line(tmp_path):
    """Not the rows of the table, or a table whose rows are all read; the right rows open."""
    folder = save(tmp_path / "model", "WordPiece")
    config = json.loads((folder / "config.json").read_text())
    rows = config["vocab_size"]
    many = [1] * 16 + [rows - 16]
    for wrong in (3, [], [rows], [rows, 0], [rows + 1, -1], ["a", "b"], [1, 2], [True, rows - 1], many, ["x" * 5000]):
        (folder / "config.json").write_text(json.dumps(config | {FIELD: wrong}))
        with pytest.raises(
            InputFileError, match=f"{FIELD} is .* Give the rows of 2 to 16 tiers, {rows} together"
        ) as said:
            load_model(folder)
        assert len(str(said.value)) < len(str(folder)) + 200
    (folder / "config.json").write_text(json.dumps(config | {FIELD: [5, rows - 5]}))
    assert isinstance(load_model(folder).model.get_input_embeddings(), TieredEmbedding)
    tied = save(tmp_path / "tied", "WordPiece", "vocabulary")
    config = json.loads((tied / "config.json").read_text())
    (tied / "config.json").write_text(json.dumps(config | {FIELD: [5, rows - 5]}))
    with pytest.raises(InputFileError, match="and the output layer reads all of it"):
        load_model(tied)
