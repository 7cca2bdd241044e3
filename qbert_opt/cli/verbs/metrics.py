"""`qbert-opt metrics`: what can score a choice."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path

import typer


def command() -> None:
    """List the estimators of the loss that a choice costs.

    Example: `qbert-opt metrics`
    """
    list_plugins("metrics")


def list_plugins(folder: str) -> None:
    """Print name and first docstring line of each plug-in, read from the file so that torch stays unloaded."""
    from ...registry import available

    spec = find_spec(f"qbert_opt.{folder}")
    if spec is None or spec.origin is None:
        raise RuntimeError(f"no folder {folder}")
    for name in available(folder):
        source = Path(spec.origin).with_name(f"{name.replace('-', '_')}.py").read_text(encoding="utf-8")
        about = (ast.get_docstring(ast.parse(source)) or "").splitlines()[0]
        typer.echo(f"{name:24} {about}")
