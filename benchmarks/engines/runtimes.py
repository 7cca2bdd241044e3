"""A table model × engine × plan: bytes, codes, answers, time and memory of each file; one line of JSON per row.

    python -m benchmarks.engines.runtimes MODEL SCORES DATA TEST OUT.jsonl --work FOLDER [--engines E,E] [--plans "P,P"]
        [--texts 400] [--rounds 12] [--runs 3]

SCORES are of MODEL and DATA, by `qbert-opt sensitivity --forms symmetric,signed,offset --bits 2,4,8 --groupings
rows:each,columns:32,columns:64 --table-bits 2,4,8 --activation-bits 8`; TEST is labelled text that took no part, of
which the first `--texts` are answered. Uniform plans and the portable one are quantized once for all engines, ours is
solved for each. Rows that OUT.jsonl has are not measured again, so a run goes on where another stopped; quantized and
exported folders stay in `--work`. A row that an engine refuses says why.

`exact_codes`: all matrices and tables are read out of the file again (`engine_codes.py`). `same_weights_difference`: of
the engine's float32 answers and torch's, by the largest answer. Answers are compared with the float model's. Speed: the
engine's file and ONNX Runtime's float32 file are each open in a process of their own; in each round both answer a text
of 128 tokens a few times on one thread, in alternating order; processor time, ratios paired by round (median, least,
most). Memory: private bytes of a fresh process after three answers, less what it had before the file was opened.
"""

import argparse
import json
import multiprocessing
import statistics
import time
from dataclasses import replace
from pathlib import Path

from benchmarks.engines.engine_codes import compared
from benchmarks.records import machine

ENGINES = ("openvino", "onnxruntime", "litert", "llama-cpp")
UNIFORM = {
    "float32": None,
    "uniform int8": "8bit/rows:each/gptq/symmetric",
    "uniform int4": "4bit/columns:32/gptq/symmetric",
}
TABLES = "8bit/rows:each/mse/symmetric"  # of uniform plans: scored, and held by all engines
OURS = {"ours, 4 bits": 4.0, "ours, 2.5 bits": 2.5}
PORTABLE = {"portable, 4.25 bits": 4.25}
PLANS = (*UNIFORM, *OURS, *PORTABLE)
BASELINE = "onnxruntime"
TOKENS = 128
FIGURES = ("kl", "distance", "cosine", "recall_at_10", "accuracy", "entity_f1", "spearman")


def planned(scores, name, engine):
    """The plan of a row."""
    from qbert_opt.planning.constraints import PlanConstraints
    from qbert_opt.planning.planner import allocate
    from qbert_opt.planning.recipes import uniform_allocation
    from qbert_opt.spec.activations import ActivationChoice
    from qbert_opt.spec.choices import choice
    from qbert_opt.spec.limits import Limits

    if name in UNIFORM:
        tables = {table.module: choice(TABLES) for table in scores.profile.tables}
        return uniform_allocation(scores, choice(UNIFORM[name]), tables=tables)
    limits = Limits(encoder_bytes=int((OURS | PORTABLE)[name] * scores.profile.encoder_elements / 8))
    if name in PORTABLE:
        return allocate(scores, limits, constraints=PlanConstraints(portable=ENGINES))
    by_token = [ActivationChoice(8)] if engine == "litert" and scores.activations else []
    return allocate(scores, limits, activations=by_token, constraints=PlanConstraints(engine=engine))


def quantized_folder(given, loaded, scores, data, name, engine):
    """The quantized folder of a plan, made once."""
    from qbert_opt.workflows.quantize import quantize_model

    folder = given.work / (f"{name} {engine}" if name in OURS else name)
    if not folder.exists():
        quantize_model(loaded, planned(scores, name, engine), data, folder)
    return folder


def answered(served, test, reference):
    """Figures of an engine's answers."""
    from qbert_opt.evaluation.evaluate import evaluation_batches, measure
    from qbert_opt.models.outputs import collect
    from qbert_opt.models.targets import read_targets

    batches = evaluation_batches(served, test)
    targets = read_targets(served, test, batches) if test.labels is not None else None
    found = collect(served.head, served.model, batches)
    measured = measure(found, targets, reference)
    figures = {name: getattr(measured, name, None) for name in FIGURES}
    row = {name: [i.value, i.low, i.high] for name, i in figures.items() if i is not None}
    return row | {"flipped": measured.flipped, "max_difference": float((found.values - reference).abs().max())}


def answering(engine, folder, activations, names, pipe):
    """Answer requests for so many runs with their mean processor time, until None comes."""
    from qbert_opt.engines.child_process import WARM_UP
    from qbert_opt.engines.timing import made_up_inputs
    from qbert_opt.runtime.plugins import load

    session = load("engines", engine).open_model(folder, 1, activations)
    inputs = made_up_inputs(names, 1, TOKENS)
    for _ in range(WARM_UP):
        session.run(inputs)
    pipe.send("ready")
    while (runs := pipe.recv()) is not None:
        started = time.process_time()
        for _ in range(runs):
            session.run(inputs)
        pipe.send((time.process_time() - started) / runs)


