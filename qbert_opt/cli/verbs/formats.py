"""`qbert-opt formats`: file formats that hold our codes, and the engines that open them."""

from __future__ import annotations

import typer

from .metrics import list_plugins


def command() -> None:
    """List the file formats that `export` writes and the engines that open them.

    What a matrix can be stored as, which this verb listed before, is under `qbert-opt choices`.

    Example: `qbert-opt formats`
    """
    typer.echo("file formats:")
    list_plugins("formats")
    typer.echo("\nengines:")
    list_plugins("engines")
    typer.echo("warning: methods and groupings are listed by 'qbert-opt choices' now.", err=True)
