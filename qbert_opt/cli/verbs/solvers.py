"""`qbert-opt solvers`: the available solvers."""

from __future__ import annotations

import typer


def command() -> None:
    """List the solvers, and whether they can be used here.

    Example: `qbert-opt solvers`
    """
    import solvers

    for name, (about, usable) in solvers.describe().items():
        typer.echo(f"{name:12} {about}{'' if usable else ' (not available: a package is missing)'}")
