"""What do ranges with offsets cost in an engine, beside symmetric ones, and what does the latency model say?

    python -m benchmarks.engines.offset_forms MODEL SCORES DATA WORK OUT [--engine openvino] [--rounds 12]

SCORES are of MODEL and DATA and give the ranges of inputs. Uniform plans are rounded to nearest, because only time
counts here: each grouping and width with offsets and symmetric, exported, and timed in turns on one thread at 128
tokens. Figures are ratios of processor time, offset to symmetric, of the same round; predicted by the latency model for
a device that was not measured with this engine.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

import qbert_opt as qb
from benchmarks.records import machine
from qbert_opt.costs.simulate import simulate_allocation
from qbert_opt.costs.workload import Workload
from qbert_opt.engines.session import engine
from qbert_opt.engines.timing import time_model
from qbert_opt.planning.possible import unscored
from qbert_opt.runtime.provenance import code_commit
from qbert_opt.spec.activations import activation_choice
from qbert_opt.spec.choices import Choice

CASES = ((8, "rows:each", "planned"), (4, "rows:each", "planned"), (8, "rows:each", "int8"), (4, "columns:64", "int8"))
TOKENS = 128
Case = tuple[int, str, str, str]  # bits, grouping, inputs, form


def ratios(times: dict[Case, list[float]], predicted: dict[Case, float]) -> list[dict[str, Any]]:
    """Offset to symmetric: median over rounds with its bootstrap interval, and predicted."""
    rows = []
    for case in CASES:
        offset, symmetric = (*case, "offset"), (*case, "symmetric")
        found = np.array(times[offset]) / np.array(times[symmetric])
        generator = np.random.default_rng(0)
        medians = [np.median(generator.choice(found, len(found))) for _ in range(2000)]
        low, high = np.quantile(medians, (0.025, 0.975))
        rows.append(
            {
                "bits": case[0], "grouping": case[1], "inputs": case[2],
                "time_ratio": [round(float(x), 4) for x in (np.median(found), low, high)],
                "predicted_ratio": round(predicted[offset] / predicted[symmetric], 4),
            }
        )  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "scores", "data"):
        parser.add_argument(name)
    parser.add_argument("work", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--engine", default="openvino")
    parser.add_argument("--device", default="rpi5")
    parser.add_argument("--rounds", type=int, default=12)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)
    loaded, scores, data = qb.load_model(options.model), qb.read_scores(options.scores), qb.read_texts(options.data)
    static = [c for c in map(activation_choice, scores.activations.choices) if c.range is not None]  # type: ignore[union-attr]
    device = qb.load_device(options.device)
    folders: dict[Case, Path] = {}
    predicted: dict[Case, float] = {}
    for bits, grouping, inputs in CASES:
        for form in ("offset", "symmetric"):
            case = (bits, grouping, inputs, form)
            choice = Choice(bits, grouping, "rtn", form)  # type: ignore[arg-type]
            table = unscored(scores.profile, [choice]).model_copy(
                update={"activations": scores.activations, "provenance": scores.provenance}
            )
            constraints = qb.PlanConstraints(engine=options.engine)
            rounded = static if inputs == "planned" else []
            plan = qb.allocate(table, qb.Limits(), constraints=constraints, activations=rounded)
            report = simulate_allocation(plan, device, Workload(TOKENS))
            predicted[case] = report.latency_s
            name = "-".join(map(str, case)).replace(":", "")
            folders[case] = options.work / f"{name}-{options.engine}"
            if not folders[case].exists():
                quantized = options.work / name
                if not quantized.exists():
                    qb.quantize_model(loaded, plan, data, quantized)
                qb.export_model(
                    quantized, options.engine, folders[case], texts=data.take(range(8)), tolerance=1e3,
                    activations=inputs,  # type: ignore[arg-type]
                )  # fmt: skip
                print(f"exported {name}", flush=True)
    times: dict[Case, list[float]] = {case: [] for case in folders}
    for number in range(options.rounds):
        for case, folder in list(folders.items())[:: 1 if number % 2 else -1]:
            timing = time_model(folder, seq_len=TOKENS, batch_size=1, threads=1, runs=5)
            times[case].append(float(np.median(timing.cpu_s)))
        print(f"round {number + 1}", flush=True)
        found = {
            "model": loaded.name.rsplit("/", 1)[-1], "engine": engine(options.engine).label(),
            "device": options.device, "tokens": TOKENS, "rounds": number + 1, "rows": ratios(times, predicted),
            "commit": code_commit(), "machine": machine(),
        }  # fmt: skip
        options.output.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found["rows"], indent=1))


if __name__ == "__main__":
    main()
