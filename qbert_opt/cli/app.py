"""The command line itself: collects the verbs."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Annotated

import typer

from . import verbs
from .option_groups import flattened
from .verb import Verb

app = typer.Typer(
    name="qbert-opt",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Choose bits and groups for every matrix of a BERT-style model under a device's limits, prove the choice, "
    "predict its cost, and produce the model.\n\n"
    "Example: `qbert-opt solve --budget 25MB --device car-soc.yaml`",
)


def _version(wanted: bool) -> None:
    if wanted:
        from ..runtime.provenance import code_commit, code_version

        typer.echo(f"qbert-opt {code_version()} ({code_commit()})")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print version and commit.")
    ] = False,
) -> None:
    """Options of every verb."""


def _collect() -> None:
    for info in pkgutil.iter_modules(verbs.__path__):
        module = importlib.import_module(f"{verbs.__name__}.{info.name}")
        if hasattr(module, "app"):
            app.add_typer(module.app, name=info.name.replace("_", "-"))
        else:
            app.command(info.name.replace("_", "-"), cls=Verb)(flattened(module.command))


_collect()
