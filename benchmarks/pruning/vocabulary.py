"""What a smaller vocabulary saves, or one in tiers, and what each costs on text that did not choose it.

    python -m benchmarks.pruning.vocabulary MODEL CHOOSING TEST OUT.jsonl [--min-counts 1,2,4]
    python -m benchmarks.pruning.vocabulary MODEL CHOOSING TEST OUT.jsonl --tiers 20% --calibration TEXT
        --budgets 14MB,15MB

For each least count: rows and bytes before and after, how much of the test text splits differently, and accuracy, KL
and changed answers beside the whole model, over all test texts and over those that split differently: the answers to
the others are equal to the last bit, which is checked.

With `--tiers` (`none` for the whole table) every row is kept. CALIBRATION scores, the solver chooses under each total
budget, and TEST measures in PyTorch: over all texts, and over those with a piece that CHOOSING never uses. Matrices
have 8 bits per row, so that plans differ in tables only, or the widths of `--bits` by `--method`.

Appends a line per row to OUT.jsonl.
"""

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.records import machine
from qbert_opt.cli.quantities import shares, size
from qbert_opt.data.texts import LabeledTexts, read_texts
from qbert_opt.errors import InfeasibleError
from qbert_opt.evaluation.evaluate import evaluate, outputs
from qbert_opt.models.loading import LoadedModel, load_model
from qbert_opt.quantization.calibration import CalibrationPlan, method_grid
from qbert_opt.runtime.provenance import code_commit
from qbert_opt.scoring.sensitivity import measure_sensitivity
from qbert_opt.spec.limits import Limits
from qbert_opt.spec.profiles import TABLE_BITS
from qbert_opt.spec.tables import table_grid
from qbert_opt.workflows.quantize import plan_quantizer
from qbert_opt.workflows.solve import solve_plans
from qbert_opt.workflows.trim_vocabulary import trim_vocabulary
from qbert_opt.workflows.verify import apply_plan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "choosing", "test", "out"):
        parser.add_argument(name)
    parser.add_argument("--min-counts", default="1,2,4")
    parser.add_argument("--tiers", help="shares of the rows, such as 20%% or 5%%,15%%; or none, for the whole table")
    parser.add_argument("--calibration")
    parser.add_argument("--budgets")
    parser.add_argument("--samples", type=int, default=256, help="to calibrate, and as many to score")
    parser.add_argument("--bits", default="8")
    parser.add_argument("--method", default="rtn")
    options = parser.parse_args()
    torch.set_num_threads(1)
    loaded = load_model(options.model)
    choosing, test = read_texts(options.choosing), read_texts(options.test)
    common = {"model": Path(options.model).name, "choosing": f"{len(choosing)} texts of {Path(options.choosing).name}",
              "test": f"{len(test)} texts of {Path(options.test).name}"}  # fmt: skip
    found = smaller if options.tiers is None else in_tiers
    for row in found(loaded, choosing, test, options):
        row = common | row | {"commit": code_commit(), "machine": machine()}
        print(row, flush=True)
        with Path(options.out).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def smaller(loaded: LoadedModel, choosing: LabeledTexts, test: LabeledTexts, options: Any) -> Iterator[dict[str, Any]]:
    """Yield a row for each least count."""
    answers = outputs(loaded, test)
    whole = evaluate(loaded, test)
    for count in map(int, options.min_counts.split(",")):
        with tempfile.TemporaryDirectory() as place:
            trimmed = trim_vocabulary(loaded, [choosing], Path(place) / "out", min_count=count, test_data=test)
            shorter = load_model(Path(place) / "out")
            kept = set(shorter.tokenizer.get_vocab())
            split = [i for i, text in enumerate(test.texts) if not set(loaded.tokenizer.tokenize(text[0])) <= kept]
            same = [i for i in range(len(test)) if i not in set(split)]
            after = evaluate(shorter, test, answers)
            rare = evaluate(shorter, test.take(split), outputs(loaded, test.take(split)))
            rare_before = evaluate(loaded, test.take(split))
            equal = bool(torch.equal(outputs(shorter, test.take(same)), outputs(loaded, test.take(same))))
        reading, hidden = trimmed.reading, loaded.model.config.hidden_size
        assert reading is not None and after.kl is not None and rare.kl is not None
        row_bytes = hidden * TABLE_BITS // 8 + 4  # 8-bit codes, fp16 scale and offset
        yield {
            "min_count": count,
            "rows": trimmed.rows,
            "weight_bytes": trimmed.weight_bytes,
            "table_bytes_at_8_bits": [rows * row_bytes for rows in trimmed.rows],
            "pieces_split": reading.num_dropped / reading.num_pieces,
            "texts_split": len(split),
            "pieces_per_text": [reading.num_pieces / len(test), reading.num_pieces_after / len(test)],
            "unknown": reading.unknown,
            "accuracy": [whole.accuracy.value, after.accuracy.value] if whole.accuracy and after.accuracy else None,
            "kl": [after.kl.value, after.kl.low, after.kl.high],
            "flipped": after.flipped,
            "of_split_texts": {
                "accuracy": [rare_before.accuracy.value, rare.accuracy.value]
                if rare_before.accuracy and rare.accuracy
                else None,
                "kl": [rare.kl.value, rare.kl.low, rare.kl.high],
            },
            "others_equal": equal,
        }


