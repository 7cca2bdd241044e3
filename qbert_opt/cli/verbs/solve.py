"""`qbert-opt solve`: find the best plan for scores, a device and a budget, with a proof."""

from __future__ import annotations

from .. import options

DEFAULT_SHORTLIST = 5
"""Number of plans that `--measure` times without `--top-k`."""


def command(
    budget: options.Budget = None,
    device: options.Device = None,
    scores: options.OptionalScores = None,
    model: options.OptionalModel = None,
    data: options.OptionalData = None,
    total_budget: options.TotalBudget = None,
    max_latency: options.MaxLatency = None,
    max_memory: options.MaxMemory = None,
    max_dram_bytes: options.MaxDramBytes = None,
    max_bandwidth: options.MaxBandwidth = None,
    max_energy: options.MaxEnergy = None,
    max_scratchpad: options.MaxScratchpad = None,
    max_bops: options.MaxBops = None,
    rate: options.Rate = None,
    seq_len: options.SeqLen = 128,
    batch_size: options.BatchSize = 1,
    bits: options.AllowedBits = None,
    groupings: options.AllowedGroupings = None,
    table_bits: options.AllowedTableBits = None,
    activation_bits: options.AllowedActivationBits = None,
    activation_ranges: options.ActivationRanges = None,
    engine: options.TargetEngine = None,
    pins: options.Pins = None,
    excluded: options.Excluded = None,
    ties: options.Ties = None,
    max_formats: options.MaxFormats = None,
    max_loss: options.MaxLoss = None,
    least: options.Least = None,
    top_k: options.TopK = None,
    within: options.Within = None,
    apart: options.Apart = None,
    measure: options.MeasureEngine = None,
    refine: options.RefineMeasurements = None,
    recipe: options.Recipe = None,
    metric: options.Metric = "directional",
    method: options.Method = "gptq",
    calibration_samples: options.CalibrationSamples = 256,
    scoring_samples: options.ScoringSamples = 256,
    solver: options.SolverName = "auto",
    time_limit: options.TimeLimit = None,
    max_tokens: options.MaxTokens = None,
    seed: options.Seed = 0,
    output: options.OptionalOutput = None,
    as_json: options.AsJson = False,
    explain: options.Explain = False,
    verify: options.VerifyTexts = None,
    plot: options.Plot = None,
    quiet: options.Quiet = False,
) -> None:
    """Choose bit width and grouping for every matrix, and prove that the plan is optimal.

    Examples:
    `qbert-opt solve --budget 25MB --device car-soc.yaml`

    `qbert-opt solve --scores scores.json --budget 2.5bit --max-latency 20ms --device car-soc -o allocation.json`

    `qbert-opt solve --max-loss 0.001 --least latency --device car-soc --tie qkv --max-formats 3`
    """
    from ...costs.operations import Workload
    from ...planning.solving import SolverOptions
    from ...reports.printing import print_lines
    from ...spec.activations import selected_activations
    from ...workflows.solve import Shortlist, check_limits, solve_plans, solve_recipe
    from .. import solving
    from ..quantities import seconds, share

    target, workload = options.load_target(device), Workload(seq_len, batch_size)
    constraints = solving.read_constraints(
        bits=bits, groupings=groupings, table_bits=table_bits, engine=engine, pins=pins, excluded=excluded, ties=ties,
        max_formats=max_formats, max_loss=max_loss, least=least,
    )  # fmt: skip
    solving.check_together(
        recipe=recipe, top_k=top_k, within_or_apart=within or apart, measure=measure, refine=refine, verify=verify,
        model=model, data=data, constraints=constraints,
    )  # fmt: skip
    scored_already = scores is not None and bool(verify or refine or measure)  # then the model is only measured
    table = options.read_or_score(
        scores, None if scored_already else model, data, metric=metric, method=method, seed=seed,
        samples=(calibration_samples, scoring_samples), activation_bits=activation_bits, max_tokens=max_tokens,
        quiet=quiet,
    )  # fmt: skip
    limits = solving.read_limits(
        table, budget=budget, total_budget=total_budget, max_latency=max_latency, max_memory=max_memory,
        max_dram_bytes=max_dram_bytes, max_bandwidth=max_bandwidth, max_energy=max_energy,
        max_scratchpad=max_scratchpad, max_bops=max_bops, rate=rate,
    )  # fmt: skip
    check_limits(limits, target, constraints)
    inputs = selected_activations(activation_bits, activation_ranges, table, target)
    if recipe is not None:
        solved = solve_recipe(table, recipe, limits, device=target, workload=workload, activations=inputs)
    else:
        plans = top_k or (DEFAULT_SHORTLIST if measure else None)
        farthest = float("inf") if within is None else share(within, "--within")
        solved = solve_plans(
            table, limits, device=target, workload=workload, constraints=constraints, activations=inputs,
            options=SolverOptions(solver, seconds(time_limit, "--time-limit")),
            shortlist=None if plans is None else Shortlist(plans, farthest, apart),
            refine=solving.local_search(str(model), str(data), refine, quiet=quiet or as_json),
        )  # fmt: skip
    wrote = [] if output is None else solving.write_plans(solved, output)
    if plot is not None:
        from ...reports.plots.plan import draw, save

        save(draw(solved.plan, table), plot)
        wrote.append(plot)
    if as_json:
        solving.print_json(solved, as_list=top_k is not None)
        return
    solving.print_solved(solved, explain=explain)
    if verify is not None:
        solving.print_verification(table, solved, str(model), str(data), verify, output, quiet=quiet)
    if measure is not None:
        solving.print_timings(solved, str(model), measure, workload, output, quiet=quiet)
    print_lines([f"wrote {path}" for path in wrote])
