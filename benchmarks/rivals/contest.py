"""Plans of other allocators beside ours at exactly the same bytes, all realised by one quantizer.

    python -m benchmarks.rivals.environment all ENVIRONMENTS
    python -m benchmarks.rivals.contest MODEL TEXTS TEST --environments ENVIRONMENTS --work WORK -o results.jsonl

Every allocator gets the same texts with their labels and decides among 2, 3, 4 and 8 bits for each matrix of the
encoder. Its bits are realised by `gptq` with one range per row and measured on TEST, which no side has seen. Then our
plan is solved at exactly the bytes that the rival's plan takes: once with one range per row, so that nothing differs
but the bits, and once on the default grid. Further allocators are criteria of papers that we have as metrics (`trace`:
HAWQ-V2's; `fisher`; `qbert`), solved by our program with one range per row, and the largest uniform plan of any
grouping. Ratios are paired over texts, 95 % bootstrap. One row per allocator and budget; a run goes on where it
stopped, and a rival without an environment is one line.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.predictions.plans import only
from benchmarks.records import machine, rounded
from benchmarks.rivals.answers import BITS, GROUPING, Refusal, WrongAnswer, ask, request
from benchmarks.rivals.asked import Asked
from benchmarks.rivals.environment import MissingEnvironment
from benchmarks.rivals.pair import Pair
from qbert_opt.data.texts import LabeledTexts, read_texts
from qbert_opt.errors import QbertOptError
from qbert_opt.models.loading import load_model, tokenized
from qbert_opt.models.targets import read_targets
from qbert_opt.planning.planner import allocate
from qbert_opt.planning.recipes import given_allocation, uniform_allocation
from qbert_opt.quantization.calibration import BATCH_SIZE, CalibrationPlan
from qbert_opt.runtime.provenance import code_commit
from qbert_opt.spec.allocation import Allocation
from qbert_opt.spec.grids import DEFAULT_GROUPINGS
from qbert_opt.spec.limits import Limits
from qbert_opt.spec.scores import ScoreTable

BUDGETS = (2.25, 2.5, 3.0, 4.0)
RIVALS = ("modelopt", "autoround", "nncf", "mct")
METRICS = ("trace", "fisher", "qbert")
METHOD = "gptq"


@dataclass(frozen=True)
class Entry:
    """One allocator's plan for one budget.

    Attributes:
        rival: its name, with the way it chose.
        package: with version; empty if it is ours.
        budget: bits per weight, ranges included.
        plan: the plan.
        scoring_s: processor time of scoring, in seconds.
        satisfied: whether it says that it kept the limit.
    """

    rival: str
    package: str
    budget: float
    plan: Allocation
    scoring_s: float
    satisfied: bool


def entries(pair: Pair, options: argparse.Namespace) -> Iterator[Entry | tuple[str, Refusal]]:
    """Plans of every allocator at every budget; a rival without a plan says why."""
    yield from uniform_plans(pair, options.budgets)
    for rival in options.rivals:
        asked = question(pair, options.model, options.budgets, pair.scored)
        try:
            found = ask(rival, asked, options.environments, pair.work)
        except (MissingEnvironment, WrongAnswer) as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        if isinstance(found, Refusal):
            yield rival, found
            continue
        budgets = dict(zip(asked.code_bits, options.budgets, strict=True))
        for plan in found:
            name, budget = f"{rival}, {plan.way}", budgets[plan.code_bits]
            made = given_allocation(pair.profile, plan.choices(METHOD))
            yield Entry(name, plan.package, budget, made, plan.scoring_s, plan.satisfied)
    for metric in options.metrics:
        table, seconds = pair.scores(metric, (GROUPING,), BITS)
        for budget in options.budgets:
            limits = Limits(encoder_bytes=int(budget * pair.profile.encoder_elements / 8))
            yield Entry(metric, "", budget, allocate(table, limits), seconds, True)


def question(pair: Pair, model: str, budgets: Sequence[float], texts: LabeledTexts) -> Asked:
    """What every rival is asked: some texts, and one plan for each budget.

    Raises:
        WrongAnswer: the texts have no labels, and the model's kind needs them.
    """
    batches = tokenized(pair.loaded, texts.texts, batch_size=BATCH_SIZE)
    targets, kind = read_targets(pair.loaded, texts, batches), pair.loaded.head.kind
    if targets is None and kind != "embeddings":
        raise WrongAnswer(f"{pair.data.name}: has no labels, which rivals need. Name them with --label-column.")
    return request(Path(model), kind, pair.profile, budgets, batches, targets, METHOD)


def uniform_plans(pair: Pair, budgets: Sequence[float]) -> Iterator[Entry]:
    """The uniform plan of most bits, and then of most bytes, within each budget."""
    table, _ = pair.scores("directional", DEFAULT_GROUPINGS, BITS)
    masked = {name for masks in table.masks.values() for name in masks}
    plans = [uniform_allocation(table, c) for c in table.grid() if c.name not in masked]
    for budget in budgets:
        fits = [p for p in plans if p.encoder_bytes <= budget * pair.profile.encoder_elements / 8]
        if fits:
            best = max(fits, key=lambda p: (p.matrices[0].choice.bits, p.encoder_bytes))
            yield Entry("uniform", "", budget, best, 0.0, True)


def ours(table: ScoreTable, encoder_bytes: int) -> dict[str, Allocation]:
    """Our plans at exactly as many bytes as another's: with one range per row, and on the default grid."""
    limits = Limits(encoder_bytes=encoder_bytes)
    return {GROUPING: allocate(only(table, [GROUPING]), limits), "default grid": allocate(table, limits)}


