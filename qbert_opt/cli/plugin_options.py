"""Options whose values are names of plug-ins: an unknown one is refused with its flag, before a verb does any work."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import typer

KINDS: Mapping[str, str] = {
    "metric": "metrics",
    "method": "quantizers",
    "engine": "engines",
    "measure": "engines",
    "portable": "engines",
    "to": "configs",
    "source": "configs",
    "steps": "training_steps",
    "losses": "training_losses",
    "loss": "training_losses",
    "block_error": "block_errors",
    "emit": "emitters",
    "solver": "solvers",
}
"""Kind of the plug-ins that an option names, by the option's parameter."""
OF_VERBS: Mapping[tuple[str, str], str] = {
    ("calibrate", "engine"): "benches",
    ("diagnose", "steps"): "",  # a number
    ("recover", "source"): "",  # a plan
    ("sweep", "source"): "",  # a file
}
"""Exceptions, by verb and parameter, where the same parameter names another kind; empty: no plug-in."""
WORDS: Mapping[str, tuple[str, ...]] = {"portable": ("all",)}
"""Values of an option that are legal although they are not names of plug-ins."""
LISTS = ("portable", "steps", "losses", "emit")  # names with commas between them, each with :NUMBER or not


def check_plugins(context: typer.Context) -> None:
    """Refuse unknown names of plug-ins.

    Args:
        context: the verb's context, with its values parsed.

    Raises:
        UsageError: a name is unknown (the message lists the available ones), or a name of a list is empty or repeated.
    """
    from ..errors import UsageError
    from .quantities import listed

    for option in context.command.params:
        name, value = str(option.name), context.params.get(str(option.name))
        kind = kind_of(str(context.info_name), name)
        if not kind or not isinstance(value, str):
            continue
        known = (*_available(kind)(), *WORDS.get(name, ()))
        flag = max(option.opts, key=len)
        for part in listed(value, flag) if name in LISTS else [value]:
            plugin = part.split(":")[0].strip() if name in LISTS else part
            plugin = plugin.replace(".", "-") if kind == "configs" else plugin  # llama.cpp
            if plugin not in known:
                raise UsageError(f"{flag} {plugin or repr(plugin)}: unknown. Available: {', '.join(known)}.")


def kind_of(verb: str, parameter: str) -> str:
    """Return the kind of the plug-ins that an option names; empty if it names none.

    Args:
        verb: its name on the command line.
        parameter: the option's parameter.
    """
    return OF_VERBS.get((verb, parameter), KINDS.get(parameter, ""))


def _available(kind: str) -> Callable[[], Any]:
    if kind == "solvers":
        from solvers import available as of_solvers

        return of_solvers
    from ..runtime.plugins import available

    return lambda: available(kind)
