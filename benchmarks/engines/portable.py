"""One plan, the same codes in every engine: size, answers and processor time of each file.

    python -m benchmarks.engines.portable MODEL CALIBRATION TEST OUT.json [--budget 4.25bit] [--texts 128]

MODEL is a fine-tuned BERT with a classifier, CALIBRATION text that it was not trained on, TEST labelled text that took
no part. Scores by `directional` and `gptq` in the forms that all engines hold; one plan by `solve --portable`; one
quantized folder; one export to each engine, whose answers are compared with the float model's on all of TEST. Times are
medians of one text of 128 tokens on one thread, in processor time: llama.cpp counts its waiting threads too.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import astuple
from pathlib import Path

from benchmarks.records import machine
from qbert_opt.data.texts import read_texts
from qbert_opt.runtime.provenance import code_commit
from qbert_opt.serving.measuring import measure_folder

ENGINES = ("llama-cpp", "onnxruntime", "openvino")


def run(*arguments):
    """Run the command line; stop where it stops."""
    subprocess.run([sys.executable, "-m", "qbert_opt", *map(str, arguments), "--quiet"], check=True)


def figures(measured):
    """What is reported of one folder; intervals are value, low, high at 95 %."""
    quality = measured.evaluation
    return {
        "name": Path(measured.folder).name,
        "bytes": measured.stored_bytes,
        "engine": measured.timing.engine_label,
        "accuracy": None if quality.accuracy is None else astuple(quality.accuracy),
        "kl": None if quality.kl is None else astuple(quality.kl),
        "flipped": quality.flipped,
        "median_cpu_s": statistics.median(measured.timing.cpu_s),
        "private_bytes": measured.timing.private_bytes,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "calibration", "test", "out"):
        parser.add_argument(name)
    parser.add_argument("--budget", default="4.25bit")
    parser.add_argument("--texts", type=int, default=128)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        run(
            "sensitivity", "--model", given.model, "--data", given.calibration, "--forms", "signed,symmetric",
            "--groupings", "rows:each,columns:32,columns:64", "--bits", "2,4,8", "--table-bits", "4,8",
            "--calibration-samples", given.texts, "--scoring-samples", given.texts, "-o", work / "scores.json",
        )  # fmt: skip
        run(
            "solve", "--scores", work / "scores.json", "--budget", given.budget, "--portable", ",".join(ENGINES),
            "-o", work / "plan.json",
        )  # fmt: skip
        run("quantize", work / "plan.json", "--model", given.model, "--data", given.calibration, "-o", work / "plan")
        test = read_texts(given.test)
        rows = []
        for engine in ENGINES:
            run("export", work / "plan", "--engine", engine, "-o", work / engine)
            reference, found = measure_folder(str(work / engine), test, reference=given.model)
            rows = rows or [figures(reference)]
            rows.append(figures(found))
            print(json.dumps(rows[-1]), flush=True)
        plan = json.loads((work / "plan.json").read_text())
    result = {
        "command": "python -m benchmarks.engines.portable MODEL CALIBRATION TEST OUT.json",
        "model": Path(given.model).name, "test_texts": len(test), "texts": given.texts, "budget": given.budget,
        "commit": code_commit(), "machine": machine(),
        "predicted_loss": plan["predicted_loss"], "predicted_std_error": plan["predicted_std_error"],
        "packed_bytes": plan["total_bytes"], "rows": rows,
    }  # fmt: skip
    Path(given.out).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
