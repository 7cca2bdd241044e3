"""What every verb does before it starts: refuse unknown plug-ins, idle options, and outputs that cannot be written."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

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
        for name in OUTPUTS:
            if ctx.params.get(name) is not None:
                check_kind(str(ctx.command.name), name, ctx.params[name])
        check_outputs(ctx.params)
        check_plugins(ctx)
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            raise Interrupted from stop
