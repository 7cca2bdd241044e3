"""`qbert-opt solvers`: what can solve a plan."""

from __future__ import annotations

import typer


def command() -> None:
    """List the solvers, and which of them can run here.

    Example: `qbert-opt solvers`
    """
    import solvers

    for name, (about, usable) in solvers.describe().items():
        typer.echo(f"{name:12} {about}{'' if usable else ' (not usable here: a package is missing)'}")
