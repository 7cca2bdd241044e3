"""The cost of a plan on a device: the simulator applied to a model's operator graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import DeviceError, UsageError
from ..integer.ways import Ways
from ..runtime.plain_text import whole_number
from ..runtime.plugins import available
from ..spec.activations import input_bits
from ..spec.allocation import Allocation
from ..spec.choices import Choice
from ..spec.forms import ENGINE_BITS
from ..spec.limits import check_rate
from ..spec.profiles import ModelProfile
from .decoding import device_for, idle_limits, unwritten_file
from .devices import device_errors
from .engine_target import EngineTarget
from .functions import planned_functions, with_functions
from .operations import model_graph
from .portable import plan_target
from .stored import Storage, refusal_of_plan
from .workload import FLOAT, Functions, Workload, planned_workload

if TYPE_CHECKING:
    from hwmodels import CostReport, Device, MixReport


def simulate_storage(
    profile: ModelProfile,
    storage: Mapping[str, Storage] | None,
    device: Device,
    workload: Workload,
    *,
    float_bits: int = 16,
    inferences_per_s: float | None = None,
    target: EngineTarget | None = None,
) -> CostReport:
    """Simulate one inference of a model whose matrices are stored as given.

    Args:
        profile: the model.
        storage: how each matrix and table is stored, by module; None stores everything in floating point.
        device: the hardware.
        workload: sentences and tokens of one inference.
        float_bits: width of all weights if `storage` is None.
        inferences_per_s: rate of inferences, for power and bandwidth; None leaves them out.
        target: the engine that runs it; it determines the bytes of the file, which products run in floating point, and
            the width of tensors between operations. None for packed weights on the device as it is.

    Returns:
        Predicted latency, memory, traffic and energy.

    Raises:
        DeviceError: the device cannot run the model.
        UsageError: the rate is zero or less.
    """
    from hwmodels import simulate

    check_rate(inferences_per_s)
    graph = model_graph(profile, storage, workload, float_bits=float_bits, target=target)
    own = device if target is None else target.on(device)
    with device_errors():
        report = simulate(graph, device_for(profile, own), inferences_per_s=inferences_per_s)
    return replace(report, notes=(*report.notes, *unwritten_file(profile, target), *idle_limits(profile, own)))


def simulate_allocation(
    allocation: Allocation,
    device: Device,
    workload: Workload,
    *,
    inferences_per_s: float | None = None,
    engine: str | None = None,
) -> CostReport:
    """Simulate a plan; its resident matrices are resident only on the device that the plan was made for.

    Args:
        allocation: the plan.
        device: the hardware.
        workload: sentences and tokens of one inference.
        inferences_per_s: rate of inferences, for power and bandwidth; None leaves them out.
        engine: the engine that runs it; by default the one that the plan was made for, if any.

    Returns:
        Predicted latency, memory, traffic and energy.

    Raises:
        UsageError: there is no such engine, the device does not run it, or it cannot run the plan.
    """
    workload = replace(workload, input_bits=input_bits(allocation.activations))
    storage, target = _planned_storage(allocation, device), planned_target(allocation, device, engine)
    workload = functions_of(allocation, workload, device, target)
    return simulate_storage(
        allocation.profile, storage, device, workload, inferences_per_s=inferences_per_s, target=target
    )


def functions_of(allocation: Allocation, workload: Workload, device: Device, target: EngineTarget | None) -> Workload:
    """Return a workload that states how functions are computed: as it says itself, else the plan, else the engine.

    Args:
        allocation: the plan; its functions count only on the device that it was made for.
        workload: sentences and tokens of one inference.
        device: the hardware.
        target: the engine, or None.

    Raises:
        InfeasibleError: the engine computes in integers, but no unit of the device can.
    """
    at_home = allocation.device is not None and allocation.device.name == device.id
    if workload.functions is None and at_home:
        workload = replace(workload, functions=planned_functions(allocation.functions))
    return with_functions(workload, allocation.profile, device, target)


def simulate_lengths(
    allocation: Allocation,
    device: Device,
    lengths: Mapping[int, float],
    *,
    batch_size: int = 1,
    inferences_per_s: float | None = None,
    engine: str | None = None,
    functions: Functions | None = None,
) -> MixReport:
    """Simulate a plan over a histogram of sequence lengths.

    Args:
        allocation: the plan.
        device: the hardware.
        lengths: tokens of a sentence -> frequency.
        batch_size: sentences per inference, all of the same length.
        inferences_per_s: rate of inferences; None leaves out power and bandwidth.
        engine: the engine that runs it; by default the one that the plan was made for, if any.
        functions: how softmax, LayerNorm and GELU are computed; None as in `functions_of`.

    Raises:
        DeviceError: the device cannot run the model at one of the lengths.
        UsageError: the rate is zero or less, or an engine as in `simulate_allocation`.
    """
    from hwmodels import simulate_mix

    check_rate(inferences_per_s)
    storage, integers = _planned_storage(allocation, device), input_bits(allocation.activations)
    target = planned_target(allocation, device, engine)
    own = replace(planned_workload(allocation), batch_size=batch_size, input_bits=integers, functions=functions)
    functions = functions_of(allocation, _of_length(own, max(lengths)), device, target).functions
    graphs = [
        (
            weight,
            model_graph(
                allocation.profile, storage, _of_length(replace(own, functions=functions), tokens), target=target
            ),
        )
        for tokens, weight in sorted(lengths.items())
    ]
    device = device_for(allocation.profile, device if target is None else target.on(device))
    with device_errors():
        return simulate_mix(graphs, device, inferences_per_s=inferences_per_s)


def _of_length(workload: Workload, tokens: int) -> Workload:
    """Return a workload with texts or prompts of another length, and a cache that is large enough for them."""
    context = workload.context
    return replace(workload, seq_len=tokens, context=None if context is None else max(context, tokens))


def planned_target(allocation: Allocation, device: Device, engine: str | None) -> EngineTarget | None:
    """Return the engine that runs a plan on a device; None if neither the user nor the plan names one.

    Args:
        allocation: the plan.
        device: the hardware.
        engine: the user's engine; None takes the plan's.

    Raises:
        UsageError: there is no such engine, the device does not run it, or it cannot run the plan.
    """
    name = engine or (allocation.engine.name if allocation.engine is not None else None)
    target = plan_target(name, static_inputs=input_bits(allocation.activations))
    if target is None or (engine is None and not target.runs_on(device)):
        return None  # a plan for one engine may be simulated on a device that runs another
    target.check_device(device)
    if (refused := refusal_of_plan(allocation, target)) is not None:
        raise UsageError(f"`engine` {name}: {refused}. Plan again for this engine.")
    return target


def _planned_storage(allocation: Allocation, device: Device) -> dict[str, Storage]:
    at_home = allocation.device is not None and allocation.device.name == device.id
    storage = {m.module: Storage(m.choice, at_home and m.residency == "resident") for m in allocation.matrices}
    return storage | {table.module: Storage(table.choice) for table in allocation.tables}


def simulate_baselines(
    allocation: Allocation,
    names: Sequence[str],
    device: Device,
    workload: Workload,
    *,
    inferences_per_s: float | None = None,
    engine: str | None = None,
) -> dict[str, CostReport | str]:
    """Simulate the baselines that a plan is compared with; one that the device cannot run gets the reason instead.

    Weights of baselines are packed and multiplied as the device does it, but tensors are as wide as in the plan's
    engine.

    Args:
        allocation: the plan, whose model and quantizer the baselines share.
        names: each is `fp32`, `fp16`, or `int2` to `int8`: the model stored so, with functions at the device's own
            rates. Or the plan itself with all functions computed by one integer method, such as `table`, or in `float`.
        device: the hardware.
        workload: sentences and tokens of one inference.
        inferences_per_s: rate of inferences, for power and bandwidth; None leaves them out.
        engine: the engine that runs the plan itself; by default the one that it was made for, if any.

    Raises:
        UsageError: a name is unknown.
    """
    reports: dict[str, CostReport | str] = {}
    target = planned_target(allocation, device, None)
    device = device if target is None else target.on(device)
    for name in names:
        functions: Functions | None = None
        if name == FLOAT or name in available("nonlinearities"):
            functions = FLOAT if name == FLOAT else Ways(name, name, name)
        storage, float_bits = (None, 0) if functions else baseline_storage(allocation, name)
        own = replace(workload, functions=functions)
        try:
            reports[name] = (
                simulate_allocation(allocation, device, own, inferences_per_s=inferences_per_s, engine=engine)
                if functions
                else simulate_storage(
                    allocation.profile, storage, device, own, float_bits=float_bits, inferences_per_s=inferences_per_s
                )
            )
        except DeviceError as error:
            reports[name] = str(error)
    return reports


def baseline_storage(allocation: Allocation, name: str) -> tuple[dict[str, Storage] | None, int]:
    """Return the storage of a baseline plan, and the bits of its floating-point weights.

    Args:
        allocation: the plan.
        name: `fp32`, `fp16`, or `int2` to `int8`: the same bits for all matrices, one range per row.

    Raises:
        UsageError: the name is unknown.
    """
    if name in ("fp32", "fp16"):
        return None, int(name[2:])
    bits = name.removeprefix("int")
    if not name.startswith("int") or whole_number(bits) not in ENGINE_BITS:
        stored = ["fp32", "fp16", *(f"int{b}" for b in ENGINE_BITS)]
        legal = ", ".join([*stored, *available("nonlinearities"), FLOAT])
        raise UsageError(f"`compare` {name}: legal: {legal}.")
    storage = Storage(Choice(int(bits), "rows:each", allocation.method))
    return {m.module: storage for m in allocation.matrices}, 16
