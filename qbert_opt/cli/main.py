"""Entry point: collects the verbs, and turns errors into one line and an exit code."""

from __future__ import annotations

import importlib
import pkgutil
import sys
import warnings
from typing import Annotated

import typer

from ..errors import QbertOptError
from . import verbs

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

INTERRUPTED = 130


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
            app.command(info.name.replace("_", "-"))(module.command)


_collect()


def _one_line(message: Warning | str, *_where: object, **_more: object) -> None:
    """Print a warning without the place in the code that gave it."""
    print(f"qbert-opt: warning: {message}", file=sys.stderr)


def run() -> None:
    """Run the command line; a user's mistake becomes one line on stderr and its exit code."""
    warnings.showwarning = _one_line
    try:
        app(standalone_mode=True)
    except QbertOptError as error:
        print(f"qbert-opt: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except SystemExit as stop:
        if stop.code == INTERRUPTED:  # what typer makes of Ctrl-C, without a word
            print("qbert-opt: interrupted; nothing half-written is left.", file=sys.stderr)
        raise
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
