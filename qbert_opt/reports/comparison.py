"""The table for a decision: float32, uniform 8 and 4 bits and the plan, with predicted beside measured figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hwmodels import format_bytes

from ..evaluation.intervals import Interval
from .decoding import expected, peak_bytes
from .measurements import MeasuredModel
from .printing import with_error
from .rivals import FLOAT, Rival
from .verdict import Case, named_engines

ABSENT = "not measured"
UNPREDICTED = "not predicted"
VOID = "prediction void: trained after planning"


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell: the predicted and the measured figure; an empty text is not shown."""

    predicted: str
    measured: str = ""

    @property
    def is_missing(self) -> bool:
        """Whether the figure could have been measured but was not."""
        return self.measured == ABSENT

    @property
    def is_unpredicted(self) -> bool:
        """Whether `predicted` says that there is no prediction."""
        return self.predicted.startswith((UNPREDICTED, VOID))


@dataclass(frozen=True, slots=True)
class Line:
    """A row of a table: its name, a detail below the name, its cells, and whether it is the plan's own."""

    name: str
    detail: str
    cells: tuple[Cell, ...]
    own: bool = False


COLUMNS = ("bytes", "accuracy drop, points", "answers changed, %", "loss", "latency", "memory", "runs today in")


def comparison_lines(case: Case) -> tuple[Line, ...]:
    """Return float32, uniform 8-bit, uniform 4-bit and the plan, with a cell for each of `COLUMNS`.

    Args:
        case: the plan with its rivals, measurements and devices.
    """
    found = case.measurements
    measured_by_name = {
        FLOAT: found.original,
        case.rivals[1].name: found.uniform_8bit,
        case.rivals[-1].name: found.plan,
    }
    lines = []
    for rival in case.rivals:
        same_size = (m for m in found.others if m.encoder_bytes == rival.encoder_bytes)
        measured = measured_by_name.get(rival.name) or next(same_size, None)
        lines.append(Line(rival.name, rival.detail, _cells(case, rival, measured), rival is case.rivals[-1]))
    return tuple(lines)


def measuring_commands(lines: Sequence[Line], *, decoder: bool = False) -> tuple[str, ...]:
    """Return commands that measure what is missing in the plan's own row; none if nothing is missing.

    Args:
        lines: the comparison.
        decoder: whether the model is a decoder, which `optimize` does not support.
    """
    cells = dict(zip(COLUMNS, next(line.cells for line in lines if line.own), strict=True))
    commands = []
    quality = any(cells[name].is_missing for name in COLUMNS[1:4])
    if quality or cells["latency"].is_missing or cells["memory"].is_missing:
        timed = not decoder and (cells["latency"].is_missing or cells["memory"].is_missing)
        engine = " --engine ENGINE" if timed else ""
        commands.append(
            f"qbert-opt evaluate FOLDER --data TEXT --reference MODEL{engine} --json > measured.json   "
            "(FOLDER: the quantized or exported folder; then report --measured measured.json)"
        )
    if not decoder and any(cell.is_missing for line in lines if not line.own for cell in line.cells):
        commands.append(
            "qbert-opt optimize --model MODEL --data TEXT --engine ENGINE … -o OUT   (measures float32, uniform 8-bit "
            "and the plan in one run; then report OUT/allocation.json --measured OUT/optimized.json)"
        )
    return tuple(commands)


def _cells(case: Case, rival: Rival, measured: MeasuredModel | None) -> tuple[Cell, ...]:
    is_float = rival.name == FLOAT
    void = case.is_trained and rival is case.rivals[-1]
    return (
        _bytes(rival, measured),
        _share(measured, lambda m: m.drop, lambda m: m.predicted_drop, is_float),
        _share(measured, lambda m: m.flips, lambda m: m.predicted_flips, is_float),
        _loss(case, rival, measured, void),
        _latency(case, rival, measured),
        _memory(case, rival, measured),
        Cell(engines_text(rival.engines)),
    )


def _bytes(rival: Rival, measured: MeasuredModel | None) -> Cell:
    sizes = f"{rival.total_bytes / 1e6:.2f} MB whole model, {rival.encoder_bytes / 1e6:.2f} MB matrices"
    if rival.engine_bytes is not None:
        sizes += f", {rival.engine_bytes / 1e6:.2f} MB engine file"
    if measured is None or measured.engine_bytes is None:
        return Cell(sizes)
    return Cell(sizes, f"{measured.engine_bytes / 1e6:.2f} MB engine file")


def _share(
    measured: MeasuredModel | None,
    value: Callable[[MeasuredModel], Interval | None],
    prediction: Callable[[MeasuredModel], Interval | None],
    is_float: bool,
) -> Cell:
    if is_float:
        return Cell("0: the reference")
    predicted = None if measured is None else prediction(measured)
    found = None if measured is None else value(measured)
    return Cell(
        UNPREDICTED if predicted is None else _interval(predicted, 100, ".2f"),
        ABSENT if found is None else _interval(found, 100, ".2f"),
    )


def _loss(case: Case, rival: Rival, measured: MeasuredModel | None, void: bool) -> Cell:
    if rival.name == FLOAT:
        return Cell("0: the reference")
    back = None if case.quantized is None or rival is not case.rivals[-1] else case.quantized.read_back
    if measured is not None and measured.loss is not None:
        found = _interval(measured.loss, 1, ".3g")
    elif back is not None:
        found = f"{back.loss:.3g} on {back.num_texts} texts, when written"
    else:
        found = ABSENT
    if void:
        return Cell(VOID, found)
    if rival.predicted_loss is None:
        return Cell(f"{UNPREDICTED}: give --scores", found)
    return Cell(with_error(rival.predicted_loss, rival.predicted_std_error), found)


def _latency(case: Case, rival: Rival, measured: MeasuredModel | None) -> Cell:
    cost = rival.cost(case.device)
    predicted = f"{UNPREDICTED}: give --device"
    if cost is not None:
        took = "" if isinstance(cost, str) else expected(cost, rival.token(case.device), case.workload)
        predicted = f"cannot run: {cost}" if isinstance(cost, str) else f"{took} on {cost.device}"
    if measured is None or measured.latency_s is None:
        return Cell(predicted, ABSENT)
    return Cell(predicted, f"{1e3 * measured.latency_s:.3g} ms" + (f" in {measured.engine}" if measured.engine else ""))


def _memory(case: Case, rival: Rival, measured: MeasuredModel | None) -> Cell:
    cost = rival.cost(case.device)
    predicted = UNPREDICTED
    if cost is not None and not isinstance(cost, str):
        predicted = format_bytes(peak_bytes(cost, rival.token(case.device)))
    if measured is None or measured.memory_bytes is None:
        return Cell(predicted, ABSENT)
    return Cell(predicted, f"{format_bytes(measured.memory_bytes)} private")


def engines_text(names: tuple[str, ...] | None) -> str:
    """Return the engines that run a plan, as text.

    Args:
        names: names of engines; None if the device's engines are not known.
    """
    if names is None:
        return "not known for this device"
    return named_engines(names) or "no engine"


def _interval(figure: Interval, factor: float, form: str) -> str:
    return f"{factor * figure.value:{form}} [{factor * figure.low:{form}}, {factor * figure.high:{form}}]"
