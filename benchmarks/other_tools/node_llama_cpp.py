"""Does node-llama-cpp answer from our GGUF files as torch does with the same dequantized weights?

    npm install --prefix NODE node-llama-cpp@3.22.1
    python -m benchmarks.other_tools.node_llama_cpp QUANTIZED EXPORTED TEXTS NODE OUT.json [--texts 40]

QUANTIZED is a quantized folder, EXPORTED its export with `--engine llama-cpp`. node-llama-cpp gets token ids on one
thread and returns what the file's pooling makes of them: the logits of a classifier, or the pooled vector of an
embedding model. It has no token types, so texts are single sentences.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks.records import machine
from qbert_opt.checkpoint.reader import load_quantized
from qbert_opt.data.texts import read_texts
from qbert_opt.models.sentence_embeddings import embedding_of
from qbert_opt.runtime.provenance import code_commit, today

SCRIPT = """
import {getLlama, LlamaLogLevel} from "node-llama-cpp";
import fs from "fs";
const [file, asked, answered] = process.argv.slice(2);
const llama = await getLlama({gpu: false, build: "never", maxThreads: 1, logLevel: LlamaLogLevel.error});
const model = await llama.loadModel({modelPath: file});
const context = await model.createEmbeddingContext({contextSize: 512, batchSize: 512});
const rows = JSON.parse(fs.readFileSync(asked)), vectors = [], before = process.cpuUsage();
for (const ids of rows) vectors.push(Array.from((await context.getEmbeddingFor(ids)).vector));
const used = process.cpuUsage(before);
fs.writeFileSync(answered, JSON.stringify({vectors, ms: (used.user + used.system) / 1000 / rows.length}));
process.exit(0);
"""


def by_torch(loaded, ids):
    """Logits, or the mean or first state as the model pools, `[width]`."""
    with torch.no_grad():
        found = loaded.model(input_ids=torch.tensor([ids]))
    if loaded.head.kind != "embeddings":
        return found.logits[0].numpy()
    embedding = embedding_of(loaded.model.config)
    first = embedding is not None and embedding.modes == ("cls",)
    states = found.last_hidden_state[0]
    return (states[0] if first else states.mean(0)).numpy()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("quantized", "exported", "texts_file", "node", "out"):
        parser.add_argument(name)
    parser.add_argument("--texts", type=int, default=40)
    given = parser.parse_args()
    loaded, plan = load_quantized(given.quantized, round_inputs=False)
    texts = [text for (text,) in read_texts(given.texts_file).texts[: given.texts]]
    ids = [loaded.tokenizer(text)["input_ids"] for text in texts]
    truth = np.array([by_torch(loaded, row) for row in ids])
    with tempfile.TemporaryDirectory(dir=given.node) as scratch:
        script, asked, answered = (Path(scratch) / name for name in ("run.mjs", "ids.json", "answers.json"))
        script.write_text(SCRIPT)
        asked.write_text(json.dumps(ids))
        file = Path(given.exported).absolute() / "model.gguf"
        subprocess.run(["node", script.name, file, asked.name, answered.name], check=True, cwd=scratch)
        answer = json.loads(answered.read_text())
    found = np.array(answer["vectors"])
    assert found.shape == truth.shape
    package = json.loads((Path(given.node) / "node_modules" / "node-llama-cpp" / "package.json").read_text())
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(truth, axis=1)
    row = {
        "package": f"node-llama-cpp {package['version']}", "kind": loaded.head.kind, "bits": plan.average_bits,
        "file_bytes": file.stat().st_size, "texts": len(texts), "largest_answer": float(np.abs(truth).max()),
        "max_difference": float(np.abs(found - truth).max()),
        "flipped": None if loaded.head.kind == "embeddings" else int((found.argmax(1) != truth.argmax(1)).sum()),
        "least_cosine": float(((found * truth).sum(1) / lengths).min()), "cpu_ms": answer["ms"],
        "commit": code_commit(), "machine": machine(), "date": today(),
    }  # fmt: skip
    path = Path(given.out)
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    command = "python -m benchmarks.other_tools.node_llama_cpp QUANTIZED EXPORTED TEXTS NODE OUT.json"
    path.write_text(json.dumps({"command": command, "rows": [*rows, row]}, indent=1) + "\n")
    print(json.dumps(row))


if __name__ == "__main__":
    main()
