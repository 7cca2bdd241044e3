"""Checks before every verb starts: options that are empty or have no effect, unknown plug-ins, bad outputs."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

from ..errors import UsageError
from .idle_options import check_options
from .outputs import OUTPUTS, check_kind, check_outputs
from .plugin_options import check_plugins, kind_of


class Interrupted(BaseException):
    """Ctrl-C during a verb; its cause has the notes. Typer would turn a bare KeyboardInterrupt into an exit code."""


class Verb(TyperCommand):
    """A command that is checked before any work is done."""

    def invoke(self, ctx: Any) -> Any:
        """Run the verb if its options are consistent and its outputs can be written.

        Args:
            ctx: the verb's context, with its values parsed.
        """
        check_options(ctx)
        check_filled(ctx)
        for name in OUTPUTS:
            if ctx.params.get(name) is not None:
                check_kind(str(ctx.command.name), name, ctx.params[name])
        check_outputs(ctx.params)
        check_plugins(ctx)
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            raise Interrupted from stop


def check_filled(context: Any) -> None:
    """Refuse options and arguments that are empty, for example because a shell variable is not set.

    Names of plug-ins are left to `check_plugins`, which lists the available ones.

    Args:
        context: the verb's context, with its values parsed.

    Raises:
        UsageError: names the option.
    """
    for parameter in context.command.params:
        value = context.params.get(str(parameter.name))
        if kind_of(str(context.info_name), str(parameter.name)):
            continue
        if value == "" or (isinstance(value, (list, tuple)) and "" in value):
            flag = max(parameter.opts, key=len)
            instead = "" if parameter.required else f", or leave {flag} out"
            raise UsageError(f"{flag} '': is empty. Give a value{instead}.")
