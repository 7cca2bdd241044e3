"""What a decoder costs on a device: the prompt, each generated token, and the cache in addition to the weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hwmodels import format_bandwidth, format_bytes, format_joules, format_seconds

from ..costs.decoding import tokens_per_s
from ..spec.cache import CACHE_BITS, cache_bytes
from .cost import band, trust_line

if TYPE_CHECKING:
    from hwmodels import CostReport

    from ..costs.workload import Workload
    from ..spec.allocation import Allocation

UNSCORED = "rounding of the cache to this width is not in the predicted loss"


def decoder_lines(prompt: CostReport, token: CostReport, plan: Allocation, workload: Workload) -> list[str]:
    """Return what a plan of a decoder costs on a device, one fact per line.

    Args:
        prompt: cost in phase `prefill`.
        token: cost in phase `decode`.
        plan: the plan, which has the predicted loss of a rounded cache.
        workload: the workload in phase `prefill`.
    """
    facts = decoder_facts(prompt, token, plan, workload)
    return [f"on {token.device}, predicted:", *(f"  {name:13} {text}" for name, text in facts)]


def decoder_facts(prompt: CostReport, token: CostReport, plan: Allocation, workload: Workload) -> list[tuple[str, str]]:
    """Return what a plan of a decoder costs on a device, as names and texts.

    Args:
        prompt: cost in phase `prefill`.
        token: cost in phase `decode`.
        plan: the plan, which has the predicted loss of a rounded cache.
        workload: the workload in phase `prefill`.
    """
    context, batch = workload.context or 1, workload.batch_size
    cache = cache_bytes(plan.profile, context * batch, workload.cache_bits, batch)
    arena = max(prompt.peak_activation_bytes, token.peak_activation_bytes)
    together = "" if batch == 1 else f" of {batch} sequences together, {1 / token.latency_s:.4g} of each"
    facts = {
        "first token": f"{band(prompt)} after a prompt of {workload.seq_len} tokens; as scheduled "
        f"{format_seconds(prompt.latency_s)}, sum of operations {format_seconds(prompt.latency_bound_s)}; bound by "
        f"{_bounds(prompt)}",
        "speed": f"{speed_band(token, workload)}{together}; as scheduled {tokens_per_s(token, workload):.4g}, "
        f"{format_seconds(token.latency_s)} for the token that fills a cache of {context}; bound by {_bounds(token)}",
        "peak memory": f"{format_bytes(max(prompt.peak_memory_bytes, token.peak_memory_bytes))} (weights "
        f"{format_bytes(token.held_bytes - cache)}, cache {format_bytes(cache)}, activations {format_bytes(arena)}); "
        f"{format_bytes(token.scratchpad_bytes)} of weights on chip",
        "cache": f"keys and values of {context} tokens{f' in each of {batch} sequences' if batch > 1 else ''} at "
        f"{workload.cache_bits} bits{'' if workload.cache_bits == 16 else ', one fp16 scale per head and token'}",
        "DRAM traffic": f"{format_bytes(token.dram_bytes)} per token, "
        f"{format_bandwidth(token.dram_bandwidth_bytes_per_s)} at {token.inferences_per_s:.3g} tokens/s; "
        f"{format_bytes(prompt.dram_bytes)} for the prompt",
        "energy": f"{format_joules(token.energy_j)} per token ({format_joules(token.dynamic_energy_j)} dynamic); "
        f"{format_joules(prompt.energy_j)} for the prompt",
        "unpacking": f"costs {format_seconds(token.unpack_s)} of compute per token, saves "
        f"{format_seconds(token.dram_saved_s)} of DRAM time against streamed 8-bit storage",
        "trust": trust_line(token),
    }
    rows = list(facts.items())
    if workload.cache_bits < CACHE_BITS[0]:
        rows.append(("note", _cache_loss(plan, workload.cache_bits)))
    rows += [("over limit", line) for line in broken_limits(prompt, token)]
    rows += [("note", note) for note in token.notes]
    return rows + [("note", f"the prompt: {note}") for note in prompt.notes if note not in token.notes]


def speed_band(token: CostReport, workload: Workload) -> str:
    """Return the speed to expect, summed over all sequences of the batch.

    Args:
        token: cost in phase `decode`.
        workload: what the step processes; its batch size counts.
    """
    low, high = (workload.batch_size / seconds for seconds in reversed(token.latency_interval_s))
    return f"{low:.3g} to {high:.3g} tokens/s"


def expected(cost: CostReport, token: CostReport | None, workload: Workload) -> str:
    """Return the latency of an inference to expect or, for a decoder, the time to the first token and the speed.

    Args:
        cost: cost of an inference, or of a decoder's prompt.
        token: cost of a decoder's token; None for an encoder.
        workload: what is processed; its batch size counts.
    """
    return band(cost) if token is None else f"first token {band(cost)}, then {speed_band(token, workload)}"


def peak_bytes(cost: CostReport, token: CostReport | None) -> int:
    """Return the peak memory over all phases.

    Args:
        cost: cost of an inference, or of a decoder's prompt.
        token: cost of a decoder's token; None for an encoder.
    """
    return max(phase.peak_memory_bytes for phase in (cost, token) if phase is not None)


def broken_limits(cost: CostReport, token: CostReport | None) -> tuple[str, ...]:
    """Return one line for each limit of the device that a phase exceeds.

    Args:
        cost: cost of an inference, or of a decoder's prompt.
        token: cost of a decoder's token; None for an encoder.
    """
    return tuple(dict.fromkeys(line for phase in (cost, token) if phase is not None for line in phase.over_limits))


def _cache_loss(plan: Allocation, bits: int) -> str:
    """Return a text that says whether the predicted loss includes the rounding of a cache of this width."""
    if plan.cache is None or plan.cache.bits != bits or plan.cache.predicted_loss is None:
        return UNSCORED
    return f"rounding of the cache is in the predicted loss: {plan.cache.predicted_loss:.2g}"


def _bounds(report: CostReport) -> str:
    shares = sorted(report.bound_shares.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares)
