"""Can a model be quantized that is larger than memory? What one process holds of its own, beside the mapped file.

    python benchmarks/large_model.py OUT_FOLDER TEXTS --tokenizer BERT_FOLDER [--layers 24] [--width 1024]

Writes a BERT of random weights, scores it (`weight-error`, plain rounding), plans it at 3 bits per weight and quantizes
it, by the command line as users do. Weights are read from the mapped safetensors file, which the system may drop and
read again; what cannot be dropped is anonymous memory. Its peak of each command stands beside the model's bytes,
sampled every 20 ms from /proc, with what importing the libraries takes apart.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import torch
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from qbert_opt.data.texts import read_texts
from qbert_opt.runtime.provenance import code_commit

ANONYMOUS = re.compile(r"RssAnon:\s+(\d+) kB")


def watched(command: list[str]) -> tuple[float, float]:
    """Run a command; returns its peak of anonymous memory in MiB and its seconds."""
    started, peak = time.monotonic(), 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            with suppress(TypeError, OSError):  # it has just ended
                peak = max(peak, int(ANONYMOUS.search(Path(f"/proc/{process.pid}/status").read_text())[1]))
            time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return peak / 1024, time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("texts")
    parser.add_argument("--tokenizer", required=True, help="folder of any BERT model")
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--width", type=int, default=1024)
    options = parser.parse_args()
    model = options.folder / "model"
    if not model.exists():
        labels = sorted(set(read_texts(options.texts).labels))
        tokenizer = AutoTokenizer.from_pretrained(options.tokenizer)
        config = BertConfig(
            vocab_size=len(tokenizer), hidden_size=options.width, num_hidden_layers=options.layers,
            num_attention_heads=options.width // 64, intermediate_size=4 * options.width,
            id2label=dict(enumerate(labels)), label2id={label: i for i, label in enumerate(labels)},
        )  # fmt: skip
        torch.manual_seed(0)
        BertForSequenceClassification(config).save_pretrained(model)
        tokenizer.save_pretrained(model)
    program, scores, plan = [sys.executable, "-m", "qbert_opt"], options.folder / "s.json", options.folder / "p.json"
    few = ["--calibration-samples", "8", "--scoring-samples", "8"]
    idle, _ = watched([sys.executable, "-c", "import qbert_opt.scoring.sensitivity, qbert_opt.checkpoint.writer"])
    steps = {
        "sensitivity": [*program, "sensitivity", "--model", str(model), "--data", options.texts, "--metric",
                        "weight-error", "--method", "rtn", "--table-bits", "none", "--bits", "2,3,4", "--groupings",
                        "columns:128", *few, "-q", "-o", str(scores)],
        "solve": [*program, "solve", "--scores", str(scores), "--budget", "3bit", "-o", str(plan)],
        "quantize": [*program, "quantize", str(plan), "--model", str(model), "-q", "-o", str(options.folder / "out")],
    }  # fmt: skip
    size = sum(part.stat().st_size for part in model.glob("*.safetensors"))
    print(json.dumps({"model_mib": round(size / 2**20), "imports_mib": round(idle), "commit": code_commit()}))
    for name, command in steps.items():
        peak, seconds = watched(command)
        print(json.dumps({"step": name, "peak_anonymous_mib": round(peak), "seconds": round(seconds)}), flush=True)


if __name__ == "__main__":
    main()