def in_tiers(loaded: LoadedModel, choosing: LabeledTexts, test: LabeledTexts, options: Any) -> Iterator[dict[str, Any]]:
    """Yield a row for each budget."""
    calibration = read_texts(options.calibration)
    rare = with_unused_piece(loaded, choosing, test)
    answers, before = outputs(loaded, test), evaluate(loaded, test)
    with tempfile.TemporaryDirectory() as place:
        model = loaded
        if options.tiers != "none":
            tiers = shares(options.tiers, "--tiers")
            trim_vocabulary(loaded, [choosing], Path(place) / "out", min_count=0, tiers=tiers)
            model = load_model(Path(place) / "out")
        widths = tuple(map(int, options.bits.split(",")))
        scores = measure_sensitivity(
            model, calibration, method_grid(options.method, widths, ("rows:each",)),
            plan=CalibrationPlan(options.samples, options.samples, 0),
            table_choices=table_grid(groupings=("rows:each",)),
        )  # fmt: skip
        for budget in options.budgets.split(","):
            try:
                plan = solve_plans(scores, Limits(total_bytes=size(budget, "--budgets"))).plan
            except InfeasibleError as error:
                print(options.tiers, budget, error, flush=True)
                continue
            changed = apply_plan(model, plan, plan_quantizer(model, plan, calibration))
            after = evaluate(changed, test, answers)
            of_rare = evaluate(changed, test.take(rare), answers[rare])
            words = [table for table in plan.tables if "word" in table.module]
            assert after.kl is not None and of_rare.kl is not None
            yield {
                "tiers": options.tiers,
                "scored": f"{options.samples} texts of {Path(options.calibration).name}",
                "matrices": f"{options.bits} bits, rows:each, {options.method}",
                "budget": budget,
                "total_bytes": plan.total_bytes,
                "words": [[table.rows, table.bits, table.bytes, table.predicted_loss] for table in words],
                "predicted_kl": plan.predicted_loss,
                "kl": [after.kl.value, after.kl.low, after.kl.high],
                "accuracy": [before.accuracy.value, after.accuracy.value]
                if before.accuracy and after.accuracy
                else None,
                "flipped": after.flipped,
                "of_texts_with_new_pieces": {
                    "texts": len(rare),
                    "kl": [of_rare.kl.value, of_rare.kl.low, of_rare.kl.high],
                },
            }


def with_unused_piece(loaded: LoadedModel, choosing: LabeledTexts, test: LabeledTexts) -> list[int]:
    """Return the test texts with a piece that the choosing texts never use."""
    seen: Counter[int] = Counter()
    for start in range(0, len(choosing), 1024):
        batch = [text for (text,) in choosing.texts[start : start + 1024]]
        for ids in loaded.tokenizer(batch, truncation=False, verbose=False)["input_ids"]:
            seen.update(ids)
    return [i for i, (text,) in enumerate(test.texts) if not set(loaded.tokenizer(text)["input_ids"]) <= seen.keys()]


if __name__ == "__main__":
    main()
