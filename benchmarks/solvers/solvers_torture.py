"""Count false proofs: every solver on problems made to break float arithmetic, against exact rational arithmetic.

    python -m benchmarks.solvers.solvers_torture OUT.json [--problems 20000] [--seed 0] [--solvers auto,dp]
        [--cbc-every 10]

Up to 5 items × 4 options and 3 capacities, with value scales from 1e-300 to 1e300 mixed in one table, absurd outliers
of either sign, exact and near ties, negative values, usages up to 1e300, capacities at the floor, below it, zero,
infinite or just what one plan uses, masks, ties between items, pins, limits on families, and time limits of a
microsecond.

The oracle adds integers (every float is a multiple of 2^-1074) over all plans and shares no code with the solvers.
Counted per solver, with F the plan's exact value, B the exact best value of all plans that keep every capacity, and
W the sum of the plan's absolute values:

    false optimal      "optimal" although F > B + 1e-6 W
    false infeasible   "infeasible" although some plan keeps every capacity
    false bound        lower_bound > B + 1e-6 × the larger of W and the same sum of the best plan
    broken plan        exact usage above a capacity by more than 2e-12 of it, or a broken mask, pin, tie or family limit
    false time limit   "no plan found" although no time limit was given
    error              any exception but a SolverError
"""

import argparse
import itertools
import json
import platform
import sys
import time
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.records import machine
from qbert_opt.runtime.provenance import code_commit
from solvers import ChoiceProblem, ProblemError, SolverError, Status, describe, solve

UNIT_BITS = 1074  # every float64 is a multiple of 2^-1074
MILLION = 10**6
TRILLION = 10**12
SHOWN_FAULTS = 20


def exact(number: float) -> int:
    """Return a finite float as a multiple of 2^-1074."""
    numerator, denominator = float(number).as_integer_ratio()
    return (numerator << UNIT_BITS) // denominator


