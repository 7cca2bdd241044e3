"""Signals at random moments: nothing half-written, one line, and the same command runs to its end; quick ones of each.

`benchmarks/interrupted.py` is the long run: every verb that writes, 21 moments each.
"""

import json
import runpy
import sys
from pathlib import Path

import pytest
import warm_process

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "interrupted.py"
VERBS = ("sensitivity", "pareto", "quantize", "export-config")


def run_script(path, arguments):
    """Run a script as `python PATH ARGUMENTS` does."""
    sys.argv = [path, *arguments]
    runpy.run_path(path, run_name="__main__")


@pytest.mark.slow
def test_nothing_is_half_written(tmp_path):
    """SIGKILL, SIGINT and SIGTERM once for a verb with progress files, one with a folder, one with a file."""
    arguments = [tmp_path / "found.json", "--moments", "3", "--verbs", ",".join(VERBS)]
    process = warm_process.call(tmp_path / "log", run_script, str(SCRIPT), list(map(str, arguments)))
    process.join()
    assert process.exitcode == 0, (tmp_path / "log").read_text()
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["moments"] == 3 * len(VERBS)
    assert [fault for verb in found["verbs"].values() for fault in verb["faults"]] == []
