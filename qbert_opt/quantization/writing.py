"""Which quantizer writes a plan's codes: a more accurate one than was used for scoring, where that is known to pay.

Scoring rounds every matrix under every choice; writing rounds each only once. `guided` takes 2.5 times as long as
`gptq` and is more accurate, so scoring with `gptq` and writing with `guided` has nearly the loss of using `guided`
throughout, in nearly the time of `gptq`
(`benchmarks/quantizers/quantizers.py --written guided`).
"""

from __future__ import annotations

from ..errors import UsageError
from ..runtime.plugins import available
from ..spec.allocation import Allocation
from .quantizer import quantizer

CLOSEST = "guided"
MOST_BITS = 4  # with more, rounding with compensation leaves nothing to gain
IMPROVED = ("gptq", "quantease")  # quantizers from whose codes `guided` descends


def writing_method(plan: Allocation) -> str:
    """Return the quantizer that writes a plan's codes by default.

    That is `guided` for an encoder whose scores come from `gptq` or `quantease`, if some matrix has at most 4 bits.
    Otherwise it is the plan's own: other quantizers were chosen deliberately, above 4 bits there is nothing to gain,
    and decoders have not been measured.

    Args:
        plan: the plan.
    """
    narrow = any(matrix.bits <= MOST_BITS for matrix in plan.matrices)
    return CLOSEST if narrow and not plan.profile.causal and plan.method in IMPROVED else plan.method


def checked_method(plan: Allocation, method: str) -> str:
    """Return the requested quantizer, if it can write the plan's choices.

    Args:
        plan: the plan.
        method: name of the quantizer.

    Raises:
        UsageError: no such quantizer, or it does not store a form of the plan.
    """
    if method not in available("quantizers"):
        raise UsageError(f"`method` {method}: unknown. Available: {', '.join(available('quantizers'))}.")
    forms = quantizer(method).FORMS
    for matrix in plan.matrices:
        if matrix.form not in forms:
            raise UsageError(
                f"`method` {method}: {matrix.module} is planned in form {matrix.form}; {method} stores "
                f"{', '.join(forms)}. Give a quantizer that stores {matrix.form}, or leave `method` out."
            )
    return method
