"""Are changed answers and lost accuracy predicted? Plans from 2 to 8 bits, predicted, then measured on other text.

    python -m benchmarks.predictions.flips measure MODEL CALIBRATION TEST SCORES OUT.jsonl
    python -m benchmarks.predictions.flips predict MODEL CALIBRATION TEST OUT.jsonl
    python -m benchmarks.predictions.flips table OUT.jsonl...

SCORES are of MODEL on CALIBRATION by `qbert-opt sensitivity --activation-bits 8`. Predictions see the scores and the
float model's answers to the scoring texts and to TEST, never a plan's forward pass; beside them stand predictions from
the margins of the calibration and scoring texts alone. Plans are measured in PyTorch. A run that was interrupted goes
on. `table` prints each plan, how many measured figures lie in their stated 95 % prediction intervals, and the median
factor between measured and predicted flips.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.records import machine
from qbert_opt.data.texts import LabeledTexts, read_texts, split_disjoint
from qbert_opt.evaluation.counts import changed_answers
from qbert_opt.evaluation.evaluate import measure
from qbert_opt.evaluation.flips import FlipRelation, flip_relation
from qbert_opt.evaluation.logit_noise import probed_noise
from qbert_opt.models.loading import LoadedModel, load_model
from qbert_opt.planning.constraints import PlanConstraints
from qbert_opt.planning.recipes import uniform_allocation
from qbert_opt.quantization.calibration import CalibrationPlan, calibration_texts
from qbert_opt.runtime.provenance import code_commit
from qbert_opt.spec.activations import selected_activations
from qbert_opt.spec.allocation import Allocation
from qbert_opt.spec.choices import choice
from qbert_opt.spec.limits import Limits
from qbert_opt.spec.scores import ScoreTable, read_scores
from qbert_opt.workflows.quantize import plan_quantizer
from qbert_opt.workflows.shipping import answers_and_targets
from qbert_opt.workflows.solve import solve_plans
from qbert_opt.workflows.verify import apply_plan

ROWS = ("rows:1", "rows:heads", "rows:128", "rows:each")
PLANS: tuple[tuple[float, tuple[str, ...] | None, str | None], ...] = (
    *((bits, None, None) for bits in (2.15, 2.4, 2.8, 3.5, 5.0)),
    *((bits, ROWS, None) for bits in (2.5, 4.0)),
    *((bits, ROWS, "tensor") for bits in (3.0, 6.0)),
    (4.0, None, "token"),
)
UNIFORM = ("4bit/rows:each", "8bit/rows:each")


def plans(scores: ScoreTable, done: set[str]) -> Iterator[tuple[str, Allocation]]:
    """Yield name and plan of those that are not done."""
    for bits, groupings, inputs in PLANS:
        limits = Limits(encoder_bytes=int(bits * scores.profile.encoder_elements / 8))
        activations = () if inputs is None else selected_activations("8", inputs, scores, None)
        constraints = PlanConstraints(groupings=groupings)
        name = f"{bits} bits{', row groups' if groupings else ''}{f', 8-bit inputs per {inputs}' if inputs else ''}"
        if name not in done:
            yield name, solve_plans(scores, limits, constraints=constraints, activations=activations).plan
    for name in UNIFORM:
        if f"uniform {name}" not in done:
            yield f"uniform {name}", uniform_allocation(scores, choice(f"{name}/{scores.method}"))


def relations(
    loaded: LoadedModel, data: LabeledTexts, test: LabeledTexts, plan: CalibrationPlan
) -> tuple[FlipRelation, FlipRelation]:
    """Return the relation for the margins of TEST, and for those of the calibration and scoring texts.

    Noise is measured on calibration and scoring texts, with the float model's weights.
    """
    [seen] = split_disjoint(data, [plan.num_calibration + plan.num_scored], seed=plan.seed)
    _, scored = calibration_texts(data, plan)
    noise = probed_noise(loaded, seen, scored)
    of_test, of_seen = (flip_relation(*answers_and_targets(loaded, texts), noise=noise) for texts in (test, seen))
    return of_test, of_seen


def predictions(relation: FlipRelation, before: FlipRelation, kl: float, error: float) -> dict[str, object]:
    """Predicted shares of a plan of this predicted loss."""
    forecasts = {what: relation.forecast(kl, error, drop=what == "drop") for what in ("flips", "drop")}
    return {
        "predicted": {what: [f.value, f.low, f.high] for what, f in forecasts.items()},
        "from_scoring_margins": {"flips": before.flipped(kl), "drop": before.dropped(kl)},
    }


def predict_again(arguments: argparse.Namespace) -> None:
    """Renew the predictions of the measured plans of one model; measured figures and their commit stay."""
    loaded, data, out = load_model(arguments.model), read_texts(arguments.calibration), Path(arguments.out)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    own = [row for row in rows if row["model"] == loaded.name.rstrip("/").rpartition("/")[2]]
    test, scored = read_texts(arguments.test), own[0]["scored"]
    if len(test) != own[0]["texts"]:
        raise SystemExit(f"{arguments.test}: {len(test)} texts, but {own[0]['texts']} were measured")
    relation, before = relations(loaded, data, test, CalibrationPlan(scored, scored, 0))
    for row in own:
        row |= predictions(relation, before, row["predicted_kl"], row["predicted_kl_error"])
        row["predicted_by"] = code_commit()
    out.write_text("".join(json.dumps(row) + "\n" for row in rows))


def measure_plans(arguments: argparse.Namespace) -> None:
    """Predict and measure every plan; one JSON line each."""
    loaded, data, scores = load_model(arguments.model), read_texts(arguments.calibration), read_scores(arguments.scores)
    test, origin, out = read_texts(arguments.test), scores.provenance, Path(arguments.out)
    if arguments.texts is not None:
        [test] = split_disjoint(test, [arguments.texts], seed=0)
    relation, before = relations(
        loaded, data, test, CalibrationPlan(origin.num_calibration, origin.num_scored, origin.seed)
    )
    truth, targets = answers_and_targets(loaded, test)
    done = {json.loads(line)["plan"] for line in out.read_text().splitlines()} if out.exists() else set()
    quantizer = None
    for name, plan in plans(scores, done):
        quantizer = quantizer or plan_quantizer(loaded, plan, data)
        started = time.process_time()
        answers, _ = answers_and_targets(apply_plan(loaded, plan, quantizer), test)
        changed, kl = changed_answers(answers, truth.values, targets), measure(answers, None, truth.values).kl
        if kl is None or changed.drop is None:
            raise SystemExit("a classifier and labelled text are needed")
        row = {
            "model": loaded.name.rstrip("/").rpartition("/")[2], "plan": name, "texts": len(test),
            "bits": plan.average_bits, "predicted_kl": plan.predicted_loss,
            "predicted_kl_error": plan.predicted_std_error, "kl": kl.value,
            "flips": changed.flips.value, "drop": changed.drop.value,
            **predictions(relation, before, plan.predicted_loss, plan.predicted_std_error),
            "scored": origin.num_scored, "commit": code_commit(),
            "machine": f"{machine()}, torch {torch.__version__}",
            "cpu_s": round(time.process_time() - started, 1),
        }  # fmt: skip
        with out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(row["plan"], row["flips"], row["predicted"]["flips"], flush=True)


def table(arguments: argparse.Namespace) -> None:
    """Print each plan, and the coverage of the intervals."""
    rows = [json.loads(line) for path in arguments.out for line in Path(path).read_text().splitlines()]
    print("| model | plan | KL: predicted, measured | flips, %: predicted [95 %], measured | drop, points: likewise |")
    print("|---|---|---|---|---|")
    for row in rows:
        figures = []
        for what in ("flips", "drop"):
            value, low, high = (100 * x for x in row["predicted"][what])
            figures.append(f"{value:.2f} [{low:.2f}, {high:.2f}], {100 * row[what]:.2f}")
        print(
            f"| {row['model']} | {row['plan']} | {row['predicted_kl']:.2g}, {row['kl']:.2g} | {' | '.join(figures)} |"
        )
    for what in ("flips", "drop"):
        inside = [row["predicted"][what][1] <= row[what] <= row["predicted"][what][2] for row in rows]
        print(f"{what}: {sum(inside)} of {len(rows)} measured figures lie in the stated interval")
    for model in sorted({row["model"] for row in rows}):
        own = [row for row in rows if row["model"] == model]
        given = np.median([row["flips"] / max(row["predicted"]["flips"][0], 1e-9) for row in own])
        other = np.median([row["flips"] / max(row["from_scoring_margins"]["flips"], 1e-9) for row in own])
        print(
            f"{model}: measured flips are {given:.2f} times the predicted ones in the median; {other:.2f} times those "
            "predicted from the margins of the scoring texts"
        )
    ratios = np.log([row["kl"] / row["predicted_kl"] for row in rows])
    print(f"log(measured / predicted KL): mean {ratios.mean():.2f}, standard deviation {ratios.std(ddof=1):.2f}")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    one = verbs.add_parser("measure")
    for name in ("model", "calibration", "test", "scores", "out"):
        one.add_argument(name)
    one.add_argument("--texts", type=int, help="take so many of TEST")
    one.set_defaults(run=measure_plans)
    again = verbs.add_parser("predict")
    for name in ("model", "calibration", "test", "out"):
        again.add_argument(name)
    again.set_defaults(run=predict_again)
    other = verbs.add_parser("table")
    other.add_argument("out", nargs="+")
    other.set_defaults(run=table)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
