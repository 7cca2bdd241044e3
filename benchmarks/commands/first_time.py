"""Does the one command end with a passing export the first time? Twelve (model, engine, device), no further option.

    python -m benchmarks.commands.first_time WEIGHTS DATA OUT.jsonl [--rows N] [--keep FOLDER]

WEIGHTS holds `minilm-sst2` and `gte-snips` (fine-tuned classifiers), DATA their text: `sst2/test.tsv`, `snips/train`,
`snips/dev`. Besides, a tagger of 2 layers is trained on SNIPS' slots, and its encoder gives embeddings. Each line of
OUT is one run of `qbert-opt optimize --model … --data … --device … --engine … -o …` in a fresh process on N rows of
text: exit code, verdict, what was exported and how its answers compare with PyTorch's, minutes. A run that was
interrupted goes on. --keep writes the outputs to `FOLDER/MODEL-ENGINE-DEVICE` instead of a temporary folder;
`engine_rivals.py` times them, and a run continues from the scores of an earlier run on the same model and text there,
as the command does after an interruption (`scores_reused`).
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel

from benchmarks.records import machine
from qbert_opt.data.texts import LabeledTexts, read_texts
from qbert_opt.runtime.provenance import code_commit
from qbert_opt.training.fine_tuning import fine_tune

TRIPLES = (
    ("tags", "openvino", "rpi5"),
    ("tags", "onnxruntime", "rpi4"),
    ("tags", "onnxruntime", "dimensity-9300"),
    ("tags", "onnxruntime", "apple-a18-pro"),
    ("embeddings", "onnxruntime", "rpi5"),
    ("embeddings", "openvino", "rpi4"),
    ("embeddings", "onnxruntime", "snapdragon-8-gen2"),
    ("minilm-sst2", "openvino", "rpi5"),
    ("minilm-sst2", "onnxruntime", "rpi4"),
    ("minilm-sst2", "onnxruntime", "snapdragon-8-gen3"),
    ("gte-snips", "onnxruntime", "rpi5"),
    ("gte-snips", "openvino", "rpi4"),
)
TRAINED = 4000  # texts that train the tagger


def prepare(weights: Path, data: Path, rows: int, work: Path) -> dict[str, Path]:
    """Write the text of every model; return the files."""
    texts = {
        "minilm-sst2": read_texts(data / "sst2" / "test.tsv"),
        "gte-snips": read_texts(data / "snips" / "dev"),
    }
    files = {name: written(one.take(range(rows)), work / f"{name}.tsv") for name, one in texts.items()}
    return files | {"tags": files["gte-snips"], "embeddings": files["gte-snips"]}


def folder_of(model: str, weights: Path, data: Path, work: Path) -> Path:
    """Return a model's folder; trains the tagger when it or its encoder is first asked for."""
    tagger, encoder = work / "tags", work / "embeddings"
    if model in ("tags", "embeddings") and not encoder.exists():
        tokenizer = AutoTokenizer.from_pretrained(weights / "gte-snips")
        shape = BertConfig(
            vocab_size=len(tokenizer), hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
            intermediate_size=256, max_position_embeddings=128,
        )  # fmt: skip
        BertModel(shape).save_pretrained(work / "untrained")
        tokenizer.save_pretrained(work / "untrained")
        slots = read_texts(data / "snips" / "train", label_column="tags")
        fine_tune(work / "untrained", slots.take(range(TRAINED)), tagger, kind="tags", epochs=6, learning_rate=1e-3)
        AutoModel.from_pretrained(tagger).save_pretrained(encoder)
        tokenizer.save_pretrained(encoder)
    return {"tags": tagger, "embeddings": encoder}.get(model, weights / model)


def written(texts: LabeledTexts, path: Path) -> Path:
    """Write texts as a user has them: one column, no labels."""
    path.write_text("sentence\n" + "".join(f"{text[0]}\n" for text in texts.texts), encoding="utf-8")
    return path


def runs(
    weights: Path, data: Path, rows: int, done: set[tuple[str, str, str]], keep: Path | None, models: set[str]
) -> Iterator[dict[str, object]]:
    """Yield what each triple that is not done came to."""
    with tempfile.TemporaryDirectory(prefix="first-time-") as folder:
        work = Path(folder)
        files = prepare(weights, data, rows, work)
        for triple in TRIPLES:
            if triple not in done and triple[0] in models:
                model, engine, device = triple
                home, texts = folder_of(model, weights, data, work), files[model]
                out = (keep or work) / "-".join(triple)
                reused = reuse_scores(model, out)
                command = [
                    sys.executable, "-m", "qbert_opt", "optimize", "--model", str(home), "--data", str(texts),
                    "--device", device, "--engine", engine, "-o", str(out),
                ]  # fmt: skip
                yield {"model": model, "engine": engine, "device": device} | run(command, out, engine) | reused


def reuse_scores(model: str, out: Path) -> dict[str, object]:
    """Copy the scores of a run that ended on the same model; the command checks that model, text and seed agree."""
    ended = sorted(p.parent for p in out.parent.glob(f"{model}-*/optimized.json"))
    if not ended or out.exists():
        return {}
    out.mkdir()
    shutil.copy(ended[0] / "scores.json", out)
    return {"scores_reused": ended[0].name}


def run(command: list[str], out: Path, engine: str) -> dict[str, object]:
    """Run one command in a fresh process."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    row: dict[str, object] = {
        "exit_code": ended.returncode,
        "minutes": round((time.perf_counter() - start) / 60, 2),
        "cpu_minutes": round(cpu / 60, 2),
    }
    if ended.returncode:
        return row | {"passed": False, "message": ended.stderr.strip().splitlines()[-1:]}
    outcome = json.loads((out / "optimized.json").read_text())
    record = json.loads((out / engine / "engine.json").read_text())
    lines = [line for line in ended.stdout.splitlines() if line.startswith("verdict")]
    return row | {
        "passed": record["agreement"] is not None,
        "verdict": " ".join(lines[0].split()[1:]) if lines else None,
        "activations": outcome["activations"],
        "agreement": record["agreement"],
        "notes": outcome["notes"],
    }


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, default=240, help="texts of each run")
    parser.add_argument("--keep", type=Path, help="folder for the outputs")
    parser.add_argument("--models", default=",".join(dict.fromkeys(model for model, _, _ in TRIPLES)))
    arguments = parser.parse_args()
    lines = arguments.out.read_text().splitlines() if arguments.out.exists() else []
    done = {(row["model"], row["engine"], row["device"]) for row in map(json.loads, lines)}
    for row in runs(
        arguments.weights, arguments.data, arguments.rows, done, arguments.keep, set(arguments.models.split(","))
    ):
        row |= {"rows": arguments.rows, "commit": code_commit()}
        row |= {"machine": machine()}
        with arguments.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print({key: row.get(key) for key in ("model", "engine", "device", "exit_code", "passed", "message", "minutes")})
    rows = [json.loads(line) for line in arguments.out.read_text().splitlines()]
    print(f"{sum(row['passed'] for row in rows)} of {len(rows)} ended with a passing export")


if __name__ == "__main__":
    main()
