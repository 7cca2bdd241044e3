"""What `solve` reads from its options and prints of its answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from .progress import progress

if TYPE_CHECKING:
    from solvers import Refinement

    from ..costs.operations import Workload
    from ..planning.constraints import PlanConstraints
    from ..planning.program import PlanningTask
    from ..planning.solving import Plan
    from ..spec.allocation import Allocation
    from ..spec.limits import Limits
    from ..spec.scores import ScoreTable
    from ..workflows.solve import Refine, Solved


def read_limits(
    scores: ScoreTable,
    *,
    budget: str | None,
    total_budget: str | None,
    max_latency: str | None,
    max_memory: str | None,
    max_dram_bytes: str | None,
    max_bandwidth: str | None,
    max_energy: str | None,
    max_scratchpad: str | None,
    max_bops: float | None,
    rate: float | None,
) -> Limits:
    """Read the limits from their options.

    Args:
        scores: the table, whose shapes give meaning to `2.5bit` and `13x`.
        budget: size of the encoder's matrices, for example `25MB`.
        total_budget: size of the whole stored model.
        max_latency: for example `20ms`.
        max_memory: peak memory, for example `64MiB`.
        max_dram_bytes: DRAM traffic per inference.
        max_bandwidth: DRAM bandwidth at `rate`.
        max_energy: energy per inference.
        max_scratchpad: on-chip memory for resident weights.
        max_bops: bit operations per inference.
        rate: inferences per second.

    Raises:
        UsageError: an option that is not a quantity of its kind.
    """
    from ..planning.budgets import parse_budget
    from ..spec.limits import Limits
    from .quantities import bandwidth, energy, seconds, size

    encoder, everything = scores.profile.encoder_elements, scores.profile.float_bytes // 4
    return Limits(
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


def read_constraints(
    *,
    bits: str | None,
    groupings: str | None,
    table_bits: str | None,
    engine: str | None,
    pins: Sequence[str] | None,
    excluded: Sequence[str] | None,
    ties: Sequence[str] | None,
    max_formats: int | None,
    max_loss: float | None,
    least: str | None,
) -> PlanConstraints:
    """Read the constraints from their options.

    Raises:
        UsageError: an option that is not of its form.
    """
    from ..planning.constraints import PlanConstraints
    from ..spec.choices import parse_bits, parse_groupings
    from .quantities import parse_pins

    return PlanConstraints(
        bits=None if bits is None else parse_bits(bits),
        groupings=None if groupings is None else parse_groupings(groupings),
        table_bits=None if table_bits is None else parse_bits(table_bits, "--table-bits"),
        engine=engine,
        pins=parse_pins(pins or []),
        excluded=excluded or (),
        ties=ties or (),
        max_formats=max_formats,
        max_loss=max_loss,
        least=least,
    )


def check_together(
    *,
    recipe: str | None,
    top_k: int | None,
    within_or_apart: object,
    measure: str | None,
    refine: int | None,
    verify: str | None,
    model: str | None,
    data: str | None,
    constraints: PlanConstraints,
) -> None:
    """Refuse options that mean nothing beside each other, or lack one that they need.

    Raises:
        UsageError: names the options.
    """
    from ..errors import UsageError
    from ..planning.constraints import PlanConstraints

    for flag, value in (("--verify", verify), ("--refine", refine)):
        if value is not None and (model is None or data is None):
            raise UsageError(f"{flag}: needs --model and --data, the calibration set of the scores.")
    if measure is not None and model is None:
        raise UsageError("--measure: needs --model, which is run in the engine.")
    restricted = constraints.model_copy(update={"table_bits": None}) != PlanConstraints()
    if recipe is not None and (restricted or top_k or measure or refine):
        raise UsageError(
            "--recipe: is a fixed rule. Remove --top-k, --measure, --refine and every constraint on the choices."
        )
    if within_or_apart is not None and top_k is None and measure is None:
        raise UsageError("--within and --apart: belong to --top-k, for example --top-k 5 --within 5%.")
    if refine is not None and (top_k is not None or measure is not None or constraints.least is not None):
        raise UsageError("--refine: lowers the measured loss of one plan. Remove --top-k, --measure and --least.")


def local_search(model: str, data: str, max_measurements: int | None, *, quiet: bool) -> Refine | None:
    """Return a local search on the measured loss, to be applied to a solved plan; None without measurements."""
    if max_measurements is None:
        return None
    from ..data.texts import read_texts
    from ..models.loading import load_model
    from ..workflows.refine import refine

    def search(task: PlanningTask, program: Plan) -> tuple[Plan, Refinement]:
        with progress("refining", quiet=quiet) as tell:
            return refine(task, program, load_model(model), read_texts(data), max_measurements, progress=tell)

    return search


def print_solved(solved: Solved, *, explain: bool) -> None:
    """Print a plan with its cost, how it was refined, why it is as it is, and the rest of its shortlist."""
    from ..reports.plan import print_plan
    from ..reports.printing import print_lines
    from ..reports.trade_off import explanation_lines, shortlist_table

    print_plan(solved.plan, solved.report)
    if solved.refinement is not None:
        print_lines([refined_line(solved.refinement, solved.plan)])
    if explain and solved.program is not None:
        program = solved.program
        print_lines(["", *explanation_lines(program.problem, program.solution, solved.plan.objective)])
    if solved.others:
        print_lines(["", shortlist_table(list(solved.plans))])


def refined_line(refinement: Refinement, plan: Allocation) -> str:
    """One line on what local search measured."""
    end = "no untried swap is predicted to help" if refinement.exhausted else "the evaluations ran out"
    return (
        f"refined          measured {refinement.start:.4g} -> {refinement.measured:.4g} {plan.loss_unit} on the "
        f"{plan.provenance.num_scored} scoring texts; kept {refinement.accepted} of "
        f"{len(refinement.history) - 1} measured swaps ({end})"
    )


def print_verification(
    scores: ScoreTable, solved: Solved, model: str, data: str, texts: str, output: str | None, *, quiet: bool
) -> None:
    """Measure the plan and its rivals on held-out text, print them, and offer a uniform plan that wins."""
    from ..data.texts import read_texts
    from ..models.loading import load_model
    from ..reports.evaluation import cut_lines, evaluation_table
    from ..reports.printing import print_lines
    from ..spec.allocation import write_allocation
    from ..workflows.verify import THIS_PLAN, verify

    with progress("measuring", quiet=quiet) as tell:
        verification = verify(
            scores, solved.plan, load_model(model), read_texts(data), read_texts(texts), others=solved.others,
            progress=tell,
        )  # fmt: skip
    rows = [
        (m.name, m.evaluation, f"{m.allocation.total_bytes:,} planned", f"{m.allocation.predicted_loss:.3g}")
        for m in verification.measured
    ]
    evaluations = [m.evaluation for m in verification.measured]
    print_lines(["", evaluation_table(rows, f"measured on {texts}"), *cut_lines(evaluations)])
    best = verification.best
    if best.name == THIS_PLAN:
        print_lines(["the plan measures better than every uniform plan of no more bytes"])
    elif best.allocation in solved.others:
        print_lines([f"{best.name} measures best: use {numbered(output, best.name) if output else 'it'}"])
    else:
        print_lines([f"{best.name} measures better than the plan: use it, or score on more text like the deployment's"])
        if output is not None:
            path = f"{output.removesuffix('.json')}.uniform.json"
            write_allocation(best.allocation, path)
            print_lines([f"wrote {path}"])


def print_timings(
    solved: Solved, model: str, engine: str, workload: Workload, output: str | None, *, quiet: bool
) -> None:
    """Time the shortlist in an engine and print it in the order of what was measured."""
    from ..models.loading import load_model
    from ..reports.printing import print_lines
    from ..reports.trade_off import timed_table
    from ..workflows.rerank import ranked, time_plans

    with progress("measuring", quiet=quiet) as tell:
        timed = time_plans(load_model(model), solved.plans, engine, workload, progress=tell)
    limit_s = next((row.capacity for row in solved.plan.limits if row.resource == "latency_s"), None)
    order = ranked(timed, limit_s)
    best = order[0]
    name = "this plan" if best.number == 1 else f"plan {best.number}"
    where = f": use {numbered(output, name)}" if output is not None and best.number > 1 else ""
    print_lines(["", timed_table(order, engine), f"{name} is the fastest measured{where}"])
    if limit_s is not None and best.latency_s > limit_s:
        print_lines([f"no plan of this shortlist keeps the latency limit in {engine} on this machine"])


def write_plans(solved: Solved, output: str) -> list[str]:
    """Write the shortlist, `p.json`, `p.2.json` and so on; return the paths."""
    from ..spec.allocation import write_allocation

    paths = [output, *(numbered(output, f"plan {number}") for number in range(2, len(solved.plans) + 1))]
    for plan, path in zip(solved.plans, paths, strict=True):
        write_allocation(plan, path)
    return paths


def print_json(solved: Solved, *, as_list: bool) -> None:
    """Print the plan, or with `as_list` the shortlist, as JSON."""
    from pydantic import TypeAdapter

    from ..spec.allocation import Allocation

    plans = TypeAdapter(list[Allocation]).dump_json(list(solved.plans), by_alias=True, indent=1).decode()
    typer.echo(plans if as_list else solved.plan.model_dump_json(by_alias=True, indent=1))


def numbered(output: str, name: str) -> str:
    """Return the path of a plan of a shortlist: `plan.json`, `plan.2.json`, `plan.3.json`."""
    return f"{output.removesuffix('.json')}.{name.removeprefix('plan ')}.json"
