"""Entry point: collects the verbs, and turns errors into one line and an exit code."""

from __future__ import annotations

import importlib
import pkgutil
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
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
    warnings.filterwarnings("default", category=QbertOptWarning)
    with _watched_signals() as received:
        try:
            app(standalone_mode=True)
        except BaseException as error:
            number = received[0] if received else _signal_behind(error)
            if number is not None:
                print(f"qbert-opt: {_left_behind(number)}", file=sys.stderr)
                sys.exit(128 + number)
            if isinstance(error, QbertOptError):
                print(f"qbert-opt: {error}", file=sys.stderr)
                sys.exit(error.exit_code)
            if isinstance(error, BrokenPipeError):
                sys.stderr.close()
                sys.exit(0)
            raise
        finally:
            locks.release_all()


@contextmanager
def _watched_signals() -> Iterator[list[int]]:
    """Collect the signals that ask for an end, and end the work as Ctrl-C does, so that it tidies up.

    The list tells a run that was stopped from one that failed: libraries turn an interrupt into errors of their own.
    """
    received: list[int] = []

    def stop(number: int, _frame: object) -> None:
        received.append(number)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _signal_behind(error: BaseException) -> int | None:
    """Ctrl-C as Python raises it, and as typer ends after it: with exit code 130, without a word."""
    ended = isinstance(error, SystemExit) and error.code == 128 + signal.SIGINT
    return signal.SIGINT if ended or isinstance(error, KeyboardInterrupt) else None


def _left_behind(number: int) -> str:
    """Say what an interrupted run leaves, and how to go on from it."""
    line = f"{'interrupted' if number == signal.SIGINT else 'terminated'}; nothing half-written is left."
    kept = [str(path) for path in locks.held() if path.is_file()]
    if not kept:
        return line
    return f"{line} {', '.join(kept)} keeps what is finished: run the same command again to go on from there."
