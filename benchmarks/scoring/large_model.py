"""Can a model larger than memory be scored, quantized and evaluated? Memory and time of each step against its blocks.

    python -m benchmarks.scoring.large_model FOLDER TEXTS --tokenizer BERT_FOLDER --layers 8 [--width 768] [--in-memory]

Writes a BERT of random weights tensor by tensor, scores it (`directional`, `gptq` at 3 bits in columns of 128),
quantizes it and evaluates what was written against the model, by the command line as users do and with `--paged`
(`--in-memory`: without). Few short texts: what is measured is cost. Memory is what the system counted: the largest
resident set (VmHWM), and the largest anonymous memory, sampled every 20 ms; both above what a process has that imports
the libraries, reads the tokenizer and runs a tiny BERT forward and back. One json line for each step.
"""

import argparse
import json
import math
import os
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

FIELDS = re.compile(r"(VmHWM|RssAnon):\s+(\d+) kB")
CHOICES = ["--bits", "3", "--groupings", "columns:128", "--table-bits", "8"]
TEXTS = ["--calibration-samples", "16", "--scoring-samples", "16", "--max-tokens", "24"]
LIBRARIES = """
import sys, torch, qbert_opt.cli.main, qbert_opt.scoring.sensitivity, qbert_opt.serving.measuring
import qbert_opt.workflows.quantize
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification
AutoTokenizer.from_pretrained(sys.argv[1])
tiny = BertConfig(hidden_size=64, num_hidden_layers=1, num_attention_heads=1, intermediate_size=64, vocab_size=64)
BertForSequenceClassification(tiny)(torch.ones(1, 8, dtype=torch.int64)).logits.sum().backward()
"""


def watched(command: list[str]) -> dict[str, float]:
    """Run a command; returns its peaks of resident and anonymous memory in MiB, and its processor seconds."""
    peaks: dict[str, int] = {}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        status = Path(f"/proc/{process.pid}/status")
        done, code, usage = 0, 0, None
        while not done:
            with suppress(OSError):  # it has just ended
                for name, size in FIELDS.findall(status.read_text()):
                    peaks[name] = max(peaks.get(name, 0), int(size))
            time.sleep(0.02)
            done, code, usage = os.wait4(process.pid, os.WNOHANG)
        process.returncode = os.waitstatus_to_exitcode(code)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return {
        "resident_mib": peaks["VmHWM"] / 1024,
        "anonymous_mib": peaks["RssAnon"] / 1024,
        "processor_s": usage.ru_utime + usage.ru_stime,
    }


def write_model(folder: Path, config: BertConfig) -> None:
    """Write a model of random weights, one tensor in memory at a time."""
    with torch.device("meta"):
        state = BertForSequenceClassification(config).state_dict()
    header, end = {}, 0
    for name, tensor in state.items():
        start, end = end, end + 4 * math.prod(tensor.shape)
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 64)
    config.architectures = ["BertForSequenceClassification"]
    config.save_pretrained(folder)
    torch.manual_seed(0)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, tensor in state.items():
            mean = 1.0 if name.endswith("LayerNorm.weight") else 0.0
            file.write(torch.randn(tensor.shape).mul_(0.02).add_(mean).numpy().data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("texts")
    parser.add_argument("--tokenizer", required=True, help="folder of any BERT model")
    parser.add_argument("--layers", type=int, required=True)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--method", default="gptq")
    parser.add_argument("--in-memory", action="store_true")
    parser.add_argument("--steps", default="sensitivity,solve,quantize,evaluate")
    options = parser.parse_args()
    model, name = options.folder / "model", "in-memory" if options.in_memory else "paged"
    scores, plan, out = (options.folder / f"{name}-{end}" for end in ("s.json", "p.json", "out"))
    if not model.exists():
        labels = sorted(set(read_texts(options.texts).labels))
        tokenizer = AutoTokenizer.from_pretrained(options.tokenizer)
        config = BertConfig(
            vocab_size=len(tokenizer), hidden_size=options.width, num_hidden_layers=options.layers,
            num_attention_heads=options.width // 64, intermediate_size=4 * options.width,
            id2label=dict(enumerate(labels)), label2id={label: i for i, label in enumerate(labels)},
        )  # fmt: skip
        model.mkdir(parents=True)
        tokenizer.save_pretrained(model)
        write_model(model, config)
    few = options.folder / "few.tsv"
    texts = read_texts(options.texts)
    rows = [f"{text[0]}\t{label}" for text, label in zip(texts.texts[:48], texts.labels[:48], strict=True)]
    few.write_text("\n".join(["text\tlabel", *rows]) + "\n")
    program, paging = [sys.executable, "-m", "qbert_opt"], ["--no-paged" if options.in_memory else "--paged"]
    # the least that is taken: the largest matrix, rounded once, fits into a quarter of the limit
    limit = f"{math.ceil(40 * 4 * 4 * options.width**2 / 2**20)}MiB"
    scratch = ["--scratch", str(options.folder)]
    steps = {
        "sensitivity": [*program, "sensitivity", "--model", str(model), "--data", str(few), *CHOICES, *TEXTS, *paging,
                        "--method", options.method, "--memory-limit", limit, "-q", "-o", str(scores)],
        "solve": [*program, "solve", "--scores", str(scores), "--budget", "4bit", "-o", str(plan)],
        "quantize": [*program, "quantize", str(plan), "--model", str(model), "--data", str(few), *paging, "-q", "-o",
                     str(out)],
        "evaluate": [*program, "evaluate", str(out), "--data", str(few), "--reference", str(model), *paging, *scratch],
    }  # fmt: skip
    libraries = watched([sys.executable, "-c", LIBRARIES, str(model)])
    width = options.width
    block, table = (round(4 * count / 2**20, 1) for count in (12 * width**2 + 13 * width, 30522 * width))
    size = (model / "model.safetensors").stat().st_size / 2**20
    about = {
        "layers": options.layers, "width": width, "how": name, "method": options.method, "model_mib": round(size),
        "block_mib": block, "table_mib": table, "memory_limit": limit,
        "libraries_mib": round(libraries["resident_mib"]), "commit": code_commit(),
    }  # fmt: skip
    print(json.dumps(about), flush=True)
    for step in filter(None, options.steps.split(",")):
        found = watched(steps[step])
        resident = found["resident_mib"] - libraries["resident_mib"]
        row = {
            "step": step,
            "resident_mib": round(resident),
            "anonymous_mib": round(found["anonymous_mib"] - libraries["anonymous_mib"]),
            "blocks": round(resident / block, 1),
            "processor_s": round(found["processor_s"], 1),
            "processor_s_per_block": round(found["processor_s"] / options.layers, 3),
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
