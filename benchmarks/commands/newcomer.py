"""How long a newcomer needs: the README's five minutes on a fresh clone, and every notebook.

    python -m benchmarks.commands.newcomer benchmarks/commands/newcomer_results.json

Clones the last commit of this checkout into a temporary folder and runs the lines of the README's section "Five
minutes" there, one after the other, then each notebook with the clone's own environment. Seconds on the clock
(downloads and other work of the machine included), and processor seconds beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]


def lines() -> list[str]:
    """Commands of the README's section, without their comments."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Five minutes")[2]
    block = section.split("```")[1]
    found = [re.sub(r"\s+#.*", "", line).strip() for line in block.splitlines()]
    return [line for line in found if line and not line.startswith(". ")]  # activated below


def timed(what: str, command: str, folder: Path) -> dict[str, object]:
    environment = {**os.environ, "PATH": f"{folder}/.venv/bin:{os.environ['PATH']}"}
    for name in ("PYTHONPATH", "VIRTUAL_ENV"):
        environment.pop(name, None)
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    row = {
        "what": what, "command": command, "seconds": round(time.perf_counter() - start, 1),
        "cpu_seconds": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
    }  # fmt: skip
    print(row, file=sys.stderr, flush=True)
    if done.returncode:
        raise SystemExit(f"{command}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
    return row


def main(output: str) -> None:
    with tempfile.TemporaryDirectory(prefix="newcomer-") as temporary:
        clone = Path(temporary) / "qbert-opt"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        names = {
            "make solve": "environment and first plan",
            "qbert-opt solve --budget": "first plan as a file",
            "qbert-opt pareto": "first picture",
            "qbert-opt report": "first report",
            "python notebooks": "a model to try",
            "qbert-opt solve --model": "its scores and plan",
            "qbert-opt quantize": "first quantized model",
            "qbert-opt evaluate": "measured",
        }
        steps = []
        for line in lines():
            what = next((name for start, name in names.items() if line.startswith(start)), line)
            steps.append(timed(what, line, clone))
        notebooks = [
            timed(path.stem, f"python -m pytest -q --nbmake notebooks/{path.name}", clone)
            for path in sorted((clone / "notebooks").glob("*.ipynb"))
        ]
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=clone, capture_output=True, text=True)
    cpu = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    result = {
        "what": "The README's five minutes on a fresh clone, then each notebook",
        "command": "python -m benchmarks.commands.newcomer benchmarks/commands/newcomer_results.json",
        "commit": commit.stdout.strip(),
        "machine": f"{os.cpu_count()} cores of {cpu[1] if cpu else 'unknown'}",
        "load_average": round(os.getloadavg()[0], 1),
        "spread": "one run",
        "steps": steps,
        "notebooks": notebooks,
    }
    Path(output).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    main(parser.parse_args().out)
