"""`qbert-opt solve`: find the best plan for scores, a device and a budget, with a proof."""

from __future__ import annotations

from dataclasses import replace

from .. import options
from ..decoder_options import CacheOptions
from ..solve_options import (
    ConstraintOptions,
    HardwareOptions,
    LimitOptions,
    OutputOptions,
    ScoringOptions,
    SearchOptions,
    ShortlistOptions,
)


def command(
    limit: LimitOptions,
    hardware: HardwareOptions,
    cache: CacheOptions,
    scoring: ScoringOptions,
    constraint: ConstraintOptions,
    shortlist: ShortlistOptions,
    search: SearchOptions,
    out: OutputOptions,
    text: options.TextOptions,
    quiet: options.Quiet = False,
) -> None:
    """Choose bit width and grouping for every matrix, and prove that the plan is optimal.

    Examples:
    `qbert-opt solve --budget 25MB --device car-soc.yaml`

    `qbert-opt solve --scores scores.json --budget 2.5bit --max-latency 20ms --device car-soc -o allocation.json`

    `qbert-opt solve --model DIR --data TEXT --budget 1.5bit --allow-drop 2 -o allocation.json`

    `qbert-opt solve --max-loss 0.001 --least latency --device car-soc --tie qkv --max-formats 3`
    """
    from ...costs.functions import parse_functions
    from ...engines.session import rules_of
    from ...planning.solving import SolverOptions
    from ...reports.printing import print_lines
    from ...spec.activations import selected_activations
    from ...spec.scores import ScoreTable
    from ...workflows.solve import Solved, check_limits, solve_plans, solve_recipe
    from .. import leaving_out, solve_requests, solving
    from ..quantities import seconds

    device = hardware.target()
    constraints = solve_requests.read_constraints(constraint, cache.widths())
    solve_requests.check_together(constraints, search.recipe, scoring, shortlist)
    leaving_out.check_drop(constraint, search.recipe, scoring, shortlist, constraints)
    measured = any((shortlist.verify, shortlist.refine, shortlist.measure, leaving_out.most(constraint)))
    model, data = str(scoring.model), str(scoring.data)

    def solve(table: ScoreTable, whole: ScoreTable | None = None) -> Solved:
        workload = hardware.workload(table.profile, cache)
        if device is not None:
            functions = parse_functions(constraint.nonlinearity, table.profile, workload, device)
            workload = replace(workload, functions=functions)
        limits = solve_requests.read_limits(limit, whole or table, hardware.rate)
        check_limits(limits, device, constraints)
        inputs = selected_activations(
            constraint.activation_bits, constraint.activation_ranges, table, device,
            every_width=constraint.engine is not None and rules_of(constraint.engine).integer_functions,
        )  # fmt: skip
        if search.recipe is not None:
            return solve_recipe(table, search.recipe, limits, device=device, workload=workload, activations=inputs)
        return solve_plans(
            table, limits, device=device, workload=workload, constraints=constraints, activations=inputs,
            options=SolverOptions(search.solver, seconds(search.time_limit, "--time-limit")),
            shortlist=solve_requests.read_shortlist(shortlist),
            refine=solving.local_search(model, data, text, shortlist.refine, quiet=quiet or out.as_json),
        )  # fmt: skip

    def score(num_scored: int) -> ScoreTable:
        return solve_requests.read_scores(scoring, text, constraint, num_scored, only_measured=measured, quiet=quiet)

    if scoring.until is None:
        table = score(scoring.scoring_samples)
        table, solved, kept = leaving_out.solve_least(table, scoring, text, constraint, solve, quiet=quiet)
    else:
        (table, solved), kept = solve_requests.solve_until_exact(score, solve, scoring, text), []
    written = solving.write_solved(solved, table, out.output, out.plot)
    if out.as_json:
        solving.print_json(solved, as_list=shortlist.top_k is not None)
        return
    solving.print_solved(solved, explain=out.explain)
    if shortlist.verify is not None:
        solving.print_verification(table, solved, model, data, text, shortlist.verify, out.output, quiet=quiet)
    if shortlist.measure is not None:
        workload = hardware.workload(table.profile, cache)
        solving.print_timings(solved, model, shortlist.measure, workload, out.output, quiet=quiet)
    print_lines([*kept, *(f"wrote {path}" for path in written)])
