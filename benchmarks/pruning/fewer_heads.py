"""Do plans that may leave attention heads out lose less? Quantized models of equal bytes, on text that nobody saw.

    python -m benchmarks.pruning.fewer_heads MODEL CALIBRATION TEXTS SCORES OUT.jsonl [--most 18] [--bits 2.05 2.25]
        [--label-column C]

For each number of bits per weight, the plan of SCORES with all heads, and that of `solve --allow-drop-heads`: heads
are ranked on half of the scoring texts of CALIBRATION and judged on the other half, and the least sum of measured loss
and scores wins. Both plans have the same limit on bytes, both models are quantized with the plan's own texts, written,
opened again and compared with the float model on TEXTS. The ratio of losses is paired over texts, 95 % bootstrap.
"""

import argparse
import json
import tempfile
import time
from functools import partial
from pathlib import Path

import torch

import qbert_opt as qb
from benchmarks.records import machine, rounded
from qbert_opt.checkpoint.reader import load_quantized
from qbert_opt.evaluation.evaluate import evaluation_batches
from qbert_opt.evaluation.intervals import Interval, ratio_interval
from qbert_opt.models.heads.protocol import Ratio, per_text
from qbert_opt.models.outputs import Outputs, collect
from qbert_opt.planning.head_scores import narrowed_scores
from qbert_opt.runtime.provenance import code_commit, today
from qbert_opt.scoring.head_drops import head_drops
from qbert_opt.spec.allocation import Allocation
from qbert_opt.spec.limits import Limits
from qbert_opt.spec.scores import ScoreTable
from qbert_opt.workflows.left_out import least_left_out, same_text
from qbert_opt.workflows.quantize import quantize_model
from qbert_opt.workflows.solve import Solved, solve_plans


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "calibration", "data", "scores"):
        parser.add_argument(name)
    parser.add_argument("output", type=Path)
    parser.add_argument("--most", type=int, default=18)
    parser.add_argument("--bits", type=float, nargs="+", default=(2.05, 2.25))
    parser.add_argument("--label-column")
    options = parser.parse_args()
    torch.set_num_threads(1)
    started, about = time.process_time(), {"commit": code_commit(), "date": today()}
    loaded, table = qb.load_model(options.model), qb.read_scores(options.scores)
    read = partial(qb.read_texts, label_column=options.label_column)
    calibration, texts = read(options.calibration), qb.read_texts(options.data)
    as_scored, fit, scored = same_text(table, loaded, calibration)
    batches = evaluation_batches(as_scored, texts)
    truth = collect(loaded.head, loaded.model, batches)
    sets = head_drops(as_scored, fit, scored, options.most)
    tried = {one.dropped.count: [rounded(one.dropped.predicted_loss), rounded(one.dropped.std_error)] for one in sets}
    print(f"{time.process_time() - started:6.0f} s  {tried}", flush=True)

    def judged(plan: Allocation) -> tuple[Ratio, int]:
        with tempfile.TemporaryDirectory() as folder:
            written = quantize_model(loaded, plan, calibration, Path(folder) / "model")
            opened, _ = load_quantized(Path(folder) / "model")
        answers: Outputs = collect(loaded.head, opened.model, batches)
        return per_text(truth, loaded.head.spec.loss.of_rows(truth.values, answers.values)), written.tensor_bytes

    for bits in options.bits:
        limits = Limits(encoder_bytes=int(bits * table.profile.encoder_elements / 8))

        def solve(scores: ScoreTable, limits: Limits = limits) -> Solved:
            return solve_plans(scores, limits)

        smaller = [(one.dropped, partial(narrowed_scores, table, one.profile)) for one in sets]
        plans = (solve(table).plan, least_left_out(table, smaller, solve)[1].plan)
        left_out = plans[1].dropped_heads
        row = {
            "model": Path(loaded.name).name, "texts": len(texts), "bits": bits, "most": options.most,
            "left_out": 0 if left_out is None else left_out.count, "sets": tried,
            "predicted": [rounded(plan.predicted_loss) for plan in plans],
            "sum_of_scores": [rounded(plan.sum_of_scores) for plan in plans],
            "encoder_bytes": [plan.encoder_bytes for plan in plans],
        }  # fmt: skip
        if left_out is not None:
            found = [judged(plan) for plan in plans]
            (whole, whole_bytes), (fewer, fewer_bytes) = found
            row |= {
                "tensor_bytes": [whole_bytes, fewer_bytes],
                "kl": [_three(ratio_interval(one.above, one.below)) for one, _ in found],
                "ratio": _three(ratio_interval(fewer.above, whole.above)),
            }
        row |= about | {
            "cpu_minutes": round((time.process_time() - started) / 60, 1),
            "machine": machine(),
        }
        print(json.dumps(row), flush=True)
        with options.output.open("a", encoding="utf-8") as out:
            out.write(json.dumps(row) + "\n")


def _three(found: Interval) -> list[float]:
    return [rounded(value) for value in (found.value, found.low, found.high)]


if __name__ == "__main__":
    main()
