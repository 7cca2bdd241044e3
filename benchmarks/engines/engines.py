"""How fast, how small and how right are engines with a mixed plan, beside float32?

    python -m benchmarks.engines.engines prepare MODEL WORK  # quantize by the bundled plan's choices and export
    python -m benchmarks.engines.engines prepare-planned MODEL WORK    # one range of inputs per matrix, see below
    python -m benchmarks.engines.engines answers WORK  # accuracy, KL and flipped answers on SNIPS test; prints JSON
    python -m benchmarks.engines.engines measure WORK [--rounds 12]  # prints JSON; on a machine with nothing else to do

MODEL has 12 layers of 768 and a head for SNIPS intents. The plan is what the bundled scores give for 3 bits per weight
with 2, 4 and 8 bits (two matrices are pinned to 8) in all groupings; weights are quantized by gptq on
SNIPS dev, tables by 8 bits per row. `planned` is another plan: 4.5 bits per weight with 4 and 8 bits, ranges over rows
only, weights by range search, inputs in one 8-bit range each, found on SNIPS dev by the method that loses least on
other texts of it. Speed: every engine lives in a process of its own; each round asks all of them in
turn, in alternating order, for a few runs of one sentence of 128 tokens on one thread; processor time, medians; ratios
are paired by round, with a 95 % bootstrap interval over rounds. Memory: anonymous pages of a fresh process.
"""

import argparse
import json
import multiprocessing
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.records import machine

BUDGET_BITS = 3
PINS = {"layer.0.attention.attn.v": 8, "layer.3.attention.attn.o": 8}
SEQ_LEN = 128
# name: engine, folder, activations; `<name>` of the float ones is what the others are compared with
ENGINES = {
    "torch float32": ("torch", "model", "float32"),
    "openvino float32": ("openvino", "openvino-float", "float32"),
    "onnxruntime float32": ("onnxruntime", "onnxruntime-float", "float32"),
    "openvino": ("openvino", "openvino-int8", "int8"),
    "openvino coarse": ("openvino", "openvino-int8-coarse", "int8-coarse"),
    "onnxruntime": ("onnxruntime", "onnxruntime-int8", "int8"),
    "onnxruntime coarse": ("onnxruntime", "onnxruntime-int8-coarse", "int8-coarse"),
    "openvino planned": ("openvino", "openvino-planned", "planned"),
    "onnxruntime planned": ("onnxruntime", "onnxruntime-planned", "planned"),
}
PLANNED_BITS = 4.5
ROWS = ("rows:1", "rows:heads", "rows:128", "rows:each")


