"""Signals at random moments: nothing half-written, one line, and the same command runs to its end; quick ones of each.

`benchmarks/interrupted.py` is the long run: every verb that writes, 21 moments each.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
VERBS = ("sensitivity", "pareto", "quantize", "export-config")


@pytest.mark.slow
def test_nothing_is_half_written(tmp_path):
    """SIGKILL, SIGINT and SIGTERM once for a verb with progress files, one with a folder, one with a file."""
    command = [sys.executable, "benchmarks/interrupted.py", tmp_path / "found.json", "--moments", "3"]
    done = subprocess.run([*command, "--verbs", ",".join(VERBS)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["moments"] == 3 * len(VERBS)
    assert [fault for verb in found["verbs"].values() for fault in verb["faults"]] == []
