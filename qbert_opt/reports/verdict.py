"""The verdict of a report in words: which plan to take, what it costs on the device, and what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hwmodels import format_bytes

from ..costs.workload import Workload
from ..spec.allocation import Allocation
from .decoding import broken_limits, expected, peak_bytes
from .measurements import Measurements
from .optimized import uniform_line, verdict
from .plan import better_uniform
from .printing import with_error
from .rivals import Rival

if TYPE_CHECKING:
    from hwmodels import Device

    from ..checkpoint.record import FolderRecord
    from ..engines.record import EngineRecord


@dataclass(frozen=True, slots=True)
class Case:
    """A case to decide: the plan, its rivals, and what is known about them.

    Attributes:
        plan: the plan.
        rivals: float32, uniform 8-bit, uniform 4-bit and the plan.
        measurements: what was measured.
        devices: the first is the one to decide on.
        record: record of the quantized or exported folder that the report describes; None for a plan alone.
        workload: the workload that the rivals are priced with.
    """

    plan: Allocation
    rivals: tuple[Rival, ...]
    measurements: Measurements
    devices: tuple[Device, ...] = ()
    record: FolderRecord | EngineRecord | None = None
    workload: Workload = field(default_factory=Workload)

    @property
    def device(self) -> Device | None:
        """The device to decide on."""
        return self.devices[0] if self.devices else None

    @property
    def is_trained(self) -> bool:
        """Whether the codes were trained after planning, which voids every prediction of quality."""
        return self.record is not None and bool(self.record.trained_on)

    @property
    def quantized(self) -> FolderRecord | None:
        """The record, if it is a quantized folder's."""
        from ..engines.record import EngineRecord

        return None if isinstance(self.record, EngineRecord) else self.record


def verdict_lines(case: Case) -> list[str]:
    """Return the verdict, one or two sentences per line; the first says which plan to take.

    Args:
        case: the case to decide.
    """
    lines = [_trained(case)] if case.is_trained else [_choice(case)]
    lines += [line for line in (_on_device(case), _engines(case), _measured(case)) if line]
    return lines


def trust(confidence: str) -> str:
    """Return how far a device's predicted latency can be trusted, in a few words.

    Args:
        confidence: confidence of the device file.
    """
    return {
        "theoretical": "no measurement of this device: a band that ranks plans",
        "partly-measured": "some figures of this device were measured: a band",
        "calibrated": "calibrated: interval of the error on held-out models",
    }[confidence]


def _choice(case: Case) -> str:
    """Return a sentence that says which model to take, from measurements if there are any, else from predictions."""
    outcome, plan = case.measurements.outcome, case.plan
    if outcome is not None:
        suffices = outcome.uniform is not None and outcome.uniform_suffices
        line = uniform_line(outcome, outcome.uniform) if suffices and outcome.uniform is not None else verdict(outcome)
        return line[:1].upper() + line[1:]
    original, int8, *_, own = case.rivals
    size = f"{own.total_bytes / 1e6:.2f} MB, {original.total_bytes / own.total_bytes:.1f} times smaller than float32"
    loss = f"{with_error(plan.predicted_loss, plan.predicted_std_error)} {plan.loss_unit}"
    better = better_uniform(plan)
    if better is not None:
        return (
            f"Take {better.choice} for every matrix: it is predicted to lose less than this plan "
            f"({better.predicted_loss:.3g} against {plan.predicted_loss:.3g}) within the same limits."
        )
    if plan.status != "unproven" and plan.limits and int8.broken == () and _loses_less(int8, own):
        saved = int8.total_bytes - own.total_bytes
        least = (
            f"unless {saved / 1e6:.2f} MB ({100 * saved / int8.total_bytes:.0f} %) matter"
            if saved > 0
            else "which is no larger"
        )
        return f"Uniform 8-bit meets every limit and is predicted to lose less: take it, {least}. This plan: {size}."
    against = f"{100 * (1 - own.total_bytes / int8.total_bytes):.0f} % smaller than uniform 8-bit"
    if int8.broken:
        against += f", which breaks {', '.join(int8.broken)}"
    if own.predicted_loss is None:
        return f"This plan: {size} and {against}. Its loss is not predicted, because it was made without scores."
    return f"Take this plan: {size} and {against}. Predicted loss {loss}."


