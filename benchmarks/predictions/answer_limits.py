"""Does a limit on answers that `optimize` has proven hold on text that it never saw?

    python -m benchmarks.predictions.answer_limits MODEL CALIBRATION CHECK SCORES WORK OUT.jsonl --max-flips 2%
        [--device D]

SCORES are of MODEL and CALIBRATION. `optimize` seeks the smallest plan under the limit and proves it on CHECK, as the
command does; the files that it exported then answer the texts of CALIBRATION that neither calibrated nor scored, and
that played no part in anything before. The verdict holds there if the share (or the drop) that was allowed is not
below the exact interval of what is counted. One line of OUT per run; WORK keeps the folders, and an interrupted run
goes on.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import torch

import qbert_opt as qb
from benchmarks.records import machine
from qbert_opt.data.texts import split_disjoint
from qbert_opt.evaluation.counts import changed_answers
from qbert_opt.evaluation.evaluate import evaluation_batches
from qbert_opt.models.outputs import collect
from qbert_opt.models.targets import read_targets
from qbert_opt.runtime.provenance import code_commit
from qbert_opt.serving.engine_model import serve


def shown(interval: object) -> list[float] | None:
    """Value, low and high."""
    return None if interval is None else [round(getattr(interval, n), 6) for n in ("value", "low", "high")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "calibration", "check", "scores"):
        parser.add_argument(name)
    parser.add_argument("work", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--max-flips")
    parser.add_argument("--max-accuracy-drop")
    parser.add_argument("--device", default="rpi5")
    parser.add_argument("--engine", default="onnxruntime")
    options = parser.parse_args()
    torch.set_num_threads(1)
    started = time.process_time()
    loaded, data = qb.load_model(options.model), qb.read_texts(options.calibration)
    scores, check = qb.read_scores(options.scores), qb.read_texts(options.check)
    name = f"{options.engine}-{options.device}-{options.max_flips}-{options.max_accuracy_drop}".replace("%", "")
    options.work.mkdir(parents=True, exist_ok=True)
    done = qb.optimize(
        loaded, data, options.work / name, max_flips=options.max_flips, max_accuracy_drop=options.max_accuracy_drop,
        device=options.device, engine=options.engine, test_data=check, scores=scores,
        progress=lambda _done, _all, what: print(f"{time.process_time() - started:6.0f} s  {what}", flush=True),
    )  # fmt: skip
    minutes = (time.process_time() - started) / 60
    seen = scores.provenance.num_calibration + scores.provenance.num_scored
    _, rest = split_disjoint(data, [seen, len(set(data.texts)) - seen], seed=scores.provenance.seed)
    checked = set(check.texts)
    rest = replace(
        rest.take([i for i, text in enumerate(rest.texts) if text not in checked]), name=f"the rest of {data.name}"
    )
    batches = evaluation_batches(loaded, rest)
    truth = collect(loaded.head, loaded.model, batches)
    served = serve(done.folder / options.engine).loaded
    answers = collect(served.head, served.model, evaluation_batches(served, rest))
    changed = changed_answers(answers, truth.values, read_targets(loaded, rest, batches))
    plan = done.outcome.plan
    row = {
        "model": loaded.name.rsplit("/", 1)[-1],
        "engine": options.engine,
        "device": options.device,
        "max_flips": options.max_flips,
        "max_accuracy_drop": options.max_accuracy_drop,
        "activations": done.outcome.activations,
        "plans_tried": len(done.outcome.tried),
        "packed_bytes": plan.stored_bytes,
        "engine_bytes": plan.engine_bytes,
        "uniform_8_bit_engine_bytes": None if done.outcome.uniform is None else done.outcome.uniform.engine_bytes,
        "predicted_flips": shown(plan.predicted_flips),
        "predicted_drop": shown(plan.predicted_drop),
        "proven_on": [len(check), shown(plan.flips), shown(plan.drop)],
        "unseen": [len(rest), shown(changed.flips), shown(changed.drop)],
        "notes": list(done.outcome.notes),
        "cpu_minutes": round(minutes, 1),
        "commit": code_commit(),
        "machine": machine(),
    }
    print(json.dumps(row, indent=1))
    with options.output.open("a") as file:
        file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
