"""The problem: one option per item, least total value, several capacities."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import ProblemError

MOST_SUM = 2.0**1021
"""A quarter of the largest float: no sum of values or usages, nor a difference of two, may overflow."""


@dataclass(frozen=True, slots=True, eq=False)
class ChoiceProblem:
    """Choose one option for each item so that the total value is least and every capacity holds.

    Constraints are of three kinds: sums (`usage` ≤ `capacity`), masks (`allowed`, `pins`) and links (`ties`,
    `families`). Arrays are copied and made read-only; everything is checked on construction.

    Attributes:
        items: I unique names.
        options: O unique names.
        value: float64 [I, O], to be minimized; may be negative; ignored where `allowed` is False.
        usage: resource -> float64 [I, O], finite and ≥ 0 where `allowed`.
        capacity: resource -> largest total usage; infinity is no limit. A resource of `usage` without a
            capacity is only reported.
        allowed: bool [I, O]; None allows everything.
        ties: sets of items that must take the same option. Overlapping sets are merged.
        pins: item -> option that it must take.
        families: family of each option, for example the number format that one kernel runs; None does not count.
        max_families: largest number of distinct families in one plan.
        tie_break: among plans of equal value, the one that uses least of this resource wins; None: the first
            resource with a capacity.

    Raises:
        ProblemError: An entry is invalid (NaN, infinite, negative usage), a name is unknown or repeated,
            or masks, pins and ties leave an item without any option.
    """

    items: tuple[str, ...]
    options: tuple[str, ...]
    value: NDArray[np.float64]
    usage: Mapping[str, NDArray[np.float64]]
    capacity: Mapping[str, float]
    allowed: NDArray[np.bool_] | None = None
    ties: tuple[tuple[str, ...], ...] = ()
    pins: Mapping[str, str] = field(default_factory=dict)
    families: tuple[str | None, ...] | None = None
    max_families: int | None = None
    tie_break: str | None = None

    def __post_init__(self) -> None:
        _check_names(self)
        _freeze_tables(self)
        _check_tables(self)
        _check_capacities(self)
        _check_families(self)
        _check_links(self)

    def __repr__(self) -> str:
        """Return one line."""
        return f"ChoiceProblem(items={len(self.items)}, options={len(self.options)}, capacity={dict(self.capacity)})"

    def mask(self) -> NDArray[np.bool_]:
        """Return bool [I, O]: the options that `allowed` and `pins` leave to each item (ties not applied)."""
        shape = (len(self.items), len(self.options))
        mask = np.ones(shape, dtype=bool) if self.allowed is None else self.allowed.copy()
        for item, option in self.pins.items():
            row, column = self.items.index(item), self.options.index(option)
            kept = mask[row, column]
            mask[row] = False
            mask[row, column] = kept
        return mask

    def groups(self) -> tuple[tuple[int, ...], ...]:
        """Return the sets of tied items, as index tuples in order of their first item; untied items are alone."""
        leader = {name: name for name in self.items}
        for tie in self.ties:
            merged = {leader[name] for name in tie}
            first = min(merged, key=self.items.index)
            leader = {name: first if head in merged else head for name, head in leader.items()}
        members: dict[str, list[int]] = {}
        for index, name in enumerate(self.items):
            members.setdefault(leader[name], []).append(index)
        return tuple(tuple(indices) for indices in members.values())

    def tie_resource(self) -> str | None:
        """Return the resource that breaks ties between plans of equal value; None if there is none."""
        return self.tie_break if self.tie_break is not None else next(iter(self.capacity), None)


def _check_names(problem: ChoiceProblem) -> None:
    for kind, names in (("items", problem.items), ("options", problem.options)):
        if not names:
            raise ProblemError(f"{kind}: is empty. Give at least one name.")
        if len(set(names)) < len(names):
            twice = next(name for i, name in enumerate(names) if name in names[:i])
            raise ProblemError(f"{kind}: {twice!r} appears twice. Names must be unique.")


def _table(problem: ChoiceProblem, name: str, table: ArrayLike, dtype: type) -> NDArray:  # type: ignore[type-arg]
    array: NDArray = np.array(table, dtype=dtype)  # type: ignore[type-arg]
    shape = (len(problem.items), len(problem.options))
    if array.shape != shape:
        raise ProblemError(
            f"{name}: has shape {list(array.shape)}, but there are {shape[0]} items and {shape[1]} options. "
            f"Give [{shape[0]}, {shape[1]}]."
        )
    array.setflags(write=False)
    return array


def _freeze_tables(problem: ChoiceProblem) -> None:
    frozen = {
        "items": tuple(problem.items),
        "options": tuple(problem.options),
        "value": _table(problem, "value", problem.value, np.float64),
        "usage": {name: _table(problem, f"usage[{name!r}]", t, np.float64) for name, t in problem.usage.items()},
        "capacity": {name: float(limit) for name, limit in problem.capacity.items()},
        "ties": tuple(tuple(tie) for tie in problem.ties),
        "pins": dict(problem.pins),
    }
    if problem.allowed is not None:
        frozen["allowed"] = _table(problem, "allowed", problem.allowed, np.bool_)
    for name, content in frozen.items():
        object.__setattr__(problem, name, content)


def _check_tables(problem: ChoiceProblem) -> None:
    allowed = np.ones_like(problem.value, dtype=bool) if problem.allowed is None else problem.allowed
    empty = np.flatnonzero(~allowed.any(axis=1))
    if empty.size:
        raise ProblemError(f"item {problem.items[empty[0]]!r}: every option is masked. Allow at least one.")
    _refuse(problem, "value", problem.value, allowed & ~np.isfinite(problem.value), "Mask the option or score it.")
    _check_sum(problem, "value", problem.value, allowed)
    for name, table in problem.usage.items():
        bad = allowed & ~(np.isfinite(table) & (table >= 0))
        _refuse(problem, f"usage of {name!r}", table, bad, "Usage is finite and not negative; mask the option.")
        _check_sum(problem, f"usage of {name!r}", table, allowed)


def _check_sum(problem: ChoiceProblem, what: str, table: NDArray[np.float64], allowed: NDArray[np.bool_]) -> None:
    """Reject entries so large that a sum over the items, or the difference of two such sums, could overflow."""
    most = MOST_SUM / len(problem.items)
    too_large = allowed & (np.abs(table) > most)
    _refuse(problem, what, table, too_large, f"Sums would overflow: give at most {most:.3g}, or mask the option.")


def _refuse(problem: ChoiceProblem, what: str, table: NDArray[np.float64], bad: NDArray[np.bool_], advice: str) -> None:
    if bad.any():
        item, option = np.argwhere(bad)[0]
        where = f"item {problem.items[item]!r}, option {problem.options[option]!r}"
        raise ProblemError(f"{where}: {what} is {table[item, option]}. {advice}")


def _check_capacities(problem: ChoiceProblem) -> None:
    known = f"Resources with a usage table: {', '.join(problem.usage) or 'none'}."
    for name, limit in problem.capacity.items():
        if name not in problem.usage:
            raise ProblemError(f"capacity of {name!r}: has no usage table. {known}")
        if np.isnan(limit):
            raise ProblemError(f"capacity of {name!r}: is NaN. Give a number, or infinity for no limit.")
    if problem.tie_break is not None and problem.tie_break not in problem.usage:
        raise ProblemError(f"tie_break: {problem.tie_break!r} is not a resource. {known}")


def _check_families(problem: ChoiceProblem) -> None:
    if problem.families is not None and len(problem.families) != len(problem.options):
        raise ProblemError(
            f"families: {len(problem.families)} entries for {len(problem.options)} options. One for each."
        )
    if problem.max_families is None:
        return
    if problem.families is None:
        raise ProblemError("max_families: needs families. Give the family of each option.")
    if problem.max_families < 1:
        raise ProblemError(f"max_families: is {problem.max_families}. Give 1 or more.")


def _check_links(problem: ChoiceProblem) -> None:
    known_items, known_options = set(problem.items), set(problem.options)
    named = [("pins", item) for item in problem.pins] + [("ties", item) for tie in problem.ties for item in tie]
    for kind, item in named:
        if item not in known_items:
            raise ProblemError(f"{kind}: {item!r} is not an item. Items start with {problem.items[0]!r}.")
    for item, option in problem.pins.items():
        if option not in known_options:
            raise ProblemError(
                f"pins: item {item!r} is pinned to {option!r}, which is not an option. "
                f"Options: {', '.join(problem.options)}."
            )
    mask = problem.mask()
    for index in np.flatnonzero(~mask.any(axis=1)):
        item = problem.items[index]
        raise ProblemError(f"pins: item {item!r} is pinned to {problem.pins[item]!r}, which is masked for it. Free it.")
    for group in problem.groups():
        if not mask[list(group)].all(axis=0).any():
            names = ", ".join(repr(problem.items[i]) for i in group)
            raise ProblemError(
                f"ties: items {names} have no option in common after masks and pins. Untie or free them."
            )
