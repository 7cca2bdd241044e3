"""How much memory does scoring take under a limit, and what do two processes save?

    python -m benchmarks.scoring.scoring_runs memory MODEL TEXTS --limits 400MiB 2GiB
    python -m benchmarks.scoring.scoring_runs torchrun MODEL TEXTS

Through the command line, as users run it, with plain rounding and one thread for each process. `memory`: the peak above
the model that the run itself measured, and its processor time. `torchrun`: processor seconds of one process and of
each of two, their start included, and how many scores differ; with `--wall` also seconds on the wall under torchrun.
"""

import argparse
import json
import os
import re
import resource
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from qbert_opt.runtime.provenance import code_commit
from qbert_opt.spec.scores import read_scores

PEAK = re.compile(r"peak memory ([\d,]+) MiB above the model")


def command(options, launcher, extra, output):
    return [*launcher, "qbert_opt", "sensitivity", "--model", options.model, "--data", options.texts, "-q",
               "--method", "rtn", "--scoring-samples", str(options.samples), "--calibration-samples", "16",
               "--bits", options.bits, "-o", str(output), *extra]  # fmt: skip


def run(options, launcher, extra, output):
    """Score; returns seconds on the wall, processor seconds, and what was said."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    said = subprocess.run(
        command(options, launcher, extra, output),
        check=True, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - start, cpu, said.stdout


def memory(options, folder):
    for limit in options.limits:
        _, cpu, said = run(options, [sys.executable, "-m"], ["--memory-limit", limit], folder / "scores.json")
        peak = int(PEAK.search(said)[1].replace(",", ""))
        yield {"limit": limit, "peak_mib_above_the_model": peak, "processor_s": round(cpu, 1)}


def torchrun(options, folder):
    two = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m"]
    [own] = by_hand(options, 1, folder / "one.json")
    each = by_hand(options, 2, folder / "two.json")
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    subprocess.run([sys.executable, "-c", "import qbert_opt.scoring.sensitivity"], check=True)
    imports = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    row = {
        "one_processor_s": round(own, 1), "each_of_two_processor_s": [round(one, 1) for one in each],
        "times": round(own / max(each), 2), "imports_processor_s": round(imports, 1),
    }  # fmt: skip
    if options.wall:
        alone, _, _ = run(options, [sys.executable, "-m"], [], folder / "one.json")
        shared, _, _ = run(options, two, [], folder / "two.json")
        row |= {"one_wall_s": round(alone, 1), "two_wall_s": round(shared, 1), "times_wall": round(alone / shared, 2)}
    found = [read_scores(folder / name) for name in ("one.json", "two.json")]
    differ = [one != other for one, other in zip(*(numbers(table) for table in found), strict=True)]
    yield row | {"numbers": len(differ), "numbers_that_differ": sum(differ)}


def numbers(table):
    """Every score, standard error and fold of matrices and tables."""
    parts = [table.value, table.std_error, table.fold_value, table.tables.value, table.tables.std_error]
    return [number for part in parts for number in np.ravel(np.array(part, dtype=float)).tolist() if number == number]


def by_hand(options, count, output):
    """Start the processes that torchrun would start; returns processor seconds of each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(count):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment = os.environ | {"OMP_NUM_THREADS": "1"} | {name: str(value) for name, value in place.items()}
        words = command(options, [sys.executable, "-m"], [], output)
        started.append(subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL))
    usages = []
    for process in started:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"a process ended with exit code {process.returncode}")
        usages.append(usage.ru_utime + usage.ru_stime)
    return usages


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("memory", "torchrun"))
    parser.add_argument("model")
    parser.add_argument("texts")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--bits", default="2,3,4,8")
    parser.add_argument("--wall", action="store_true")
    parser.add_argument("--limits", nargs="+", default=["400MiB", "2GiB"])
    options = parser.parse_args()
    base = {
        "what": options.what, "model": Path(options.model).name, "texts": options.texts, "samples": options.samples,
        "bits": options.bits, "commit": code_commit(),
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        work = memory if options.what == "memory" else torchrun
        for row in work(options, Path(folder)):
            print(json.dumps(base | row), flush=True)


if __name__ == "__main__":
    main()
