"""Whole pipelines of post-training quantization: each side's own bits, rounded by its own quantizer, at equal bytes.

    python -m benchmarks.rivals.pipelines MODEL TEXTS TEST --environments ENVIRONMENTS --work WORK -o results.jsonl

AutoRound: bits by AutoScheme, codes by 200 steps of signed gradient descent per block. ModelOpt: bits by its gradient
score, codes by the squared error of weights and by its GPTQ; a row for each. Ours: `solve` on the default grid at
exactly their bytes and `quantize`, whose codes are `guided` by default; and the same plan after `recover` with as many
passes as take the time of AutoRound's rounding. All sides fit on the same texts and score on the same others; nobody
uses labels to round. Requests, answers and measurements are those of `contest`.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.records import rounded
from benchmarks.rivals.answers import BITS, Refusal, WrongAnswer, ask, ask_codes
from benchmarks.rivals.contest import METHOD, opened, pair_options, question, rows_of, write_row
from benchmarks.rivals.environment import MissingEnvironment
from benchmarks.rivals.pair import Measured, Pair, Weights, digest
from qbert_opt.checkpoint.reader import load_quantized
from qbert_opt.errors import QbertOptError
from qbert_opt.planning.planner import allocate
from qbert_opt.planning.recipes import given_allocation
from qbert_opt.quantization.calibration import weight_of
from qbert_opt.quantization.writing import writing_method
from qbert_opt.spec.allocation import Allocation
from qbert_opt.spec.grids import DEFAULT_GROUPINGS
from qbert_opt.spec.limits import Limits
from qbert_opt.training.settings import RecoverySettings
from qbert_opt.workflows.quantize import quantize_model
from qbert_opt.workflows.recover import recover

WAYS = {"autoround": ("signround",), "modelopt": ("mse", "gptq")}
PLAN = {"autoround": "AutoScheme", "modelopt": "gradient"}  # each rival's plan as shipped


def written(plan: Allocation) -> Allocation:
    """A plan with its choices as `quantize` writes them by default."""
    method = writing_method(plan)
    choices = {part.module: replace(part.choice, method=method) for part in plan.matrices}
    return given_allocation(plan.profile, choices)


def recovered(pair: Pair, plan: Allocation, epochs: float) -> tuple[Weights, float]:
    """Weights of a plan after `quantize` and `recover` on the texts that fit, and the processor time of both."""
    folder = pair.work / f"recovered-{digest(plan.model_dump_json(), str(epochs))}"
    if not folder.exists():
        started = time.process_time()
        with tempfile.TemporaryDirectory() as quantized:
            start = Path(quantized) / "start"
            quantize_model(pair.loaded, plan, pair.data, start)
            recover(pair.loaded, start, [pair.fit], folder, settings=RecoverySettings(epochs={"blocks": epochs}))
        folder.with_suffix(".seconds").write_text(str(round(time.process_time() - started, 1)))
    student, _ = load_quantized(folder)
    weights = {part.module: weight_of(student.model, part.module).detach() for part in plan.matrices}
    return weights, float(folder.with_suffix(".seconds").read_text())


def compared(pair: Pair, theirs: Measured, encoder_bytes: int, epochs: float) -> dict[str, Any]:
    """Our pipelines at as many bytes, beside a rival's."""
    table, scoring_s = pair.scores("directional", DEFAULT_GROUPINGS, BITS)
    plan = allocate(table, Limits(encoder_bytes=encoder_bytes))
    weights, seconds = recovered(pair, plan, epochs)
    pipelines = {
        "quantize": pair.measure(written(plan)),
        "recover": pair.measure_weights(weights, "recover", plan.model_dump_json(), str(epochs)),
    }
    return {
        "theirs": theirs.figures(), "our_scoring_s": scoring_s, "our_method": writing_method(plan),
        "our_bits_per_weight": plan.average_bits, "our_recovery_s": seconds, "our_epochs": epochs,
        "ours": {name: mine.figures() | {"ratio": mine.over(theirs)} for name, mine in pipelines.items()},
    }  # fmt: skip


def run(options: Any) -> None:
    pair, about, made = opened(options)
    rows = rows_of(options.output)
    asked = question(pair, options.model, options.budgets, pair.scored)
    fitting = question(pair, options.model, options.budgets, pair.fit)
    for rival in options.rivals:
        found = ask(rival, asked, options.environments, pair.work)
        if isinstance(found, Refusal):
            print(f"left out: {rival}: {found.reason}", file=sys.stderr)
            continue
        budgets = dict(zip(asked.code_bits, options.budgets, strict=True))
        for plan in (p for p in found if p.way == PLAN[rival]):
            for way in WAYS[rival]:
                key = about | {"rival": rival, "way": way, "budget": budgets[plan.code_bits]}
                if any(key.items() <= row.items() for row in rows):
                    continue
                weights, rounding_s = ask_codes(rival, way, fitting, plan.bits, options.environments, pair.work)
                made_plan = given_allocation(pair.profile, plan.choices(METHOD))
                bits = ",".join(f"{module}={b}" for module, b in sorted(plan.bits.items()))
                theirs = pair.measure_weights(weights, rival, way, digest(bits))
                row = key | {
                    "package": plan.package, "scoring_s": plan.scoring_s, "rounding_s": rounding_s,
                    "bits_per_weight": made_plan.average_bits, "encoder_bytes": made_plan.encoder_bytes,
                }  # fmt: skip
                ours = compared(pair, theirs, made_plan.encoder_bytes, options.epochs)
                write_row(options.output, rounded(row | ours | made, 5))


def main() -> int:
    parser = pair_options(__doc__)
    parser.add_argument("--rivals", nargs="*", choices=tuple(WAYS), default=tuple(WAYS))
    parser.add_argument("--epochs", type=float, default=10, help="passes of recover's blocks over the texts that fit")
    torch.set_num_threads(1)
    try:
        run(parser.parse_args())
    except (MissingEnvironment, WrongAnswer, QbertOptError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
