"""Would a plan ever give a matrix or an attention head 0 bits? What leaving it out costs, beside what its bytes buy.

    python benchmarks/zero_bits.py MODEL TEXTS SCORES OUT.jsonl [--texts N] [--label-column C] [--bits 2.05 2.25 ...]

Every matrix, and every attention head (its rows of the value matrix and its columns of the output's), is set to zero
alone, all else in float32, and the KL is measured on N texts: no second-order estimate, which means nothing at this
distance. SCORES are of the same model. The plan of each budget gives the item its bytes and loss, and the program's
price of a byte: by how much less a plan of 2 % more bytes loses. An item would be left out if its KL, less the loss
that it has in the plan, were below the price of the bytes that it frees.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import qbert_opt as qb
from qbert_opt.evaluation.evaluate import evaluation_batches
from qbert_opt.evaluation.intervals import Interval, ratio_interval
from qbert_opt.models.heads import KINDS
from qbert_opt.models.heads.protocol import per_text
from qbert_opt.models.outputs import collect
from qbert_opt.quantization.calibration import weight_of
from qbert_opt.runtime.provenance import code_commit, today
from qbert_opt.spec.planned import PlannedMatrix
from qbert_opt.spec.profiles import MatrixSpec

Slices = list[tuple[str, tuple[slice, slice]]]
ALL = slice(None)


def items(matrices: tuple[MatrixSpec, ...], heads: int) -> Iterator[tuple[str, Slices]]:
    """Name each matrix and each head, with the parts of the weights that it takes."""
    for matrix in matrices:
        yield matrix.module, [(matrix.module, (ALL, ALL))]
    values = [m.module for m in matrices if m.module.endswith(".value")]
    outputs = [m.module for m in matrices if m.module.endswith("attention.output.dense")]
    size = next(m.rows for m in matrices if m.module in values) // heads
    for layer, (value, output) in enumerate(zip(values, outputs, strict=True)):
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            yield f"layer {layer}, head {head}", [(value, (part, ALL)), (output, (ALL, part))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "data", "scores"):
        parser.add_argument(name)
    parser.add_argument("output", type=Path)
    parser.add_argument("--texts", type=int, default=300)
    parser.add_argument("--label-column")
    parser.add_argument("--bits", type=float, nargs="+", default=(2.05, 2.25, 2.5, 3.0))
    options = parser.parse_args()
    torch.set_num_threads(1)
    started = time.process_time()
    loaded, table = qb.load_model(options.model), qb.read_scores(options.scores)
    texts = qb.read_texts(options.data, label_column=options.label_column)
    batches = evaluation_batches(loaded, texts.take(range(min(options.texts, len(texts)))))
    head, model, profile = loaded.head, loaded.model, table.profile
    truth = collect(head, model, batches).values
    measured = {}
    for name, parts in items(profile.matrices, profile.heads):
        kept = {module: weight_of(model, module).clone() for module, _ in parts}
        with torch.no_grad():
            for module, where in parts:
                weight_of(model, module)[where] = 0
            answers = collect(head, model, batches)
            for module, weight in kept.items():
                weight_of(model, module).copy_(weight)
        kl = per_text(answers, KINDS[head.kind].loss.of_rows(truth, answers.values))
        measured[name] = parts, ratio_interval(np.asarray(kl.above), np.asarray(kl.below))
        print(f"{time.process_time() - started:6.0f} s  {name}: {measured[name][1].value:.5f}", flush=True)
    about = {
        "model": Path(loaded.name).name, "texts": sum(len(batch.indices) for batch in batches),
        "machine": f"{platform.machine()}, {os.cpu_count()} shared cores", "commit": code_commit(), "date": today(),
    }  # fmt: skip
    with options.output.open("a", encoding="utf-8") as out:
        for bits in options.bits:
            for row in judged(table, bits, measured):
                out.write(json.dumps(about | row) + "\n")


def judged(table: qb.ScoreTable, bits: float, measured: dict[str, tuple[Slices, Interval]]) -> Iterator[dict[str, Any]]:
    """Compare what leaving each item out costs with what its bytes in the plan would buy elsewhere."""
    elements = table.profile.encoder_elements
    plan, more = (qb.solve(table, budget=f"{round(k * bits * elements / 8)}B") for k in (1, 1.02))
    price = (plan.sum_of_scores - more.sum_of_scores) / (more.encoder_bytes - plan.encoder_bytes)
    of = {matrix.module: matrix for matrix in plan.matrices}
    for kind, of_kind in (("matrix", lambda parts: len(parts) == 1), ("head", lambda parts: len(parts) == 2)):
        found = []
        for name, (parts, kl) in measured.items():
            if not of_kind(parts):
                continue
            shares = [_share(where, of[module]) for module, where in parts]
            freed = sum(share * of[module].bytes for share, (module, _) in zip(shares, parts, strict=True))
            loss = sum(share * of[module].predicted_loss for share, (module, _) in zip(shares, parts, strict=True))
            found.append((price * freed - (kl.value - loss), name, kl, freed, loss))
        gain, name, kl, freed, loss = max(found)
        yield {
            "bits": bits, "kind": kind, "items": len(found), "worth_it": sum(gain > 0 for gain, *_ in found),
            "price_nats_per_kb": _short(1e3 * price), "plan_nats": _short(plan.sum_of_scores), "best": name,
            "best_kl": [_short(kl.value), _short(kl.low), _short(kl.high)], "best_planned_nats": _short(loss),
            "best_freed_bytes": round(freed), "freed_bytes_are_worth_nats": _short(price * freed),
            "best_gain_nats": _short(gain), "median_kl": _short(float(np.median([kl.value for _, _, kl, *_ in found]))),
        }  # fmt: skip


def _share(where: tuple[slice, slice], matrix: PlannedMatrix) -> float:
    """Part of the matrix's weights."""
    sizes = [len(range(*part.indices(size))) for part, size in zip(where, (matrix.rows, matrix.columns), strict=True)]
    return sizes[0] * sizes[1] / (matrix.rows * matrix.columns)


def _short(value: float) -> float:
    return float(f"{value:.4g}")


if __name__ == "__main__":
    main()
