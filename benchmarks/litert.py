"""What LiteRT makes of our plans, and one plan's codes in four engines: bytes, answers and time of each file.

    python benchmarks/litert.py MODEL SCORES CALIBRATION TEST OUT.json [--rounds 12] [--runs 3]

MODEL is a fine-tuned BERT with a classifier; SCORES are of it and CALIBRATION, with 8-bit inputs per token, by
`qbert-opt sensitivity --forms signed,symmetric --groupings rows:each,columns:32,columns:64,columns:128 --bits 2,4,8
--table-bits 2,4,8 --activation-bits 8`; TEST is labelled text that took no part. Two uniform plans and two solved ones
are quantized by `gptq` and written for LiteRT; a plan for four engines is written for each. Answers are compared
with the float model's on all of TEST, and on some of it with torch's that has the same codes and rounds inputs per
token. Speed: one process has every file of LiteRT open; each round asks each in turn, in alternating order, for a few
runs of one text of 128 tokens on one thread; processor time; ratios to the float32 file are paired by round.
"""

import argparse
import copy
import json
import platform
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from qbert_opt.costs.portable import plan_target
from qbert_opt.data.texts import read_texts
from qbert_opt.engines.engine_module import engine_module
from qbert_opt.engines.session import engine, exporting_format
from qbert_opt.evaluation.evaluate import outputs
from qbert_opt.formats.traced_model import traceable
from qbert_opt.models.labels import label_ids
from qbert_opt.models.loading import load_model
from qbert_opt.planning.assembly import with_activations
from qbert_opt.planning.constraints import PlanConstraints
from qbert_opt.planning.planner import allocate
from qbert_opt.planning.recipes import uniform_allocation
from qbert_opt.quantization.activation_quant import with_rounded_inputs
from qbert_opt.quantization.calibration import CalibrationPlan, MatrixQuantizer, calibration_texts, quantized_matrices
from qbert_opt.runtime.provenance import code_commit
from qbert_opt.spec.activations import ActivationChoice, planned_activations
from qbert_opt.spec.choices import choice
from qbert_opt.spec.limits import Limits
from qbert_opt.spec.scores import read_scores

PLANS = {
    "uniform int8": choice("8bit/rows:each/gptq/symmetric"),
    "uniform int4, blocks of 32": choice("4bit/columns:32/gptq/symmetric"),
    "plan of 4 bits": 4.0,
    "plan of 2.5 bits": 2.5,
}
TABLES = "8bit/rows:each/mse/symmetric"  # of uniform plans: scored, so that their loss is predicted too
PORTABLE = ("litert", "llama-cpp", "onnxruntime", "openvino")
PORTABLE_BITS = 4.25
TOKENS, COMPARED = 128, 100
BY_TOKEN = ActivationChoice(8)


def planned(scores, given, engines):
    """A plan of one choice, or the best of so many bits in the engines' files; inputs are rounded per token."""
    if not isinstance(given, float):
        tables = {table.module: choice(TABLES) for table in scores.profile.tables}
        plan = uniform_allocation(scores, given, tables=tables)
        return with_activations(plan, planned_activations(scores, [BY_TOKEN], 1.0))
    limits = Limits(encoder_bytes=int(given * scores.profile.encoder_elements / 8))
    several = {"portable": engines} if len(engines) > 1 else {"engine": engines[0]}
    return allocate(scores, limits, activations=[BY_TOKEN], constraints=PlanConstraints(**several))


def with_codes(loaded, stored):
    """A copy of the model with dequantized weights."""
    model = copy.deepcopy(loaded.model)
    for matrix in stored:
        model.get_submodule(matrix.module).weight.data = matrix.quantized.dequantize()
    return replace(loaded, model=model)


def answers(loaded, traced, session, texts):
    """An engine's logits."""
    model = engine_module(session, traced.inputs, loaded.model.config, type(loaded.model).__name__)
    return outputs(replace(loaded, model=model), texts)


def compared(found, reference, labels):
    """KL of the float model's answers with its standard error, changed answers, accuracy."""
    log_p, log_q = (logits.double().log_softmax(1) for logits in (reference, found))
    kl = (log_p.exp() * (log_p - log_q)).sum(1)
    return {
        "kl": float(kl.mean()), "kl_std_error": float(kl.std() / len(kl) ** 0.5),
        "flipped": int((found.argmax(1) != reference.argmax(1)).sum()),
        "accuracy": float((found.argmax(1) == labels).double().mean()),
        "max_difference": float((found - reference).abs().max()),
    }  # fmt: skip


