"""`qbert-opt metrics`: the metrics that can score a choice."""

from __future__ import annotations

import typer


def command() -> None:
    """List the metrics that estimate the loss of a choice.

    Example: `qbert-opt metrics`
    """
    list_plugins("metrics")


def list_plugins(kind: str) -> None:
    """Print name and summary of each plug-in of a kind; nothing is imported, so torch is not loaded.

    Args:
        kind: a key of `plugins.FOLDERS`.
    """
    from ...runtime.plugins import summaries

    for name, summary in summaries(kind).items():
        typer.echo(f"{name:24} {summary}")
