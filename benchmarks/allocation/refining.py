"""Do plans get better on unseen text when they are measured, or scored again around themselves?

    python -m benchmarks.allocation.selection score MODEL POOL FOLDER --fit N --scored N
    python -m benchmarks.allocation.refining search FOLDER TEST OUT.jsonl --scored 256 --draws 2 --plans 24
    python -m benchmarks.allocation.refining table OUT.jsonl

From the same scoring texts, at equal bytes: `plain`, the plan of the scores; `more text`, the plan of three times as
many scoring texts; `refined`, local search on measured KL (at most `--plans` measured plans); `again` and `twice`, the
program solved again with gradient and curvature around the quantized plan (all scoring texts), one and two rounds;
`evolved`, an evolutionary search on measured KL with as many measured plans (EvoPress, Sieberling et al. 2024:
children of a plan swap bits at equal bytes, the best one lives on). All are measured on TEST.
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.allocation.scored_pool import Pool
from benchmarks.allocation.selection import measure
from benchmarks.records import machine, rounded
from qbert_opt.data.texts import LabeledTexts, read_texts
from qbert_opt.evaluation.intervals import ratio_interval
from qbert_opt.models.loading import LoadedModel, load_model
from qbert_opt.planning.program import PlanningTask
from qbert_opt.planning.solving import Plan, SolverOptions
from qbert_opt.planning.task_solver import solve_task
from qbert_opt.quantization.calibration import CalibrationPlan, calibration_texts, weight_of
from qbert_opt.runtime.provenance import code_commit, today
from qbert_opt.spec.choices import Choice
from qbert_opt.spec.limits import Limits
from qbert_opt.spec.profiles import MatrixSpec
from qbert_opt.workflows.refine import _Around, refine_plan
from solvers import solve, violations

CHILDREN = 4
ATTEMPTS = 20_000  # at swaps that use the bytes
QUICK = SolverOptions(relative_gap=1e-4, time_limit_s=20.0)
Choices = tuple[int, ...]


class KeptErrors:
    """Stands in for the quantizer: the rounding errors that the pool has kept."""

    def __init__(self, pool: Pool, loaded: LoadedModel) -> None:
        self.pool, self.model = pool, loaded.model
        self.number = {m["module"]: i for i, m in enumerate(pool.about["profile"]["matrices"])}

    def weight(self, matrix: MatrixSpec) -> torch.Tensor:
        return weight_of(self.model, matrix.module).contiguous()

    def errors(self, matrix: MatrixSpec, choices: Sequence[Choice]) -> torch.Tensor:
        kept = np.load(self.pool.folder / "errors" / f"{self.number[matrix.module]}.npy", mmap_mode="r")
        columns = [self.pool.about["choices"].index(c.name) for c in choices]
        return torch.from_numpy(np.array(kept[columns])).float()

    def quantize(self, matrix: MatrixSpec, choices: Sequence[Choice]) -> list[Any]:
        weight = self.weight(matrix)
        return [_Kept(weight + error) for error in self.errors(matrix, choices)]


class _Kept:
    def __init__(self, weight: torch.Tensor) -> None:
        self.weight = weight

    def dequantize(self) -> torch.Tensor:
        return self.weight


def planned(pool: Pool, texts: NDArray[np.intp], bits: float) -> tuple[PlanningTask, Plan]:
    """The plan of the scores of these texts."""
    scores = pool.table(pool.softened, texts)
    task = PlanningTask(scores, Limits(encoder_bytes=int(bits * scores.profile.encoder_elements / 8)))
    return task, solve_task(task, QUICK)


def scored_again(plan: Plan, start: Choices, around: _Around) -> Choices:
    """Solve again with scores around a plan."""
    problem = replace(plan.problem, value=around.propose(start, 1))
    found = solve(problem, relative_gap=1e-4, time_limit_s=20.0).choice
    assert found is not None
    return found


def evolved(plan: Plan, around: _Around, plans: int, seed: int) -> Choices:
    """The best of `plans` measured plans; the children of each are measured on the same texts."""
    generator, problem = np.random.default_rng(seed), plan.problem
    best: Choices = plan.solution.choice or ()
    loss, count, tried = around.measure(best), 1, {best}
    useful = [_useful(problem.usage["encoder_bytes"][i], problem.value[i]) for i in range(len(best))]
    while count < plans:
        children: list[Choices] = []
        for _ in range(ATTEMPTS):
            if len(children) == min(CHILDREN, plans - count):
                break
            child = list(best)
            for _ in range(generator.integers(1, 4)):
                down, up = generator.choice(len(best), 2, replace=False)
                child[down], child[up] = generator.choice(useful[down]), generator.choice(useful[up])
            used = float(problem.usage["encoder_bytes"][np.arange(len(child)), child].sum())
            limit = problem.capacity["encoder_bytes"]
            new = tuple(int(option) for option in child)
            if 0.99 * limit <= used and new not in tried and not violations(problem, new):
                tried.add(new)
                children.append(new)
        if not children:
            break
        count += len(children)
        for child_loss, child in sorted((around.measure(child), child) for child in children)[:1]:
            if child_loss < loss:
                best, loss = child, child_loss
    return best


def _useful(sizes: NDArray[np.float64], losses: NDArray[np.float64]) -> list[int]:
    """Options that no other beats in both size and score."""
    order = [j for j in np.lexsort((losses, sizes)) if np.isfinite(losses[j])]
    kept: list[int] = []
    for j in order:
        if not kept or losses[j] < losses[kept[-1]]:
            kept.append(int(j))
    return kept


def ways(
    pool: Pool, loaded: LoadedModel, kept: LabeledTexts, order: NDArray[np.intp], bits: float, options: Any
) -> Iterator[tuple[str, Choices, dict[str, float]]]:
    """Yield each way's plan, with processor minutes beyond the scores and its KL on the scoring texts."""
    quantizer: Any = KeptErrors(pool, loaded)
    task, plan = planned(pool, order[: options.scored], bits)
    scored = kept.take(order[: options.scored].tolist())
    around = _Around(task, loaded, quantizer, scored)
    start: Choices = plan.solution.choice or ()
    seconds = {"plain": 0.0, "more text": 0.0}
    plans = {"plain": start, "more text": planned(pool, order[: 3 * options.scored], bits)[1].solution.choice or ()}
    now = time.process_time()
    plans["refined"] = refine_plan(task, plan, loaded, quantizer, scored, options.plans)[0].solution.choice or ()
    seconds["refined"], now = time.process_time() - now, time.process_time()
    around.few = around.batches
    plans["again"] = scored_again(plan, start, around)
    seconds["again"] = time.process_time() - now
    plans["twice"] = scored_again(plan, plans["again"], around)
    seconds["twice"], now = time.process_time() - now, time.process_time()
    plans["evolved"] = evolved(plan, around, options.plans, seed=len(order) + int(100 * bits))
    seconds["evolved"] = time.process_time() - now
    for way, choice in plans.items():
        seen = around.measure(choice)
        print(f"{bits} bits, {way}: {seen:.5f} in {seconds[way]:.0f} s", flush=True)
        yield way, choice, {"minutes": seconds[way] / 60, "on_scoring_texts": seen}


