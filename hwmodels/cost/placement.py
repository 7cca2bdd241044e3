"""Which unit runs an operation, and in which format: the first that can, or the rule that forbids it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..device.parts import Rate
from ..device.vocabulary import FLOAT_TYPES
from .operation import IntegerWork, Operation, StoredWeight

if TYPE_CHECKING:
    from ..device.description import Device
    from ..device.parts import Format, Memory, Rule, Unit
    from ..device.vocabulary import NumberType

INTEGERS: dict[NumberType, int] = {"int4": 4, "int8": 8, "int16": 16}
OWN_BITS = 8  # at least, of inputs whose width an operation leaves to the device: none rounds to 4 bits by itself
ELEMENTARY = {
    "multiplies": "multiplications", "additions": "additions", "table_reads": "table reads", "divisions": "divisions"
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Placement:
    """Where an operation runs.

    Attributes:
        unit: the unit that runs it.
        rate: the unit's rate for it.
        path: the memories that feed the unit, nearest first.
        format: format of the weights; None without weights.
    """

    unit: Unit
    rate: Rate
    path: tuple[Memory, ...]
    format: Format | None

    @property
    def type(self) -> NumberType | None:
        """The type of the arithmetic: the rate's, or the format's where nothing is multiplied."""
        return self.rate.type or (self.format.compute if self.format else None)

    @property
    def label(self) -> str:
        """What to print for the format."""
        return self.format.id if self.format else self.rate.type or self.rate.op


def place(op: Operation, device: Device) -> Placement | str:
    """Choose the unit and format that run an operation.

    Args:
        op: the operation with its stored weight.
        device: the hardware; its units are tried in the order of the file.

    Returns:
        The placement, or the reason why no unit runs the operation, in words.
    """
    for rule in device.rules:
        if _forbids(rule, op):
            return f"found {_weight_text(op)}; legal is what rule {rule.id!r} allows: {rule.because}; choose another"
    needs_format = _needs_format(op)
    reasons: list[str] = []
    for unit in device.units:
        path = device.path(unit)
        if op.weight and op.weight.resident and device.scratchpad not in path:
            reasons.append(f"{unit.id} reaches no scratchpad for resident weights")
            continue
        lacking = _lacking(unit, op, path[0].usable_bytes)
        if lacking is not None:
            reasons.append(lacking)
            continue
        for form in device.formats if needs_format else (None,):
            if form is not None and unit.id not in form.units:
                continue
            refusal = _refusal(form, op)
            if refusal is not None:
                reasons.append(refusal)
                continue
            compute = _compute_type(form, op)
            in_floats = op.arithmetic is not None and not op.is_pointwise and not is_measured(form)
            rate = _float_rate(unit, op) if in_floats else _rate(unit, op.kind, compute)
            if op.integers is not None and unit.integers is not None:
                rate = _integer_rate(unit, op.kind, op.integers)
            if rate is not None:
                return Placement(unit, rate, path, form)
            if in_floats:
                reasons.append(f"{unit.id} multiplies no floats, which the engine needs here")
            elif form is not None and compute != form.compute:
                reasons.append(f"{unit.id} multiplies no {compute}, which inputs of {_input_bits(op)} bits need")
    return _why_nowhere(op, device, reasons)


def _lacking(unit: Unit, op: Operation, nearest_bytes: int) -> str | None:
    """Return what a unit lacks for a pointwise operation in integers or in floating point, None if nothing."""
    if op.is_pointwise and op.arithmetic is not None:
        if not unit.has_floats:
            return f"{unit.id} has no floating point"
        return None if _rate(unit, "elementwise", None) else f"{unit.id} states no rate for converting integers"
    if op.integers is None:
        return None
    if unit.integers is None:
        return f"{unit.id} states no rates of elementary integer operations"
    for part, name in ELEMENTARY.items():
        if getattr(op.integers, part) and getattr(unit.integers, part) is None:
            return f"{unit.id} has no {name}"
    room = nearest_bytes if unit.integers.table_bytes is None else unit.integers.table_bytes
    if op.integers.table_bytes > room:
        return f"{unit.id} holds tables of {room} bytes, not {op.integers.table_bytes}"
    return None


def _integer_rate(unit: Unit, kind: str, work: IntegerWork) -> Rate:
    """Return the elements per cycle of a function in integers: its elementary operations one after the other."""
    cycles = sum(getattr(work, part) / getattr(unit.integers, part) for part in ELEMENTARY if getattr(work, part))
    return Rate.model_construct(op=kind, per_cycle=1 / cycles)


def _forbids(rule: Rule, op: Operation) -> bool:
    weight = op.weight
    if weight is None or op.kind != "gemm":
        return False
    return (
        weight.run_bits in (rule.bits or (weight.run_bits,))
        and weight.axis == (rule.axis or weight.axis)
        and weight.group_size in (rule.group_sizes or (weight.group_size,))
        and not (rule.ragged and (weight.axis != "columns" or op.k % weight.group_size == 0))
        and op.n < (rule.outputs_below or op.n + 1)
    )


def _needs_format(op: Operation) -> bool:
    """Whether a unit must know the codes: floats beside pointwise work and in tables are read as they are."""
    if op.weight is None:
        return False
    return op.kind == "gemm" or op.weight.axis != "none"


def _compute_type(form: Format | None, op: Operation) -> NumberType | None:
    """Return the format's type, or the integers that hold the operation's inputs where those are wider."""
    if form is not None and form.compute in INTEGERS and _input_bits(op) > INTEGERS[form.compute]:
        return next(name for name, bits in INTEGERS.items() if bits >= _input_bits(op))
    return form.compute if form else None


def _input_bits(op: Operation) -> int:
    return OWN_BITS if op.input_bits is None else op.input_bits


def _rate(unit: Unit, kind: str, compute: NumberType | None) -> Rate | None:
    """Return the unit's rate for a kind; products of activations and copies have fallbacks that every unit has."""
    fallbacks = {"matmul": ("matmul", "gemm"), "gather": ("gather", "elementwise"), "append": ("append", "elementwise")}
    for op in fallbacks.get(kind, (kind,)):
        for rate in unit.rates:
            if rate.op == op and (kind != "gemm" or compute is None or rate.type == compute):
                return rate
    return None


