"""The alternatives of a decision: the float model, uniform 8 and 4 bits, and the plan, each priced on the devices."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from ..costs.engine_target import engine_target
from ..costs.phases import simulate_phases, simulate_plan
from ..costs.stored import Storage, refusal_of_plan, table_choices
from ..costs.workload import Workload
from ..engines.session import rules_of
from ..errors import QbertOptError
from ..planning.assembly import with_activations
from ..planning.plan_bytes import engine_file
from ..planning.recipes import given_allocation, uniform_allocation
from ..runtime.plugins import available
from ..spec.allocation import Allocation
from ..spec.choices import Choice, choice
from ..spec.quantities import measured
from ..spec.scores import ScoreTable

if TYPE_CHECKING:
    from hwmodels import CostReport, Device

FLOAT = "float32"
FLOAT_BITS = 32
UNSCORED = "none"  # metric of a plan that was made without scores
UNIFORM_BITS = (8, 4)


@dataclass(frozen=True, slots=True)
class Rival:
    """One model of the comparison.

    Attributes:
        name: for example `uniform 8-bit`.
        detail: its choice, or empty.
        encoder_bytes: packed bytes of its matrices.
        total_bytes: packed bytes of the whole stored model.
        engine_bytes: predicted bytes of the file of the plan's engine; None without such an engine.
        predicted_loss: predicted loss relative to float32; None if nothing predicts it.
        predicted_std_error: standard error of `predicted_loss`; None if it is not known.
        costs: predicted cost by device, for a decoder that of the prompt; a text says why the device cannot run it.
        engines: engines that run it today; None if the device's engines are not known.
        broken: limits of the plan that it does not meet; None if that cannot be determined.
        plan: its plan; None for the float model.
        tokens: cost of a decoder's token with a full cache, by device, for devices that can run it.
    """

    name: str
    detail: str
    encoder_bytes: int
    total_bytes: int
    engine_bytes: int | None
    predicted_loss: float | None
    predicted_std_error: float | None
    costs: Mapping[str, CostReport | str]
    engines: tuple[str, ...] | None
    broken: tuple[str, ...] | None = None
    plan: Allocation | None = None
    tokens: Mapping[str, CostReport] = field(default_factory=dict)

    def cost(self, device: Device | None) -> CostReport | str | None:
        """Return the predicted cost on a device.

        Args:
            device: a device that it was priced on, or None.

        Returns:
            The cost, or a text that says why the device cannot run it; None without a device.
        """
        return None if device is None else self.costs[device.id]

    def token(self, device: Device | None) -> CostReport | None:
        """Return the predicted cost of a decoder's token; None for an encoder, or if the device cannot run it.

        Args:
            device: a device that it was priced on, or None.
        """
        return None if device is None else self.tokens.get(device.id)


def rivals(
    plan: Allocation,
    scores: ScoreTable | None = None,
    devices: Sequence[Device] = (),
    workload: Workload | None = None,
    uniform_8bit: str | None = None,
) -> tuple[Rival, ...]:
    """Return the float model, uniform 8 and 4 bits, and the plan.

    Args:
        plan: the plan.
        scores: the scores that it was made from; without them a uniform plan has no predicted loss unless the plan
            lists it.
        devices: the first is the one to decide on.
        workload: sentences and tokens of one inference; None is one sentence of 128 tokens.
        uniform_8bit: name of the uniform 8-bit choice that was measured; None picks one.
    """
    workload = workload or Workload()
    device = devices[0] if devices else None
    own = _priced(plan, "this plan", "", devices, workload, plan)
    uniform = []
    for bits in UNIFORM_BITS:
        chosen = (
            choice(uniform_8bit) if bits == UNIFORM_BITS[0] and uniform_8bit else _uniform_choice(plan, scores, bits)
        )
        rival = _uniform_plan(plan, scores, chosen)
        priced = _priced(rival, f"uniform {bits}-bit", chosen.grouping, devices, workload, plan)
        if rival.metric == UNSCORED:
            loss, error = _listed_loss(plan, chosen)
            priced = replace(priced, predicted_loss=loss, predicted_std_error=error)
        uniform.append(priced)
    return (_float(plan, devices, workload, _engine_names(device)), *uniform, own)


def running_engines(plan: Allocation, names: Iterable[str]) -> tuple[str, ...]:
    """Return the engines that run a plan unchanged.

    Args:
        plan: the plan.
        names: names of the engines to check.
    """
    static = [module for item in plan.activations if item.scheme == "tensor" for module in item.modules]
    targets = (engine_target(name, static) for name in names if rules_of(name).takes(**plan.profile.engine_needs))
    return tuple(target.name for target in targets if target is not None and refusal_of_plan(plan, target) is None)


def _engine_names(device: Device | None) -> tuple[str, ...] | None:
    """Return the engines of a device; all engines without a device, None if the device does not list any."""
    return tuple(available("engines")) if device is None else device.engines


def _float(plan: Allocation, devices: Sequence[Device], workload: Workload, names: tuple[str, ...] | None) -> Rival:
    profile = plan.profile
    costs, tokens = _costs(
        devices, lambda device: simulate_phases(profile, None, device, workload, float_bits=FLOAT_BITS)
    )
    # an engine that multiplies even activations by activations in integers cannot run the float model
    rules = {name: rules_of(name) for name in names or ()}
    runs = (
        name for name, own in rules.items() if "matmul" not in own.integer_inputs and own.takes(**profile.engine_needs)
    )
    engines = None if names is None else tuple(runs)
    return Rival(
        FLOAT, "", 4 * profile.encoder_elements, profile.float_bytes, None, 0.0, None, costs, engines, tokens=tokens,
    )  # fmt: skip


def _priced(
    plan: Allocation, name: str, detail: str, devices: Sequence[Device], workload: Workload, ours: Allocation
) -> Rival:
    costs, tokens = _costs(devices, lambda device: simulate_plan(plan, device, workload))
    names = _engine_names(devices[0] if devices else None)
    return Rival(
        name,
        detail,
        plan.encoder_bytes,
        plan.total_bytes,
        None if plan.engine is None else plan.engine.total_bytes,
        None if plan.metric == UNSCORED else plan.predicted_loss,
        None if plan.metric == UNSCORED else plan.predicted_std_error,
        costs,
        None if names is None else running_engines(plan, names),
        _broken(plan, ours, costs, tokens),
        plan,
        tokens,
    )


def _costs(
    devices: Sequence[Device], simulate: Callable[[Device], tuple[CostReport, CostReport | None]]
) -> tuple[dict[str, CostReport | str], dict[str, CostReport]]:
    """Return the cost of a model on each device, and that of a decoder's token."""
    costs: dict[str, CostReport | str] = {}
    tokens: dict[str, CostReport] = {}
    for device in devices:
        try:
            costs[device.id], token = simulate(device)
        except QbertOptError as error:
            costs[device.id] = _reason(error, device)
            continue
        if token is not None:
            tokens[device.id] = token
    return costs, tokens


