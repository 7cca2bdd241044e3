"""Ours beside peers on 20 seeded instances per row, one thread, CPU time.

    python benchmarks/solvers_table.py            writes benchmarks/solvers_results.json and prints the table

CPU time counts this process and its children. A peer that gives no plan, or one that breaks a row, is counted as
failed; `worse` is the part by which its value exceeds ours. `optimal` means a proven gap of at most 1e-6.
"""

import json
import os
import resource
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from solvers_instances import instance
from solvers_peers import grid_dp, highs_to_the_proof, hull_and_greedy, plain_cbc, plain_highs

from solvers import ChoiceProblem, pareto, price, solve, violations

ROWS = {
    "75 x 36, 1 resource": ({"items": 75, "resources": 1}, 20, (plain_cbc, plain_highs, hull_and_greedy, grid_dp)),
    "75 x 36, 4 resources": ({"items": 75, "resources": 4}, 20, (plain_highs, highs_to_the_proof, plain_cbc)),
    "75 x 36, 4 resources, ties, 3 formats": (
        {"items": 75, "resources": 4, "ties": True, "max_families": 3}, 20,
        (plain_highs, highs_to_the_proof, plain_cbc),
    ),
    "400 x 36, 2 resources": ({"items": 400, "resources": 2}, 20, (plain_highs,)),
    "10000 x 36, 2 resources": ({"items": 10_000, "resources": 2}, 20, ()),
}  # fmt: skip
PEER_INSTANCES, PEER_LIMIT_S = 4, 20.0


def cpu_s() -> float:
    """Return CPU seconds of this process and its finished children."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def timed(work: Callable):
    """Return (CPU seconds, result)."""
    start = cpu_s()
    result = work()
    return cpu_s() - start, result


def spread(numbers: list[float]) -> dict[str, float]:
    return {"median": float(f"{statistics.median(numbers):.3g}"), "worst": float(f"{max(numbers):.3g}")}


def ours(problems: list[ChoiceProblem]) -> tuple[dict, list[float]]:
    runs = [timed(lambda problem=problem: solve(problem)) for problem in problems]
    assert all(violations(p, s.choice) == () for p, (_, s) in zip(problems, runs, strict=True))
    report = {
        "cpu_s": spread([seconds for seconds, _ in runs]),
        "gap": spread([solution.gap for _, solution in runs]),
        "optimal": sum(solution.status == "optimal" for _, solution in runs),
        "instances": len(runs),
    }
    return report, [solution.value for _, solution in runs]


def peer(method: Callable, problems: list[ChoiceProblem], best: list[float]) -> dict:
    runs = [timed(lambda problem=problem: method(problem, PEER_LIMIT_S)) for problem in problems]
    held = [
        price(problem, plan)[0] / value - 1
        for problem, (_, plan), value in zip(problems, runs, best, strict=False)
        if plan is not None and not violations(problem, plan)
    ]
    report = {"cpu_s": spread([seconds for seconds, _ in runs]), "failed": len(runs) - len(held)}
    return report | ({"worse": spread(held), "best_case": float(f"{min(held):.3g}")} if held else {}) | {
        "instances": len(runs)
    }  # fmt: skip


def frontiers(count: int) -> dict:
    runs = [timed(lambda seed=seed: pareto(instance(75, 1, seed), "bytes")) for seed in range(count)]
    return {
        "cpu_s": spread([seconds for seconds, _ in runs]),
        "hull_points": spread([sum(p.supported for p in f.points) for _, f in runs]),
        "exact_points": 200,
        "gap": spread([max(p.gap for p in f.points) for _, f in runs]),
        "instances": count,
    }


def main() -> None:
    solve(instance(75, 4, 99), "ilp")  # imports are not counted
    results = {}
    for name, (shape, count, methods) in ROWS.items():
        problems = [instance(seed=seed, **shape) for seed in range(count)]
        report, values = ours(problems)
        results[name] = {"ours": report}
        for method in methods:
            chosen = problems if len(methods) > 3 else problems[:PEER_INSTANCES]
            results[name][method.__name__] = peer(method, chosen, values)
        print(name, json.dumps(results[name]), flush=True)
    results["frontier 75 x 36, bytes"] = {"ours": frontiers(20)}
    print(json.dumps(results["frontier 75 x 36, bytes"]))
    results["memory_peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("solvers_results.json")
    out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
