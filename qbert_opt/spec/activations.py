"""How the inputs of matrices are quantized on integer hardware: the choices, and which of them a plan uses.

An input that several matrices read (such as that of query, key and value) is quantized once. A choice is bits + range:

- `token`: each token has its own range, computed at run time (dynamic quantization).
- `tensor/METHOD`: one range for all tokens, fixed on the calibration set (static quantization). Methods: `minmax`;
  `average` (moving average of each text's range with momentum 0.99, as in Q-BERT); `percentile` (99.99 % of the values
  lie inside); `mse` (least squared error).

Codes are unsigned with an integer zero point; every range includes zero.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from warnings import warn

from ..errors import QbertOptWarning, UsageError

if TYPE_CHECKING:
    from hwmodels import Device

    from .planned import PlannedActivation
    from .scores import ScoreTable

Range = Literal["minmax", "average", "percentile", "mse"]
RANGES: tuple[Range, ...] = ("minmax", "average", "percentile", "mse")
ACTIVATION_BITS = (4, 8, 16)
MAX_SHARE = 0.01  # of the plan's predicted loss: the most that one input may add if more bits are allowed


@dataclass(frozen=True, slots=True)
class ActivationChoice:
    """One way to quantize an input.

    Attributes:
        bits: of a code.
        range: how the static range is fixed; None for one range per token.

    >>> activation_choice("8bit/tensor/mse")
    ActivationChoice(bits=8, range='mse')
    """

    bits: int
    range: Range | None = None

    @property
    def scheme(self) -> Literal["token", "tensor"]:
        """`token` for one range per token, `tensor` for one range for all tokens."""
        return "token" if self.range is None else "tensor"

    @property
    def name(self) -> str:
        """Text form; `activation_choice(name)` reads it back."""
        return f"{self.bits}bit/token" if self.range is None else f"{self.bits}bit/tensor/{self.range}"


def activation_choice(name: str) -> ActivationChoice:
    """Parse the name of a choice.

    Args:
        name: `8bit/token`, `16bit/tensor/mse` and the like.

    Raises:
        UsageError: no choice has this name.
    """
    for activation in activation_grid(ACTIVATION_BITS):
        if activation.name == name:
            return activation
    legal = ", ".join(c.name for c in activation_grid(ACTIVATION_BITS))
    raise UsageError(f"activation choice {name!r}: legal: {legal}.")


def activation_grid(bits: Iterable[int]) -> tuple[ActivationChoice, ...]:
    """Return every choice at the given bit widths.

    Args:
        bits: widths in `ACTIVATION_BITS`.
    """
    return tuple(ActivationChoice(b, r) for b in bits for r in (None, *RANGES))


def parse_activation_bits(text: str, option: str = "--activation-bits") -> tuple[int, ...]:
    """Parse widths such as `8` or `4,8`, or `none`.

    Args:
        text: comma-separated bit widths; `none` gives an empty tuple.
        option: name of the option, for error messages.

    Raises:
        UsageError: another width.
    """
    if text == "none":
        return ()
    parts = [part.strip() for part in text.split(",")]
    for part in parts:
        if part not in map(str, ACTIVATION_BITS):
            legal = ", ".join(map(str, ACTIVATION_BITS))
            raise UsageError(f"{option} {text}: {part!r} is not a bit width of activations. Legal: {legal}, none.")
    return tuple(dict.fromkeys(map(int, parts)))


def selected_activations(
    bits: str | None, ranges: str | None, scores: ScoreTable, device: Device | None, *, every_width: bool = False
) -> tuple[ActivationChoice, ...]:
    """Return the scored choices for inputs that the user selected.

    Args:
        bits: as for `parse_activation_bits`; None takes the device's own width, or every scored width without a device.
        ranges: `token` or `tensor` for choices of one scheme; None for both.
        scores: a score table; without scored inputs the result is empty.
        device: target hardware, or None.
        every_width: None takes every scored width even on a device, because its engine multiplies all of them.

    Raises:
        UsageError: an unknown width or scheme, or one that was not scored.

    Warns:
        QbertOptWarning: inputs were scored, but not in the device's own width, and no other was selected.
    """
    if ranges not in (None, "token", "tensor"):
        raise UsageError(f"`activation_ranges` {ranges}: legal: token, tensor.")
    selected = None if bits is None else parse_activation_bits(bits)
    if selected == ():
        return ()
    scored = [activation_choice(name) for name in (scores.activations.choices if scores.activations else ())]
    names = ", ".join(c.name for c in scored) or "none; 'sensitivity --activation-bits' scores them"
    lost = set(selected or ()) - {c.bits for c in scored}
    if lost and scored:
        unscored = " and ".join(map(str, sorted(lost)))
        raise UsageError(f"`activation_bits` {bits}: {unscored} bits were not scored. Scored: {names}.")
    widths = selected or ({c.bits for c in scored} if device is None or every_width else {device.activation_bits})
    choices = tuple(c for c in scored if c.bits in widths and ranges in (None, c.scheme))
    if not choices and (selected or ranges):
        raise UsageError(f"{'`activation_bits`' if selected else '`activation_ranges`'}: not scored. Scored: {names}.")
    if not choices and scored and device is not None:
        only = " and ".join(str(width) for width in sorted({c.bits for c in scored}))
        left = f"inputs are scored in {only} bits only and {device.id} has {device.activation_bits}"
        warn(QbertOptWarning(f"{left}: the plan leaves them out. `activation_bits` selects others."), stacklevel=2)
    return choices


def input_bits(planned: Iterable[PlannedActivation]) -> dict[str, int]:
    """Return the bits of each matrix's input, by module.

    Args:
        planned: the quantized inputs of a plan.
    """
    return {module: item.bits for item in planned for module in item.modules}


def planned_activations(
    scores: ScoreTable, allowed: Iterable[ActivationChoice], weight_loss: float
) -> tuple[PlannedActivation, ...]:
    """Give each input the choice with the least predicted loss; inputs share no budget, so this is optimal.

    If several widths are allowed, an input gets the fewest bits that add at most `MAX_SHARE` of `weight_loss`.

    Args:
        scores: a score table with scored inputs.
        allowed: choices that an input may take.
        weight_loss: predicted loss of the plan's matrices and tables, in the unit of the scores.

    Raises:
        UsageError: none of the allowed choices was scored.
    """
    from .planned import PlannedActivation

    scored, allowed = scores.activations, tuple(allowed)
    choices = [activation_choice(name) for name in (scored.choices if scored else ())]
    legal = [j for j, c in enumerate(choices) if c in allowed]
    if scored is None or not legal:
        raise UsageError(f"activations: {', '.join(c.name for c in allowed)} was not scored.")
    widths = sorted({choices[j].bits for j in legal})
    planned = []
    for modules, value, error, ranges in zip(scored.inputs, scored.value, scored.std_error, scored.ranges, strict=True):
        best = [min((j for j in legal if choices[j].bits == bits), key=value.__getitem__) for bits in widths]
        j = next((j for j in best if value[j] <= MAX_SHARE * weight_loss), best[-1])
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
