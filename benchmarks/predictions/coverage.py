"""Do stated errors of predicted losses hold? Plans at random budgets, grids and scoring texts, measured on unseen text.

    python -m benchmarks.allocation.selection score MODEL POOL FOLDER --fit N --scored N
    python -m benchmarks.predictions.coverage measure FOLDER TEST OUT.jsonl --plans 36 --scored 256 --measured 400
    python -m benchmarks.predictions.coverage table OUT.jsonl...
        [flips_results.jsonl selection_results.json plans_results.json]

Every plan has its own draw of scoring texts from the pool, its own budget (2.15 to 3.9 bits per weight) and its own
grid, so that errors of different plans go together as little as one pool allows. Its loss is predicted as `solve` does:
cross-fitted, with the common scale of the drawn texts and its error. Tables and all other tensors are in fp16 and in no
figure. `table` prints how often the measured KL lies in the stated interval, and how far off it is; it takes the
measured plans of other benchmarks too.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.allocation.scored_pool import Pool
from benchmarks.allocation.selection import measure
from benchmarks.records import machine, rounded
from qbert_opt.evaluation.intervals import ratio_interval
from qbert_opt.planning.constraints import PlanConstraints
from qbert_opt.planning.cross_fit import cross_fit, judged_program
from qbert_opt.planning.program import PlanningTask
from qbert_opt.planning.solving import SolverOptions
from qbert_opt.planning.task_solver import solve_task
from qbert_opt.runtime.provenance import code_commit, today
from qbert_opt.scoring.score_rows import ScoredMatrix, common_scale, effective_sample_size
from qbert_opt.scoring.task import Estimate
from qbert_opt.spec.allocation import PLAN_SPREAD, WITHIN_90
from qbert_opt.spec.limits import Limits
from qbert_opt.spec.scores import ScoreTable

GRIDS: dict[str, tuple[str, ...] | None] = {
    "all": None,
    "rows": ("rows:1", "rows:heads", "rows:128", "rows:each"),
    "columns": ("columns:32", "columns:64", "columns:128"),
}
BITS = (2.15, 3.9)  # of the budget; row groups alone reach 2 bits and a little


def scored_table(pool: Pool, texts: NDArray[np.intp]) -> tuple[ScoreTable, float]:
    """The score table that `sensitivity` would write for these texts, and its effective sample size."""
    per_text = len(texts) / pool.rows[texts].sum()
    losses, sharp = (torch.from_numpy(part[texts] * per_text) for part in (pool.softened, pool.sharp))
    rows = [
        ScoredMatrix.of(Estimate.over(losses[:, i], sharp[:, i]), pool.norms[i].tolist())
        for i in range(len(pool.norms))
    ]
    scale, table = common_scale(rows), pool.table(pool.softened, texts)
    assert scale is not None
    scaled = {
        "value": tuple(tuple((scale.value * row.value).tolist()) for row in rows),
        "std_error": tuple(tuple((scale.value * row.std_error).tolist()) for row in rows),
        "fold_value": tuple(
            tuple(tuple((scale.value * row.folds[k]).tolist()) for row in rows) for k in range(len(rows[0].folds))
        ),
        "scale": scale,
    }
    return table.model_copy(update=scaled), effective_sample_size(rows) or math.nan


def measure_plans(options: argparse.Namespace) -> None:
    """Predict and measure; one JSON line for each plan."""
    pool, generator = Pool.read(options.folder), np.random.default_rng(options.seed)
    found: list[tuple[tuple[int, ...], dict[str, Any]]] = []
    for _ in range(options.plans):
        texts = generator.permutation(len(pool.rows))[: options.scored]
        bits = float(np.exp(generator.uniform(*np.log(BITS))))
        grid = str(generator.choice(list(GRIDS)))
        if grid == "columns":
            bits = max(bits, 2.3)
        table, effective = scored_table(pool, texts)
        limits = Limits(encoder_bytes=int(bits * table.profile.encoder_elements / 8))
        task = PlanningTask(table, limits, constraints=PlanConstraints(groupings=GRIDS[grid]))
        plan = solve_task(task, SolverOptions(relative_gap=1e-4, time_limit_s=20.0))
        judged, chosen = cross_fit(task, judged_program(task, plan)), plan.solution.choice
        assert judged is not None and chosen is not None
        row = {"bits": bits, "grid": grid, "effective": effective, "sum_of_scores": plan.solution.value}
        found.append((chosen, row | {"predicted": judged.loss, "std_error": judged.std_error}))
        print(f"{len(found):3}  {bits:.2f} bits, {grid}: {judged.loss:.4g} ± {judged.std_error:.1g}", flush=True)
    about = {key: pool.about[key] for key in ("name", "pool", "fit")} | {"pool": Path(pool.about["pool"]).name}
    about |= {"scored": options.scored, "measured": options.measured, "test": Path(options.test).name}
    about |= {"commit": code_commit(), "date": today(), "machine": machine()}
    with options.output.open("a", encoding="utf-8") as out:
        measured = measure(pool, options, [plan for plan, _ in found])
        for (_, row), (_, kl) in zip(found, measured, strict=True):
            interval = ratio_interval(*kl)
            row |= {"kl": [interval.value, interval.low, interval.high], "kl_error": _ratio_error(*kl)}
            out.write(json.dumps(about | {key: rounded(value) for key, value in row.items()}) + "\n")
            out.flush()


def _ratio_error(above: NDArray[np.float64], below: NDArray[np.float64]) -> float:
    """Standard error of a ratio of sums over texts, by the delta method."""
    off = above - above.sum() / below.sum() * below
    return float(math.sqrt(off.var(ddof=1) * len(off)) / below.sum())


def plans_of(path: Path) -> Iterator[tuple[str, float, float, float]]:
    """Model, predicted loss, its error, and measured loss of each plan in a result file."""
    if path.suffix == ".jsonl":
        for row in map(json.loads, path.read_text().splitlines()):
            if "predicted_kl" in row:  # of `flips.py`
                yield row["model"], row["predicted_kl"], row["predicted_kl_error"], row["kl"]
            else:
                yield row["name"], row["predicted"], row["std_error"], row["kl"][0]
        return
    document = json.loads(path.read_text())
    for row in document.get("rows", ()):  # of `selection.py`
        if "predicted" in row:
            yield row["name"], row["predicted"], row["std_error"], row["kl"][0]
    for run in document.get("runs", ()):  # of `plans.py`
        for row in run["rows"]:
            yield run["model"], row["predicted"], row["predicted_std_error"], row["kl"][0]


def table(options: argparse.Namespace) -> None:
    """Print coverage and ratio of each model."""
    rows = [row for path in options.results for row in plans_of(path)]
    for name in dict.fromkeys(name for name, *_ in rows):
        predicted, error, kl = np.array([row[1:] for row in rows if row[0] == name]).T
        ratio, relative = kl / predicted, error / predicted
        low, middle, high = np.quantile(ratio, [0.05, 0.5, 0.95])
        cells = [name, len(ratio), f"{middle:.2f} [{low:.2f}, {high:.2f}]", f"{np.median(relative):.2f}"]
        for spread in options.spread:
            inside = np.abs(np.log(ratio)) <= WITHIN_90 * np.hypot(spread, relative)
            cells.append(f"{inside.sum()} of {len(inside)}")
        print(f"| {' | '.join(map(str, cells))} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    first, second = verbs.add_parser("measure"), verbs.add_parser("table")
    first.set_defaults(run=measure_plans)
    first.add_argument("folder", type=Path)
    first.add_argument("test")
    first.add_argument("output", type=Path)
    first.add_argument("--plans", type=int, default=36)
    first.add_argument("--scored", type=int, default=256)
    first.add_argument("--measured", type=int, default=400)
    first.add_argument("--seed", type=int, default=0)
    second.set_defaults(run=table)
    second.add_argument("results", type=Path, nargs="+")
    second.add_argument("--spread", type=float, nargs="+", default=[0.0, PLAN_SPREAD])
    options = parser.parse_args()
    torch.set_num_threads(1)
    started = time.process_time()
    options.run(options)
    print(f"{time.process_time() - started:.0f} s of processor time")


if __name__ == "__main__":
    main()
