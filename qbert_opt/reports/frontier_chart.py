"""The layout of the frontier in the HTML report: curve, error bars, marks, and labels that cover none of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ..planning.frontier import TradeOff
from ..spec.allocation import Allocation
from ..spec.choices import choice
from .measurements import MeasuredModel

MAX_POINTS = 1500
LEFT, RIGHT, TOP, BOTTOM = 64, 12, 12, 46  # margins, px
CHARACTER, LINE = 6.6, 14.0  # largest width and height of a character of 11 px
CLEAR = 2.0  # px that stay free around a label
RINGS = (10.0, 18.0, 30.0, 46.0, 66.0, 90.0, 120.0)  # distances of a label from its mark in px, tried in order
DIRECTIONS = ((1, -1), (-1, -1), (1, 1), (-1, 1), (0, -1), (0, 1), (1, 0), (-1, 0))
MARK = 6.0  # half the size of a mark, px


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in px, y downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        """Whether two rectangles have a point in common.

        Args:
            other: a rectangle.
        """
        apart = self.right < other.left or other.right < self.left or self.bottom < other.top or other.bottom < self.top
        return not apart


@dataclass(frozen=True, slots=True)
class Label:
    """A text and its position.

    Attributes:
        text: the text.
        box: the area that it covers.
        mark: centre of the mark that it names.
    """

    text: str
    box: Box
    mark: tuple[float, float]


def place_labels(wanted: Sequence[tuple[str, float, float]], taken: Sequence[Box], frame: Box) -> tuple[Label, ...]:
    """Place labels beside their marks so that they cover nothing; a label that does not fit is left out.

    Args:
        wanted: text and centre of the mark of each label, the most important first.
        taken: areas that must stay visible.
        frame: the area in which labels may be placed.
    """
    placed: list[Label] = []
    covered = list(taken)
    for text, x, y in wanted:
        for box in _candidates(text, x, y):
            inside = frame.left <= box.left and box.right <= frame.right
            inside = inside and frame.top <= box.top and box.bottom <= frame.bottom
            if inside and not any(box.meets(other) for other in covered):
                placed.append(Label(text, box, (x, y)))
                covered.append(box)
                break
    return tuple(placed)


def _candidates(text: str, x: float, y: float) -> Iterator[Box]:
    width, height = CHARACTER * len(text) + 2 * CLEAR, LINE
    for ring in RINGS:
        for right, down in DIRECTIONS:
            middle = x + right * (ring + width / 2) * (1 if right else 0)
            level = y + down * (ring + (height / 2 if not right else 0))
            yield Box(middle - width / 2, level - height / 2, middle + width / 2, level + height / 2)


@dataclass(frozen=True, slots=True)
class _Scale:
    """Encoder bytes in MB across, the loss's logarithm upwards."""

    left: float
    right: float
    low: float
    high: float
    width: int
    height: int

    def x(self, megabytes: float) -> float:
        share = (megabytes - self.left) / (self.right - self.left)
        return round(LEFT + (self.width - LEFT - RIGHT) * share, 1)

    def y(self, loss: float) -> float:
        level = math.log10(loss) if loss > 0 else self.low
        level = min(max(level, self.low), self.high)
        return round(
            self.height - BOTTOM - (self.height - TOP - BOTTOM) * (level - self.low) / (self.high - self.low), 1
        )

    def whisker(self, megabytes: float, low: float, high: float) -> dict[str, float]:
        return {"x": self.x(megabytes), "low": self.y(low), "high": self.y(high)}


