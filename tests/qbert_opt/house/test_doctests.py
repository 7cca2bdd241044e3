"""The examples in docstrings, run."""

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
EXAMPLES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for package in ("hwmodels", "solvers", "qbert_opt")
    for path in (ROOT / package).rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("module", EXAMPLES)
def test_docstring_examples(module):
    """Every example prints what its docstring says; one that needs a model on disk is marked as skipped there."""
    assert doctest.testmod(importlib.import_module(module)).failed == 0


def test_there_are_examples():
    """The search above finds the files that are known to have some."""
    assert {"qbert_opt.spec.activations", "qbert_opt.cli.flags"} <= set(EXAMPLES)