def timed(sessions, rounds, runs):
    """Processor seconds of one text by file and round."""
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
    for name in ("model", "scores", "calibration", "test", "out"):
        parser.add_argument(name)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--runs", type=int, default=3, help="in a round")
    given = parser.parse_args()
    loaded, scores, test = load_model(given.model), read_scores(given.scores), read_texts(given.test)
    origin, few = scores.provenance, test.take(range(COMPARED))
    fit, _ = calibration_texts(
        read_texts(given.calibration), CalibrationPlan(origin.num_calibration, origin.num_scored, origin.seed)
    )
    quantizer = MatrixQuantizer(loaded, scores.profile, scores.method, fit)
    labels = torch.tensor(label_ids(loaded.labels, test.labels, whole=None, source=test.name, model=loaded.name))
    reference = outputs(loaded, test)
    result = {
        "command": "python benchmarks/litert.py MODEL SCORES CALIBRATION TEST OUT.json",
        "model": Path(given.model).name, "test_texts": len(test), "compared_texts": COMPARED, "tokens": TOKENS,
        "rounds": given.rounds, "commit": code_commit(), "machine": f"{platform.machine()}, {platform.system()}",
        "engine": engine("litert").label(),
        "float32_accuracy": float((reference.argmax(1) == labels).double().mean()), "rows": [], "portable": [],
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "float32"
        folder.mkdir()
        exporting_format("litert").write(traceable(loaded), (), folder)
        sessions = {"float32": engine("litert").open_model(folder, 1)}
        result["float32_bytes"] = (folder / "model.tflite").stat().st_size
        for name, wanted in PLANS.items():
            plan = planned(scores, wanted, ("litert",))
            stored = list(quantized_matrices(quantizer, plan))
            codes = with_codes(loaded, stored)
            traced = traceable(codes)
            folder = Path(scratch) / name
            folder.mkdir()
            exporting_format("litert").write(traced, stored, folder)
            sessions[name] = engine("litert").open_model(folder, 1)
            found = answers(loaded, traced, sessions[name], test)
            alike = outputs(replace(codes, model=with_rounded_inputs(codes.model, plan.activations)), few)
            result["rows"].append({
                "name": name, "bits": plan.average_bits, "file_bytes": (folder / "model.tflite").stat().st_size,
                "predicted_bytes": None if plan.engine is None else plan.engine.total_bytes,
                "predicted_loss": plan.predicted_loss, "predicted_std_error": plan.predicted_std_error,
                "inputs_predicted_loss": sum(item.predicted_loss for item in plan.activations),
                **compared(found, reference, labels),
                "to_torch_rounding_alike": float((found[: len(alike)] - alike).abs().max()),
            })  # fmt: skip
            print(json.dumps(result["rows"][-1]), flush=True)
        seconds = timed(sessions, given.rounds, given.runs)
        result["float32_cpu_s"] = statistics.median(seconds["float32"])
        for row in result["rows"]:
            ratios = [a / b for a, b in zip(seconds[row["name"]], seconds["float32"], strict=True)]
            row["time_to_float32"] = [statistics.median(ratios), min(ratios), max(ratios)]
        Path(given.out).write_text(json.dumps(result, indent=1) + "\n")
        plan = planned(scores, PORTABLE_BITS, PORTABLE)
        stored = list(quantized_matrices(quantizer, plan))
        traced = traceable(with_codes(loaded, stored))
        result["portable_plan"] = {
            "engines": plan_target(None, PORTABLE).name, "bits": plan.average_bits,
            "predicted_loss": plan.predicted_loss, "predicted_std_error": plan.predicted_std_error,
        }  # fmt: skip
        for name in PORTABLE:
            folder = Path(scratch) / f"portable {name}"
            folder.mkdir()
            exporting_format(name).write(traced, stored, folder)
            found = answers(loaded, traced, engine(name).open_model(folder, 1), test)
            size = sum(file.stat().st_size for file in folder.iterdir())
            result["portable"].append({"engine": name, "file_bytes": size, **compared(found, reference, labels)})
            print(json.dumps(result["portable"][-1]), flush=True)
    Path(given.out).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