def prepare(model: Path, work: Path) -> None:
    import qbert_opt as qb
    from qbert_opt.checkpoint.writer import write_checkpoint
    from qbert_opt.models.structure import profile_model
    from qbert_opt.planning.recipes import given_allocation
    from qbert_opt.quantization.calibration import (
        CalibrationPlan,
        MatrixQuantizer,
        calibration_texts,
        quantized_matrices,
    )
    from qbert_opt.workflows.export import export_float

    loaded = qb.load_model(model)
    profile = profile_model(loaded)
    limits = qb.Limits(encoder_bytes=BUDGET_BITS * profile.encoder_elements // 8)
    plan = qb.allocate(qb.reference_scores(), limits, constraints=qb.PlanConstraints(bits=(2, 4, 8), pins=PINS))
    fit, _ = calibration_texts(qb.read_texts("snips/dev"), CalibrationPlan(256, 256, 0))
    given = given_allocation(profile, {m.module: m.choice for m in plan.matrices})
    quantizer = MatrixQuantizer(loaded, profile, "gptq", fit)
    work.mkdir(exist_ok=True)
    (work / "model").symlink_to(model.absolute())
    print(write_checkpoint(loaded, given, quantized_matrices(quantizer, given), work / "quantized"), flush=True)
    for engine, folder, activations in ENGINES.values():
        if folder.endswith("-float"):
            export_float(model, engine, work / folder)
        elif folder != "model" and activations != "planned":
            export(work, engine, folder, activations)


def prepare_planned(model: Path, work: Path) -> None:
    """A plan whose products are plain 8-bit ones: ranges over rows only, one range per input from calibration text."""
    import copy

    import qbert_opt as qb
    from qbert_opt.checkpoint.writer import write_checkpoint
    from qbert_opt.evaluation.evaluate import evaluate
    from qbert_opt.models.batches import tokenize
    from qbert_opt.models.loading import LoadedModel
    from qbert_opt.models.structure import profile_model
    from qbert_opt.planning.recipes import given_allocation
    from qbert_opt.quantization.activation_quant import with_rounded_inputs
    from qbert_opt.quantization.activation_ranges import calibrated_ranges
    from qbert_opt.quantization.calibration import (
        CalibrationPlan,
        MatrixQuantizer,
        calibration_texts,
        quantized_matrices,
    )
    from qbert_opt.spec.planned import PlannedActivation

    loaded = qb.load_model(model)
    profile = profile_model(loaded)
    limits = qb.Limits(encoder_bytes=int(PLANNED_BITS * profile.encoder_elements / 8))
    plan = qb.allocate(qb.reference_scores(), limits, constraints=qb.PlanConstraints(bits=(4, 8), groupings=ROWS))
    fit, held = calibration_texts(qb.read_texts("snips/dev"), CalibrationPlan(128, 64, 0))
    batches = tokenize(loaded.tokenizer, fit.texts, batch_size=16)
    ranges = calibrated_ranges(loaded.model, batches, [m.module for m in profile.matrices])
    truth, best = qb.outputs(loaded, held), (float("inf"), ())
    for method in ("minmax", "average", "percentile", "mse"):
        planned = []
        for name, found in ranges.items():
            low, high = found[method](8)
            planned.append(PlannedActivation(modules=(name,), bits=8, scheme="tensor", range=method, low=low, high=high,
                                             predicted_loss=0, std_error=0))  # fmt: skip
        rounded = copy.deepcopy(loaded.model)
        with_rounded_inputs(rounded, planned)
        kl = evaluate(LoadedModel(method, rounded, loaded.tokenizer, loaded.sha256), held, truth).kl.value
        print(f"float weights, 8-bit inputs, {method}: KL {kl:.5f} on {len(held)} held out texts", flush=True)
        best = min(best, (kl, tuple(planned)), key=lambda pair: pair[0])
    given = given_allocation(profile, {m.module: replace(m.choice, method="mse") for m in plan.matrices})
    given = given.model_copy(update={"activations": best[1]})
    quantizer = MatrixQuantizer(loaded, profile, "mse", None)
    print(write_checkpoint(loaded, given, quantized_matrices(quantizer, given), work / "quantized-planned"), flush=True)
    for engine in ("openvino", "onnxruntime"):
        export(work, engine, f"{engine}-planned", "planned", "quantized-planned")


def export(work: Path, engine: str, folder: str, activations: str, source: str = "quantized") -> None:
    import qbert_opt as qb
    from qbert_opt.errors import InputFileError

    try:
        print(qb.export_model(work / source, engine, work / folder, activations=activations), flush=True)
    except InputFileError as error:  # its answers are off: part of the result
        print(error, flush=True)
        (work / f"{folder}.refused").write_text(str(error).split(": ", 1)[1])


def serve(name: str, work: Path, pipe: object) -> None:
    """Answer requests for so many runs with processor times, until None comes."""
    from qbert_opt.engines.child_process import WARM_UP
    from qbert_opt.engines.timing import made_up_inputs
    from qbert_opt.runtime.plugins import load

    engine, folder, activations = ENGINES[name]
    session = load("engines", engine).open_model(work / folder, 1, activations)
    inputs = made_up_inputs(("input_ids", "attention_mask"), 1, SEQ_LEN)
    for _ in range(WARM_UP):
        session.run(inputs)
    pipe.send("ready")
    while (runs := pipe.recv()) is not None:
        found = []
        for _ in range(runs):
            started = time.process_time()
            session.run(inputs)
            found.append(time.process_time() - started)
        pipe.send(found)


def present(work: Path) -> dict[str, tuple[str, str, str]]:
    """The engines whose files are there."""
    return {name: entry for name, entry in ENGINES.items() if (work / entry[1]).exists()}


def speeds(work: Path, names: list[str], rounds: int, runs: int) -> dict[str, list[float]]:
    """Median processor seconds of each engine in each round."""
    spawn = multiprocessing.get_context("spawn")
    pipes, children = {}, []
    for name in names:
        pipes[name], other = spawn.Pipe()
        children.append(spawn.Process(target=serve, args=(name, work, other)))
        children[-1].start()
        assert pipes[name].recv() == "ready"
    found: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names[:: 1 if number % 2 else -1]:
            pipes[name].send(runs)
            found[name].append(float(np.median(pipes[name].recv())))
    for name, child in zip(names, children, strict=True):
        pipes[name].send(None)
        child.join()
    return found


def ratio(above: list[float], below: list[float]) -> list[float]:
    """Median of paired ratios with the 95 % bootstrap interval of the median over rounds."""
    pairs = np.array(above) / np.array(below)
    draws = np.random.default_rng(0).integers(0, len(pairs), (5000, len(pairs)))
    low, high = np.quantile(np.median(pairs[draws], axis=1), [0.025, 0.975])
    return [round(float(x), 3) for x in (np.median(pairs), low, high)]


def measure(work: Path, names: list[str], rounds: int, runs: int) -> dict[str, object]:
    from qbert_opt.engines.record import is_exported, read_record
    from qbert_opt.engines.timing import made_up_inputs, time_files
    from qbert_opt.runtime.provenance import code_commit

    taken = speeds(work, names, rounds, runs)
    inputs = made_up_inputs(("input_ids", "attention_mask"), 1, SEQ_LEN)
    rows = {}
    for name in names:
        engine, folder, activations = ENGINES[name]
        fresh = time_files(engine, work / folder, inputs, threads=1, runs=3, activations=activations)
        low, middle, high = np.quantile(taken[name], [0.25, 0.5, 0.75])
        row = {
            "engine": fresh.engine_label, "cpu_ms": round(1e3 * float(middle), 2),
            "quartiles_ms": [round(1e3 * float(low), 2), round(1e3 * float(high), 2)],
            "private_mb": round(fresh.private_bytes / 1e6, 1), "interpreter_mb": round(fresh.floor_bytes / 1e6, 1),
            "load_s": round(fresh.load_s, 2),
        }  # fmt: skip
        for other in (n for n in names if n.endswith("float32")):
            row[f"times_faster_than_{other.replace(' ', '_')}"] = ratio(taken[other], taken[name])
        if is_exported(work / folder):
            record = read_record(work / folder)
            row |= {
                "bytes": record.exported_bytes, "artifact_bytes": record.source_bytes,
                "bytes_over_artifact": round(record.exported_bytes / record.source_bytes, 4),
                "difference": record.difference, "difference_in_float32": record.graph_difference,
            }  # fmt: skip
        rows[name] = row
    refused = {path.stem: path.read_text() for path in work.glob("*.refused")}
    return {
        "refused": refused,
        "rounds": rounds,
        "seq_len": SEQ_LEN,
        "threads": 1,
        "commit": code_commit(),
        "rows": rows,
    }


def answers(work: Path) -> dict[str, object]:
    """Answers of every engine to SNIPS test, beside the dequantized torch model's and the float model's."""
    import torch

    import qbert_opt as qb
    from qbert_opt.evaluation.evaluate import evaluate

    texts = qb.read_texts("snips/test")
    reference = qb.load_model(work / "model")
    truth = qb.outputs(reference, texts)
    quantized, _ = qb.load_quantized(work / "quantized")
    dequantized = qb.outputs(quantized, texts)
    found = evaluate(quantized, texts, truth)
    for_planned = None
    if (work / "quantized-planned").exists():
        rounded, _ = qb.load_quantized(work / "quantized-planned")
        for_planned = qb.outputs(rounded, texts)
        in_floats = evaluate(qb.load_quantized(work / "quantized-planned", round_inputs=False)[0], texts, truth)
    rows = {
        "torch float32": {"accuracy": evaluate(reference, texts).accuracy.value},
        "torch, dequantized": {"accuracy": found.accuracy.value, "kl": found.kl.value, "flipped": found.flipped},
    }
    for name, (_engine, folder, _) in present(work).items():
        if folder == "model" or folder.endswith("-float"):
            continue
        logits = torch.from_numpy(qb.Predictor(work / folder, threads=1).logits(texts.texts, batch_size=1))
        same = for_planned if folder.endswith("-planned") else dequantized
        log_p, log_q = (x.double().log_softmax(-1) for x in (truth, logits))
        right = [quantized.labels[i] == label for i, label in zip(logits.argmax(1).tolist(), texts.labels, strict=True)]
        rows[name] = {
            "accuracy": float(np.mean(right)),
            "kl": float((log_p.exp() * (log_p - log_q)).sum(-1).mean()),
            "flipped": int((logits.argmax(1) != truth.argmax(1)).sum()),
            "flipped_against_dequantized": int((logits.argmax(1) != same.argmax(1)).sum()),
            "difference_from_dequantized": float((logits - same).abs().max() / same.abs().max()),
        }
    if for_planned is not None:
        again = evaluate(rounded, texts, truth)
        for name, e in (("torch, dequantized, planned inputs", again), ("the same, inputs in floats", in_floats)):
            rows[name] = {"accuracy": e.accuracy.value, "kl": e.kl.value, "flipped": e.flipped}
    return {"texts": len(texts), "data": texts.name, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("prepare", "prepare-planned", "measure", "answers"))
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--runs", type=int, default=5, help="in a round")
    parser.add_argument("--only", nargs="+", choices=ENGINES, help="engines to measure")
    options = parser.parse_args()
    if options.what.startswith("prepare"):
        (prepare if options.what == "prepare" else prepare_planned)(*options.folders)
        return
    work = options.folders[0]
    if options.what == "answers":
        found = answers(work)
    else:
        found = measure(work, options.only or list(present(work)), options.rounds, options.runs)
    print(json.dumps(found | {"machine": machine(), "cores": os.cpu_count()}, indent=1))


if __name__ == "__main__":
    main()
