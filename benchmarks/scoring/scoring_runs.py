"""How much memory does scoring take under a limit, and what do two processes save?

    python -m benchmarks.scoring.scoring_runs memory MODEL TEXTS --limits 400MiB 2GiB
    python -m benchmarks.scoring.scoring_runs torchrun MODEL TEXTS

Through the command line, as users run it, with plain rounding and one thread for each process. `memory`: the peak above
the model that the run itself measured, and its processor time. `torchrun`: seconds on the wall of one process and of
two, the start included and apart, and the largest relative difference of any score.
"""

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

import numpy as np

from qbert_opt.runtime.provenance import code_commit
from qbert_opt.spec.scores import read_scores

PEAK = re.compile(r"peak memory ([\d,]+) MiB above the model")


def run(options, launcher, extra, output):
    """Score; returns seconds on the wall, processor seconds, and what was said."""
    command = [*launcher, "qbert_opt", "sensitivity", "--model", options.model, "--data", options.texts, "-q",
               "--method", "rtn", "--scoring-samples", str(options.samples), "--calibration-samples", "16",
               "--bits", options.bits, "-o", str(output), *extra]  # fmt: skip
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    said = subprocess.run(
        command, check=True, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
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
    alone, _, _ = run(options, [sys.executable, "-m"], [], folder / "one.json")
    shared, _, _ = run(options, two, [], folder / "two.json")
    start = time.monotonic()
    subprocess.run([sys.executable, "-c", "import qbert_opt.scoring.sensitivity"], check=True)
    found = [read_scores(folder / name).values() for name in ("one.json", "two.json")]
    yield {
        "one_process_s": round(alone, 1), "two_processes_s": round(shared, 1), "times": round(alone / shared, 2),
        "imports_alone_s": round(time.monotonic() - start, 1),
        "largest_relative_difference": float(np.nanmax(np.abs(found[1] / found[0] - 1))),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("memory", "torchrun"))
    parser.add_argument("model")
    parser.add_argument("texts")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--bits", default="2,3,4,8")
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
