"""Which code made a file: release, commit, day."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def code_version() -> str:
    """Release of the installed package."""
    try:
        return version("qbert-opt")
    except PackageNotFoundError:
        return "unknown"


def code_commit() -> str:
    """Commit of the checkout that runs, `+` behind it when files differ from it; `release` outside a checkout."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return "release"
    commit = _git(root, "rev-parse", "--short=12", "HEAD")
    if not commit:
        return "release"
    changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", "*.py")
    return commit + ("+" if changed else "")


def today() -> str:
    """Day in UTC, ISO form."""
    return datetime.now(UTC).date().isoformat()


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
