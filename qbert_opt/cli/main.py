"""Entry point: collects the verbs, and turns errors into one line and an exit code."""

from __future__ import annotations

import importlib
import pkgutil
import signal
import sys
import warnings
from typing import Annotated

import typer

from ..errors import QbertOptError, QbertOptWarning
from ..runtime import locks
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
TERMINATED = 143


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


def _terminate(_signal: int, _frame: object) -> None:
    """End as Ctrl-C does: what is half-written is removed on the way out."""
    sys.exit(TERMINATED)


def _left_behind(code: int) -> str:
    """Say what an interrupted run leaves, and how to go on from it."""
    line = f"{'interrupted' if code == INTERRUPTED else 'terminated'}; nothing half-written is left."
    kept = [str(path) for path in locks.held() if path.is_file()]
    if not kept:
        return line
    return f"{line} {', '.join(kept)} keeps what is finished: run the same command again to go on from there."


def run() -> None:
    """Run the command line; a user's mistake becomes one line on stderr and its exit code."""
    warnings.showwarning = _one_line
    warnings.filterwarnings("default", category=QbertOptWarning)
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        app(standalone_mode=True)
    except QbertOptError as error:
        print(f"qbert-opt: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except SystemExit as stop:
        if stop.code in (INTERRUPTED, TERMINATED):  # typer says nothing of Ctrl-C
            print(f"qbert-opt: {_left_behind(stop.code)}", file=sys.stderr)
        raise
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
    finally:
        locks.release_all()
        signal.signal(signal.SIGTERM, before)
