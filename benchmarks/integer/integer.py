"""What do integer nonlinear functions cost? A quantized folder in torch and as integer programs, on unseen text.

    python -m benchmarks.integer.integer MODEL QUANTIZED CALIBRATION TEST OUT.json [--ways table,poly,shift]
        [--samples 256]

Each program is compared with the float model and with the same plan, whose inputs are rounded alike but whose nonlinear
functions are real. Rows are added to OUT.json one by one.
"""

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.records import machine
from qbert_opt.checkpoint.reader import load_quantized, read_matrices
from qbert_opt.data.texts import read_texts
from qbert_opt.engines.engine_module import engine_module
from qbert_opt.evaluation.evaluate import evaluation_batches, measure
from qbert_opt.formats.traced_model import traceable
from qbert_opt.integer.compiler import compile_model
from qbert_opt.integer.families import encoder_of
from qbert_opt.integer.reference import Reference
from qbert_opt.integer.summary import summary_of
from qbert_opt.integer.ways import Ways
from qbert_opt.models.loading import LoadedModel, load_model, tokenized
from qbert_opt.models.outputs import collect
from qbert_opt.models.targets import read_targets
from qbert_opt.runtime.provenance import code_commit
from qbert_opt.spec.activations import input_bits


class Running:
    """A program as the session of an engine."""

    def __init__(self, program):
        self.reference = Reference(program)

    def run(self, inputs):
        """Return the answers in real numbers."""
        return self.reference.program.answers(self.reference.run(inputs))


def measured(loaded, test, floats=None, plan=None):
    """The answers; accuracy, and what changed against the float model and against the plan in torch."""
    batches = evaluation_batches(loaded, test)
    answers, targets = collect(loaded.head, loaded.model, batches), read_targets(loaded, test, batches)
    against = measure(answers, targets, answers.values if floats is None else floats)
    row = {"accuracy": against.accuracy.value, "kl_to_float": against.kl.value, "flips_to_float": against.flipped}
    if plan is not None:
        same = measure(answers, None, plan)
        row |= {"kl_to_plan": same.kl.value, "flips_to_plan": same.flipped}
    return answers.values, row


def main():
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "quantized", "calibration", "test", "out"):
        parser.add_argument(name)
    parser.add_argument("--ways", default="table,poly,shift")
    parser.add_argument("--samples", type=int, default=256)
    options = parser.parse_args()
    test, data = read_texts(options.test), read_texts(options.calibration)
    loaded, plan = load_quantized(options.quantized)
    original = load_model(options.model)
    floats, float_row = measured(original, test)
    planned, plan_row = measured(loaded, test, floats)
    widths = input_bits(plan.activations)
    common = {
        "model": Path(options.model).name, "test": f"{Path(options.test).parent.name}/{Path(options.test).stem}",
        "texts": len(test), "bits": plan.average_bits, "inputs_of_16_bits": sum(b == 16 for b in widths.values()),
        "inputs": len(widths), "commit": code_commit(),
        "machine": f"{machine()}, torch {torch.__version__}",
    }  # fmt: skip
    out = Path(options.out)
    rows = json.loads(out.read_text()) if out.exists() else []

    def add(row):
        rows.append(common | row)
        out.write_text(json.dumps(rows, indent=1) + "\n")
        print(json.dumps(row)[:400], flush=True)

    if not any(row["program"] == "float" for row in rows):
        add({"program": "float", **float_row})
    add({"program": "plan, real functions", **plan_row})
    batches = tokenized(loaded, data.texts[: options.samples], batch_size=16)
    inputs = traceable(loaded).inputs
    for way in options.ways.split(","):
        ways, started = Ways(way, way, way), time.process_time()
        stored = read_matrices(options.quantized, plan)
        compiled = compile_model(encoder_of(loaded), stored, plan.activations, batches, inputs, ways)
        compile_s = time.process_time() - started
        module = engine_module(Running(compiled.program), inputs, loaded.model.config, plan.profile.architecture)
        subject = LoadedModel(loaded.name, module, loaded.tokenizer, loaded.sha256, max_tokens=loaded.max_tokens)
        summary = summary_of(compiled, ways)
        add({
            "program": f"integers, {way}", **measured(subject, test, floats, planned)[1],
            "compile_cpu_s": round(compile_s, 1), "operations": summary.operations,
            "constant_bytes": summary.constant_bytes, "table_bytes": summary.table_bytes,
            "widest_share_of_int32": summary.tight[0].share, "narrowed": summary.narrowed,
            "errors": [asdict(error) for error in compiled.errors],
        })  # fmt: skip


if __name__ == "__main__":
    main()
