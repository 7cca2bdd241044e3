"""The two phases of a decoder side by side: the whole prompt at once, and one token with a full cache.

Limits and goals refer to one of them: latency is the prompt's, i.e. the time to the first token. DRAM bytes, energy and
bit operations are per generated token, since generating tokens is what a decoder spends nearly all its time on.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..engines.session import rules_of
from .pricing import OptionTables

if TYPE_CHECKING:
    from hwmodels import CostReport, Device

    from ..spec.profiles import ModelProfile
    from .engine_target import EngineTarget
    from .workload import Workload

OF_TOKENS = ("dram_bytes", "dynamic_energy_j", "bops")


def device_for(profile: ModelProfile, device: Device) -> Device:
    """Return the device that a model is planned for; a decoder's has no limits on latency and energy.

    A device states those limits for one answer of an encoder, whereas a decoder's answer has no fixed length.

    Args:
        profile: the model.
        device: the hardware.
    """
    if not profile.causal:
        return device
    return device.model_copy(update={"limits": device.limits.model_copy(update={"latency": None, "energy": None})})


def idle_limits(profile: ModelProfile, device: Device) -> tuple[str, ...]:
    """Return one line that lists the limits of a device that do not apply to a decoder; nothing if all limits apply.

    Args:
        profile: the model.
        device: the hardware, as its file describes it.
    """
    from hwmodels import format_joules, format_seconds

    latency, energy = device.limits.latency, device.limits.energy
    parts = [] if latency is None else [f"limits.latency {format_seconds(latency)}"]
    parts += [] if energy is None else [f"limits.energy {format_joules(energy)}"]
    if not profile.causal or not parts:
        return ()
    return (
        f"{device.id}: {' and '.join(parts)}: for one answer of an encoder, not applied to a decoder; in `solve`, "
        "--max-latency limits the time to the first token, --max-energy a token's energy, --min-tokens-per-s the speed",
    )


def unwritten_file(profile: ModelProfile, target: EngineTarget | None) -> tuple[str, ...]:
    """Return one line if planned bytes are those of an engine's file that no writer can make; else nothing.

    Args:
        profile: the model.
        target: the engine that runs it; None for packed weights.
    """
    if target is None or not (names := [n for n in target.engines if not rules_of(n).takes(**profile.engine_needs)]):
        return ()
    return (
        f"bytes are those of a file of {', '.join(names)}, to which qbert-opt cannot export {profile.oddity}"
        f"{'; export-config writes the plan for other tools' if profile.causal else ''}",
    )


def with_tokens(prompt: OptionTables, token: OptionTables, device: Device) -> OptionTables:
    """Return the prices of a decoder's options: latency for the prompt, everything else for one token.

    Args:
        prompt: prices in phase `prefill`.
        token: prices in phase `decode`, of the same options.
        device: the hardware.
    """
    rows = {row: row for row in OF_TOKENS}
    rows |= {"token_bound_s": "latency_bound_s", "token_floor_s": _floor(token, device)}
    return replace(
        prompt,
        usage=prompt.usage | {row: token.usage[own] for row, own in rows.items()},
        fixed=prompt.fixed | {row: token.fixed[own] for row, own in rows.items()},
        masks=prompt.masks | token.masks,
    )


def _floor(token: OptionTables, device: Device) -> str:
    """Return the row whose sum is the tightest lower bound on the latency of a token under every schedule.

    DRAM serves one operation at a time, and without a scratchpad nothing is prefetched, so times add up. Neither bound
    holds if a cache can keep the whole model from one token to the next.
    """
    path = device.path(device.units[0])
    last = path[-2] if len(path) > 1 else None
    least = float(token.usage["dram_bytes"].min(axis=1).sum()) + token.fixed["dram_bytes"]
    if last is not None and last.kind == "cache" and least <= last.usable_bytes:
        return "latency_floor_s"
    return "unhidden_s" if device.scratchpad is None else "dram_s"


def seconds_of(usage: dict[str, np.ndarray]) -> dict[str, str]:
    """Return the row of latency that belongs to each row of energy: per token of a decoder, else per inference.

    Args:
        usage: usage of every option, by resource.
    """
    if "token_bound_s" in usage:
        return {"energy_bound_j": "token_bound_s", "energy_floor_j": "token_floor_s"}
    return {"energy_bound_j": "latency_bound_s", "energy_floor_j": "latency_floor_s"}


def tokens_per_s(token: CostReport, workload: Workload) -> float:
    """Return the tokens that a decoder generates per second, summed over all sequences of the batch.

    Args:
        token: cost of one step of phase `decode`.
        workload: what the step processes; its batch size counts.
    """
    return workload.batch_size / token.latency_s
