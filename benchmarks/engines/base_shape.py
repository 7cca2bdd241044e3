"""How fast and how small are planned exports at the shape of BERT-base, beside OpenVINO in float32?

    python -m benchmarks.engines.base_shape WORK TOKENIZER [--rounds 12]      # prints JSON

The model is a BERT of 12 layers x 768 with random weights in WORK: time and memory do not depend on trained ones, so
nothing is said of accuracy. TOKENIZER is the folder of any BERT; it is needed to open the model, no text is read. Every
matrix is rounded in one symmetric range per row and its inputs in static 8-bit ranges that fit random token ids: the
form that `optimize --engine openvino` takes by itself. Each round opens every row in a fresh process, in
alternating order, and times a few runs of one sentence of 128 made-up tokens on one thread. Processor time; ratios are
paired by round, with a 95 % bootstrap interval of the median. Memory: anonymous pages of the process after its runs,
less those before it opened the model.
"""

import argparse
import json
import os
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from qbert_opt.device_profiling.board.machine import processor_name
from qbert_opt.engines.session import engine, exporting_format
from qbert_opt.engines.timing import made_up_inputs, time_files
from qbert_opt.formats.traced_model import traceable
from qbert_opt.models.loading import load_model
from qbert_opt.models.samples import TokenBatch
from qbert_opt.models.structure import profile_model
from qbert_opt.planning.recipes import given_allocation
from qbert_opt.quantization.activation_quant import with_rounded_inputs
from qbert_opt.quantization.activation_ranges import calibrated_ranges
from qbert_opt.quantization.calibration import MatrixQuantizer, quantized_matrices
from qbert_opt.runtime.files import folder_bytes
from qbert_opt.runtime.provenance import code_commit
from qbert_opt.spec.choices import choice
from qbert_opt.spec.planned import PlannedActivation
from qbert_opt.workflows.attention_rounding import score_ranges
from qbert_opt.workflows.export import export_float
from qbert_opt.workflows.verify import apply_plan

ENGINE = "openvino"
SEQ_LEN, RUNS, SAMPLES = 128, 6, 4
FLOAT = "float32"
PLANS = {  # matrices, tables of more than a thousand rows
    "8 bits": ("8bit/rows:each/rtn/symmetric", "8bit/rows:each/rtn"),
    "4 bits": ("4bit/rows:each/rtn/symmetric", "4bit/rows:each/rtn"),
}


def prepare(work: Path, tokenizer: str) -> None:
    """Write the model, its float export and the planned ones, where they are not there yet."""
    model = work / "model"
    if not model.exists():
        torch.manual_seed(0)
        BertForSequenceClassification(BertConfig(hidden_act="gelu")).save_pretrained(model)
        AutoTokenizer.from_pretrained(tokenizer).save_pretrained(model)
    if not (work / FLOAT).exists():
        export_float(model, ENGINE, work / FLOAT)
    for name, (weights, tables) in PLANS.items():
        if not (work / name).exists():
            (work / name).mkdir()
            export(model, work / name, weights, tables)


def export(model: Path, out: Path, weights: str, tables: str) -> None:
    """Round every matrix and its inputs, and write the engine's files."""
    loaded = load_model(model)
    profile = profile_model(loaded)
    random = np.random.default_rng(0)
    samples = [random.integers(1000, loaded.model.config.vocab_size, (1, SEQ_LEN)) for _ in range(SAMPLES)]
    mask = torch.ones(1, SEQ_LEN, dtype=torch.int64)
    batches = [TokenBatch({"input_ids": torch.tensor(ids), "attention_mask": mask}, (0,)) for ids in samples]
    ranges = calibrated_ranges(loaded.model, batches, [m.module for m in profile.matrices])
    inputs = {}
    for module, found in ranges.items():
        low, high = found["minmax"](8)
        inputs[module] = PlannedActivation(
            modules=(module,), bits=8, scheme="tensor", range="minmax", low=low, high=high,
            predicted_loss=0, std_error=0,
        )  # fmt: skip
    chosen = {m.module: choice(weights) for m in profile.matrices}
    chosen |= {table.module: choice(tables) for table in profile.tables if table.rows > 1000}
    plan = given_allocation(profile, chosen)
    quantizer = MatrixQuantizer(loaded, profile, "rtn", None)
    rounded = apply_plan(loaded, plan, quantizer)
    with_rounded_inputs(rounded.model, tuple(inputs.values()))
    scores = score_ranges(rounded, plan, batches)
    stored = list(quantized_matrices(quantizer, plan))
    traced = traceable(apply_plan(loaded, plan, quantizer), lean=True)
    exporting_format(ENGINE).write(traced, stored, out, "planned", inputs, scores)


def measure(work: Path, rounds: int) -> dict[str, object]:
    """Time every row in fresh processes, round by round."""
    inputs = made_up_inputs(("input_ids", "attention_mask", "token_type_ids"), 1, SEQ_LEN)
    rows = (FLOAT, *PLANS)
    seconds: dict[str, list[float]] = {row: [] for row in rows}
    memory: dict[str, list[int]] = {row: [] for row in rows}
    for number in range(rounds):
        for row in rows[:: 1 if number % 2 else -1]:
            way = "float32" if row == FLOAT else "planned"
            timing = time_files(ENGINE, work / row, inputs, threads=1, runs=RUNS, activations=way)
            seconds[row].append(timing.median_cpu_s)
            memory[row].append(timing.private_bytes - timing.floor_bytes)
    draws = np.random.default_rng(0).integers(0, rounds, (5000, rounds))
    found = {}
    for row in rows:
        faster = np.array(seconds[FLOAT]) / np.array(seconds[row])
        low, high = np.quantile(np.median(faster[draws], axis=1), [0.025, 0.975])
        found[row] = {
            "ms": round(1e3 * float(np.median(seconds[row])), 1),
            "times_float32": [round(float(x), 3) for x in (np.median(faster), low, high)],
            "private_mb": round(float(np.median(memory[row])) / 1e6, 1),
            "private_of_float32": round(float(np.median(memory[row]) / np.median(memory[FLOAT])), 3),
            "file_mb": round(folder_bytes(work / row) / 1e6, 1),
        }
    flags = Path("/proc/cpuinfo").read_text()
    kinds = [flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16") if flag in flags]
    return {
        "command": f"python -m benchmarks.engines.base_shape WORK TOKENIZER --rounds {rounds}", "commit": code_commit(),
        "engine": engine(ENGINE).label(), "processor": f"{processor_name()}, {', '.join(kinds)}", "threads": 1,
        "tokens": SEQ_LEN, "rounds": rounds, "runs": RUNS, "load": round(os.getloadavg()[1], 1), "rows": found,
    }  # fmt: skip


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("tokenizer")
    parser.add_argument("--rounds", type=int, default=12)
    arguments = parser.parse_args()
    arguments.work.mkdir(exist_ok=True, parents=True)
    prepare(arguments.work, arguments.tokenizer)
    print(json.dumps(measure(arguments.work, arguments.rounds), indent=1))


if __name__ == "__main__":
    main()