def search(options: argparse.Namespace) -> None:
    """Make the plans of every way, then measure them."""
    pool = Pool.read(options.folder)
    loaded = load_model(pool.about["model"])
    columns = {"text_columns": pool.about["text_column"], "label_column": pool.about["label_column"]}
    data = read_texts(pool.about["pool"], **columns)
    _, kept = calibration_texts(data, CalibrationPlan(pool.about["fit"], pool.about["scored"], pool.about["seed"]))
    about = {"name": pool.about["name"], "scored": options.scored, "plans": options.plans}
    about |= {"measured": options.measured, "commit": code_commit(), "date": today()}
    about |= {"machine": machine()}
    for draw, bits in product(options.draws, options.bits):
        order = np.random.default_rng(draw).permutation(len(pool.rows))
        made = list(ways(pool, loaded, kept, order, bits, options))
        start = made[0][1]
        measured = dict(measure(pool, options, list(dict.fromkeys(choice for _, choice, _ in made))))
        with options.output.open("a", encoding="utf-8") as out:
            for way, choice, row in made:
                kl = ratio_interval(*measured[choice])
                to_plain = ratio_interval(measured[choice][0], measured[start][0])
                found = row | {"kl": [kl.value, kl.low, kl.high]}
                found |= {"to_plain": [to_plain.value, to_plain.low, to_plain.high]}
                found |= {"moved": sum(a != b for a, b in zip(choice, start, strict=True))}
                out.write(json.dumps(about | {"draw": draw, "bits": bits, "way": way} | rounded(found)) + "\n")


def table(options: argparse.Namespace) -> None:
    """Print each way's KL beside the plain plan's."""
    rows = [json.loads(line) for line in options.results.read_text().splitlines()]
    for row in rows:
        ratio = "{:.2f} [{:.2f}, {:.2f}]".format(*row["to_plain"])
        print(
            f"| {row['name']} | {row['bits']} | {row['draw']} | {row['way']} | {row['on_scoring_texts']:.4f} | "
            f"{row['kl'][0]:.4f} | {ratio} | {row['moved']} | {row['minutes']} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    first, second = verbs.add_parser("search"), verbs.add_parser("table")
    first.set_defaults(run=search)
    first.add_argument("folder", type=Path)
    first.add_argument("test")
    first.add_argument("output", type=Path)
    first.add_argument("--bits", type=float, nargs="+", default=(2.25, 2.5))
    first.add_argument("--draws", type=int, nargs="+", default=(0, 1))
    first.add_argument("--scored", type=int, default=256)
    first.add_argument("--plans", type=int, default=24)
    first.add_argument("--measured", type=int, default=900)
    second.set_defaults(run=table)
    second.add_argument("results", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.run(options)


if __name__ == "__main__":
    main()
