"""Ours beside peers, one thread, CPU time: 20 seeded instances per row, and programs of real tables of scores.

    python -m benchmarks.solvers.solvers_table OUT.json [--rows TEXT] [--scores NAME=scores.json …]

Rows whose name holds TEXT are run and put into OUT.json; the others stay. CPU time counts this process and its
children. A peer that gives no plan, or one that breaks a row, is counted as failed; `worse` is the part by which its
value exceeds ours. `optimal` means a proven gap of at most 1e-6.
"""

import argparse
import json
import os
import resource
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from benchmarks.solvers.solvers_instances import instance, real_instance
from benchmarks.solvers.solvers_peers import (
    exact_dp,
    grid_dp,
    highs_to_the_proof,
    hull_and_greedy,
    plain_cbc,
    plain_highs,
)
from hwmodels import load_device
from qbert_opt.data.reference import reference_scores
from qbert_opt.runtime.provenance import code_commit
from qbert_opt.spec.scores import read_scores
from solvers import ChoiceProblem, pareto, price, solve, violations

ONE = (plain_cbc, plain_highs, hull_and_greedy, grid_dp, exact_dp)
SEVERAL = (plain_cbc, plain_highs, highs_to_the_proof)
ROWS = {
    "75 x 36, 1 resource": ({"items": 75, "resources": 1}, ONE),
    "75 x 36, 4 resources": ({"items": 75, "resources": 4}, SEVERAL),
    "75 x 36, 4 resources, ties, 3 formats": ({"items": 75, "resources": 4, "ties": True, "max_families": 3}, SEVERAL),
    "400 x 36, 2 resources": ({"items": 400, "resources": 2}, (plain_cbc, plain_highs)),
    "10000 x 36, 2 resources": ({"items": 10_000, "resources": 2}, ()),
}
FRONTIER = "frontier 75 x 36, bytes"
INSTANCES, REAL_INSTANCES, PEER_LIMIT_S = 20, 6, 20.0
SLOW = (plain_cbc, plain_highs, highs_to_the_proof, exact_dp)  # on the first few only, where a run takes long
SLOW_INSTANCES = 6


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


def frontiers(count: int, resources: str | tuple[str, str]) -> dict:
    shape = 1 if isinstance(resources, str) else 4
    problems = [replace(instance(75, shape, seed), capacity={}) for seed in range(count)]
    runs = [timed(lambda problem=problem: pareto(problem, resources, points=200)) for problem in problems]
    return {
        "cpu_s": spread([seconds for seconds, _ in runs]),
        "hull_points": spread([sum(p.supported for p in f.points) for _, f in runs]),
        "exact_points": spread([sum(not p.supported for p in f.points) for _, f in runs]),
        "gap": spread([max(p.gap for p in f.points) for _, f in runs]),
        "instances": count,
    }


def compared(problems: list[ChoiceProblem], methods) -> dict:
    report, values = ours(problems)
    found = {"ours": report}
    for method in methods:
        few = method in SLOW and (len(problems[0].capacity) > 1 or method is exact_dp)
        found[method.__name__] = peer(method, problems[:SLOW_INSTANCES] if few else problems, values)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--rows", default="")
    parser.add_argument("--scores", action="append", default=[])
    options = parser.parse_args()
    solve(instance(75, 4, 99), "ilp")  # imports are not counted
    out = Path(options.out)
    results = json.loads(out.read_text()) if out.exists() else {}
    device = load_device("car-soc")
    tables = {"bundled reference": reference_scores()}
    tables |= {name: read_scores(path) for name, _, path in (text.partition("=") for text in options.scores)}
    work = {
        name: lambda shape=shape, methods=methods: compared(
            [instance(seed=seed, **shape) for seed in range(INSTANCES)], methods
        )
        for name, (shape, methods) in ROWS.items()
    }
    work[FRONTIER] = lambda: {"ours": frontiers(INSTANCES, "bytes")}
    work[f"{FRONTIER} x latency"] = lambda: {"ours": frontiers(3, ("bytes", "latency_s"))}
    for label, scores in tables.items():
        size = f"{len(scores.profile.matrices)} x {len(scores.choices)}"
        for resources, methods in ((1, ONE), (4, SEVERAL)):
            work[f"real: {label}, {size}, {resources} resource{'s' if resources > 1 else ''}"] = (
                lambda scores=scores, resources=resources, methods=methods: compared(
                    [real_instance(scores, device, resources, seed) for seed in range(REAL_INSTANCES)], methods
                )
            )
    for name, run in work.items():
        if options.rows not in name:
            continue
        peak_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        results[name] = run() | {"commit": code_commit()}
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if peak > peak_before:
            results[name]["process_peak_bytes"] = peak * 1024
        print(name, json.dumps(results[name]), flush=True)
        out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
