"""What every verb does before it starts: refuse options that are empty or idle, unknown plug-ins and bad outputs."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

from ..errors import UsageError
from .idle_options import check_options
from .outputs import OUTPUTS, check_kind, check_outputs
from .plugin_options import check_plugins


class Interrupted(BaseException):
    """Ctrl-C during a verb, with its notes as the cause. Typer turns a bare KeyboardInterrupt into an exit code."""


class Verb(TyperCommand):
    """A command that is checked before any work is done."""

    def invoke(self, ctx: Any) -> Any:
        """Run the verb, if its options go together and its outputs can be written."""
        check_options(ctx)
        check_plugins(ctx)
        check_filled(ctx)
        for name in OUTPUTS:
            if ctx.params.get(name) is not None:
                check_kind(str(ctx.command.name), name, ctx.params[name])
        check_outputs(ctx.params)
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            raise Interrupted from stop


def check_filled(context: Any) -> None:
    """Refuse options and arguments that are an empty text, such as that of a variable of the shell that is not set.

    Args:
        context: of the verb, with its values parsed.

    Raises:
        UsageError: names the option.
    """
    for parameter in context.command.params:
        value = context.params.get(str(parameter.name))
        if value == "" or (isinstance(value, (list, tuple)) and "" in value):
            flag = max(parameter.opts, key=len)
            instead = "" if parameter.required else f", or leave {flag} out"
            raise UsageError(f"{flag} '': is empty. Give a value{instead}.")