def compared(pair: Pair, entry: Entry) -> dict[str, Any]:
    """A rival's plan and ours at its bytes, measured."""
    theirs = pair.measure(entry.plan)
    table, seconds = pair.scores("directional", DEFAULT_GROUPINGS, BITS)
    found: dict[str, Any] = {}
    for grid, plan in ours(table, entry.plan.encoder_bytes).items():
        if plan.encoder_bytes > entry.plan.encoder_bytes:
            raise WrongAnswer(f"{grid}: ours takes {plan.encoder_bytes} bytes, the rival {entry.plan.encoder_bytes}.")
        mine = pair.measure(plan)
        found[grid] = mine.figures() | {"ratio": mine.over(theirs), "bits_per_weight": plan.average_bits}
    bits = Counter(part.choice.bits for part in entry.plan.matrices)
    return {
        "rival": entry.rival, "package": entry.package, "budget": entry.budget, "satisfied": entry.satisfied,
        "matrices": {str(b): bits[b] for b in sorted(bits)}, "grouping": entry.plan.matrices[0].choice.grouping,
        "bits_per_weight": entry.plan.average_bits, "encoder_bytes": entry.plan.encoder_bytes,
        "scoring_s": entry.scoring_s, "our_scoring_s": seconds, "theirs": theirs.figures(), "ours": found,
    }  # fmt: skip


def opened(options: argparse.Namespace) -> tuple[Pair, dict[str, Any], dict[str, Any]]:
    """The pair that the options name, what identifies its rows, and what made them."""
    loaded = load_model(options.model)
    columns = {"text_columns": options.text_column, "label_column": options.label_column}
    data, test = read_texts(options.texts, **columns), read_texts(options.test, **columns)
    if options.measured:
        test = test.take(range(min(options.measured, len(test))))
    pair = Pair(loaded, data, test, CalibrationPlan(options.fit, options.scored, options.seed), METHOD, options.work)
    about = {
        "model": Path(options.model).name, "kind": loaded.head.kind, "test": Path(options.test).name,
        "seed": options.seed, "fit": options.fit, "scored": options.scored, "measured": len(test),
    }  # fmt: skip
    made = {
        "float_task": pair.float_task(), "commit": code_commit(),
        "machine": machine(),
    }  # fmt: skip
    return pair, about, made


def rows_of(output: Path) -> list[dict[str, Any]]:
    """Rows that an earlier run wrote."""
    return [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else []


def write_row(output: Path, row: dict[str, Any]) -> None:
    """Append a row to the results, and print it."""
    with output.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row), flush=True)


def run(options: argparse.Namespace) -> None:
    pair, about, made = opened(options)
    rows = rows_of(options.output)
    order = {budget: place for place, budget in enumerate(options.budgets)}
    found = sorted(entries(pair, options), key=lambda e: order[e.budget] if isinstance(e, Entry) else -1)
    for entry in found:  # one budget after the other, so that a run that is cut short still compares everyone
        name = entry.rival if isinstance(entry, Entry) else entry[0]
        key = about | {"rival": name} | ({"budget": entry.budget} if isinstance(entry, Entry) else {})
        if any(key.items() <= row.items() for row in rows):
            continue
        result = (
            compared(pair, entry) if isinstance(entry, Entry) else
            {"rival": name, "package": entry[1].package, "refused": entry[1].reason}
        )  # fmt: skip
        row = rounded(about | result | made, 5)
        rows.append(row)
        write_row(options.output, row)


def pair_options(description: str | None) -> argparse.ArgumentParser:
    """Options that name a pair, its texts and where results go."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "texts", "test"):
        parser.add_argument(name)
    parser.add_argument("--text-column", action="append", help="twice for pairs of sentences")
    parser.add_argument("--label-column")
    parser.add_argument("--environments", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder of what was computed before")
    parser.add_argument("--budgets", type=float, nargs="+", default=BUDGETS)
    parser.add_argument("--fit", type=int, default=512)
    parser.add_argument("--scored", type=int, default=512)
    parser.add_argument("--measured", type=int, help="unseen texts; all by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, required=True)
    return parser


def main() -> int:
    parser = pair_options(__doc__)
    parser.add_argument("--rivals", nargs="*", default=RIVALS)
    parser.add_argument("--metrics", nargs="*", default=METRICS)
    torch.set_num_threads(1)
    try:
        run(parser.parse_args())
    except (WrongAnswer, QbertOptError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
