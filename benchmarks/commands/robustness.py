"""Damaged files in great numbers through every reader of the command line: how many are answered, how many refused.

    python -m benchmarks.commands.robustness --seconds 3600 -o benchmarks/commands/robustness_results.json
    python -m benchmarks.commands.robustness --mutations 1000000 -o benchmarks/commands/robustness_results.json

The mutations and readers are those of `tests/robustness`. Readers take turns with as many cases as fit into the same
time, so that quick ones are tried oftener. Anything but an answer or one clear line is a failure; its seed repeats it:
`attempt(reader, seed)`. Seeds go on where a results file ends; each reader's row names the commits that were tried.
`earlier` holds rows that were run again on later code.
"""

import argparse
import json
import platform
import resource
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.records import machine

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests" / "robustness"), str(ROOT / "tests" / "qbert_opt")]

from damaged_readers import attempt, readers  # noqa: E402

from qbert_opt.runtime.files import write_text  # noqa: E402
from qbert_opt.runtime.provenance import code_commit, today  # noqa: E402

TURN_S = 2.0
MOST_MEMORY_BYTES = 20 * 2**30  # Arrow keeps up to 10 GiB of addresses of what it freed
KEPT_FAILURES = 5  # of each reader


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--mutations", type=int, default=10**6)
    parser.add_argument("--only", default="", help="beginning of the names of the readers to try")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    document = json.loads(options.output.read_text()) if options.output and options.output.exists() else {}
    before, earlier = document.get("readers", {}), document.get("earlier", {})
    with tempfile.TemporaryDirectory() as folder:
        chosen = [reader for reader in readers(Path(folder)) if reader.name.startswith(options.only)]
        none = {"answer": 0, "refusal": 0, "failure": 0}
        counts = {r.name: before.get(r.name, {**none, "failures": [], "commits": []}) for r in chosen}
        seeds = {name: sum(row[kind] for kind in none) for name, row in counts.items()}
        for row in counts.values():
            row["commits"] = list(dict.fromkeys([*row.get("commits", ()), code_commit()]))
        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY_BYTES, MOST_MEMORY_BYTES))  # absurd sizes are failures too
        start = time.monotonic()
        while time.monotonic() - start < options.seconds and sum(seeds.values()) < options.mutations:
            for reader in chosen:
                end = min(time.monotonic() + TURN_S, start + options.seconds)
                while time.monotonic() < end:
                    outcome = attempt(reader, seeds[reader.name])
                    row = counts[reader.name]
                    row[outcome.kind] += 1
                    if outcome.kind == "failure" and len(row["failures"]) < KEPT_FAILURES:
                        row["failures"].append({"seed": seeds[reader.name], "words": outcome.words})
                        print(reader.name, seeds[reader.name], outcome.words, flush=True)
                    seeds[reader.name] += 1
            _write(options, before | counts, earlier)
    print(
        json.dumps({name: {k: v for k, v in row.items() if k != "failures"} for name, row in counts.items()}, indent=1)
    )


def _write(options: argparse.Namespace, counts: dict[str, dict], earlier: dict[str, dict]) -> None:
    if options.output is None:
        return
    total = {kind: sum(row[kind] for row in counts.values()) for kind in ("answer", "refusal", "failure")}
    document = {
        "command": "python -m benchmarks.commands.robustness -o benchmarks/commands/robustness_results.json",
        "date": today(),
        "machine": f"{machine()}, Python {platform.python_version()}",
        "mutations": sum(total.values()),
        "total": total,
        "readers": counts,
        "earlier": earlier,
    }
    write_text(options.output, json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
