"""Each tool really loads our config: one test per tool, skipped where the tool is not installed.

The tools' pins exclude each other, so no environment has them all; `benchmarks/exchange_tools.py --collect` runs
the same checks in environments of their own, and its committed table says with which versions they passed.
"""

import importlib.util
import json
import sys
from importlib import metadata
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


def load_script():
    """The benchmark script as a module, with the module of checks beside it."""
    sys.path.insert(0, str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("exchange_tools", BENCHMARKS / "exchange_tools.py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(BENCHMARKS))
    return module


SCRIPT = load_script()


@pytest.mark.tools
@pytest.mark.parametrize("tool", SCRIPT.PACKAGES)
@pytest.mark.filterwarnings("ignore")
def test_the_tool_does_what_the_exporter_says(tool):
    """Loaded by the tool, every matrix has the bits and groups that we said."""
    try:
        metadata.version(SCRIPT.PACKAGES[tool])
    except metadata.PackageNotFoundError:
        pytest.skip(f"{SCRIPT.PACKAGES[tool]} is not installed here; see benchmarks/exchange_results.json")
    found = SCRIPT.run_check(tool)
    assert found["otherwise"] == {}
    assert found["as_said"] == found["matrices"] == 12


def test_the_committed_table_has_every_tool():
    """Each exporter has a row: loaded, with its version and nothing done otherwise, or the reason why not."""
    from qbert_opt.runtime import plugins

    rows = json.loads((BENCHMARKS / "exchange_results.json").read_text())["rows"]
    assert {row["tool"] for row in rows} >= set(plugins.available("configs"))
    for row in rows:
        assert row["reason"] if not row["loaded"] else row["version"] and row["otherwise"] == {}
