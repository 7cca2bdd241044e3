"""Settings of recovery training: its steps, their order and length."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from ..errors import UsageError
from ..runtime import plugins

DEFAULT_STEPS = ("blocks",)  # further steps were never kept in measurements, see docs/concepts/recovery.md
DEFAULT_EPOCHS = 2.0
DEFAULT_LOSSES: Mapping[str, float] = MappingProxyType({"logits": 1.0, "last-hidden": 1.0})


@dataclass(frozen=True, slots=True)
class RecoverySettings:
    """How to recover a quantized model by training.

    Attributes:
        steps: of the ladder, in order: `ranges`, `blocks`, `distill`.
        epochs: passes over the training text of each step; fractions are allowed.
        rates: learning rates of weights and of ranges by step, where they differ from the step's defaults.
        losses: weight of each loss of the steps that train the whole model.
        quantizer: training quantizer of the matrices; None is the first one that supports a matrix's form.
        start: `codes` starts from the given codes; `nearest` from the float weights, rounded to nearest in min-max
            ranges on the plan's grid.
        block_error: how a block's error is weighted by token: `plain` or `sensitivity`.
        batch_size: texts per batch.
        batches_per_update: batches whose mean loss makes an update; several processes share them.
        held_back: number of texts held out to select the best state; None is 512, or an eighth of the texts if that is
            less.
        tables: whether embedding tables are trained too.
        teacher_cache: share of the teacher's states that steps ranges and distill store on disk, see `teacher_cache`;
            None keeps them in memory as far as they fit and runs the teacher for the rest.
        nonlinearity: methods with which the student computes softmax, GELU, tanh and LayerNorm as integer programs do,
            see `integer.ways`; None trains with the real functions.
        seed: of the split of texts and the order of batches.
    """

    steps: tuple[str, ...] = DEFAULT_STEPS
    epochs: Mapping[str, float] = field(default_factory=dict)
    rates: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    losses: Mapping[str, float] = field(default_factory=lambda: dict(DEFAULT_LOSSES))
    quantizer: str | None = None
    start: Literal["codes", "nearest"] = "codes"
    block_error: str = "plain"
    batch_size: int = 32
    batches_per_update: int = 1
    held_back: int | None = None
    tables: bool = False
    teacher_cache: float | None = None
    nonlinearity: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            UsageError: names the parameter.
        """
        known = plugins.available("training_steps")
        for name in (*self.steps, *self.epochs, *self.rates):
            if name not in known:
                raise UsageError(f"`steps` {name}: unknown. Available: {', '.join(known)}.")
        if not self.steps:
            raise UsageError(f"`steps`: none given. Available: {', '.join(known)}.")
        if len(set(self.steps)) < len(self.steps):
            raise UsageError(f"`steps` {','.join(self.steps)}: each may be named once.")
        for name, epochs in self.epochs.items():
            if not (math.isfinite(epochs) and epochs > 0):
                raise UsageError(f"`epochs` {name}:{epochs:g}: give a number above 0.")
        for name, pair in self.rates.items():
            if len(pair) != 2 or not all(math.isfinite(rate) and rate >= 0 for rate in pair) or not any(pair):
                raise UsageError(
                    f"`rates` {name}:{':'.join(f'{rate:g}' for rate in pair)}: give two numbers of at least 0, "
                    "of weights and of ranges, not both 0."
                )
        legal = ", ".join(plugins.available("training_losses"))
        if not self.losses:
            raise UsageError(f"`losses`: none given. Available: {legal}.")
        for name, weight in self.losses.items():
            if name not in plugins.available("training_losses"):
                raise UsageError(f"`losses` {name}: unknown. Available: {legal}.")
            if not (math.isfinite(weight) and weight > 0):
                raise UsageError(f"`losses` {name}:{weight:g}: give a number above 0.")
        if self.block_error not in plugins.available("block_errors"):
            legal = ", ".join(plugins.available("block_errors"))
            raise UsageError(f"`block_error` {self.block_error}: unknown. Available: {legal}.")
        if self.quantizer is not None and self.quantizer not in plugins.available("training_quantizers"):
            legal = ", ".join(plugins.available("training_quantizers"))
            raise UsageError(f"quantizer {self.quantizer!r}: unknown. Available: {legal}.")
        if self.start not in ("codes", "nearest"):
            raise UsageError(f"start {self.start!r}: unknown. Available: codes, nearest.")
        if self.teacher_cache is not None and not 0 < self.teacher_cache <= 1:
            raise UsageError(f"`teacher_cache` {self.teacher_cache:.4g}: give a share above 0 and up to 100%.")
        for field_name in ("batch_size", "batches_per_update", "held_back"):
            number = getattr(self, field_name)
            if number is not None and number < 1:
                raise UsageError(f"`{field_name}` {number}: give 1 or more.")
        self._check_use()

    def _check_use(self) -> None:
        """Refuse settings that no step would use.

        Raises:
            UsageError: names the parameter.
        """
        for field_name in ("epochs", "rates"):
            for name in getattr(self, field_name):
                if name not in self.steps:
                    raise UsageError(
                        f"`{field_name}`: {name} is not among the steps {', '.join(self.steps)}; give it in `steps` "
                        "too."
                    )
        of_weights, of_ranges = self.rates.get("ranges", (0.0, 1.0))
        if of_weights or not of_ranges:
            raise UsageError(
                f"`rates`: {of_weights:g} and {of_ranges:g} for ranges, which trains ranges alone; give 0 and a number "
                "above 0."
            )
        if set(self.steps) == {"blocks"}:
            for field_name, given in (("losses", self.losses != DEFAULT_LOSSES), ("teacher_cache", self.teacher_cache)):
                if given:
                    raise UsageError(
                        f"`{field_name}`: of steps ranges and distill, and `steps` has neither. Add one: "
                        "blocks,distill."
                    )
        if self.tables and "distill" not in self.steps:
            raise UsageError("`tables`: are trained in step distill, which `steps` lacks. Add it: blocks,distill.")

    def epochs_of(self, step: str) -> float:
        """Return a step's number of passes over the text, `DEFAULT_EPOCHS` if none is set; fractions are allowed.

        Args:
            step: name of the step, for example `blocks`.
        """
        return self.epochs.get(step, DEFAULT_EPOCHS)

    @property
    def method(self) -> str:
        """One line that describes the training, for provenance."""
        parts = [f"{self.block_error} block errors"] if "blocks" in self.steps else []
        if set(self.steps) - {"blocks"}:
            named = [name if weight == 1 else f"{weight:g} {name}" for name, weight in self.losses.items()]
            parts.append(f"losses {' + '.join(named)}")
        if self.quantizer is not None:
            parts.append(f"quantizer {self.quantizer}")
        if self.start == "nearest":
            parts.append("from nearest codes")
        if self.nonlinearity is not None:
            parts.append(f"functions in integers: {self.nonlinearity}")
        return f"{', '.join(self.steps)} ({'; '.join(parts)}) from the float model"