@np.errstate(over="ignore")  # clipped at the end
def value_table(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Return values: one scale or several, plain numbers, small integers with ties, or near ties."""
    match rng.integers(5):
        case 0:
            value = rng.integers(-4, 5, shape).astype(float)
        case 1:
            value = rng.integers(0, 4, shape).astype(float)
        case 2:
            value = 1 + rng.integers(-3, 4, shape) * 10.0 ** rng.integers(-16, -3)
        case 3:
            value = rng.choice([-1.0, 1.0, 1.0], shape) * 10.0 ** rng.uniform(-9, 3, shape)
        case _:
            scales = rng.choice(np.arange(-300, 301), 2)
            value = rng.choice([-1.0, 1.0], shape) * rng.integers(1, 9, shape) * 10.0 ** rng.choice(scales, shape)
    if rng.random() < 0.5:
        value = value * 10.0 ** float(rng.choice([0, 0, 6, -6, 30, -30, 100, -100]))
    if rng.random() < 0.6:
        where = rng.random(shape) < rng.choice([0.1, 0.3])
        size = 10.0 ** rng.uniform(4, rng.choice([13, 40, 190]))
        value = np.where(where, value * size * rng.choice([-1.0, 1.0, 1.0], shape), value)
    return np.clip(value, -1e300, 1e300)


def usage_table(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    match rng.integers(4):
        case 0:
            table = rng.integers(0, 10, shape).astype(float)
        case 1:
            table = rng.integers(0, 10, shape) * float(rng.choice([0.1, 1e-3, 1e6]))
        case 2:
            table = 10.0 ** rng.uniform(-3, 3, shape)
        case _:
            table = rng.integers(0, 10, shape) * 10.0 ** float(rng.integers(-290, 290))
    if rng.random() < 0.3:
        table = np.where(rng.random(shape) < 0.2, 10.0 ** rng.uniform(3, 300), table)
    return table


def capacities(
    rng: np.random.Generator, usage: dict[str, np.ndarray], allowed: np.ndarray, plan: list[int]
) -> dict[str, float]:
    """Return capacities that one plan just keeps, or with some room, or ones that have nothing to do with a plan."""
    if rng.random() < 0.7:
        room = float(rng.choice([1, 1, 1.1, 1.5, 3]))
        return {name: room * sum(row[o] for row, o in zip(t.tolist(), plan, strict=True)) for name, t in usage.items()}
    result = {}
    for name, table in usage.items():
        low = float(np.where(allowed, table, np.inf).min(axis=1).sum())
        high = float(np.where(allowed, table, 0.0).max(axis=1).sum())
        shares = [low + share * (high - low) for share in (0.0, 0.2, 0.5, 0.8, 1.0)]
        result[name] = float(rng.choice([*shares, *shares, low * 0.99, 0.0, np.inf]))
    return result


def lure(rng: np.random.Generator, value: np.ndarray, usage: dict[str, np.ndarray], plan: list[int]) -> np.ndarray:
    """Make options that use a little more than the plan's absurdly good, so that bounds are far below any plan."""
    value = value.copy()
    for item, option in enumerate(plan):
        for other in range(value.shape[1]):
            dearer = any(table[item, other] > table[item, option] for table in usage.values())
            if dearer and rng.random() < 0.4:
                value[item, other] = -(10.0 ** rng.uniform(3, rng.choice([10, 20, 100, 300])))
    return value


def drawn(seed: int, index: int) -> ChoiceProblem:
    """Return one problem; the same for the same two numbers."""
    rng = np.random.default_rng([seed, index])
    while True:
        items = int(rng.choice([1, 2, 3, 4, 4, 5]))
        options = int(rng.choice([1, 2, 3, 3, 4, 4]))
        resources = int(rng.choice([0, 1, 1, 2, 2, 3]))
        allowed = rng.random((items, options)) < 0.85
        allowed[np.arange(items), rng.integers(0, options, items)] = True
        usage = {f"r{k}": usage_table(rng, (items, options)) for k in range(resources)}
        names = tuple(f"i{i}" for i in range(items))
        labels = tuple(f"o{o}" for o in range(options))
        families = tuple(rng.choice(["a", "b", "c", None], options).tolist()) if rng.random() < 0.3 else None
        pinned = {names[i]: labels[int(rng.integers(options))] for i in range(items) if rng.random() < 0.05}
        value = value_table(rng, (items, options))
        if usage and rng.random() < 0.7:  # the better an option, the more it uses
            value = np.sort(value, axis=1)[:, ::-1]
            usage["r0"] = np.sort(usage["r0"], axis=1)
        plan = [int(rng.choice(np.flatnonzero(row))) for row in allowed]
        if rng.random() < 0.3:
            value = lure(rng, value, usage, plan)
        try:
            return ChoiceProblem(
                names,
                labels,
                value,
                usage,
                capacities(rng, usage, allowed, plan),
                allowed,
                tuple(names[i : i + 2] for i in range(items - 1) if rng.random() < 0.15),
                pinned,
                families,
                max_families=int(rng.integers(1, 3)) if families else None,
            )
        except ProblemError:  # pins and ties that leave nothing in common are refused when made
            continue


@dataclass(frozen=True)
class Oracle:
    """Exact tables of a problem and its best plan by trying all of them."""

    problem: ChoiceProblem
    value: list[list[int]]
    usage: dict[str, list[list[int]]]
    best: int | None
    best_worth: int

    def worth(self, plan: tuple[int, ...]) -> int:
        return sum(abs(self.value[i][o]) for i, o in enumerate(plan))

    def total(self, table: list[list[int]], plan: tuple[int, ...]) -> int:
        return sum(table[i][o] for i, o in enumerate(plan))

    def links_hold(self, plan: tuple[int, ...]) -> bool:
        problem = self.problem
        at = {name: problem.options[o] for name, o in zip(problem.items, plan, strict=True)}
        used = {problem.families[o] for o in plan} - {None} if problem.families else set()
        return (
            all(problem.allowed[i, o] for i, o in enumerate(plan))
            and all(at[item] == option for item, option in problem.pins.items())
            and all(len({at[item] for item in tie}) == 1 for tie in problem.ties)
            and (problem.max_families is None or len(used) <= problem.max_families)
        )

    def capacities_hold(self, plan: tuple[int, ...], slack: int = 0) -> bool:
        """Say whether usage is at most each capacity, plus `slack` / 10^12 of it."""
        for name, limit in self.problem.capacity.items():
            if limit == np.inf:
                continue
            if self.total(self.usage[name], plan) * TRILLION > exact(limit) * TRILLION + abs(exact(limit)) * slack:
                return False
        return True


def oracle_of(problem: ChoiceProblem) -> Oracle:
    def table(floats: np.ndarray) -> list[list[int]]:
        return [[exact(x) for x in row] for row in floats.tolist()]

    bare = Oracle(problem, table(problem.value), {name: table(t) for name, t in problem.usage.items()}, None, 0)
    best, worth = None, 0
    for plan in itertools.product(range(len(problem.options)), repeat=len(problem.items)):
        if bare.links_hold(plan) and bare.capacities_hold(plan):
            value = bare.total(bare.value, plan)
            if best is None or value < best:
                best, worth = value, bare.worth(plan)
    return Oracle(problem, bare.value, bare.usage, best, worth)


def faults(oracle: Oracle, solver: str, time_limit_s: float | None) -> tuple[str, list[str]]:
    """Solve by one solver; return the status (or how it refused) and what is false about the answer."""
    try:
        answer = solve(oracle.problem, solver, time_limit_s=time_limit_s)
    except SolverError:
        return "refused", []
    except Exception:
        return "error", ["error: " + traceback.format_exc().strip().splitlines()[-1]]
    wrong = []
    worth = oracle.best_worth if answer.choice is None else max(oracle.best_worth, oracle.worth(answer.choice))
    if answer.status is Status.INFEASIBLE and oracle.best is not None:
        wrong.append("false infeasible")
    if answer.status is Status.NO_PLAN_FOUND and time_limit_s is None:
        wrong.append("false time limit")
    if answer.choice is not None:
        plan = answer.choice
        if not oracle.links_hold(plan) or not oracle.capacities_hold(plan, slack=2):
            wrong.append("broken plan")
        if answer.status is Status.OPTIMAL and oracle.best is not None:
            above = oracle.total(oracle.value, plan) - oracle.best
            if above * MILLION > oracle.worth(plan):
                wrong.append("false optimal")
    if oracle.best is not None and np.isfinite(answer.lower_bound):
        if (exact(answer.lower_bound) - oracle.best) * MILLION > worth:
            wrong.append("false bound")
    elif oracle.best is not None and answer.lower_bound == np.inf:
        wrong.append("false bound")
    return answer.status.value, wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--problems", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--solvers", default="")
    parser.add_argument(
        "--cbc-every", type=int, default=10, help="CBC starts a process per solve: only each N-th problem"
    )
    options = parser.parse_args()
    names = (
        options.solvers.split(",") if options.solvers else [name for name, (_, usable) in describe().items() if usable]
    )
    warnings.simplefilter("error", RuntimeWarning)
    counts: dict[str, Counter[str]] = {name: Counter() for name in names}
    shown, start = [], time.perf_counter()
    commit = code_commit()
    for index in range(options.problems):
        oracle = oracle_of(drawn(options.seed, index))
        limit = (
            float(np.random.default_rng([options.seed, index, 1]).choice([1e-6, 1e-3])) if index % 25 == 24 else None
        )
        for name in names:
            if name == "cbc" and index % options.cbc_every:
                continue
            status, wrong = faults(oracle, name, limit)
            counts[name].update(["problems", status, *(text.partition(":")[0] for text in wrong)])
            if wrong and len(shown) < SHOWN_FAULTS:
                shown.append({"index": index, "solver": name, "wrong": wrong})
                print(index, name, wrong, file=sys.stderr, flush=True)
        if index % 500 == 499 or index == options.problems - 1:
            kinds = ("false optimal", "false infeasible", "false bound", "broken plan", "false time limit", "error")
            report = {
                "command": f"python -m benchmarks.solvers.solvers_torture {' '.join(sys.argv[1:])}",
                "commit": commit,
                "machine": f"{machine()}, Python {platform.python_version()}",
                "problems": index + 1,
                "answers": sum(count["problems"] for count in counts.values()),
                "false": {kind: sum(count[kind] for count in counts.values()) for kind in kinds},
                "solvers": {name: dict(sorted(count.items())) for name, count in counts.items()},
                "faults": shown,
                "seconds": round(time.perf_counter() - start),
            }
            Path(options.out).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report["false"]), report["answers"], "answers")


if __name__ == "__main__":
    main()