def _reason(error: QbertOptError, device: Device) -> str:
    """Return an error's reason why a device cannot run a model, without the list of what it can run."""
    return str(error).removeprefix(f"{device.id}: ").partition(";")[0]


def _broken(
    plan: Allocation, ours: Allocation, costs: Mapping[str, CostReport | str], tokens: Mapping[str, CostReport]
) -> tuple[str, ...] | None:
    """Return the sources of our plan's limits that another plan does not meet; None if one cannot be priced."""
    file = plan if plan.engine is None else plan.engine
    report = None if ours.device is None else costs.get(ours.device.name)
    token = None if ours.device is None else tokens.get(ours.device.name)
    unknown = {"bandwidth_bytes_per_s", "energy_bound_j", "token_bound_s"}
    broken = []
    for limit in ours.limits:
        if limit.resource in ("encoder_bytes", "total_bytes"):
            used = float(getattr(file, limit.resource))
        elif limit.resource in ("sum_of_scores", "predicted_loss"):
            used = getattr(plan, limit.resource)
        elif report is None or isinstance(report, str) or limit.resource in unknown:
            return None
        else:
            used = measured(report, limit.resource, token)
        if used > limit.capacity:
            broken.append(limit.source)
    return tuple(broken)


def _uniform_choice(plan: Allocation, scores: ScoreTable | None, bits: int) -> Choice:
    """Return the uniform choice of a width: plain int8 if it was scored, else the one predicted to lose least.

    Only choices that the plan's engine runs count.
    """
    rules = None if plan.engine is None else rules_of(plan.engine.name)
    default = Choice(bits, "rows:each", plan.method, rules.forms[0] if rules is not None and rules.forms else "offset")
    if scores is None:
        listed = [choice(rival.choice) for rival in plan.uniform]
        return next((c for c in listed if c.bits == bits), default)
    shapes = [(m.rows, m.columns) for m in scores.profile.matrices]
    value = scores.values()
    legal = {
        c: float(value[:, j].sum())
        for j, c in enumerate(map(choice, scores.choices))
        if c.bits == bits
        and np.isfinite(value[:, j]).all()
        and (rules is None or all(rules.refusal(c, shape) is None for shape in shapes))
    }
    plain = next((c for c in legal if bits == 8 and c.grouping == "rows:each"), None)
    return plain or min(legal, key=legal.__getitem__, default=default)


def _uniform_plan(plan: Allocation, scores: ScoreTable | None, chosen: Choice) -> Allocation:
    """Return a plan with one choice for every matrix, and with the inputs and the engine of our plan."""
    static = [module for item in plan.activations if item.scheme == "tensor" for module in item.modules]
    target = None if plan.engine is None else engine_target(plan.engine.name, static)
    tables = {} if target is None else table_choices(plan.profile, target)
    if scores is not None and chosen.name in scores.choices:
        uniform = uniform_allocation(scores, chosen, tables=tables)
        uniform = with_activations(uniform, plan.activations) if plan.activations else uniform
    else:
        uniform = given_allocation(plan.profile, {m.module: chosen for m in plan.profile.matrices} | tables)
        uniform = uniform.model_copy(update={"activations": plan.activations})
    if target is None:
        return uniform
    storage = {m.module: Storage(chosen) for m in plan.profile.matrices}
    storage |= {module: Storage(stored) for module, stored in tables.items()}
    return uniform.model_copy(update={"engine": engine_file(plan.profile, storage, target)})


def _listed_loss(plan: Allocation, chosen: Choice) -> tuple[float | None, float | None]:
    """Return loss and standard error of a uniform choice if the plan lists it, else None."""
    listed = next((rival for rival in plan.uniform if rival.choice == chosen.name), None)
    return (None, None) if listed is None else (listed.predicted_loss, listed.predicted_std_error)