def _loses_less(one: Rival, other: Rival) -> bool:
    if one.predicted_loss is None or other.predicted_loss is None:
        return False
    return one.predicted_loss < other.predicted_loss


def _trained(case: Case) -> str:
    own = case.rivals[-1]
    training = None if case.quantized is None else case.quantized.training
    how = "" if training is None else f" on {training.num_texts} texts of {training.data}"
    return (
        f"{own.total_bytes / 1e6:.2f} MB. Its codes were trained{how} after planning, so the plan's predicted loss is "
        "void: nothing is promised until it is measured."
    )


def _on_device(case: Case) -> str:
    if case.device is None:
        return "No device was given: give --device to see latency and memory."
    cost = case.rivals[-1].cost(case.device)
    if cost is None or isinstance(cost, str):
        return f"{case.device.id} cannot run this plan: {cost}"
    token = case.rivals[-1].token(case.device)
    broken = broken_limits(cost, token)
    limits = f"over its limits: {'; '.join(broken)}" if broken else "within its limits"
    each = " per inference" if token is None else ""
    return (
        f"On {case.device.id}: {expected(cost, token, case.workload)}{each} ({trust(cost.confidence)}), peak memory "
        f"{format_bytes(peak_bytes(cost, token))}, {limits}."
    )


def _engines(case: Case) -> str:
    own = case.rivals[-1]
    where = "" if case.device is None else f" of {case.device.id}"
    if own.engines is None:
        return f"Which engines run on{where.removeprefix(' of')} is not known."
    if own.engines:
        return f"Runs today in {named_engines(own.engines)}."
    line = f"No engine{where} runs it today"
    outlook = case.plan.outlook
    if outlook is not None and outlook.custom:
        line += f"; it needs custom kernels for {', '.join(outlook.custom)}"
    if outlook is not None and outlook.instead is not None and outlook.loss_ratio is not None:
        line += (
            f"; a plan for {outlook.instead} under the same limits loses {outlook.loss_ratio:.2g} times as much "
            f"(--engine {outlook.instead})"
        )
    elif outlook is not None and outlook.reason and case.plan.profile.causal:
        line += f"; {outlook.reason}"
    return f"{line}."


def named_engines(engines: Sequence[str]) -> str:
    """Return the names of engines as text, with a remark on torch, which does not compute with codes.

    Args:
        engines: their names.
    """
    return ", ".join("torch (dequantized)" if name == "torch" else name for name in engines)


def _measured(case: Case) -> str:
    return "; ".join(_measured_parts(case)) + "."


def _measured_parts(case: Case) -> Iterator[str]:
    own, plan = case.measurements.plan, case.plan
    if own is None:
        record = case.quantized
        if record is not None and record.read_back is not None:
            back = record.read_back
            yield f"Measured when the folder was written: loss {back.loss:.3g} on {back.num_texts} texts of {back.data}"
        yield "Accuracy was not measured"
        return
    texts = "" if own.num_texts is None else f" on {own.num_texts} texts"
    if own.loss is not None:
        ratio = ""
        if not case.is_trained and plan.predicted_loss > 0:
            ratio = f", {own.loss.value / plan.predicted_loss:.2f} times the predicted one"
        yield f"Measured{texts}: loss {own.loss.value:.3g} [{own.loss.low:.3g}, {own.loss.high:.3g}]{ratio}"
    if own.drop is not None:
        drop = own.drop
        yield f"accuracy drops by {100 * drop.value:.2f} points [{100 * drop.low:.2f}, {100 * drop.high:.2f}]"
    if own.flips is not None:
        flips = own.flips
        yield f"{100 * flips.value:.2f} % of answers change [{100 * flips.low:.2f}, {100 * flips.high:.2f}]"
