"""`qbert-opt metrics`: what can score a choice."""

from __future__ import annotations

import typer


def command() -> None:
    """List the estimators of the loss that a choice costs.

    Example: `qbert-opt metrics`
    """
    list_plugins("metrics")


def list_plugins(kind: str) -> None:
    """Print name and summary of each plug-in of a kind, read without importing it, so that torch stays unloaded."""
    from ...runtime.plugins import summaries

    for name, summary in summaries(kind).items():
        typer.echo(f"{name:24} {summary}")
