"""How much static memory the C encoder of an integer program takes, by the longest text.

    python -m benchmarks.integer.integer_memory MODEL CALIBRATION WORK OUT.json

Every matrix in 8 bits per row and its inputs in 8 bits, as in `integer_artifacts.py`; only the memory planner runs.
"""

import argparse
import json
from pathlib import Path

from benchmarks.integer.integer_widths import CHOICE, prepared
from qbert_opt.checkpoint.reader import load_quantized, read_matrices
from qbert_opt.data.texts import read_texts
from qbert_opt.formats.traced_model import traceable
from qbert_opt.integer.compiler import compile_model
from qbert_opt.integer.families import encoder_of
from qbert_opt.integer.memory import planned_memory
from qbert_opt.models.loading import load_model, tokenized
from qbert_opt.runtime.provenance import code_commit

TOKENS = (32, 64, 128, 256, 512)


def main():
    """Read the command line and plan."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "calibration", "work", "out"):
        parser.add_argument(name)
    options = parser.parse_args()
    folder, data = Path(options.work) / "quantized", read_texts(options.calibration).take(range(64))
    if not folder.exists():
        prepared(load_model(options.model), data, 8, folder)
    loaded, plan = load_quantized(folder)
    batches, inputs = tokenized(loaded, data.texts, batch_size=16), traceable(loaded).inputs
    program = compile_model(encoder_of(loaded), read_matrices(folder, plan), plan.activations, batches, inputs).program
    row = {
        "model": Path(options.model).name, "weights": CHOICE, "commit": code_commit(),
        "arena_bytes_by_max_tokens": {tokens: planned_memory(program, tokens).total_bytes for tokens in TOKENS},
    }  # fmt: skip
    Path(options.out).write_text(json.dumps(row, indent=1) + "\n")
    print(json.dumps(row))


if __name__ == "__main__":
    main()
