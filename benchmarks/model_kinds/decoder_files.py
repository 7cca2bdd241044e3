"""A decoder's file for llama.cpp beside llama.cpp's own mixes of as many bytes, both run by llama.cpp.

    python -m benchmarks.model_kinds.decoder train llama MODELS
    python -m benchmarks.model_kinds.decoder_files MODELS RESULTS.json --library libllama.so [--mixes Q3_K_M Q4_K_M]

The mixes are written by `llama_model_quantize`, with its default settings and without an importance matrix, from the
float file that `export` writes; the plans may take as many bytes as those files have. Plans are made for
`--engine llama-cpp` with gptq, tables included, from scores on `snips/dev`; quantized, exported and checked as users
do. KL, perplexity and agreement are those of llama.cpp's answers to 160 texts of `snips/test` against torch's in
float32: llama.cpp computes the states of all tokens with its own kernels, the output layer is applied to them here,
with inputs as they are for all files. Beside it stands what the same plan has in torch, and what was predicted.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import gguf
import numpy as np
import torch

from benchmarks.model_kinds.decoder import DRAWN, interval
from benchmarks.model_kinds.llama_mixes import MIXES, quantize_file
from benchmarks.records import machine
from qbert_opt.checkpoint.reader import load_quantized
from qbert_opt.data.texts import read_texts
from qbert_opt.engines.llama_decoder import Decoder
from qbert_opt.errors import InputFileError
from qbert_opt.evaluation.evaluate import evaluate, evaluation_batches, measure, outputs
from qbert_opt.formats.ggml_blocks import F32, dequantize
from qbert_opt.formats.gguf_decoder import WORD
from qbert_opt.formats.gguf_file import GgufFile, Tensor, read_gguf
from qbert_opt.models.loading import load_model
from qbert_opt.models.outputs import Outputs
from qbert_opt.models.targets import read_targets
from qbert_opt.planning.constraints import PlanConstraints
from qbert_opt.planning.planner import allocate
from qbert_opt.runtime.provenance import code_commit, today
from qbert_opt.scoring.sensitivity import measure_sensitivity
from qbert_opt.spec.grids import grid
from qbert_opt.spec.limits import Limits
from qbert_opt.spec.tables import table_grid
from qbert_opt.workflows.export import export_float, export_model
from qbert_opt.workflows.quantize import quantize_model

FILE = "model.gguf"
GROUPINGS = ("rows:each", "columns:64", "columns:32")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--library", type=Path, required=True, help="llama.cpp's libllama.so")
    parser.add_argument("--mixes", nargs="+", default=["Q3_K_M", "Q4_K_M"], choices=MIXES)
    options = parser.parse_args()
    torch.set_num_threads(1)
    started = time.process_time()
    loaded, data, unseen = load_model(options.models / "llama"), read_texts("snips/dev"), read_texts("snips/test")
    unseen = unseen.take(range(160))
    scores = measure_sensitivity(
        loaded, data, grid((2, 4, 5, 8), GROUPINGS, "gptq", ("signed",)), plan=DRAWN,
        table_choices=table_grid((2, 4, 5, 8), ("rows:each", "columns:64", "columns:32"), ("signed",)),
    )  # fmt: skip
    reference = outputs(loaded, unseen)
    rows: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        source = export_float(loaded, "llama-cpp", scratch / "float") / FILE
        rows["float file"] = {"file_bytes": source.stat().st_size} | asked(source, loaded, unseen, reference)
        for mix in options.mixes:
            target = scratch / f"{mix}.gguf"
            quantize_file(options.library, source, target, MIXES[mix])
            size = target.stat().st_size
            rows[mix] = {"file_bytes": size, "types": types(target)} | asked(target, loaded, unseen, reference)
            plan = allocate(scores, Limits(total_bytes=size), constraints=PlanConstraints(engine="llama-cpp"))
            folder = quantize_model(loaded, plan, data, scratch / f"{mix}-q").folder
            record = export_model(folder, "llama-cpp", scratch / f"{mix}-e")
            ours = scratch / f"{mix}-e" / FILE
            found = evaluate(load_quantized(folder)[0], unseen, reference)
            rows[f"{mix}, our plan"] = {
                "file_bytes": ours.stat().st_size, "predicted_bytes": plan.engine.total_bytes, "types": types(ours),
                "predicted_loss": round(plan.predicted_loss, 6), "kl_in_torch": interval(found.kl),
                "check": {"activations": record.activations, "loss": record.agreement.loss,
                          "float32_difference": record.graph_difference},
            } | asked(ours, loaded, unseen, reference)  # fmt: skip
            print(json.dumps({mix: rows[mix], "ours": rows[f"{mix}, our plan"]}, indent=1), flush=True)
    row = {
        "texts": len(unseen), "library": options.library.name, "rows": rows,
        "command": "python -m benchmarks.model_kinds.decoder_files",
        "commit": code_commit(), "date": today(), "machine": machine(),
        "cpu_seconds": round(time.process_time() - started),
    }  # fmt: skip
    known = json.loads(options.results.read_text()) if options.results.exists() else {}
    known["llama files"] = row
    options.results.write_text(json.dumps(known, indent=1) + "\n")


def asked(path: Path, loaded, unseen, reference: torch.Tensor) -> dict[str, object]:
    """Ask llama.cpp: its states of every token, times the output layer that the file has."""
    config = loaded.model.config
    tensor = next(t for t in gguf_tensors(path) if t[0] == WORD)
    head = Tensor(F32, tensor[1].shape, np.ascontiguousarray(tensor[1]).view(np.uint8).reshape(len(tensor[1]), -1))
    keys = {
        "general.architecture": "llama", "llama.context_length": config.max_position_embeddings,
        "llama.embedding_length": config.hidden_size,
    }  # fmt: skip
    session = Decoder(path, path, GgufFile(keys, {WORD: head}), 1)
    batches = evaluation_batches(loaded, unseen)
    values, samples = [], []
    for batch in batches:
        inputs = {name: array.numpy() for name, array in batch.inputs.items()}
        logits = torch.from_numpy(session.run(inputs)["logits"])
        for row, index in enumerate(batch.indices):
            values.append((index, logits[row][batch.labelled[row]]))
    values.sort(key=lambda pair: pair[0])
    samples = torch.cat([torch.full((len(part),), index) for index, part in values])
    answers = Outputs("next_tokens", torch.cat([part for _, part in values]), samples, len(unseen))
    found = measure(answers, read_targets(loaded, unseen, batches), reference)
    return {"kl": interval(found.kl), "perplexity": interval(found.perplexity), "agreement": interval(found.agreement)}


def gguf_tensors(path: Path):
    """Name and values of the table of words, whatever its type."""
    try:
        table = read_gguf(path).tensors[WORD]
        yield WORD, dequantize(table.kind, table.data)
    except InputFileError:  # a type of llama.cpp's own
        found = next(t for t in gguf.GGUFReader(path).tensors if t.name == WORD)
        yield WORD, gguf.quants.dequantize(found.data, found.tensor_type).astype(np.float32)


def types(path: Path) -> dict[str, int]:
    """How many tensors of two axes have which type."""
    counts: dict[str, int] = {}
    try:
        kinds = [t.kind.name for t in read_gguf(path).tensors.values() if len(t.shape) == 2]
    except InputFileError:  # likewise
        kinds = [t.tensor_type.name for t in gguf.GGUFReader(path).tensors if len(t.shape) == 2]
    for kind in kinds:
        counts[kind] = counts.get(kind, 0) + 1
    return counts


if __name__ == "__main__":
    main()
