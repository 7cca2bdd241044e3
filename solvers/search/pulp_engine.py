"""Engines run through PuLP: HiGHS (by highspy), and the CBC bundled with PuLP 3."""

import math
import warnings
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from ..model.program import NO_FAMILY, IntArray, Program
from .interrupt import interruption
from .outcome import Outcome, SearchLimits
from .scipy_engine import strongest

if TYPE_CHECKING:
    from pulp import LpProblem, LpVariable

TOLERANCE = 1e-9
"""HiGHS feasibility and integrality tolerance; its default, 1e-6, would be 10 bytes of a 10⁷-byte matrix."""


def highs_present() -> bool:
    """Whether PuLP and highspy are installed."""
    return find_spec("pulp") is not None and find_spec("highspy") is not None


def cbc_present() -> bool:
    """Whether PuLP is installed with its bundled CBC, which PuLP 4 no longer has."""
    if find_spec("pulp") is None:
        return False
    import pulp

    return "PULP_CBC_CMD" in pulp.listSolvers(onlyAvailable=True)


def minimise_by_highs(program: Program, rejected: tuple[IntArray, ...], limits: SearchLimits) -> Outcome:
    """Solve one scaled program with HiGHS.

    Args:
        program: Scaled.
        rejected: Plans that must not be returned, each int [G].
        limits: Time, gap and seed.
    """
    import highspy
    import pulp

    model, variables = build(program, rejected)
    remaining = limits.remaining_s()
    kinds = highspy.cb.HighsCallbackType
    with interruption() as stopped:

        def check_interrupt(_kind: Any, _message: str, _output: Any, request: Any, _data: Any) -> None:
            request.user_interrupt = stopped.is_set()

        engine = pulp.HiGHS(
            callbackTuple=(check_interrupt, None),
            callbacksToActivate=[kinds.kCallbackMipInterrupt, kinds.kCallbackSimplexInterrupt],
            msg=False,
            threads=1,
            gapRel=limits.engine_gap(),
            gapAbs=TOLERANCE,
            timeLimit=remaining if math.isfinite(remaining) else None,
            random_seed=limits.seed,
            mip_feasibility_tolerance=TOLERANCE,
            primal_feasibility_tolerance=TOLERANCE,
        )
        model.solve(engine)
    bound = float(model.solverModel.getInfo().mip_dual_bound)
    return read(program, model, variables, bound)


def minimise_by_cbc(program: Program, rejected: tuple[IntArray, ...], limits: SearchLimits) -> Outcome:
    """Solve one scaled program with CBC, which reports no bound: only a finished proof has one.

    Args:
        program: Scaled.
        rejected: Plans that must not be returned, each int [G].
        limits: Time.
    """
    import pulp

    model, variables = build(program, rejected)
    remaining = limits.remaining_s()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # PuLP 3.3 announces that 4.0 drops this class
        engine = pulp.PULP_CBC_CMD(
            msg=False,
            threads=1,
            gapRel=0,
            gapAbs=0,
            timeLimit=remaining if math.isfinite(remaining) else None,
        )
    model.solve(engine)
    proven = model.sol_status == pulp.LpSolutionOptimal
    outcome = read(program, model, variables, -math.inf)
    if outcome.columns is None and outcome.finished:  # infeasible
        return outcome
    if proven and outcome.columns is not None:
        return Outcome(outcome.columns, float(program.cost[outcome.columns].sum()), finished=True)
    return Outcome(outcome.columns, float(program.least(program.cost).sum()), finished=outcome.finished)


def build(program: Program, rejected: tuple[IntArray, ...]) -> "tuple[LpProblem, list[LpVariable]]":
    """Build the PuLP model: one binary per column, one equation per group, one row per capacity.

    Args:
        program: Scaled.
        rejected: Plans that must not be returned, each int [G].
    """
    import pulp

    model = pulp.LpProblem("choice", pulp.LpMinimize)
    variables: list[Any] = [
        model.add_variable(f"x_{group}_{option}", cat=pulp.LpBinary)
        for group, option in zip(program.group.tolist(), program.option.tolist(), strict=True)
    ]
    model += pulp.LpAffineExpression(list(zip(variables, program.cost.tolist(), strict=True)))
    for start, stop in zip(program.starts, [*program.starts[1:], len(variables)], strict=True):
        model += pulp.LpAffineExpression([(x, 1) for x in variables[start:stop]]) == 1
    for row, limit in zip(program.rows, program.rhs.tolist(), strict=True):
        terms = [(variables[i], float(row[i])) for i in np.flatnonzero(row)]
        if terms:
            model += pulp.LpAffineExpression(terms) <= limit
    if program.max_families is not None:
        _limit_families(model, program, variables)
    for plan in rejected:
        model += pulp.LpAffineExpression([(variables[i], 1) for i in plan]) <= len(plan) - 1
    return model, variables


def _limit_families(model: "LpProblem", program: Program, variables: "list[LpVariable]") -> None:
    import pulp

    switches = {
        kind: model.add_variable(f"family_{kind}", cat=pulp.LpBinary)
        for kind in sorted(set(program.family.tolist()) - {NO_FAMILY})
    }
    uses: dict[tuple[int, int], list[Any]] = {}
    for variable, group, kind in zip(variables, program.group.tolist(), program.family.tolist(), strict=True):
        if kind != NO_FAMILY:
            uses.setdefault((group, kind), []).append((variable, 1))
    for (_, kind), terms in uses.items():
        model += pulp.LpAffineExpression([*terms, (switches[kind], -1)]) <= 0
    model += pulp.LpAffineExpression([(switch, 1) for switch in switches.values()]) <= program.max_families


def read(program: Program, model: "LpProblem", variables: "list[LpVariable]", bound: float) -> Outcome:
    """Convert a solved PuLP model. Only `sol_status` tells a proof from a time limit; `status` is Optimal for both.

    Args:
        program: What was solved.
        model: The PuLP model.
        variables: Its variables, one per column.
        bound: Lower bound that the engine reports.
    """
    import pulp

    # For an infeasible program CBC sets only one of the two, HiGHS both.
    if pulp.LpSolutionInfeasible in (model.status, model.sol_status):
        return Outcome(None, math.inf, finished=True)
    finished = model.sol_status == pulp.LpSolutionOptimal
    if model.sol_status not in (pulp.LpSolutionOptimal, pulp.LpSolutionIntegerFeasible):
        return Outcome(None, bound, finished=False)
    weight = np.array([variable.varValue or 0.0 for variable in variables])
    return Outcome(strongest(program, weight), bound, finished)
