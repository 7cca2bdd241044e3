"""How well vectors still find the texts that the reference's vectors find. Vectors are compared by cosine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

NEIGHBOURS = (1, 5, 10)
MAX_QUERIES = 2000  # texts that search the whole collection; each costs a product with every other text
TOGETHER = 256  # queries at a time, which bounds memory
TIE = 1e-6  # cosines that differ by less are equal: so much may come from how texts were batched


def cosines(reference: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    """Return the cosine between each row and the reference's, float64 `[rows]`.

    Args:
        reference: vectors `[rows, columns]`.
        found: a model's vectors for the same texts, `[rows, columns]`.
    """
    return (_unit(reference) * _unit(found)).sum(1)


def recalls(
    reference: torch.Tensor, found: torch.Tensor, neighbours: Sequence[int] = NEIGHBOURS
) -> Mapping[int, torch.Tensor]:
    """Return by k the share of each text's k nearest other texts that are also its k nearest by the reference.

    Recall@k with the reference's k nearest as the relevant ones. Texts that tie with the reference's k-th nearest count
    as relevant too, so it does not matter which of several equal texts is found. The first 2000 texts
    search the whole collection.

    Args:
        reference: vectors `[texts, columns]`.
        found: a model's vectors for the same texts, `[texts, columns]`.
        neighbours: values of k; those for which there are too few texts are left out.

    Returns:
        Float64 `[queries]` by k.
    """
    fitting = [k for k in neighbours if k < len(found)]
    if not fitting:
        return {}
    before, now = _unit(reference), _unit(found)
    shares: dict[int, list[torch.Tensor]] = {k: [] for k in fitting}
    for start in range(0, min(len(now), MAX_QUERIES), TOGETHER):
        queries = torch.arange(start, min(start + TOGETHER, MAX_QUERIES, len(now)))
        truth = _similarities(before, queries)
        nearest = truth.topk(max(fitting), dim=1).values
        ranking = _similarities(now, queries).topk(max(fitting), dim=1).indices
        for k in fitting:
            relevant = truth.gather(1, ranking[:, :k]) >= nearest[:, k - 1 : k] - TIE
            shares[k].append(relevant.double().mean(1))
    return {k: torch.cat(parts) for k, parts in shares.items()}


def _unit(vectors: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(vectors.double(), dim=1)


def _similarities(units: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
    """Cosines of queries with all texts; a text does not find itself."""
    return (units[queries] @ units.T).scatter(1, queries[:, None], -torch.inf)
