"""How fast and how right are our exports beside what users would take instead?

    python -m benchmarks.engines.engine_rivals prepare MODEL TEXT WORK [--scores FILE]   # our exports, and float ones
    python -m benchmarks.engines.engine_rivals default MODEL WORK OUT...                 # what `optimize` itself wrote
    NNCF_PYTHON -m benchmarks.engines.engine_rivals rivals TEXT WORK     # in an environment that has nncf as well
    python -m benchmarks.engines.engine_rivals measure WORK TEST [--rounds 12]           # prints JSON

TEXT calibrates and scores, for us and for NNCF; TEST is unseen. The rows of `prepare` are plans made by hand; `default`
adds the files of `qbert-opt optimize --model MODEL --data TEXT --device … --engine … -o OUT` without any other option
(8 bits), or with `--total-budget 4.6bit`.

Every row lives in a process of its own; in each round all rows answer one sentence of 128 made-up tokens a few times,
and then 16 real ones alone, on one thread, in alternating order. Processor time; ratios are paired by round, with a
95 % bootstrap interval of the median. Memory: anonymous pages of the process after it answered, less those before it
opened the model. Effort: processor minutes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.engines.engine_rows import BASE, RIVAL, ROWS, model_files, serve

if TYPE_CHECKING:
    from qbert_opt import LoadedModel


def floats(model: str, work: Path) -> LoadedModel:
    """Export the float model to both engines, and as torch.onnx.export writes it."""
    import onnx

    import qbert_opt as qb
    from qbert_opt.formats.traced_model import traceable
    from qbert_opt.formats.writers.onnx import _converted
    from qbert_opt.workflows.export import export_float

    loaded = qb.load_model(model)
    work.mkdir(exist_ok=True, parents=True)
    (work / "model").unlink(missing_ok=True)
    (work / "model").symlink_to(Path(model).absolute())
    (work / "onnx").mkdir(exist_ok=True)
    onnx.save(_converted(traceable(loaded)), work / "onnx" / "model.onnx")
    for engine in BASE:
        if not (work / f"{engine}-float").exists():
            export_float(model, engine, work / f"{engine}-float")
    return loaded


def prepare(model: str, text: str, work: Path, scores: Path | None) -> None:
    import qbert_opt as qb
    from qbert_opt.quantization.calibration import static_grid
    from qbert_opt.spec.activations import activation_choice
    from qbert_opt.workflows.export import export_model
    from qbert_opt.workflows.quantize import quantize_model
    from qbert_opt.workflows.score import score_model
    from qbert_opt.workflows.solve import solve_plans

    loaded, texts = floats(model, work), qb.read_texts(text)
    started = time.process_time()
    if scores is None:
        table = score_model(loaded, texts, choices=static_grid("gptq"), activation_bits=(8,))
        _effort(work, "scoring", started)
    else:
        table = qb.read_scores(scores)
    inputs = tuple(c for c in map(activation_choice, table.activations.choices) if c.bits == 8 and c.range is not None)
    elements = table.profile.float_bytes // 4
    for engine in BASE:
        for bits, own in ((8, False), (4.6, False), (4.6, True)):
            started, name = time.process_time(), f"{bits}-own" if own else f"{bits}"
            limits = qb.Limits() if bits == 8 else qb.Limits(total_bytes=int(bits * elements / 8))
            constraints = qb.PlanConstraints(engine=engine, **({"bits": (8,)} if bits == 8 else {}))
            plan = solve_plans(table, limits, constraints=constraints, activations=() if own else inputs).plan
            quantized = quantize_model(loaded, plan, texts, work / f"{engine}-{name}-quantized").folder
            try:
                record = export_model(quantized, engine, work / f"{engine}-{name}", texts=texts)
                print(engine, name, record.activations, record.integer_scores, record.agreement, flush=True)
            except qb.QbertOptError as error:  # part of the result
                (work / f"{engine}-{name}.refused").write_text(str(error))
                print(error, flush=True)
            _effort(work, f"{engine}-{name}", started)


def default(model: str, work: Path, outputs: list[Path]) -> None:
    import qbert_opt as qb

    floats(model, work)
    for out in outputs:
        plan = qb.read_allocation(out / "allocation.json")
        bits = 8 * plan.total_bytes / (plan.profile.float_bytes // 4)
        engine = next(name for name in BASE if (out / name).is_dir())
        link = work / f"{engine}-optimize-{8 if bits > 6 else 4.6}"
        link.unlink(missing_ok=True)
        link.symlink_to((out / engine).absolute())


def rivals(text: str, work: Path) -> None:
    import nncf
    import openvino as ov
    from onnxruntime.quantization import QuantType, quantize_dynamic

    import qbert_opt as qb
    from qbert_opt.formats.writers.openvino_ir import graph_file

    started = time.process_time()
    (work / "dynamic").mkdir(exist_ok=True)
    quantize_dynamic(work / "onnx" / "model.onnx", work / "dynamic" / "model.onnx", weight_type=QuantType.QInt8)
    _effort(work, "dynamic", started)
    tokenizer = qb.load_model(work / "model").tokenizer
    model = ov.Core().read_model(graph_file(work / "openvino-float"))
    names = {name for port in model.inputs for name in port.names}
    samples = [dict(tokenizer(t, return_tensors="np", truncation=True)) for t in qb.read_texts(text).texts[:300]]
    samples = [{name: sample[name] for name in names} for sample in samples]
    started = time.process_time()
    done = nncf.quantize(model, nncf.Dataset(samples), model_type=nncf.ModelType.TRANSFORMER, subset_size=300)
    ov.save_model(done, work / "nncf" / "model.xml", compress_to_fp16=False)
    _effort(work, "nncf", started)


def _effort(work: Path, name: str, started: float) -> None:
    path = work / "effort.json"
    minutes = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(minutes | {name: round((time.process_time() - started) / 60, 2)}))


def ratio(above: np.ndarray, below: np.ndarray) -> list[float]:
    """Median of paired ratios with the 95 % bootstrap interval of the median over rounds."""
    pairs = above / below
    draws = np.random.default_rng(0).integers(0, len(pairs), (5000, len(pairs)))
    low, high = np.quantile(np.median(pairs[draws], axis=1), [0.025, 0.975])
    return [round(float(x), 3) for x in (np.median(pairs), low, high)]


def measure(work: Path, test: str, rounds: int, most: int) -> dict[str, object]:
    import qbert_opt as qb
    from qbert_opt.runtime.provenance import code_commit

    loaded, texts = qb.load_model(work / "model"), qb.read_texts(test)
    texts = texts.take(range(min(most, len(texts))))
    feeds = [dict(loaded.tokenizer(text, return_tensors="np", truncation=True)) for text in texts.texts]
    feeds = [{name: np.asarray(array, np.int64) for name, array in feed.items()} for feed in feeds]
    present = [row for row, (_, folder, _) in ROWS.items() if model_files(work / folder)]
    spawn, pipes, children = multiprocessing.get_context("spawn"), {}, []
    for row in present:
        pipes[row], other = spawn.Pipe()
        children.append(spawn.Process(target=serve, args=(row, work, feeds, other)))
        children[-1].start()
        if pipes[row].recv() != "ready":
            raise RuntimeError(row)
    loads, times = [], {row: [] for row in present}
    for number in range(rounds):
        loads.append(os.getloadavg()[0])
        for row in present[:: 1 if number % 2 else -1]:
            pipes[row].send("time")
            times[row].append(pipes[row].recv())
    taken = {row: np.array(pairs) for row, pairs in times.items()}
    answers = {}
    for row in present:
        pipes[row].send("all")
        answers[row] = pipes[row].recv()
        pipes[row].send(None)
    for child in children:
        child.join()
    truth = answers[BASE["openvino"]][0]
    rows = {}
    for row in present:
        engine, folder, _ = ROWS[row]
        logits, memory = answers[row]
        log_p, log_q = (
            x.astype(float) - np.logaddexp.reduce(x.astype(float), 1, keepdims=True) for x in (truth, logits)
        )
        right = [label in (loaded.labels[i], str(i)) for i, label in zip(logits.argmax(1), texts.labels, strict=True)]
        rows[row] = {
            "ms_128_tokens": round(1e3 * float(np.median(taken[row][:, 0])), 2),
            "ms_real": round(1e3 * float(np.median(taken[row][:, 1])), 2),
            "kl": float(f"{(np.exp(log_p) * (log_p - log_q)).sum(1).mean():.3g}"),
            "flips": int((log_p.argmax(1) != log_q.argmax(1)).sum()),
            "accuracy": round(float(np.mean(right)), 4),
            "file_mb": round(sum(f.stat().st_size for f in model_files(work / folder)) / 1e6, 1),
            "private_mb": round(memory / 1e6, 1),
        }
        for what, other in (("float32", BASE[engine]), ("rival", RIVAL[engine])):
            if other in taken:
                rows[row] |= {
                    f"of_{what}_128": ratio(taken[row][:, 0], taken[other][:, 0]),
                    f"of_{what}_real": ratio(taken[row][:, 1], taken[other][:, 1]),
                }
    return {
        "commit": code_commit(), "processor": _processor(), "threads": 1, "rounds": rounds, "texts": len(texts),
        "test": texts.name, "mean_tokens": round(float(np.mean([f["input_ids"].size for f in feeds])), 1),
        "load": [round(min(loads), 1), round(max(loads), 1)],
        "effort_minutes": json.loads((work / "effort.json").read_text()), "rival": RIVAL, "rows": rows,
    }  # fmt: skip


def _processor() -> str:
    flags = Path("/proc/cpuinfo").read_text()
    name = next(line.split(": ")[1] for line in flags.splitlines() if line.startswith("model name"))
    return f"{name}, {', '.join(x for x in ('avx2', 'avx512_vnni', 'avx512_bf16', 'amx_int8') if x in flags)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("prepare", "default", "rivals", "measure"))
    parser.add_argument("arguments", nargs="+")
    parser.add_argument("--scores", type=Path)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--texts", type=int, default=1000, help="most texts of TEST")
    options = parser.parse_args()
    given = options.arguments
    if options.what == "prepare":
        prepare(given[0], given[1], Path(given[2]), options.scores)
    elif options.what == "default":
        default(given[0], Path(given[1]), [Path(out) for out in given[2:]])
    elif options.what == "rivals":
        rivals(given[0], Path(given[1]))
    else:
        print(json.dumps(measure(Path(given[0]), given[1], options.rounds, options.texts), indent=1))


if __name__ == "__main__":
    main()
