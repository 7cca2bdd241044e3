"""Signals at random moments: nothing half-written, one line, and the same command runs to its end; quick ones of each.

`benchmarks/commands/interrupted.py` is the long run: every verb that writes, 21 moments each.
"""

import json
import runpy
import sys

import pytest
import warm_process

VERBS = ("sensitivity", "pareto", "quantize", "export-config")


def run_module(name, arguments):
    """Run a script as `python -m NAME ARGUMENTS` does."""
    sys.argv = [name, *arguments]
    runpy.run_module(name, run_name="__main__")


@pytest.mark.slow
def test_nothing_is_half_written(tmp_path):
    """SIGKILL, SIGINT and SIGTERM once for a verb with progress files, one with a folder, one with a file."""
    arguments = [tmp_path / "found.json", "--moments", "3", "--verbs", ",".join(VERBS)]
    process = warm_process.call(
        tmp_path / "log", run_module, "benchmarks.commands.interrupted", list(map(str, arguments))
    )
    process.join()
    assert process.exitcode == 0, (tmp_path / "log").read_text()
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["moments"] == 3 * len(VERBS)
    assert [fault for verb in found["verbs"].values() for fault in verb["faults"]] == []
