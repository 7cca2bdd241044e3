"""How the inputs of matrices are rounded on integer hardware: the choices, and which of them a plan takes.

What several matrices read (query, key and value) is one input and rounded once. A choice is bits + where a range holds:

- `token`: each token has a range of its own, found while running (dynamic).
- `tensor/METHOD`: one range for all tokens, found on calibration text by a file-less method: `minmax`, `average`
  (moving average of each text's range with momentum 0.99, Q-BERT's), `percentile` (99.99 % of the values lie inside),
  `mse` (least squared error).

Codes are unsigned with an integer zero point; ranges hold zero.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from .errors import UsageError

if TYPE_CHECKING:
    from hwmodels.device import Device

    from .allocation import PlannedActivation
    from .scores import ScoreTable

Range = Literal["minmax", "average", "percentile", "mse"]
RANGES: tuple[Range, ...] = ("minmax", "average", "percentile", "mse")
ACTIVATION_BITS = (8, 16)
WORTH = 0.01  # of the plan's predicted loss: what 8 bits may cost one input where 16 are allowed too


@dataclass(frozen=True, slots=True)
class ActivationChoice:
    """One way to round an input; `range` is None for ranges per token.

    >>> activation_choice("8bit/tensor/mse")
    ActivationChoice(bits=8, range='mse')
    """

    bits: int
    range: Range | None = None

    @property
    def name(self) -> str:
        """Text form; `activation_choice(name)` reads it back."""
        return f"{self.bits}bit/token" if self.range is None else f"{self.bits}bit/tensor/{self.range}"


def activation_choice(name: str) -> ActivationChoice:
    """Read a choice back from its name.

    Raises:
        UsageError: the text is no choice's name.
    """
    for found in activation_grid(ACTIVATION_BITS):
        if found.name == name:
            return found
    legal = ", ".join(c.name for c in activation_grid(ACTIVATION_BITS))
    raise UsageError(f"activation choice {name!r}: legal: {legal}.")


def activation_grid(bits: Iterable[int]) -> tuple[ActivationChoice, ...]:
    """Return every choice at some bit widths."""
    return tuple(ActivationChoice(b, r) for b in bits for r in (None, *RANGES))


def parse_activation_bits(text: str, option: str = "--activation-bits") -> tuple[int, ...]:
    """Read `8,16`; `none` is empty.

    Raises:
        UsageError: another width.
    """
    if text == "none":
        return ()
    parts = [part.strip() for part in text.split(",")]
    for part in parts:
        if part not in map(str, ACTIVATION_BITS):
            raise UsageError(f"{option} {text}: {part!r} is no width of activations. Legal: 8, 16, none.")
    return tuple(dict.fromkeys(map(int, parts)))


def input_widths(text: str | None, scores: ScoreTable, device: Device | None) -> tuple[int, ...]:
    """Widths to round inputs to: what was asked for; else the device's own, or all, where activations were scored.

    Raises:
        UsageError: another width, or more bits than the device keeps activations in.
    """
    own = None if device is None else device.activation_bits
    if text is not None:
        asked = parse_activation_bits(text)
        if device is not None and own is not None and any(b > own for b in asked):
            raise UsageError(f"--activation-bits {text}: {device.id} keeps activations in {own} bits.")
        return asked
    if scores.activations is None:
        return ()
    scored = {activation_choice(name).bits for name in scores.activations.choices}
    return tuple(sorted(b for b in scored if own is None or b == own))


def planned_activations(scores: ScoreTable, bits: Iterable[int], weight_loss: float) -> tuple[PlannedActivation, ...]:
    """Take for each input the choice of least predicted loss; inputs share no capacity, so that is the best plan.

    Where both widths are allowed an input has 8 bits unless they alone cost more than `WORTH` of `weight_loss`.

    Args:
        scores: with scored activations.
        bits: widths that are allowed.
        weight_loss: predicted loss of the plan's matrices and tables.

    Raises:
        UsageError: none of these widths was scored.
    """
    from .allocation import PlannedActivation

    found = scores.activations
    wanted = sorted(bits)
    choices = [activation_choice(name) for name in (found.choices if found else ())]
    if found is None or not any(c.bits in wanted for c in choices):
        scored = ", ".join(str(b) for b in sorted({c.bits for c in choices})) or "none"
        raise UsageError(f"--activation-bits: not scored. Scored: {scored}.")
    planned = []
    for modules, value, error, ranges in zip(found.inputs, found.value, found.std_error, found.ranges, strict=True):
        best = {b: min((j for j, c in enumerate(choices) if c.bits == b), key=lambda j: value[j], default=None)
                for b in wanted}  # fmt: skip
        legal = [j for j in best.values() if j is not None]
        j = next((j for j in legal if value[j] <= WORTH * weight_loss), legal[-1])
        low, high = ranges[j] or (None, None)
        planned.append(
            PlannedActivation(
                modules=modules,
                bits=choices[j].bits,
                scheme="token" if choices[j].range is None else "tensor",
                range=choices[j].range,
                low=low,
                high=high,
                predicted_loss=value[j],
                std_error=error[j],
            )
        )
    return tuple(planned)
