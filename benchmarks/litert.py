"""What LiteRT makes of our plans: bytes, answers and time of each file beside the float32 file.

    python benchmarks/litert.py MODEL SCORES CALIBRATION TEST WORK OUT.json [--rounds 12] [--runs 5]

MODEL is a fine-tuned BERT with a classifier; SCORES are of it and CALIBRATION, with 8-bit inputs per token, by
`qbert-opt sensitivity --forms signed,symmetric --groupings rows:each,columns:32,columns:64,columns:128 --bits 2,4,8
--table-bits 2,4,8 --activation-bits 8`; TEST is labelled text that took no part. Two uniform plans and two solved ones
are quantized, exported to WORK and compared with the float model on all of TEST. Speed: one process has every file
open; each round asks each in turn, in alternating order, for a few runs of one text of 128 tokens on one thread;
processor time, medians; ratios to the float32 file are paired by round.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import astuple
from pathlib import Path

import numpy as np

from qbert_opt.costs.stored import engine_target, table_choices
from qbert_opt.data.texts import read_texts
from qbert_opt.engines.record import read_record
from qbert_opt.engines.session import engine
from qbert_opt.planning.assembly import with_activations
from qbert_opt.planning.recipes import uniform_allocation
from qbert_opt.runtime.provenance import code_commit
from qbert_opt.serving.measuring import measure_folder
from qbert_opt.spec.activations import ActivationChoice, planned_activations
from qbert_opt.spec.allocation import read_allocation, write_allocation
from qbert_opt.spec.choices import choice
from qbert_opt.spec.scores import read_scores
from qbert_opt.workflows.export import export_float

UNIFORM = {
    "uniform int8": "8bit/rows:each/gptq/symmetric",
    "uniform int4, blocks of 32": "4bit/columns:32/gptq/symmetric",
}
BUDGETS = {"plan of 4 bits": "4bit", "plan of 2.5 bits": "2.5bit"}
TOKENS = 128


def run(*arguments):
    """Run the command line; stop where it stops."""
    subprocess.run([sys.executable, "-m", "qbert_opt", *map(str, arguments), "--quiet"], check=True)


def plan_of(name, scores_path, path):
    """Write a plan."""
    if name in BUDGETS:
        run("solve", "--scores", scores_path, "--engine", "litert", "--budget", BUDGETS[name], "-o", path)
        return
    scores, target = read_scores(scores_path), engine_target("litert")
    plan = uniform_allocation(scores, choice(UNIFORM[name]), tables=table_choices(scores.profile, target))
    plan = with_activations(plan, planned_activations(scores, [ActivationChoice(8)], 1.0))
    write_allocation(plan, path)


def row_of(name, folder, plan, found):
    """What is reported of one file; intervals are value, low, high at 95 %."""
    quality, record = found.evaluation, read_record(folder)
    return {
        "name": name,
        "bits": plan.average_bits,
        "file_bytes": (folder / "model.tflite").stat().st_size,
        "predicted_bytes": None if plan.engine is None else plan.engine.total_bytes,
        "predicted_loss": plan.predicted_loss,
        "predicted_std_error": plan.predicted_std_error,
        "kl": astuple(quality.kl),
        "flipped": quality.flipped,
        "accuracy": astuple(quality.accuracy),
        "activations": record.activations,
        "agreement": record.agreement.model_dump(),
        "graph_difference": record.graph_difference,
    }


def timed(folders, rounds, runs):
    """Processor seconds of one text by file and round."""
    module = engine("litert")
    sessions = {name: module.open_model(folder, 1) for name, folder in folders.items()}
    ids = np.random.default_rng(0).integers(1000, 20000, (1, TOKENS))
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    for session in sessions.values():
        session.run(inputs)
    found = {name: [] for name in sessions}
    for turn in range(rounds):
        for name in list(sessions)[:: -1 if turn % 2 else 1]:
            started = time.process_time()
            for _ in range(runs):
                sessions[name].run(inputs)
            found[name].append((time.process_time() - started) / runs)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "scores", "calibration", "test", "work", "out"):
        parser.add_argument(name)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--runs", type=int, default=5, help="in a round")
    given = parser.parse_args()
    work = Path(given.work)
    work.mkdir(exist_ok=True)
    test = read_texts(given.test)
    folders = {"float32": work / "float32"}
    if not folders["float32"].exists():
        export_float(given.model, "litert", folders["float32"])
    rows, reference = [], None
    for number, name in enumerate((*UNIFORM, *BUDGETS)):
        plan, quantized, folder = (work / f"{what}{number}" for what in ("plan", "quantized", "exported"))
        if not folder.exists():
            if not quantized.exists():
                plan_of(name, given.scores, plan)
                run("quantize", plan, "--model", given.model, "--data", given.calibration, "-o", quantized)
            run("export", quantized, "--engine", "litert", "-o", folder)
        reference, found = measure_folder(str(folder), test, reference=given.model)
        rows.append(row_of(name, folder, read_allocation(folder / "allocation.json"), found))
        folders[name] = folder
        print(json.dumps(rows[-1]), flush=True)
    seconds = timed(folders, given.rounds, given.runs)
    for row in rows:
        ratios = [a / b for a, b in zip(seconds[row["name"]], seconds["float32"], strict=True)]
        row["time_to_float32"] = [statistics.median(ratios), min(ratios), max(ratios)]
    result = {
        "command": "python benchmarks/litert.py MODEL SCORES CALIBRATION TEST WORK OUT.json",
        "model": Path(given.model).name, "test_texts": len(test), "tokens": TOKENS, "rounds": given.rounds,
        "commit": code_commit(), "machine": f"{platform.machine()}, {platform.system()}",
        "engine": engine("litert").label(), "float32_bytes": (folders["float32"] / "model.tflite").stat().st_size,
        "float32_accuracy": astuple(reference.evaluation.accuracy),
        "float32_cpu_s": statistics.median(seconds["float32"]), "rows": rows,
    }  # fmt: skip
    Path(given.out).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
