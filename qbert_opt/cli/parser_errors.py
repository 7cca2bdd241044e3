"""Errors of the option parser as one line of ours: which option, what was found, what is legal, what to do."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from ..runtime.plain_text import one_line

WHOLE = re.compile(r"-?[0-9]{1,300}")


def parser_line(error: Any, arguments: Sequence[str]) -> str:
    """Return the line for an error of the option parser.

    Args:
        error: has `format_message`, and `param` and `ctx` if these are known.
        arguments: arguments of the command line; they contain the value, which the error does not name.
    """
    option = getattr(error, "param", None)
    names = [] if option is None else [name for name in option.opts if name.startswith("-")]
    found = _value_of(names, arguments)
    if found is not None:
        problem = _number_problem(option, found)
        if problem is not None:
            return f"{max(names, key=len)} {one_line(found)}: {problem}"
    message = one_line(error.format_message())
    message = message if message.endswith(("?", ".")) else f"{message}."
    return f"{message} See '{' '.join(['qbert-opt', *_verb(getattr(error, 'ctx', None), arguments)])} --help'."


def _verb(context: Any, arguments: Sequence[str]) -> list[str]:
    """Return the words of the verb, from its context, or else the first argument."""
    if context is None:
        return [name for name in arguments[:1] if not name.startswith("-")]
    words: list[str] = []
    while context.parent is not None:  # the outermost is the program itself
        words.insert(0, str(context.info_name))
        context = context.parent
    return words


def _number_problem(option: Any, found: str) -> str | None:
    """Return what is wrong with the value of a numeric option; None if its form and range are right."""
    kind = _kind(option)
    if kind is None:
        return None
    low, high = _bound(option, "min"), _bound(option, "max")
    legal = _legal(low, high)
    number = _whole(found) if kind is int else _number(found)
    if number is None:
        return f"is not a {'whole number' if kind is int else 'number'}. Give {legal}."
    if low is not None and number < low:
        return f"is too small. Give {legal}."
    return f"is too large. Give {legal}." if high is not None and number > high else None


def _kind(option: Any) -> type | None:
    """Return `int` or `float` if an option is a number, as typer says, or before 0.26 its vendored parser."""
    described = getattr(getattr(option, "type_descriptor", None), "annotation", None)
    if described is None:
        name = str(getattr(getattr(option, "type", None), "name", ""))
        described = int if name.startswith("integer") else float if name.startswith("float") else None
    return described if described in (int, float) else None


def _bound(option: Any, end: str) -> float | None:
    bound = getattr(option, end, None)
    return getattr(getattr(option, "type", None), end, None) if bound is None else bound


def _legal(low: float | None, high: float | None) -> str:
    shown = [None if end is None else f"{end:g}" if end != int(end) else str(int(end)) for end in (low, high)]
    match shown:
        case [None, None]:
            return "one"
        case [least, None]:
            return f"{least} or more"
        case [None, most]:
            return f"{most} or less"
    return " to ".join(map(str, shown))


def _whole(text: str) -> int | None:
    return int(text) if WHOLE.fullmatch(text) else None


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return None if math.isnan(value) else value


def _value_of(names: Sequence[str], arguments: Sequence[str]) -> str | None:
    """Return an option's last value on a command line: `--name value`, `--name=value`, `-n value` or `-nvalue`."""
    found = None
    for place, argument in enumerate(arguments):
        for name in names:
            long = name.startswith("--")
            if argument == name:
                found = arguments[place + 1] if place + 1 < len(arguments) else found
            elif argument.startswith(f"{name}=" if long else name):
                found = argument[len(name) + long :]
    return found
