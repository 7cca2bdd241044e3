"""Each tool really loads our config: one test per tool, skipped where the tool is not installed.

The tools' pins exclude each other, so no environment has them all; `exchange_tools.py --collect` of
`benchmarks/other_tools` runs the same checks in environments of their own, and its committed table says with which
versions they passed.
"""

import json
from importlib import metadata
from pathlib import Path

import pytest

from benchmarks.other_tools import exchange_tools

RESULTS = Path(exchange_tools.__file__).with_name("exchange_results.json")


@pytest.mark.tools
@pytest.mark.parametrize("tool", exchange_tools.PACKAGES)
@pytest.mark.filterwarnings("ignore")
def test_the_tool_does_what_the_exporter_says(tool):
    """Loaded by the tool, every matrix has the bits and groups that we said."""
    try:
        metadata.version(exchange_tools.PACKAGES[tool])
    except metadata.PackageNotFoundError:
        pytest.skip(f"{exchange_tools.PACKAGES[tool]} is not installed here; see {RESULTS}")
    found = exchange_tools.run_check(tool)
    assert found["otherwise"] == {}
    assert found["as_said"] == found["matrices"] == 12


def test_the_committed_table_has_every_tool():
    """Each exporter has a row: loaded, with its version and nothing done otherwise, or the reason why not."""
    from qbert_opt.runtime import plugins

    rows = json.loads(RESULTS.read_text())["rows"]
    assert {row["tool"] for row in rows} >= set(plugins.available("configs"))
    for row in rows:
        assert row["reason"] if not row["loaded"] else row["version"] and row["otherwise"] == {}
