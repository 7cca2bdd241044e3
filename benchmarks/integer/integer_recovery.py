"""Does recovery training through integer functions pay? Integer answers on unseen text, before and after training.

    python -m benchmarks.integer.integer_recovery MODEL PLAN TRAIN TEST WORK OUT.json [--runs none,real,poly,shift]
        [--ways table,poly,shift] [--texts 1024] [--tested N] [--steps blocks,distill] [--epochs 2] [--seed 0]

PLAN is an allocation.json with static ranges of inputs. It is quantized, and trained on the same texts, updates and
seed once with the real functions and once with those of each way (`recover --nonlinearity`). Each result is compiled by
several ways, calibrated on training text, and compared with the float model. `none` is the plan without training. Rows
are added to OUT.json one by one; those that are there already are not measured again.
"""

import argparse
import json
from pathlib import Path

import torch

from benchmarks.integer.integer import Running
from benchmarks.integer.integer_widths import measured
from benchmarks.records import machine
from qbert_opt.checkpoint.reader import load_quantized, read_matrices
from qbert_opt.data.texts import read_texts
from qbert_opt.engines.engine_module import engine_module
from qbert_opt.formats.traced_model import traceable
from qbert_opt.integer.compiler import compile_model
from qbert_opt.integer.families import encoder_of
from qbert_opt.integer.ways import Ways
from qbert_opt.models.loading import LoadedModel, load_model, tokenized
from qbert_opt.runtime.provenance import code_commit
from qbert_opt.spec.allocation import read_allocation
from qbert_opt.training.settings import RecoverySettings
from qbert_opt.workflows.quantize import quantize_model
from qbert_opt.workflows.recover import recover

CALIBRATION = 256
RATES = {"blocks": (3e-4, 3e-4)}  # of the committed results; the default of `recover` has changed since


def trained(run, options, data, texts, folder):
    """Write the folder of a run, from `data` that was scored and trained on `texts`; what it took."""
    start = Path(options.work) / "none"
    if not start.exists():
        quantize_model(load_model(options.model), read_allocation(options.plan), data, start)
    if run == "none":
        return {}
    settings = RecoverySettings(
        steps=tuple(options.steps.split(",")), epochs=dict.fromkeys(options.steps.split(","), options.epochs),
        rates={step: pair for step, pair in RATES.items() if step in options.steps.split(",")},
        nonlinearity=None if run == "real" else run, seed=options.seed,
    )  # fmt: skip
    found = recover(load_model(options.model), start, [texts], folder, settings=settings)
    return {
        "updates": sum(phase.updates for phase in found.phases), "train_cpu_minutes": round(found.cpu_seconds / 60, 2),
        "held_loss_before": found.start_loss, "held_loss_after": found.best_loss,
    }  # fmt: skip


def main():
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "plan", "train", "test", "work", "out"):
        parser.add_argument(name)
    parser.add_argument("--runs", default="none,real,poly,shift")
    parser.add_argument("--ways", default="table,poly,shift")
    parser.add_argument("--texts", type=int, default=1024)
    parser.add_argument("--tested", type=int)
    parser.add_argument("--steps", default="blocks,distill")
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    data, test = read_texts(options.train), read_texts(options.test)
    texts = data.take(range(options.texts))
    test = test if options.tested is None else test.take(range(options.tested))
    plan, out = read_allocation(options.plan), Path(options.out)
    rows = json.loads(out.read_text()) if out.exists() else []
    common = {
        "model": Path(options.model).name, "bits": round(plan.average_bits, 3), "train_texts": len(texts),
        "test_texts": len(test), "steps": options.steps, "epochs": options.epochs, "seed": options.seed,
        "commit": code_commit(),
        "machine": f"{machine()}, torch {torch.__version__}",
    }  # fmt: skip

    def known(run, functions):
        return any((row["trained"], row["functions"]) == (run, functions) for row in rows)

    def add(row):
        rows.append(common | row)
        out.write_text(json.dumps(rows, indent=1) + "\n")
        print(json.dumps(row), flush=True)

    floats, _ = measured(load_model(options.model), test)
    for run in options.runs.split(","):
        wanted = [way for way in ("real", *options.ways.split(",")) if not known(run, way)]
        folder, took = Path(options.work) / run, Path(options.work) / f"{run}.json"
        if wanted and not took.exists():
            took.write_text(json.dumps(trained(run, options, data, texts, folder)))
        for way in wanted:
            loaded, own = load_quantized(folder)
            if way != "real":
                batches, inputs = tokenized(loaded, texts.texts[:CALIBRATION], batch_size=16), traceable(loaded).inputs
                program = compile_model(
                    encoder_of(loaded),
                    read_matrices(folder, own),
                    own.activations,
                    batches,
                    inputs,
                    Ways(way, way, way),
                ).program
                module = engine_module(Running(program), inputs, loaded.model.config, own.profile.architecture)
                loaded = LoadedModel(loaded.name, module, loaded.tokenizer, loaded.sha256, max_tokens=loaded.max_tokens)
            add({"trained": run, "functions": way, **json.loads(took.read_text()), **measured(loaded, test, floats)[1]})


if __name__ == "__main__":
    main()