def times_of(files, names, rounds, runs):
    """Processor seconds of each file by round; a file is engine, folder and activations, `names` are its inputs."""
    spawn = multiprocessing.get_context("spawn")
    pipes, children = [], []
    for file in files:
        mine, other = spawn.Pipe()
        children.append(spawn.Process(target=answering, args=(*file, names, other)))
        children[-1].start()
        pipes.append(mine)
        if mine.recv() != "ready":
            raise RuntimeError(f"{file}: did not open")
    found = [[] for _ in files]
    for turn in range(rounds):
        for index in range(len(files))[:: -1 if turn % 2 else 1]:
            pipes[index].send(runs)
            found[index].append(pipes[index].recv())
    for pipe, child in zip(pipes, children, strict=True):
        pipe.send(None)
        child.join()
    return found


def speed(given, loaded, engine, folder, activations):
    """Ratios to the baseline, and memory."""
    from qbert_opt.engines.timing import made_up_inputs, time_files

    names = tuple(loaded.tokenizer.model_input_names)
    inputs = made_up_inputs(names, 1, TOKENS)
    alone = time_files(engine, folder, inputs, threads=1, runs=3, activations=activations)
    baseline = (BASELINE, given.work / f"float32 {BASELINE}", "float32")
    own, base = times_of([(engine, folder, activations), baseline], names, given.rounds, given.runs)
    ratios = [a / b for a, b in zip(own, base, strict=True)]
    return {
        "engine_label": alone.engine_label,
        "cpu_ms": 1e3 * statistics.median(own),
        "time_to_float32": [statistics.median(ratios), min(ratios), max(ratios)],
        "rounds": given.rounds,
        "private_bytes": alone.private_bytes - alone.floor_bytes,
    }


def float_folder(given, engine):
    """The float model as a file of an engine, made once."""
    from qbert_opt.workflows.export import export_float

    folder = given.work / f"float32 {engine}"
    return folder if folder.exists() else export_float(given.model, engine, folder)


def float_row(given, loaded, engine):
    """The float model in an engine: bytes and speed."""
    folder = float_folder(given, engine)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return {"file_bytes": size, **speed(given, loaded, engine, folder, "float32")}


def measured(given, loaded, scores, data, test, reference, name, engine):
    """One row."""
    from qbert_opt.checkpoint.reader import load_quantized
    from qbert_opt.serving.engine_model import serve
    from qbert_opt.workflows.export import export_model

    if name == "float32":
        return float_row(given, loaded, engine)
    quantized = quantized_folder(given, loaded, scores, data, name, engine)
    exported = given.work / f"{name} in {engine}"
    if not exported.exists():
        export_model(quantized, engine, exported)
    served = serve(exported, engine, threads=1)
    record = json.loads((exported / "engine.json").read_text())
    _, plan = load_quantized(quantized, round_inputs=False)
    same, others = compared(quantized, exported)
    return {
        "bits": plan.average_bits,
        "file_bytes": record["exported_bytes"],
        "packed_bytes": plan.total_bytes,
        "predicted_file_bytes": None if plan.engine is None else plan.engine.total_bytes,
        "predicted_loss": plan.predicted_loss,
        "predicted_std_error": plan.predicted_std_error,
        "activations": record["activations"],
        "exact_codes": not others,
        "stored_parts": len(same) + len(others),
        "same_weights_difference": record["graph_difference"],
        **answered(replace(served.loaded, max_tokens=loaded.longest), test, reference),
        **speed(given, loaded, engine, exported, record["activations"]),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "scores", "data", "test", "out"):
        parser.add_argument(name)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--plans", nargs="+", default=PLANS, choices=PLANS)
    parser.add_argument("--label-column")
    parser.add_argument("--texts", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--runs", type=int, default=3, help="in a round")
    parser.add_argument("--seconds", type=float, help="start no row after so many")
    given = parser.parse_args()
    started = time.monotonic()

    from qbert_opt.data.texts import read_texts
    from qbert_opt.errors import QbertOptError
    from qbert_opt.evaluation.evaluate import outputs
    from qbert_opt.models.loading import load_model
    from qbert_opt.runtime.provenance import code_commit, today
    from qbert_opt.spec.scores import read_scores

    out, model = Path(given.out), Path(given.model).name
    given.work.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    done = {(row["model"], row["plan"], row["engine"]) for row in lines}
    loaded, scores = load_model(given.model), read_scores(given.scores)
    data = read_texts(given.data, label_column=given.label_column)
    test = read_texts(given.test, label_column=given.label_column)
    test = test.take(range(min(given.texts, len(test))))
    reference = outputs(loaded, test)
    float_folder(given, BASELINE)
    for name in given.plans:
        for engine in given.engines.split(","):
            if (model, name, engine) in done or (given.seconds and time.monotonic() - started > given.seconds):
                continue
            try:
                figures = measured(given, loaded, scores, data, test, reference, name, engine)
            except QbertOptError as error:
                figures = {"refused": str(error)}
            row = {
                "model": model, "plan": name, "engine": engine, "test_texts": len(test), **figures,
                "commit": code_commit(), "machine": machine(), "date": today(),
            }  # fmt: skip
            with out.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
