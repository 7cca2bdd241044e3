"""`qbert-opt solve`: scores, a device and a budget to a proven plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from .. import options
from ..progress import progress

Budget = Annotated[
    str | None, typer.Option("--budget", "-b", help="For the encoder's matrices: 25MB, 23.8MiB, 2.5bit or 13x.")
]


def command(
    budget: Budget = None,
    device: Annotated[
        str | None, typer.Option("--device", "-d", help="Target hardware: a YAML file or a bundled name.")
    ] = None,
    scores: Annotated[
        str | None, typer.Option("--scores", "-s", help="Table of scores; the bundled reference without it.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Score this model first (needs --data).")] = None,
    data: Annotated[str | None, typer.Option("--data", help="Calibration text for --model.")] = None,
    total_budget: Annotated[
        str | None, typer.Option("--total-budget", help="For the whole stored model, as --budget.")
    ] = None,
    max_latency: Annotated[str | None, typer.Option("--max-latency", help="Of one inference, e.g. 20ms.")] = None,
    max_memory: Annotated[str | None, typer.Option("--max-memory", help="Peak: weights and activations.")] = None,
    max_dram_bytes: Annotated[str | None, typer.Option("--max-dram-bytes", help="Per inference, e.g. 30MB.")] = None,
    max_bandwidth: Annotated[str | None, typer.Option("--max-bandwidth", help="At --rate, e.g. 2GB/s.")] = None,
    max_energy: Annotated[str | None, typer.Option("--max-energy", help="Per inference, e.g. 100mJ.")] = None,
    max_scratchpad: Annotated[str | None, typer.Option("--max-scratchpad", help="Weights kept on chip.")] = None,
    max_bops: Annotated[float | None, typer.Option("--max-bops", help="Bit operations per inference.")] = None,
    rate: Annotated[float | None, typer.Option("--rate", min=0.0, help="Inferences per second.")] = None,
    seq_len: Annotated[int, typer.Option("--seq-len", min=1, help="Tokens of a sentence.")] = 128,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Sentences of one inference.")] = 1,
    bits: Annotated[str | None, typer.Option("--bits", help="Choose among these only, e.g. 2,4,8.")] = None,
    groupings: Annotated[str | None, typer.Option("--groupings", help="Choose among these only.")] = None,
    table_bits: Annotated[str | None, typer.Option("--table-bits", help="The same for embedding tables.")] = None,
    activation_bits: Annotated[
        str | None, typer.Option("--activation-bits", help="Round inputs: 8, 16, 8,16 or none; the device's if scored.")
    ] = None,
    activation_ranges: Annotated[
        str | None, typer.Option("--activation-ranges", help="Ranges per token (found while running) or per tensor.")
    ] = None,
    pin: Annotated[list[str] | None, typer.Option("--pin", help="NAME=BITS for matrices with NAME in theirs.")] = None,
    exclude: Annotated[
        list[str] | None, typer.Option("--exclude", help="NAME: not searched, 8 bits with one range per row.")
    ] = None,
    tie: Annotated[
        list[str] | None, typer.Option("--tie", help="qkv, or a NAME: those with it in theirs choose alike.")
    ] = None,
    max_formats: Annotated[
        int | None, typer.Option("--max-formats", min=1, help="Most different formats (kernels) among the matrices.")
    ] = None,
    max_loss: Annotated[
        float | None, typer.Option("--max-loss", help="The reverse question: predicted loss at most this (--least).")
    ] = None,
    least: Annotated[
        str | None, typer.Option("--least", help="With --max-loss: bytes, total-bytes, latency, energy, dram, bops.")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option("--top-k", min=1, help="So many different plans; -o p.json: p.2.json and so on.")
    ] = None,
    within: Annotated[
        str | None, typer.Option("--within", help="With --top-k: how far from the best, e.g. 5%.")
    ] = None,
    apart: Annotated[
        int | None, typer.Option("--apart", min=1, help="With --top-k: matrices in which plans differ; a tenth.")
    ] = None,
    measure: Annotated[
        str | None,
        typer.Option("--measure", help="Time the plans of --top-k (5) in this engine here (needs --model)."),
    ] = None,
    refine: Annotated[
        int | None,
        typer.Option("--refine", min=1, help="Swap where the measured loss falls, so many measurements at most."),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option("--recipe", help="No program but a rule: qbert-2/3, qbert-2/4 or uniform:CHOICE.")
    ] = None,
    metric: options.Metric = "directional",
    method: options.Method = "gptq",
    calibration_samples: options.CalibrationSamples = 256,
    scoring_samples: options.ScoringSamples = 256,
    solver: Annotated[str, typer.Option("--solver", help="A solver's name, or auto.")] = "auto",
    time_limit: Annotated[str | None, typer.Option("--time-limit", help="For the solver, e.g. 60s.")] = None,
    seed: options.Seed = 0,
    output: Annotated[str | None, typer.Option("--output", "-o", help="Write allocation.json here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Say why each matrix got its bits.")] = False,
    verify: Annotated[
        str | None,
        typer.Option("--verify", help="Text to measure the plan and its uniform rivals on (needs --model, --data)."),
    ] = None,
    plot: Annotated[str | None, typer.Option("--plot", help="Draw the plan to this PNG or SVG.")] = None,
    quiet: options.Quiet = False,
) -> None:
    """Choose bits and groups for every matrix, and prove the choice.

    Examples:
    `qbert-opt solve --budget 25MB --device car-soc.yaml`

    `qbert-opt solve --scores scores.json --budget 2.5bit --max-latency 20ms --device car-soc -o allocation.json`

    `qbert-opt solve --max-loss 0.001 --least latency --device car-soc --tie qkv --max-formats 3`
    """
    from pydantic import TypeAdapter

    from ...costs.operations import Workload
    from ...errors import UsageError
    from ...planning.budgets import parse_budget
    from ...planning.planner import SolverOptions, allocation_of, solve_rounded, top_plans
    from ...planning.program import PlanningTask
    from ...planning.recipes import recipe_allocation
    from ...reports.plan import print_plan
    from ...reports.printing import print_lines
    from ...reports.trade_off import explanation_lines, shortlist_table
    from ...spec.activations import wanted_activations
    from ...spec.allocation import Allocation, write_allocation
    from ...spec.choices import parse_bits, parse_groupings
    from ...spec.limits import Limits
    from ..quantities import bandwidth, energy, parse_pins, seconds, share, size
    from ..refine import refine as by_measuring
    from ..refine import refined_line
    from ..verify import numbered
    from ..verify import verify as verify_by_measuring

    target = options.load_target(device)
    for flag, asked_for in (("--verify", verify), ("--refine", refine)):
        if asked_for is not None and (model is None or data is None):
            raise UsageError(f"{flag}: needs --model and --data, the calibration text of the scores.")
    if measure is not None:
        if model is None:
            raise UsageError("--measure: needs --model, which is run in the engine.")
        top_k = top_k or 5
    measures = verify is not None or refine is not None or measure is not None
    _check_together(
        recipe, top_k, within or apart, refine, [exclude, tie, max_formats, max_loss, least, pin, bits, groupings]
    )
    table = _scores(
        scores,
        None if measures and scores is not None else model,
        data,
        metric,
        method,
        calibration_samples,
        scoring_samples,
        seed,
        quiet,
        activation_bits,
    )
    encoder = table.profile.encoder_elements
    everything = table.profile.float_bytes // 4
    limits = Limits(
        encoder_bytes=None if budget is None else parse_budget(budget, encoder, "--budget"),
        total_bytes=None if total_budget is None else parse_budget(total_budget, everything, "--total-budget"),
        latency_s=seconds(max_latency, "--max-latency"),
        memory_bytes=size(max_memory, "--max-memory"),
        dram_bytes=size(max_dram_bytes, "--max-dram-bytes"),
        bandwidth_bytes_per_s=bandwidth(max_bandwidth, "--max-bandwidth"),
        energy_j=energy(max_energy, "--max-energy"),
        scratchpad_bytes=size(max_scratchpad, "--max-scratchpad"),
        bops=max_bops,
        inferences_per_s=rate,
    )
    if limits == Limits(inferences_per_s=rate) and target is None and max_loss is None and least is None:
        raise UsageError("solve: no limit given. Give --budget, for example --budget 25MB, or --device.")
    workload = Workload(seq_len, batch_size)
    rounded = wanted_activations(activation_bits, activation_ranges, table, target)
    plan, others, refined = None, [], None
    if recipe is not None:
        allocation = recipe_allocation(table, recipe, limits, device=target, workload=workload, activations=rounded)
    else:
        task = PlanningTask(
            table,
            limits,
            device=target,
            workload=workload,
            bits=None if bits is None else parse_bits(bits),
            groupings=None if groupings is None else parse_groupings(groupings),
            table_bits=None if table_bits is None else parse_bits(table_bits, "--table-bits"),
            pins=parse_pins(pin or []),
            excluded=exclude or (),
            ties=tie or (),
            max_formats=max_formats,
            max_loss=max_loss,
            least=least,
        )
        asked = SolverOptions(solver, seconds(time_limit, "--time-limit"))
        task, plan, inputs = solve_rounded(task, asked, rounded)
        if top_k is not None:
            far = float("inf") if within is None else share(within, "--within")
            rivals = top_plans(task, plan, asked, top_k, far, apart)
            others = [allocation_of(task, rival, inputs, answer=False) for rival in rivals[1:]]
        if refine is not None:
            plan, refined = by_measuring(task, plan, str(model), str(data), refine, quiet=quiet or as_json)
        allocation = allocation_of(task, plan, inputs, answer=refined is None or not refined.accepted)
    shortlist = [allocation, *others]
    if output is not None:
        write_allocation(allocation, output)
        for number, other in enumerate(others, 2):
            write_allocation(other, numbered(output, f"plan {number}"))
    if plot is not None:
        from ...reports.plots.plan import draw, save

        save(draw(allocation, table), plot)
    if as_json:
        plans = TypeAdapter(list[Allocation]).dump_json(shortlist, by_alias=True, indent=1).decode()
        typer.echo(allocation.model_dump_json(by_alias=True, indent=1) if top_k is None else plans)
        return
    report = None if plan is None else plan.report
    if target is not None and report is None:
        from ...costs.simulate import simulate_allocation

        report = simulate_allocation(allocation, target, workload, inferences_per_s=rate)
    print_plan(allocation, report)
    if refined is not None:
        print_lines([refined_line(refined, allocation.loss_unit, allocation.provenance.num_scored)])
    if explain and plan is not None:
        print_lines(["", *explanation_lines(plan.problem, plan.solution, allocation.objective)])
    if others:
        print_lines(["", shortlist_table(shortlist)])
    if verify is not None:
        verify_by_measuring(table, allocation, str(model), str(data), verify, output, others=others, quiet=quiet)
    if measure is not None:
        from ..measure import measure as in_engine

        in_engine(shortlist, str(model), measure, workload, output, quiet=quiet)
    more = [] if output is None else [numbered(output, f"plan {number}") for number in range(2, len(shortlist) + 1)]
    for path in (output, *more, plot):
        if path is not None:
            print_lines([f"wrote {path}"])


def _check_together(
    recipe: str | None, top_k: int | None, of_top_k: object, refine: int | None, wishes: Sequence[object]
) -> None:
    """Refuse options that mean nothing beside each other."""
    from ...errors import UsageError

    given = [wish for wish in wishes if wish not in (None, [])]
    if recipe is not None and (given or top_k or refine):
        raise UsageError(
            "--recipe: is a rule of its own; wishes, --top-k, --measure and --refine belong to the program."
        )
    if of_top_k is not None and top_k is None:
        raise UsageError("--within and --apart: belong to --top-k, for example --top-k 5 --within 5%.")
    if refine is not None and (top_k is not None or wishes[3] is not None):
        raise UsageError("--refine: lowers the measured loss of one plan; not with --top-k or --least.")


def _scores(scores, model, data, metric, method, calibration_samples, scoring_samples, seed, quiet, activations):  # type: ignore[no-untyped-def]
    """Read the table that was named, make one from a model, or take the bundled reference."""
    from ...data.reference import reference_scores
    from ...errors import UsageError
    from ...spec.scores import read_scores

    if scores is not None and model is not None:
        raise UsageError("--scores and --model: give one of them; --scores already says which model.")
    if scores is not None:
        return read_scores(scores)
    if model is None:
        return reference_scores()
    if data is None:
        raise UsageError("--model: needs --data, calibration text to score it on.")
    from ...data.texts import read_texts
    from ...models.loading import load_model
    from ...quantization.calibration import CalibrationPlan, method_grid
    from ...scoring.sensitivity import measure_sensitivity
    from ...spec.activations import activation_grid, parse_activation_bits
    from ...spec.tables import table_grid

    with progress(f"{metric} scores", quiet=quiet) as tell:
        return measure_sensitivity(
            load_model(model),
            read_texts(data),
            method_grid(method),
            metric=metric,
            plan=CalibrationPlan(calibration_samples, scoring_samples, seed),
            table_choices=table_grid(),
            activation_choices=activation_grid(parse_activation_bits(activations or "none")),
            progress=tell,
        )
