"""Good examples of every file that the command line reads: a tiny model's, and data in every layout."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from qbert_opt.errors import QbertOptError


def write_examples(folder: Path) -> None:
    """A tiny model with scores, a plan, a quantized folder and an engine's record, and data in every layout."""
    import families
    import subwords
    from safetensors.numpy import save_file

    from qbert_opt.data.texts import read_texts
    from qbert_opt.engines.record import CHECKS, EngineRecord, write_record
    from qbert_opt.models.loading import load_model
    from qbert_opt.planning.planner import allocate
    from qbert_opt.quantization.calibration import CalibrationPlan
    from qbert_opt.runtime import locks
    from qbert_opt.runtime.manifest import file_sha256
    from qbert_opt.runtime.resumable import Jobs
    from qbert_opt.scoring.sensitivity import measure_sensitivity
    from qbert_opt.spec.allocation import write_allocation
    from qbert_opt.spec.grids import grid
    from qbert_opt.spec.limits import Limits
    from qbert_opt.spec.scores import write_scores
    from qbert_opt.workflows.quantize import quantize_model

    _write_data(folder / "data")
    loaded = load_model(families.save(folder / "model", "bert"))
    texts = read_texts(folder / "data" / "a.tsv")
    sample = CalibrationPlan(20, 20, 0)
    scores = measure_sensitivity(
        loaded, texts, grid((2, 4, 8), ("rows:1", "rows:each", "columns:32"), "rtn"), plan=sample
    )
    write_scores(scores, folder / "scores.json")
    plan = allocate(scores, Limits(encoder_bytes=scores.profile.encoder_elements // 2))
    write_allocation(plan, folder / "plan.json")
    quantize_model(loaded, plan, texts, folder / "out")
    point = {"name": "plan", "loss": 0.1, "low": 0.05, "high": 0.2, "encoder_bytes": 100, "latency_s": 0.01}
    document = {"schema": "qbert-opt/measured@1", "what": "a test", "points": [point, point | {"name": "other"}]}
    (folder / "measured.json").write_text(json.dumps(document, indent=1))
    jobs = Jobs(folder / "jobs.partial", "run")
    for index in range(6):
        jobs.add(f"job {index}", [index / 3, -1.5])
    locks.release(folder / "jobs.partial")
    (folder / "device.yaml").write_bytes((resources.files("hwmodels") / "devices" / "car-soc.yaml").read_bytes())
    for algorithm in subwords.SIZE:
        (folder / "vocabularies" / algorithm).mkdir(parents=True)
        subwords.trained(algorithm).save(str(folder / "vocabularies" / algorithm / "tokenizer.json"))
    (folder / "engine").mkdir()
    check = {"0.input.input_ids": np.ones((1, 4), np.int64), "0.answers": np.zeros((1, 2), np.float32)}
    save_file(check, folder / "engine" / CHECKS)
    (folder / "engine" / "model.xml").write_text("<net/>")
    files = {file.name: file_sha256(file) for file in sorted((folder / "engine").iterdir())}
    record = EngineRecord.model_validate(
        {
            "version": "0.1", "engine": "openvino", "engine_label": "OpenVINO", "source_sha256": "0" * 64,
            "inputs": ("input_ids",), "outputs": ("logits",), "max_tokens": 40, "labels": ("red", "green"),
            "files": files, "source_bytes": 100, "exported_bytes": 100, "activations": "float32",
            "kind": "classes", "checked_on": "data", "graph_difference": 0.0, "limits": {"loss": 0.1},
            "agreement": {"answers": 1, "loss": 0.0, "unit": "nats", "difference": 0.0},
        }
    )  # fmt: skip
    write_record(record, folder / "engine")


def _write_data(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir()
    rng = random.Random(0)
    texts = [" ".join(f"w{rng.randrange(59)}" for _ in range(rng.randrange(2, 9))) + f" w{i}" for i in range(48)]
    labels = [("red", "green", "blue")[i % 3] for i in range(48)]
    pairs = list(zip(texts, labels, strict=True))
    records = [{"text": text, "label": label} for text, label in pairs]
    tokens = [{"tokens": text.split(), "tags": ["O"] * len(text.split())} for text in texts[:8]]
    (folder / "a.tsv").write_text("text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in pairs))
    (folder / "b.csv").write_text(
        "text,label\n" + "".join(f'"{text}, ""{i}""",{label}\n' for i, (text, label) in enumerate(pairs))
    )
    (folder / "c.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "d.json").write_text(json.dumps(records, indent=1))
    (folder / "e.jsonl").write_text("".join(json.dumps(record) + "\n" for record in tokens))
    (folder / "f.conll").write_text("\n".join("".join(f"{word} NN O\n" for word in text.split()) for text in texts[:8]))
    table = pa.table({"text": texts, "label": labels})
    pq.write_table(table, folder / "g.parquet")
    pq.write_table(pa.Table.from_pylist(tokens), folder / "h.parquet")
    answers = [{"text": texts[0].split()[0], "answer_start": 0}]
    paragraph = {"context": texts[0], "qas": [{"id": "1", "question": "w1", "answers": answers}]}
    (folder / "i.json").write_text(json.dumps({"data": [{"title": "t", "paragraphs": [paragraph] * 3}]}))
    (folder / "slots").mkdir()
    (folder / "slots" / "seq.in").write_text("".join(f"{text}\n" for text in texts))
    (folder / "slots" / "seq.out").write_text("".join(" ".join("O" for _ in text.split()) + "\n" for text in texts))
    (folder / "slots" / "label").write_text("".join(f"{label}\n" for label in labels))
    (folder / "triples").mkdir()
    (folder / "triples" / "entity2text.txt").write_text("e1\ta stone\ne2\ta river\n")
    (folder / "triples" / "relation2text.txt").write_text("r1\tlies in\n")
    (folder / "triples" / "dev.tsv").write_text("e1\tr1\te2\t1\ne2\tr1\te1\t-1\n")
    (folder / "saved").mkdir()
    (folder / "saved" / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
    with pa.OSFile(str(folder / "saved" / "data.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)


def write_configs(folder: Path) -> list[tuple[str, Path, Callable[[Path], Any]]]:
    """The plan in every tool's words."""
    from qbert_opt.configs.tool import config_tool
    from qbert_opt.runtime import plugins
    from qbert_opt.spec.allocation import read_allocation
    from qbert_opt.spec.choices import choice
    from qbert_opt.spec.scores import read_scores
    from qbert_opt.workflows.export_config import export_plan
    from qbert_opt.workflows.import_config import import_plan

    (folder / "configs").mkdir()
    plan, scores = read_allocation(folder / "plan.json"), read_scores(folder / "scores.json")
    found = []
    for name in plugins.available("configs"):
        tool = config_tool(name)
        for suffix in tool.SUFFIXES:
            try:
                text = export_plan(plan, tool, suffix).text
            except QbertOptError:
                continue  # this tool has no word for a tiny model's matrices
            file = folder / "configs" / f"{name}{suffix}"
            file.write_text(text)
            found.append((name, file, partial(import_plan, tool=tool, scores=scores, rest=choice(scores.choices[0]))))
    return found
