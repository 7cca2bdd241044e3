"""What `solve` prints about its plans, and the measurements that this needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from .progress import progress

if TYPE_CHECKING:
    from solvers import Refinement

    from ..costs.workload import Workload
    from ..planning.program import PlanningTask
    from ..planning.solving import Plan
    from ..spec.allocation import Allocation
    from ..spec.scores import ScoreTable
    from ..workflows.solve import Refine, Solved
    from .options import TextOptions


def local_search(
    model: str, data: str, text: TextOptions, max_measurements: int | None, *, quiet: bool
) -> Refine | None:
    """Return a local search on the measured loss, to be applied to a solved plan; None without measurements.

    Args:
        model: folder of the float model.
        data: the text that the plan's scores were made with.
        text: its columns and split.
        max_measurements: maximum number of evaluations of the whole model; None measures nothing.
        quiet: report no progress.
    """
    if max_measurements is None:
        return None
    from ..models.loading import load_model
    from ..workflows.refine import refine

    def search(task: PlanningTask, program: Plan) -> tuple[Plan, Refinement]:
        with progress("refining", quiet=quiet) as tell:
            return refine(task, program, load_model(model), text.read(data), max_measurements, progress=tell)

    return search


def print_solved(solved: Solved, *, explain: bool) -> None:
    """Print a plan with its cost, its refinement, the reasons for its choices, and the rest of its shortlist.

    Args:
        solved: what `solve_plans` returned.
        explain: also print why each matrix has its choice.
    """
    from ..reports.plan import print_plan
    from ..reports.printing import print_lines
    from ..reports.trade_off import explanation_lines, shortlist_table

    print_plan(solved.plan, solved.report, solved.token)
    if solved.refinement is not None:
        print_lines([refined_line(solved.refinement, solved.plan)])
    if explain and solved.program is not None:
        program = solved.program
        print_lines(["", *explanation_lines(program.problem, program.solution, solved.plan.objective)])
    if solved.others:
        print_lines(["", shortlist_table(list(solved.plans))])


def refined_line(refinement: Refinement, plan: Allocation) -> str:
    """Return one line about what local search measured.

    Args:
        refinement: what local search measured.
        plan: the plan that it ended with.
    """
    end = "no untried swap is predicted to help" if refinement.exhausted else "the evaluations ran out"
    return (
        f"refined          measured {refinement.start:.4g} -> {refinement.measured:.4g} {plan.loss_unit} on the "
        f"{plan.provenance.num_scored} scoring texts; kept {refinement.accepted} of "
        f"{len(refinement.history) - 1} measured swaps ({end}). These texts chose the swaps; --verify measures others"
    )


def print_verification(
    scores: ScoreTable,
    solved: Solved,
    model: str,
    data: str,
    text: TextOptions,
    texts: str,
    output: str | None,
    *,
    quiet: bool,
) -> None:
    """Measure the plan and its rivals on held-out text, print them, and offer a uniform plan that wins.

    Args:
        scores: the table that the plan was made from.
        solved: the plan with the rest of its shortlist.
        model: folder of the float model.
        data: the text that the scores were made with.
        text: its columns and split.
        texts: held-out text, in the same columns.
        output: where the plan was written; a uniform plan that wins is written beside it.
        quiet: report no progress.
    """
    from ..models.loading import load_model
    from ..reports.evaluation import cut_lines, evaluation_table
    from ..reports.printing import print_lines
    from ..spec.allocation import write_allocation
    from ..workflows.verify import THIS_PLAN, verify

    with progress("measuring", quiet=quiet) as tell:
        verification = verify(
            scores, solved.plan, load_model(model), text.read(data), text.read_other(texts), others=solved.others,
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
    """Time the shortlist in an engine and print it in the order of measured latency.

    Args:
        solved: the shortlist.
        model: folder of the float model.
        engine: name of an engine, for example `onnxruntime`.
        workload: sentences and tokens of one timed run.
        output: where the first plan was written.
        quiet: report no progress.
    """
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
        print_lines([f"no plan of this shortlist meets the latency limit in {engine} on this machine"])


def write_solved(solved: Solved, scores: ScoreTable, output: str | None, plot: str | None) -> list[str]:
    """Write the shortlist as `p.json`, `p.2.json` and so on, and the plot of the first plan; return the paths.

    Args:
        solved: the shortlist.
        scores: what the plans were made from.
        output: path of the first plan; None writes none.
        plot: path of the plot; None draws none.
    """
    from ..spec.allocation import write_allocation

    paths = []
    if output is not None:
        paths = [output, *(numbered(output, f"plan {number}") for number in range(2, len(solved.plans) + 1))]
        for plan, path in zip(solved.plans, paths, strict=True):
            write_allocation(plan, path)
    if plot is not None:
        from ..reports.plots.plan import draw
        from ..reports.plots.saving import save

        save(draw(solved.plan, scores), plot)
        paths.append(plot)
    return paths


def print_json(solved: Solved, *, as_list: bool) -> None:
    """Print the plan, or with `as_list` the shortlist, as JSON.

    Args:
        solved: the shortlist.
        as_list: print every plan, in a list.
    """
    from pydantic import TypeAdapter

    from ..spec.allocation import Allocation

    plans = TypeAdapter(list[Allocation]).dump_json(list(solved.plans), by_alias=True, indent=1).decode()
    typer.echo(plans if as_list else solved.plan.model_dump_json(by_alias=True, indent=1))


def numbered(output: str, name: str) -> str:
    """Return the path of a plan of a shortlist: `plan.json`, `plan.2.json`, `plan.3.json`.

    Args:
        output: path of the first plan.
        name: `plan 2`, `plan 3` and so on.
    """
    return f"{output.removesuffix('.json')}.{name.removeprefix('plan ')}.json"
