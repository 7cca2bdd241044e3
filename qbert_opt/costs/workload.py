"""One inference: how many sentences of how many tokens, and how its inputs and functions are computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral
from typing import Final, Literal

from ..errors import UsageError
from ..integer.ways import Ways
from ..spec.profiles import ModelProfile

FLOAT: Final = "float"
Functions = Ways | Literal["float"]
"""How softmax, LayerNorm and GELU are computed: in integers by these ways, or in floating point."""


@dataclass(frozen=True, slots=True)
class Workload:
    """One inference: `batch_size` sentences of `seq_len` tokens.

    Attributes:
        seq_len: tokens per sentence.
        batch_size: sentences per inference.
        input_bits: width of the rounded inputs of matrices, by module; other inputs have the engine's or the device's
            own width.
        functions: how softmax, LayerNorm and GELU are computed; None takes the rates that the device states for them.

    Raises:
        UsageError: a count that is not a whole number of at least 1.
    """

    seq_len: int = 128
    batch_size: int = 1
    input_bits: Mapping[str, int] = field(default_factory=dict, hash=False)
    functions: Functions | None = None

    def __post_init__(self) -> None:
        for name in ("seq_len", "batch_size"):
            count = getattr(self, name)
            if isinstance(count, bool) or not isinstance(count, Integral) or count < 1:
                raise UsageError(f"`{name}`: {count!r} is not a whole number of at least 1.")
            object.__setattr__(self, name, int(count))

    @property
    def tokens(self) -> int:
        """Tokens per inference."""
        return self.seq_len * self.batch_size


def workload_of(profile: ModelProfile, seq_len: int | None, batch_size: int = 1) -> Workload:
    """Return one inference that a model can run.

    Args:
        profile: the model.
        seq_len: tokens per sentence; None is 128, or what the model reads where that is less.
        batch_size: sentences per inference.

    Raises:
        UsageError: more tokens than the model has positions for.
    """
    most = profile.max_tokens
    if seq_len is None:
        return Workload(min(Workload().seq_len, most or Workload().seq_len), batch_size)
    if most is not None and seq_len > most:
        raise UsageError(f"`seq_len` {seq_len}: {profile.name} has positions for {most} tokens at most.")
    return Workload(seq_len, batch_size)
