"""Training recipes of papers as settings, to compare with: their losses, training quantizer, start and learning rates.

The plan keeps its grid, and epochs or minutes are the user's, so recipes differ only in the papers' training methods.
Deviations from a paper are noted with its recipe.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ..errors import UsageError
from .settings import RecoverySettings

_ATTENTIVE = {"logits": 1.0, "hidden": 1.0, "attention-scores": 1.0}

RECIPES: Mapping[str, RecoverySettings] = MappingProxyType(
    {
        # Shen et al. 2020: fine-tuning with labels at the plan's bits, min-max ranges, no teacher.
        "qbert": RecoverySettings(
            steps=("distill",), losses={"cross-entropy": 1.0}, quantizer="minmax", start="nearest",
            rates={"distill": (2e-5, 2e-5)},
        ),
        # Jin et al. 2021: learned step sizes; the initial ranges are min-max, not the paper's.
        "kdlsq": RecoverySettings(
            steps=("distill",), losses=_ATTENTIVE, quantizer="lsq", start="nearest", rates={"distill": (2e-5, 1e-4)},
        ),
        # Zhang et al. 2020: at 2 bits the paper has three levels, ours has those of the plan.
        "ternarybert": RecoverySettings(
            steps=("distill",), losses=_ATTENTIVE, quantizer="minmax", start="nearest", rates={"distill": (2e-5, 2e-5)},
        ),
        # Wu et al. 2022: as TernaryBERT in one stage, at higher rates, and for 18 epochs: give at least some of those.
        "xtc": RecoverySettings(
            steps=("distill",), losses=_ATTENTIVE, quantizer="minmax", start="nearest", rates={"distill": (5e-5, 5e-5)},
        ),
    }
)  # fmt: skip
"""Settings by name."""


def recipe(name: str) -> RecoverySettings:
    """Return a paper's settings.

    Args:
        name: a key of `RECIPES`.

    Raises:
        UsageError: no such recipe.
    """
    if name not in RECIPES:
        raise UsageError(f"`recipe` {name!r}: unknown. Available: {', '.join(RECIPES)}.")
    return RECIPES[name]
