"""The facade: every public name loads, type checkers see the same ones, and reading a unit stays cheap."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import hwmodels

ROOT = Path(hwmodels.__file__).parents[1]


def test_every_public_name_loads():
    assert dir(hwmodels) == sorted(hwmodels.__all__)
    for name in hwmodels.__all__:
        assert getattr(hwmodels, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        hwmodels.nothing  # noqa: B018


def test_type_checkers_see_the_names_that_load():
    tree = ast.parse(Path(hwmodels.__file__).read_text(encoding="utf-8"))
    [typed] = [node for node in tree.body if isinstance(node, ast.If) and isinstance(node.test, ast.Name)]
    seen = {alias.asname: "." + (line.module or "") for line in typed.body for alias in line.names}
    assert seen == hwmodels._HOMES


def test_reading_a_quantity_loads_neither_pydantic_nor_a_graph_library():
    code = "import hwmodels, sys; hwmodels.format_bytes(1e6), hwmodels.DeviceError; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert not {"pydantic", "networkx", "yaml", "pint"} & set(loaded.split())