def is_measured(form: Format | None) -> bool:
    """Return whether the device file has measured products in a format, in whatever type the engine ran them.

    Args:
        form: of stored weights; None without weights.
    """
    return form is not None and bool(form.efficiency_by_rows or form.efficiency_by_shape)


def _float_rate(unit: Unit, op: Operation) -> Rate | None:
    """Return the unit's rate in the operation's floating-point type, or in another one if it lacks that type."""
    stated = [rate for rate in unit.rates if rate.op == "matmul"] if op.kind == "matmul" else []
    floats = [rate for rate in unit.rates if rate.op == "gemm" and rate.type in FLOAT_TYPES]
    return next(iter(stated or [rate for rate in floats if rate.type == op.arithmetic] or floats), None)


def _refusal(form: Format | None, op: Operation) -> str | None:
    """Return why a format cannot hold the operation's weights ("" where bits or axis differ), None where it can."""
    weight = op.weight
    if form is None or weight is None:
        return None
    if (form.weight_bits, form.axis) != (weight.run_bits, weight.axis):
        return ""
    if form.axis == "columns" and weight.group_size not in form.group_sizes:
        return f"{form.id} takes groups of {_or(form.group_sizes)} inputs, not {weight.group_size}"
    if form.row_groups and not _row_groups_match(form, op, weight):
        return f"{form.id} takes {_or(form.row_groups)} row groups, not {weight.num_groups}"
    if op.k % form.k_multiple or op.n % form.n_multiple:
        return f"{form.id} takes inputs in multiples of {form.k_multiple} and outputs of {form.n_multiple}"
    return None


def _row_groups_match(form: Format, op: Operation, weight: StoredWeight) -> bool:
    rows = op.k if op.kind == "gather" else op.n
    return any(weight.num_groups == (rows if legal == "every-row" else legal) for legal in form.row_groups)


def _why_nowhere(op: Operation, device: Device, reasons: list[str]) -> str:
    distinct = list(dict.fromkeys(reason for reason in reasons if reason))
    if distinct:
        other = "way" if op.is_pointwise else "format"
        return f"found {_weight_text(op)}; {'; '.join(distinct)}; choose another {other}"
    legal = sorted({(form.weight_bits, form.axis) for form in device.formats})
    formats = ", ".join(f"{bits} bits {axis}" for bits, axis in legal)
    return f"found {_weight_text(op)}; legal on {device.id}: {formats}; choose one of these"


def _weight_text(op: Operation) -> str:
    if op.integers is not None:
        return f"a {op.kind} in integers"
    if op.is_pointwise and op.arithmetic is not None:
        return f"a {op.kind} in {op.arithmetic}"
    if op.weight is None:
        return f"a {op.kind} that no unit runs"
    where = "resident " if op.weight.resident else ""
    return f"{where}{op.weight.run_bits}-bit weights along {op.weight.axis} in a {op.kind}"


def _or(values: tuple[object, ...]) -> str:
    return " or ".join(map(str, values))
