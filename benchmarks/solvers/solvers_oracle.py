"""Hold every solver against exhaustive search on thousands of generated problems.

    python -m benchmarks.solvers.solvers_oracle [problems] [seed]

Up to 5 items × 5 options, no to 3 capacities (floors, below floors, fractions, infinite), masks, chained ties, pins,
families, judges of ties, values of either sign from 1e-24 to 1e15, all of them together. Prints how often each solver
answered what, and every disagreement.
"""

import argparse
from collections import Counter

import numpy as np

from solvers import ChoiceProblem, ProblemError, available, describe, solve, violations


def problem(rng: np.random.Generator) -> ChoiceProblem:
    """Return one random problem."""
    items, options, resources = rng.integers(1, 6), rng.integers(1, 6), rng.integers(0, 4)
    if rng.random() < 0.5:
        value = rng.integers(-4, 5, (items, options)).astype(float)  # many equal values
    else:
        value = rng.choice([-1, 1, 1.0], (items, options)) * 10 ** rng.uniform(-9, 0, (items, options))
    value = value * 10.0 ** rng.choice([-15, -6, 0, 6, 15])
    usage = {f"r{k}": rng.integers(0, 10, (items, options)) * rng.choice([1, 1e6, 1e-3]) for k in range(resources)}
    allowed = rng.random((items, options)) < 0.85
    allowed[np.arange(items), rng.integers(0, options, items)] = True
    capacity = {}
    for name, table in usage.items():
        low = np.where(allowed, table, np.inf).min(axis=1).sum()
        high = np.where(allowed, table, 0).max(axis=1).sum()
        capacity[name] = float(low + rng.choice([-0.05, 0, 0.2, 0.4, 0.6, 0.8, 1]) * (high - low))
    if capacity and rng.random() < 0.1:
        capacity[str(rng.choice(list(capacity)))] = float("inf")
    names = tuple(f"i{i}" for i in range(items))
    labels = tuple(f"o{o}" for o in range(options))
    ties = tuple(
        names[i : i + 2] for i in range(items - 1) if rng.random() < 0.15 and allowed[i : i + 2].all(axis=0).any()
    )
    pinned = {names[i]: labels[int(rng.choice(np.flatnonzero(allowed[i])))] for i in range(items) if rng.random() < 0.1}
    families = tuple(rng.choice(["a", "b", "c", "d", None], options).tolist()) if rng.random() < 0.4 else None
    try:
        return ChoiceProblem(
            names, labels, value, usage, capacity, allowed, ties, pinned, families,
            max_families=int(rng.integers(1, 4)) if families else None,
            tie_break=str(rng.choice(list(usage))) if usage and rng.random() < 0.3 else None,
        )  # fmt: skip
    except ProblemError:  # ties and pins that leave nothing in common: refused when made, another one is drawn
        return problem(rng)


def disagreement(case: ChoiceProblem, name: str, oracle, found) -> str | None:
    """Return what is wrong with an answer."""
    if (found.choice is None) != (oracle.choice is None):
        return "feasibility"
    if found.choice is None:
        return None
    scale = np.abs(np.where(case.mask(), case.value, 0)).max(axis=1).sum()
    if violations(case, found.choice):
        return "a broken row"
    if found.lower_bound > oracle.value + 1e-9 * scale:
        return "the bound"
    if name == "lagrangian":
        return None
    if found.status != "optimal" or abs(found.value - oracle.value) > 1e-9 * scale:
        return "the value"
    tie = case.tie_resource()
    equal = abs(found.value - oracle.value) <= 1e-13 * scale
    if tie and equal and found.usage[tie] > oracle.usage[tie] * (1 + 1e-12):
        return "the tie"
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problems", nargs="?", type=int, default=3000)
    parser.add_argument("seed", nargs="?", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    usable = describe()
    counts: Counter[tuple[str, str]] = Counter()
    wrong = 0
    for _ in range(options.problems):
        case = problem(rng)
        oracle = solve(case, "exhaustive")
        for name in available():
            if name == "exhaustive" or not usable[name][1]:
                continue
            found = solve(case, name)
            counts[name, found.status.value] += 1
            error = disagreement(case, name, oracle, found)
            if error:
                wrong += 1
                print(f"{name}: {error}\n{oracle}\n{found}\n{case!r}")
    for (name, status), number in sorted(counts.items()):
        print(f"{name:12s}{status:12s}{number}")
    print(f"{options.problems} problems, {wrong} disagreements")


if __name__ == "__main__":
    main()
