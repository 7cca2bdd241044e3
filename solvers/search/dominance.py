"""Dominance: one partial plan dominates another if it uses no more of any row and costs no more."""

import numpy as np
from numpy.typing import NDArray

from ..model.program import FloatArray, IntArray

_RIVALS = 200  # number of cheapest partial plans that others are compared with, if there are three rows or more
_BLOCK = 256


def undominated(usage: FloatArray, cost: FloatArray) -> IntArray:
    """Return the partial plans that no other one dominates, the cheapest first; of equal ones, one.

    With up to two rows, all dominated ones are left out (the maxima of vectors: Kung, Luccio and Preparata 1975); with
    more rows, those dominated by one of the cheapest, which is most of them.

    Args:
        usage: float [R, S].
        cost: float [S].

    Returns:
        Positions, int [at most S].
    """
    order: IntArray = np.lexsort((*usage[::-1], cost))
    if len(order) < 2:
        return order
    if not len(usage):
        return order[:1]
    ordered = usage[:, order]
    if len(usage) == 1:
        lowest = np.minimum.accumulate(ordered[0])
        kept = np.concatenate([[True], lowest[1:] < lowest[:-1]])
    elif len(usage) == 2:
        kept = _undominated_in_two(ordered)
    else:
        kept = _undominated_by_cheapest(ordered)
    result: IntArray = order[kept]
    return result


def _undominated_in_two(ordered: FloatArray) -> NDArray[np.bool_]:
    """Return which partial plans no cheaper one dominates, bool [S].

    Each block is compared with the staircase of those before it: the least usage of the second row among the plans
    that use at most so much of the first.

    Args:
        ordered: usage of two rows, the cheapest first, float [2, S].
    """
    kept = np.ones(ordered.shape[1], dtype=bool)
    first, second = np.array([-np.inf]), np.array([np.inf])
    for start in range(0, len(kept), _BLOCK):
        block = ordered[:, start : start + _BLOCK]
        below = np.searchsorted(first, block[0], side="right") - 1
        block_kept = second[below] > block[1]
        left = block[:, block_kept]
        block_kept[block_kept] = ~_beaten_within(left).any(axis=0)
        kept[start : start + _BLOCK] = block_kept
        first = np.concatenate([first, block[0, block_kept]])
        second = np.concatenate([second, block[1, block_kept]])
        steps = np.lexsort((second, first))
        first, second = first[steps], second[steps]
        lowest = np.minimum.accumulate(second)
        falls = np.concatenate([[True], lowest[1:] < lowest[:-1]])
        first, second = first[falls], second[falls]
    return kept


def _undominated_by_cheapest(ordered: FloatArray) -> NDArray[np.bool_]:
    """Return which partial plans none of the cheapest ones dominates, bool [S]."""
    kept = np.ones(ordered.shape[1], dtype=bool)
    rivals = ordered[:, :0]
    for start in range(0, len(kept), _BLOCK):
        block = ordered[:, start : start + _BLOCK]
        beaten = np.ones((rivals.shape[1], block.shape[1]), dtype=bool)
        for theirs, own in zip(rivals, block, strict=True):
            beaten &= theirs[:, None] <= own
        alive = np.asarray(~beaten.any(axis=0))
        if rivals.shape[1] < _RIVALS:
            alive[alive] = ~_beaten_within(block[:, alive]).any(axis=0)
            rivals = np.concatenate([rivals, block[:, alive]], axis=1)
        kept[start : start + _BLOCK] = alive
    return kept


def _beaten_within(block: FloatArray) -> NDArray[np.bool_]:
    """Return whether plan i comes before plan j and uses no more of any row, bool [S, S], by i and j."""
    beaten = np.tri(block.shape[1], k=-1, dtype=bool).T
    for row in block:
        beaten &= row[:, None] <= row
    return beaten
