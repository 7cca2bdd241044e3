"""What do integer functions and 8-bit inputs cost, and what do 16 bits give? On unseen text, nothing retrained.

    python -m benchmarks.integer.integer_widths MODEL CALIBRATION TEST WORK OUT.json [--bits 8,16]
        [--ways table,poly,shift]
        [--label-column C] [--split-calibration S] [--split-test S] [--samples 256] [--texts N]

Every matrix gets 8 bits per row, rounded to nearest, and every input a static range of 8 or of 16 bits, so that what is
seen is the cost of inputs and functions, not of weights. Each program is compared with the float model and with the
same plan, whose inputs are rounded alike but whose nonlinear functions are real. Beside it stands the predicted latency
of the plan on car-soc, its functions in integers by the same way. Rows are added to OUT.json one by one; those that are
there already are not measured again.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.integer.integer import Running
from benchmarks.records import machine
from hwmodels import load_device
from qbert_opt.checkpoint.reader import load_quantized, read_matrices
from qbert_opt.costs.simulate import simulate_allocation
from qbert_opt.costs.workload import Workload
from qbert_opt.data.texts import read_texts
from qbert_opt.engines.engine_module import engine_module
from qbert_opt.evaluation.evaluate import evaluation_batches, measure
from qbert_opt.formats.traced_model import traceable
from qbert_opt.integer.compiler import compile_model
from qbert_opt.integer.families import encoder_of
from qbert_opt.integer.ways import Ways
from qbert_opt.models.loading import LoadedModel, load_model, tokenized
from qbert_opt.models.outputs import collect
from qbert_opt.models.structure import profile_model
from qbert_opt.models.targets import read_targets
from qbert_opt.planning.recipes import given_allocation
from qbert_opt.quantization.activation_ranges import calibrated_ranges, shared_inputs
from qbert_opt.runtime.provenance import code_commit
from qbert_opt.spec.choices import choice
from qbert_opt.spec.planned import PlannedActivation
from qbert_opt.workflows.quantize import quantize_model

CHOICE = "8bit/rows:each/rtn/symmetric"
RANGE = "mse"
QUALITIES = ("accuracy", "entity_f1", "exact_match")
SEQ_LEN = 32


def prepared(loaded, texts, bits, folder):
    """Write the quantized folder with inputs of some bits."""
    profile = profile_model(loaded)
    modules = [matrix.module for matrix in profile.matrices]
    plan = given_allocation(profile, {module: choice(CHOICE) for module in modules})
    batches = tokenized(loaded, texts.texts, batch_size=16)
    ranges = calibrated_ranges(loaded.model, batches, modules)
    planned = tuple(
        PlannedActivation(modules=group, bits=bits, scheme="tensor", range=RANGE, low=low, high=high,
                          predicted_loss=0.0, std_error=0.0)
        for group in shared_inputs(loaded.model, batches[0], modules)
        for low, high in [ranges[group[0]][RANGE](bits)]
    )  # fmt: skip
    quantize_model(loaded, plan.model_copy(update={"activations": planned}), texts, folder)


def measured(loaded, test, floats=None, plan=None):
    """The answers; quality, and what changed against the float model and against the plan in torch."""
    batches = evaluation_batches(loaded, test)
    answers, targets = collect(loaded.head, loaded.model, batches), read_targets(loaded, test, batches)
    against = measure(answers, targets, answers.values if floats is None else floats)
    row = {name: figure.value if hasattr(figure, "value") else figure
           for name in QUALITIES if (figure := getattr(against, name, None)) is not None}  # fmt: skip
    row |= {"kl_to_float": against.kl.value, "flips_to_float": against.flipped}
    if against.drop is not None:  # of accuracy, or of entity F1, paired by text
        row["drop"] = [against.drop.value, against.drop.low, against.drop.high]
    if plan is not None:
        same = measure(answers, None, plan)
        row |= {"kl_to_plan": same.kl.value, "flips_to_plan": same.flipped}
    return answers.values, row


def main():
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "calibration", "test", "work", "out"):
        parser.add_argument(name)
    parser.add_argument("--bits", default="8,16")
    parser.add_argument("--ways", default="table,poly,shift")
    parser.add_argument("--label-column")
    parser.add_argument("--split-calibration")
    parser.add_argument("--split-test")
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--texts", type=int)
    options = parser.parse_args()
    data = read_texts(options.calibration, label_column=options.label_column, split=options.split_calibration)
    test = read_texts(options.test, label_column=options.label_column, split=options.split_test)
    data = data.take(range(min(options.samples, len(data))))
    test = test if options.texts is None else test.take(range(options.texts))
    out, device = Path(options.out), load_device("car-soc")
    rows = json.loads(out.read_text()) if out.exists() else []
    common = {
        "model": Path(options.model).name, "texts": len(test), "weights": CHOICE, "ranges": RANGE,
        "commit": code_commit(),
        "machine": f"{machine()}, torch {torch.__version__}",
    }  # fmt: skip

    def known(program, bits=None):
        kept = (common["model"], program, bits)
        return any((row["model"], row["program"], row.get("input_bits")) == kept for row in rows)

    def add(row):
        if known(row["program"], row.get("input_bits")):
            return
        rows.append(common | row)
        out.write_text(json.dumps(rows, indent=1) + "\n")
        print(json.dumps(row)[:400], flush=True)

    original = load_model(options.model)
    floats, float_row = measured(original, test)
    add({"program": "float", **float_row})
    for bits in map(int, options.bits.split(",")):
        folder = Path(options.work) / f"{Path(options.model).name}-{bits}"
        if not folder.exists():
            prepared(load_model(options.model), data, bits, folder)
        loaded, plan = load_quantized(folder)
        planned, plan_row = measured(loaded, test, floats)
        add({"program": "plan, real functions", "input_bits": bits, **plan_row})
        batches, inputs = tokenized(loaded, data.texts, batch_size=16), traceable(loaded).inputs
        for way in options.ways.split(","):
            if known(f"integers, {way}", bits):
                continue
            ways, started = Ways(way, way, way), time.process_time()
            stored = read_matrices(folder, plan)
            compiled = compile_model(encoder_of(loaded), stored, plan.activations, batches, inputs, ways)
            module = engine_module(Running(compiled.program), inputs, loaded.model.config, plan.profile.architecture)
            subject = LoadedModel(loaded.name, module, loaded.tokenizer, loaded.sha256, max_tokens=loaded.max_tokens)
            cost = simulate_allocation(plan, device, replace(Workload(SEQ_LEN), functions=ways))
            add({
                "program": f"integers, {way}", "input_bits": bits, **measured(subject, test, floats, planned)[1],
                "narrowed": compiled.narrowed, "car_soc_latency_ms": round(cost.latency_s * 1e3, 3),
                "car_soc_tokens": SEQ_LEN, "cpu_s": round(time.process_time() - started, 1),
            })  # fmt: skip


if __name__ == "__main__":
    main()
