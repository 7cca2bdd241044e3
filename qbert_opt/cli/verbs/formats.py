"""`qbert-opt formats`: file formats for export, and the engines that run them."""

from __future__ import annotations

import typer

from .metrics import list_plugins


def command() -> None:
    """List the file formats that `export` writes and the engines that run them.

    Methods and groupings, which this command used to list, are under `qbert-opt choices`.

    Example: `qbert-opt formats`
    """
    typer.echo("file formats:")
    list_plugins("formats")
    typer.echo("\nengines:")
    list_plugins("engines")
    typer.echo("warning: methods and groupings are now listed by 'qbert-opt choices'.", err=True)
