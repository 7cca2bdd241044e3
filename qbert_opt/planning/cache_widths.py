"""The bits of a decoder's cache: which of 16, 8 and 4 a plan may use, and the loss of each.

All layers share one width, so the program is solved once per width and the plan with the least loss is kept: the joint
optimum, bounded by the least of the widths' bounds. A width without a scored loss cannot be compared: the user has to
pin it, and the report says that its rounding is not in the predicted loss.
"""

from __future__ import annotations

from ..errors import UsageError
from ..spec.cache import CACHE_BITS, check_cache_bits
from .program import PlanningTask


def allowed_widths(task: PlanningTask) -> tuple[int, ...]:
    """Return the bits that a decoder's cache may take, widest first; the workload's if nothing depends on them.

    Args:
        task: its constraints name the widths; without them they are the scored ones, or the workload's if none is.

    Raises:
        UsageError: no width of a cache, or several of which one was not scored.
    """
    asked, scores, own_bits = task.constraints.cache_bits, task.scores, task.workload.cache_bits
    if task.device is None or not task.profile.causal:
        return (own_bits,)
    if asked is None:
        scored = own_bits == CACHE_BITS[0] and scores.cache is not None
        return tuple(bits for bits in CACHE_BITS if scored and scores.cache_loss(bits) is not None) or (own_bits,)
    for bits in asked:
        check_cache_bits(bits)
    unknown = [bits for bits in asked if scores.cache_loss(bits) is None]
    if len(asked) > 1 and unknown:
        raise UsageError(
            f"`cache_bits` {','.join(map(str, asked))}: no loss was scored for a cache of {unknown[0]} bits, so the "
            f"program cannot choose. Give one width, for example `cache_bits` {unknown[0]}, or score again."
        )
    return tuple(bits for bits in CACHE_BITS if bits in asked)


def cache_loss(task: PlanningTask) -> float:
    """Return the score of a decoder's cache; 0 if it is not rounded or was not scored.

    Args:
        task: scores and workload.
    """
    own = task.scores.cache_loss(task.workload.cache_bits) if task.profile.causal else None
    return 0.0 if own is None else own[0]
