"""The engine that needs no further package: branch and bound by SciPy's built-in HiGHS."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ..model.program import NO_FAMILY, FloatArray, IntArray, Program
from .outcome import Outcome, SearchLimits


def minimise_by_scipy(program: Program, rejected: tuple[IntArray, ...], limits: SearchLimits) -> Outcome:
    """Solve one scaled program with `scipy.optimize.milp`.

    Args:
        program: Scaled.
        rejected: Plans that must not be returned, each int [G].
        limits: Time, gap and number of nodes.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    columns, kinds = len(program.group), _kinds(program)
    constraints = [LinearConstraint(matrix, low, high) for matrix, low, high in _blocks(program, kinds, rejected)]
    with _silent():
        result = milp(
            np.concatenate([program.cost, np.zeros(len(kinds))]),
            integrality=np.ones(columns + len(kinds)),
            bounds=Bounds(0, 1),
            constraints=constraints,
            options=_options(limits),
        )
    if result.status == 2:
        return Outcome(None, np.inf, finished=True)
    bound = -np.inf if result.mip_dual_bound is None else float(result.mip_dual_bound)
    chosen = None if result.x is None else strongest(program, result.x[:columns])
    return Outcome(chosen, bound, finished=result.status == 0)


@contextmanager
def _silent() -> Iterator[None]:
    """Keep HiGHS 1.8 to 1.12 from printing a debugging line to standard output."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _options(limits: SearchLimits) -> dict[str, float | int]:
    options: dict[str, float | int] = {"mip_rel_gap": limits.engine_gap()}
    if limits.deadline != np.inf:
        options["time_limit"] = limits.remaining_s()
    if limits.most_nodes is not None:
        options["node_limit"] = limits.most_nodes
    return options


def strongest(program: Program, weight: FloatArray) -> IntArray:
    """Return the column of greatest weight of each group, int [G]: the plan behind nearly integral variables.

    Args:
        program: Its groups.
        weight: Value of each column's variable, float [N].
    """
    order = np.lexsort((-weight, program.group))
    first: IntArray = order[program.starts]
    return first


def _kinds(program: Program) -> list[int]:
    return [] if program.max_families is None else sorted(set(program.family.tolist()) - {NO_FAMILY})


def _blocks(  # type: ignore[no-untyped-def]
    program: Program, kinds: list[int], rejected: tuple[IntArray, ...]
):
    """Yield (sparse matrix, low, high) for choices, capacities, families and rejected plans."""
    from scipy.sparse import csr_array, hstack

    columns, groups = len(program.group), int(program.group[-1]) + 1
    wide = columns + len(kinds)
    index = np.arange(columns)
    yield csr_array((np.ones(columns), (program.group, index)), shape=(groups, wide)), 1, 1
    if len(program.rhs):
        none = csr_array((len(program.rhs), len(kinds)))
        yield hstack([csr_array(program.rows), none], format="csr"), -np.inf, program.rhs
    for kind_index, kind in enumerate(kinds):
        # Per group: the sum over the family's columns ≤ the family's switch; tighter than one row for all groups.
        member = index[program.family == kind]
        group, local = np.unique(program.group[member], return_inverse=True)
        uses = csr_array((np.ones(len(member)), (local, member)), shape=(len(group), wide))
        switch = csr_array(
            (np.ones(len(group)), (np.arange(len(group)), np.full(len(group), columns + kind_index))),
            shape=(len(group), wide),
        )
        yield uses - switch, -np.inf, 0
    if kinds:
        switches = columns + np.arange(len(kinds))
        yield (
            csr_array((np.ones(len(kinds)), (np.zeros(len(kinds), int), switches)), shape=(1, wide)),
            -np.inf,
            program.max_families,
        )
    for plan in rejected:
        yield (
            csr_array((np.ones(groups), (np.zeros(groups, int), plan)), shape=(1, wide)),
            -np.inf,
            groups - 1,
        )
