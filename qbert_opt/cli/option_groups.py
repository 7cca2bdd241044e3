"""Groups of options: a verb takes one frozen dataclass, and the command line shows each of its fields as an option."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import is_dataclass
from functools import wraps
from typing import Any


def flattened(verb: Callable[..., None]) -> Callable[..., None]:
    """Return a verb in whose signature each group of options is replaced by the group's fields.

    Args:
        verb: a function whose parameters are options, or dataclasses of options; no two fields may share a name.
    """
    parameters = inspect.signature(verb, eval_str=True).parameters
    groups: dict[str, type] = {}
    options: list[inspect.Parameter] = []
    for name, parameter in parameters.items():
        if isinstance(parameter.annotation, type) and is_dataclass(parameter.annotation):
            groups[name] = parameter.annotation
            options += inspect.signature(groups[name], eval_str=True).parameters.values()
        else:
            options.append(parameter)
    if not groups:
        return verb

    @wraps(verb)
    def with_groups(**values: Any) -> None:
        made = {
            name: group(**{option: values.pop(option) for option in inspect.signature(group).parameters})
            for name, group in groups.items()
        }
        verb(**values, **made)

    # keyword-only, so that a required option may follow one with a default
    keywords = [option.replace(kind=inspect.Parameter.KEYWORD_ONLY) for option in options]
    with_groups.__signature__ = inspect.Signature(keywords)  # type: ignore[attr-defined]
    return with_groups
