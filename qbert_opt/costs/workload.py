"""One inference: how many sentences of how many tokens, and how its inputs and functions are computed.

An encoder reads all tokens at once. A decoder has two phases: `prefill` reads the prompt at once, and `decode` makes
one token for each sequence, which attends to the keys and values of all tokens before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import TYPE_CHECKING, Final, Literal

from ..errors import UsageError
from ..integer.ways import Ways
from ..spec.cache import CACHE_BITS, check_cache_bits
from ..spec.profiles import ModelProfile

if TYPE_CHECKING:
    from ..spec.allocation import Allocation

FLOAT: Final = "float"
Functions = Ways | Literal["float"]
"""How softmax, LayerNorm and GELU are computed: in integers by these methods, or in floating point."""
Phase = Literal["encoder", "prefill", "decode"]
DEFAULT_CONTEXT = 1024


@dataclass(frozen=True, slots=True)
class Workload:
    """One inference: `batch_size` sentences of `seq_len` tokens.

    Attributes:
        seq_len: tokens per sentence; for a decoder, tokens of the prompt, and 1 in phase `decode`.
        batch_size: sentences per inference.
        input_bits: bits of rounded inputs of matrices, by module; other inputs have the engine's or the device's own
            width.
        functions: how softmax, LayerNorm and GELU are computed; None takes the rates that the device states for them.
        phase: `encoder`, or the phase of a decoder.
        context: tokens per sequence that a decoder's cache holds, prompt and answer; None for an encoder. In phase
            `decode` the cache is full, so a step attends to that many tokens.
        cache_bits: bits of a key or value in the cache.

    Raises:
        UsageError: a count is not a whole number of at least 1, the context is shorter than the prompt, or the cache
            cannot have this width.
    """

    seq_len: int = 128
    batch_size: int = 1
    input_bits: Mapping[str, int] = field(default_factory=dict, hash=False)
    functions: Functions | None = None
    phase: Phase = "encoder"
    context: int | None = None
    cache_bits: int = CACHE_BITS[0]

    def __post_init__(self) -> None:
        check_cache_bits(self.cache_bits)
        for name in ("seq_len", "batch_size", *(() if self.context is None else ("context",))):
            count = getattr(self, name)
            if isinstance(count, bool) or not isinstance(count, Integral) or count < 1:
                raise UsageError(f"`{name}`: {count!r} is not a whole number of at least 1.")
            object.__setattr__(self, name, int(count))
        if (self.context is None) != (self.phase == "encoder"):
            raise UsageError(
                f"`context`: found {self.context} in phase {self.phase}. A decoder needs one, an encoder has none."
            )
        if self.context is not None and self.context < self.seq_len:
            raise UsageError(
                f"`context` {self.context}: the cache holds the prompt too. Give at least `seq_len` {self.seq_len}."
            )
        if self.phase == "decode" and self.seq_len != 1:
            raise UsageError(f"`seq_len` {self.seq_len}: a step of phase decode makes one token per sequence.")

    @property
    def tokens(self) -> int:
        """Tokens per inference."""
        return self.seq_len * self.batch_size

    @property
    def phases(self) -> tuple[Workload, ...]:
        """The one inference of an encoder; the prompt and the step of a decoder."""
        return (self,) if self.step is None else (self, self.step)

    @property
    def is_last(self) -> bool:
        """Whether rates of inferences refer to this phase; for a decoder they count tokens, so it is `decode`."""
        return self.phase != "prefill"

    @property
    def step(self) -> Workload | None:
        """The step that makes one token with a full cache; None for an encoder."""
        return None if self.phase == "encoder" else replace(self, phase="decode", seq_len=1)


def workload_of(
    profile: ModelProfile,
    seq_len: int | None,
    batch_size: int = 1,
    *,
    context: int | None = None,
    cache_bits: int | None = None,
) -> Workload:
    """Return one inference that a model can run; for a decoder, phase `prefill`.

    Args:
        profile: the model.
        seq_len: tokens per sentence; None is 128, or the model's maximum if that is less.
        batch_size: sentences per inference.
        context: tokens per sequence in a decoder's cache; None is 1024, or the model's maximum if that is less, but at
            least the prompt.
        cache_bits: bits of a key or value there; None is 16.

    Raises:
        UsageError: more tokens than the model has positions for, or options of a cache for a model without one.
    """
    most = profile.max_tokens
    if seq_len is None:
        seq_len = min(Workload().seq_len, most or Workload().seq_len, context or Workload().seq_len)
    limit = profile.max_context
    for name, count in (("seq_len", seq_len), ("context", context)):
        if limit is not None and count is not None and count > limit:
            raise UsageError(f"`{name}` {count}: {profile.name} has positions for {limit} tokens at most.")
    if not profile.causal:
        check_decoder(profile, context=context, cache_bits=cache_bits)
    whole = in_phase(profile, Workload(seq_len, batch_size))
    context = whole.context if context is None else context
    return replace(whole, context=context, cache_bits=whole.cache_bits if cache_bits is None else cache_bits)


def reported_workload(plan: Allocation, seq_len: int | None, batch_size: int | None) -> Workload:
    """Return the inference that a report prices: the plan's own, or another one with the planned cache of a decoder.

    Args:
        plan: the plan.
        seq_len: tokens per sentence; None and no `batch_size` is the plan's own inference, else as in `workload_of`.
        batch_size: sentences per inference; None is one, unless the inference is the plan's own.

    Raises:
        UsageError: more tokens than the model has positions for.
    """
    own = planned_workload(plan)
    if seq_len is None and batch_size is None:
        return own
    asked = workload_of(plan.profile, seq_len, batch_size or 1)
    if own.context is None:
        return asked
    return replace(asked, context=max(own.context, asked.seq_len), cache_bits=own.cache_bits)


def planned_workload(plan: Allocation) -> Workload:
    """Return the inference that a plan's costs refer to; the model's default one if the plan has no device.

    Args:
        plan: the plan.
    """
    own = plan.device
    if own is None:
        return workload_of(plan.profile, None)
    workload = in_phase(plan.profile, Workload(own.seq_len, own.batch_size))
    if own.decode is None or plan.cache is None:
        return workload
    return replace(workload, context=own.decode.context, cache_bits=plan.cache.bits)


def in_phase(profile: ModelProfile, workload: Workload) -> Workload:
    """Return a workload in a phase that the model has; for a decoder, `prefill` if the workload names none.

    Args:
        profile: the model.
        workload: sentences and tokens of one inference.

    Raises:
        UsageError: a phase of a decoder for an encoder.
    """
    if not profile.causal:
        check_decoder(profile, context=workload.context)
        return workload
    if workload.phase != "encoder":
        return workload
    most = profile.max_context or DEFAULT_CONTEXT
    context = max(workload.seq_len, min(DEFAULT_CONTEXT, most))
    return replace(workload, phase="prefill", context=context)


def _text(value: object) -> str:
    """Return a value as a user writes it."""
    return (
        f"{value:g}"
        if isinstance(value, float)
        else ",".join(map(str, value))
        if isinstance(value, tuple)
        else str(value)
    )


def check_decoder(profile: ModelProfile, **given: object) -> None:
    """Refuse options for decoders if the model is an encoder.

    Args:
        profile: the model.
        **given: values of the options, by name; None means not given.

    Raises:
        UsageError: the model is an encoder and one of the options is given.
    """
    found = next((name for name, value in given.items() if value is not None), None)
    if found is not None and not profile.causal:
        raise UsageError(
            f"`{found}` {_text(given[found])}: {profile.name} is an encoder, which does not generate tokens and keeps "
            "no cache. The option is legal for decoders only; leave it out."
        )
