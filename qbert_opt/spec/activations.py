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

from ..errors import UsageError

if TYPE_CHECKING:
    from hwmodels import Device

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
    def scheme(self) -> Literal["token", "tensor"]:
        """Where a range holds."""
        return "token" if self.range is None else "tensor"

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


def wanted_activations(
    bits: str | None, ranges: str | None, scores: ScoreTable, device: Device | None
) -> tuple[ActivationChoice, ...]:
    """Choices for the inputs: of the widths asked for; else of the device's own, or of all, where inputs were scored.

    Args:
        bits: as `parse_activation_bits` reads it, or None.
        ranges: `token` or `tensor` for choices of one scheme; None for both.
        scores: what was scored.
        device: target hardware, or None.

    Raises:
        UsageError: another width or scheme, or nothing of it was scored.
    """
    if ranges not in (None, "token", "tensor"):
        raise UsageError(f"`activation_ranges` {ranges}: legal: token, tensor.")
    asked = None if bits is None else parse_activation_bits(bits)
    if asked == ():
        return ()
    scored = [activation_choice(name) for name in (scores.activations.choices if scores.activations else ())]
    widths = asked or ({c.bits for c in scored} if device is None else {device.activation_bits})
    found = tuple(c for c in scored if c.bits in widths and ranges in (None, c.scheme))
    if not found and (asked or ranges):
        names = ", ".join(c.name for c in scored) or "none; 'sensitivity --activation-bits' scores them"
        raise UsageError(f"{'`activation_bits`' if asked else '`activation_ranges`'}: not scored. Scored: {names}.")
    return found


def input_bits(planned: Iterable[PlannedActivation]) -> dict[str, int]:
    """Bits of what each matrix reads, by module."""
    return {module: item.bits for item in planned for module in item.modules}


def planned_activations(
    scores: ScoreTable, wanted: Iterable[ActivationChoice], weight_loss: float
) -> tuple[PlannedActivation, ...]:
    """Take for each input the choice of least predicted loss; inputs share no capacity, so that is the best plan.

    Where both widths are allowed an input has 8 bits unless they alone cost more than `WORTH` of `weight_loss`.

    Args:
        scores: with scored activations.
        wanted: choices that are allowed.
        weight_loss: predicted loss of the plan's matrices and tables.

    Raises:
        UsageError: none of these was scored.
    """
    from .allocation import PlannedActivation

    found, wanted = scores.activations, tuple(wanted)
    choices = [activation_choice(name) for name in (found.choices if found else ())]
    legal = [j for j, c in enumerate(choices) if c in wanted]
    if found is None or not legal:
        raise UsageError(f"activations: {', '.join(c.name for c in wanted)} was not scored.")
    widths = sorted({choices[j].bits for j in legal})
    planned = []
    for modules, value, error, ranges in zip(found.inputs, found.value, found.std_error, found.ranges, strict=True):
        best = [min((j for j in legal if choices[j].bits == bits), key=value.__getitem__) for bits in widths]
        j = next((j for j in best if value[j] <= WORTH * weight_loss), best[-1])
        low, high = ranges[j] or (None, None)
        planned.append(
            PlannedActivation(
                modules=modules,
                bits=choices[j].bits,  # type: ignore[arg-type]
                scheme=choices[j].scheme,
                range=choices[j].range,
                low=low,
                high=high,
                predicted_loss=value[j],
                std_error=error[j],
            )
        )
    return tuple(planned)
