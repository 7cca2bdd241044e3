"""A word embedding table in tiers: rows that texts use often and rows that they use rarely, each with its own bits.

`table_tiers` in `config.json` states the number of rows of each tier; the first tier consists of the table's first
rows. A float folder stores one table, so transformers opens it like any other folder. We split the table when a model
is built; each tier is then an embedding table of its own, scored, planned, quantized and stored like any other.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from itertools import accumulate, islice
from typing import Any

import torch
from torch import nn

from ..errors import InputFileError, UsageError

FIELD = "table_tiers"  # of config.json
FEWEST_TIERS = 2
MOST_TIERS = 16  # each is read at every token
MOST_SHOWN = 80  # characters of a field in a message


class TieredEmbedding(nn.Module):
    """An embedding table of consecutive tiers, `tier0`, `tier1`, …, that returns the same rows as the whole table.

    Every tier is read at every token; if the row belongs to another tier, the result and its gradient are dropped. The
    graph therefore does not depend on the ids, and a converter sees a lookup per tier and a selection.
    """

    def __init__(self, table: nn.Embedding, sizes: Sequence[int]) -> None:
        """Split a table.

        Args:
            table: the whole table; its weights are copied.
            sizes: rows of each tier, in order; together all rows of the table.
        """
        super().__init__()
        self.num_embeddings, self.embedding_dim = table.num_embeddings, table.embedding_dim
        self.padding_idx = table.padding_idx
        self.sizes, self.starts = tuple(sizes), tuple(accumulate(sizes[:-1], initial=0))
        for number, (part, start) in enumerate(zip(table.weight.detach().split(self.sizes), self.starts, strict=True)):
            padding = None if self.padding_idx is None else self.padding_idx - start
            tier = nn.Embedding.from_pretrained(
                part.clone(),
                freeze=not table.weight.requires_grad,
                padding_idx=padding if padding in range(len(part)) else None,
            )
            self.add_module(f"tier{number}", tier)
        self.train(table.training)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the rows of some ids, `[..., columns]`.

        Args:
            ids: int64 `[...]`.
        """
        first, *others = self.children()
        rows: torch.Tensor = first(ids.clamp(max=self.sizes[0] - 1))
        for tier, start, size in zip(others, self.starts[1:], self.sizes[1:], strict=True):
            places = (ids - start).clamp(0, size - 1)
            rows = torch.where((ids >= start).unsqueeze(-1), tier(places), rows)
        return rows


def split_table(model: Any, source: str) -> None:
    """Split a model's word embedding table into the tiers in its config; without this field, change nothing.

    Args:
        model: a transformers model, also on the meta device; changed in place.
        source: the folder, for messages.

    Raises:
        InputFileError: the field does not state valid tiers of the table, or the output layer reads the whole table.
    """
    sizes = getattr(model.config, FIELD, None)
    if sizes is None:
        return
    table = model.get_input_embeddings()
    rows = table.num_embeddings
    if (
        not isinstance(sizes, list)
        or not FEWEST_TIERS <= len(sizes) <= MOST_TIERS
        or not all(isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in sizes)
        or sum(sizes) != rows
    ):
        shown = repr(sizes)
        cut = shown if len(shown) <= MOST_SHOWN else shown[:MOST_SHOWN] + "…"
        raise InputFileError(
            f"{source}: config.json: {FIELD} is {cut}. Give the rows of {FEWEST_TIERS} to {MOST_TIERS} tiers, {rows:,} "
            "together, or remove it."
        )
    if answers_in_words(model):
        raise InputFileError(
            f"{source}: config.json: {FIELD} splits the table of words, and the output layer reads all of it. Remove "
            "it."
        )
    model.set_input_embeddings(TieredEmbedding(table, sizes))


def in_tiers(model: Any) -> bool:
    """Return whether a model's table of words is in tiers.

    Args:
        model: a transformers model.
    """
    return isinstance(model.get_input_embeddings(), TieredEmbedding)


def answers_in_words(model: Any) -> bool:
    """Return whether a model's outputs are over its vocabulary, so that it reads every row of the word table.

    Args:
        model: a transformers model.
    """
    return model.get_output_embeddings() is not None


def tier_sizes(shares: Sequence[float], rows: int) -> tuple[int, ...]:
    """Return the rows of each tier; the last tier has all remaining rows.

    Args:
        shares: share of the rows of each tier but the last; rounded to whole rows.
        rows: rows of the table.

    Raises:
        UsageError: a share is not above 0 and below 1, no rows remain for the last tier, there are too many tiers, or a
            tier would be empty; says what is legal.
    """
    if len(shares) >= MOST_TIERS:
        raise UsageError(f"`tiers`: {len(shares)} shares make {len(shares) + 1} tiers. Give at most {MOST_TIERS - 1}.")
    shown = ",".join(f"{100 * share:g}%" for share in shares)
    if not all(0 < share < 1 for share in shares) or sum(shares) >= 1:
        raise UsageError(f"`tiers` {shown}: give shares above 0 %, below 100 % together: the last tier is the rest.")
    sizes = [round(share * rows) for share in shares]
    sizes.append(rows - sum(sizes))
    if min(sizes) < 1:
        raise UsageError(f"`tiers` {shown}: tier {sizes.index(min(sizes)) + 1} would be empty, of {rows:,} rows.")
    return tuple(sizes)


def numbered(
    ids: Iterable[int], sizes: Sequence[int], counts: Mapping[int, int], *, first: Container[int], last: Container[int]
) -> dict[int, int]:
    """Return the new id of each id when the most used ids come first, in tiers; the order within a tier stays.

    Args:
        ids: the ids that are kept.
        sizes: rows of each tier, as many as there are ids.
        counts: how often texts use each id; an id without a count is never used.
        first: ids before all others, such as special tokens, which texts use without being counted.
        last: ids that must stay behind all others.
    """
    ranked = iter(sorted(ids, key=lambda old: (old in last, old not in first, -counts.get(old, 0), old)))
    order = [old for size in sizes for old in sorted(islice(ranked, size))]
    return {old: new for new, old in enumerate(order)}


def tier_of(model: nn.Module, module: str) -> str:
    """Return the name of the table that a module is a tier of; empty for any other module.

    Args:
        model: contains the module.
        module: its name.
    """
    table = module.rpartition(".")[0]
    return table if isinstance(model.get_submodule(table), TieredEmbedding) else ""