def frontier_chart(
    plan: Allocation,
    trade_off: TradeOff,
    measured: Sequence[MeasuredModel] = (),
    *,
    width: int,
    height: int,
    own_loss: bool = True,
) -> dict[str, Any] | None:
    """Place predicted loss, on a logarithmic axis, over encoder bytes in MB.

    Args:
        plan: the plan that is marked as the chosen one.
        trade_off: frontier of at least one plan; more than 1,500 plans are thinned.
        measured: measured models to show too; those without bytes or loss are left out.
        width: of the chart, px.
        height: of the chart, px.
        own_loss: whether the plan's predicted loss holds; it does not after training.

    Returns:
        Paths, ticks, marks and labels in px; None if no loss is above 0.
    """
    known = sorted(trade_off.points, key=lambda p: p.usage["encoder_bytes"])
    known = known[:: max(1, len(known) // MAX_POINTS)]
    points = [(p.usage["encoder_bytes"] / 1e6, p.predicted_loss, p.predicted_std_error or 0.0) for p in known]
    uniform = [
        (u.usage["encoder_bytes"] / 1e6, u.predicted_loss, u.predicted_std_error or 0.0, u.choice)
        for u in trade_off.uniform
    ]
    seen = [
        (m.encoder_bytes / 1e6, m.loss, m.name) for m in measured if m.encoder_bytes is not None and m.loss is not None
    ]
    own = [(plan.encoder_bytes / 1e6, plan.predicted_loss, plan.predicted_std_error)] if own_loss else []
    scale = _scale_of(
        [*points, *(u[:3] for u in uniform), *((x, loss.value, 0.0) for x, loss, _ in seen), *own], width, height
    )
    if scale is None:
        return None
    x, y = scale.x, scale.y
    whiskers = [
        scale.whisker(size, _lower(loss, error), loss + error)
        for size, loss, error in [*(u[:3] for u in uniform), *own]
        if error > 0
    ]
    measured_whiskers = [scale.whisker(size, loss.low, loss.high) for size, loss, _ in seen if loss.high > loss.low]
    corners = _corners(scale, points)
    marks = [(x(size), y(loss)) for size, loss, _, _ in uniform] + [(x(size), y(loss.value)) for size, loss, _ in seen]
    marks += [(x(size), y(loss)) for size, loss, _ in own]
    taken = [Box(left - MARK, top - MARK, left + MARK, top + MARK) for left, top in marks]
    taken += [Box(bar["x"] - 1, bar["high"], bar["x"] + 1, bar["low"]) for bar in [*whiskers, *measured_whiskers]]
    taken += _along(corners)
    wanted = [("this plan", x(size), y(loss)) for size, loss, _ in own]
    wanted += [(f"measured: {name}"[:40], x(size), y(loss.value)) for size, loss, name in seen]
    wanted += [(f"uniform {bits}-bit", x(size), y(loss)) for bits, (size, loss) in _best_uniform(uniform).items()]
    labels = place_labels(wanted, taken, Box(LEFT, TOP, width - RIGHT, height - BOTTOM))
    band = [(x(s), y(loss + error), y(_lower(loss, error))) for s, loss, error in points]
    return {
        "width": width,
        "height": height,
        "unit": trade_off.loss_unit,
        "floor": height - BOTTOM,
        "left": LEFT,
        "top": TOP,
        "right": width - RIGHT,
        "path": " ".join(f"{'M' if i == 0 else 'L'} {a} {b}" for i, (a, b) in enumerate(corners)),
        "band": " ".join([*(f"{a},{high}" for a, high, _ in band), *(f"{a},{low}" for a, _, low in reversed(band))])
        if any(error for _, _, error in points)
        else "",
        "whiskers": whiskers,
        "measured_whiskers": measured_whiskers,
        "x_ticks": [{"at": x(tick), "text": f"{tick:g}"} for tick in _ticks(scale)],
        "y_ticks": [
            {"at": y(10.0**e), "text": f"{10.0**e:g}"} for e in range(math.ceil(scale.low), math.floor(scale.high) + 1)
        ],
        "uniform": [{"x": x(s), "y": y(loss), "title": f"{c}: {loss:.3g} at {s:.2f} MB"} for s, loss, _, c in uniform],
        "measured": [
            {"x": x(s), "y": y(loss.value), "title": f"measured, {name}: {loss.value:.3g}"} for s, loss, name in seen
        ],
        "chosen": [{"x": x(s), "y": y(loss), "title": f"this plan: {loss:.3g} at {s:.2f} MB"} for s, loss, _ in own],
        "labels": [_drawn(label) for label in labels],
    }


def _lower(loss: float, error: float) -> float:
    """Return the loss minus its standard error, but at least a tenth of the loss."""
    return max(loss - error, loss / 10)


def _scale_of(marks: Sequence[tuple[float, float, float]], width: int, height: int) -> _Scale | None:
    positive = [loss for _, loss, _ in marks if loss > 0]
    if not positive:
        return None
    sizes = [size for size, _, _ in marks]
    left, right = min(sizes), max(sizes)
    room = 0.02 * (right - left or 1)
    return _Scale(
        left - room, right + room, math.log10(min(positive)) - 0.15, math.log10(max(positive)) + 0.15, width, height
    )


def _corners(scale: _Scale, points: Sequence[tuple[float, float, float]]) -> list[tuple[float, float]]:
    """Return the corners of the frontier, a staircase: the best plan for a budget is the largest one that fits."""
    corners: list[tuple[float, float]] = []
    for size, loss, _ in points:
        if corners:
            corners.append((scale.x(size), corners[-1][1]))
        corners.append((scale.x(size), scale.y(loss)))
    return corners


def _along(corners: Sequence[tuple[float, float]]) -> list[Box]:
    """Return the areas that a line of horizontal and vertical segments covers."""
    pairs = pairwise(corners)
    return [Box(min(a, c) - 1, min(b, d) - 1, max(a, c) + 1, max(b, d) + 1) for (a, b), (c, d) in pairs] or [
        Box(a - 1, b - 1, a + 1, b + 1) for a, b in corners
    ]


def _best_uniform(uniform: Sequence[tuple[float, float, float, str]]) -> dict[int, tuple[float, float]]:
    """Return size and loss of the uniform plan that loses least at each width, the widest first."""
    best: dict[int, tuple[float, float]] = {}
    for size, loss, _, name in uniform:
        bits = choice(name).bits
        if bits not in best or loss < best[bits][1]:
            best[bits] = (size, loss)
    return {bits: best[bits] for bits in sorted(best, reverse=True)}


def _ticks(scale: _Scale) -> list[float]:
    most = max(3, scale.width // 90)
    step = 10 ** math.floor(math.log10((scale.right - scale.left) / most))
    step = next(s for s in (step, 2 * step, 5 * step, 10 * step) if (scale.right - scale.left) / s <= most)
    return [i * step for i in range(math.ceil(scale.left / step), math.floor(scale.right / step) + 1)]


def _drawn(label: Label) -> dict[str, Any]:
    """Return a label's text, and a line to its mark if the label is far from it."""
    box, (x, y) = label.box, label.mark
    near = (min(max(x, box.left), box.right), min(max(y, box.top), box.bottom))
    far = math.hypot(near[0] - x, near[1] - y) > 1.8 * RINGS[0]
    return {
        "x": round((box.left + box.right) / 2, 1),
        "y": round((box.top + box.bottom) / 2 + 4, 1),
        "text": label.text,
        "left": round(box.left, 1), "top": round(box.top, 1),
        "right": round(box.right, 1), "bottom": round(box.bottom, 1),
        "leader": {"x1": x, "y1": y, "x2": round(near[0], 1), "y2": round(near[1], 1)} if far else None,
    }  # fmt: skip
