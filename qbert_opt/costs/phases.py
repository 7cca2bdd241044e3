"""The cost of every phase of a model: one inference of an encoder, or the prompt and one token of a decoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..spec.allocation import Allocation
from ..spec.profiles import ModelProfile
from .engine_target import EngineTarget
from .simulate import simulate_allocation, simulate_storage
from .stored import Storage
from .workload import Workload, in_phase

if TYPE_CHECKING:
    from hwmodels import CostReport, Device


def simulate_phases(
    profile: ModelProfile,
    storage: Mapping[str, Storage] | None,
    device: Device,
    workload: Workload,
    *,
    float_bits: int = 16,
    inferences_per_s: float | None = None,
    target: EngineTarget | None = None,
) -> tuple[CostReport, CostReport | None]:
    """Simulate one inference of an encoder, or the prompt and then a token of a decoder.

    Args:
        profile: the model.
        storage: how each matrix and table is stored, by module; None stores everything in floating point.
        device: the hardware.
        workload: sentences and tokens of one inference.
        float_bits: width of all weights if `storage` is None.
        inferences_per_s: rate of inferences; of a decoder, of tokens.
        target: the engine that runs it.

    Returns:
        The report of the inference or prompt, and of the token with a full cache; None for an encoder.

    Raises:
        DeviceError: the device cannot run the model.
        UsageError: the rate is zero or less.
    """
    report, *steps = [
        simulate_storage(
            profile,
            storage,
            device,
            phase,
            float_bits=float_bits,
            inferences_per_s=inferences_per_s if phase.is_last else None,
            target=target,
        )
        for phase in in_phase(profile, workload).phases
    ]
    return report, steps[0] if steps else None


def simulate_plan(
    allocation: Allocation,
    device: Device,
    workload: Workload,
    *,
    inferences_per_s: float | None = None,
    engine: str | None = None,
) -> tuple[CostReport, CostReport | None]:
    """Simulate a plan: one inference of an encoder, or the prompt and then a token of a decoder.

    Args:
        allocation: the plan.
        device: the hardware.
        workload: sentences and tokens of one inference.
        inferences_per_s: rate of inferences; of a decoder, of tokens.
        engine: as for `simulate_allocation`.

    Returns:
        The report of the inference or prompt, and of the token with a full cache; None for an encoder.
    """
    report, *steps = [
        simulate_allocation(
            allocation, device, phase, inferences_per_s=inferences_per_s if phase.is_last else None, engine=engine
        )
        for phase in in_phase(allocation.profile, workload).phases
    ]
    return report, steps[0] if steps else None
