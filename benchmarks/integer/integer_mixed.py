"""What are 16-bit inputs worth where the analysis asks for them? From scores to integer answers on the command line.

    python -m benchmarks.integer.integer_mixed MODEL SCORES CALIBRATION TEST WORK OUT.json [--budget 6bit]
        [--device car-soc]
        [--inputs 8 8,16 16] [--max-latency 3.7ms]

SCORES are those of `sensitivity --activation-bits 8,16`. For each of `--inputs`, `solve --engine integer
--activation-bits …` plans weights and inputs under one budget, with `--max-latency` where more than one width is given
(without it too), then `quantize`, `integer` and `evaluate --engine integer`. A row holds the plan's predicted loss and
latency beside the KL and accuracy of its integer answers on TEST and of the same plan in torch. Rows are added to
OUT.json one by one; those that are there already are not measured again.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.records import machine
from qbert_opt.runtime.provenance import code_commit
from qbert_opt.spec.allocation import read_allocation


def qbert_opt(*words):
    """Run a command; return what it printed."""
    command = [sys.executable, "-m", "qbert_opt", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: exit code {done.returncode}: {done.stderr}")
    return done.stdout


def answers(folder, options, *words):
    """KL, accuracy and flips of a folder's answers."""
    printed = qbert_opt("evaluate", folder, "--data", options.test, "--reference", options.model, "--json", *words)
    row = json.loads(printed)
    return {name: row[name]["value"] if isinstance(row[name], dict) else row[name]
            for name in ("accuracy", "kl", "flipped", "samples") if name in row}  # fmt: skip


def main():
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "scores", "calibration", "test", "work", "out"):
        parser.add_argument(name)
    parser.add_argument("--budget", default="6bit")
    parser.add_argument("--device", default="car-soc")
    parser.add_argument("--seq-len", type=int, default=32)
    parser.add_argument("--inputs", nargs="+", default=["8", "8,16", "16"])
    parser.add_argument("--max-latency")
    options = parser.parse_args()
    out, rows = Path(options.out), []
    if out.exists():
        rows = json.loads(out.read_text())
    limits = [()] if options.max_latency is None else [(), ("--max-latency", options.max_latency)]
    for bits, limit in ((bits, limit) for bits in options.inputs for limit in limits if not limit or "," in bits):
        latency = limit[1] if limit else None
        if any((row["inputs"], row["max_latency"]) == (bits, latency) for row in rows):
            continue
        work = Path(options.work) / "-".join(("inputs", bits, *limit[1:]))
        work.mkdir(parents=True, exist_ok=True)
        plan_file, quantized, integers = work / "allocation.json", work / "quantized", work / "integers"
        qbert_opt("solve", "--scores", options.scores, "--budget", options.budget, "--activation-ranges", "tensor",
                  "--activation-bits", bits, "--engine", "integer", "--device", options.device, "--seq-len",
                  options.seq_len, *limit, "-o", plan_file, "-q")  # fmt: skip
        if not quantized.exists():
            qbert_opt("quantize", plan_file, "--model", options.model, "--data", options.calibration, "-o", quantized,
                      "-q")  # fmt: skip
        if not integers.exists():
            qbert_opt("integer", quantized, "--data", options.calibration, "-o", integers, "-q")
        plan, summary = read_allocation(plan_file), json.loads((integers / "integer.json").read_text())
        widths = [item.bits for item in plan.activations]
        rows.append({
            "model": Path(options.model).name, "device": options.device, "tokens": options.seq_len,
            "budget": options.budget, "inputs": bits, "max_latency": latency,
            "inputs_of_16_bits": widths.count(16), "inputs_in_all": len(widths), "bits": round(plan.average_bits, 3),
            "column_groups": sum(matrix.grouping.startswith("columns:") for matrix in plan.matrices),
            "predicted_loss": plan.predicted_loss, "predicted_latency_ms": round(1e3 * plan.device.latency_s, 3),
            "functions": summary["ways"], "narrowed": summary["narrowed"],
            "in_torch": answers(quantized, options),
            "in_integers": answers(integers, options, "--engine", "integer"),
            "commit": code_commit(),
            "machine": f"{machine()}, torch {torch.__version__}",
        })  # fmt: skip
        out.write_text(json.dumps(rows, indent=1) + "\n")
        print(json.dumps(rows[-1]), flush=True)


if __name__ == "__main__":
    main()
