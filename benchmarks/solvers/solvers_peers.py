"""What other allocators do on the same problems: plain CBC and HiGHS, hull and greedy, dynamic programming."""

import time
import warnings
from dataclasses import replace

import numpy as np

from solvers import ChoiceProblem, violations

Plan = tuple[int, ...] | None


def plain_cbc(problem: ChoiceProblem, time_limit_s: float) -> Plan:
    """Return CBC's plan with default settings and raw values, as ModelOpt and MCT call it."""
    import pulp

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        engine = pulp.PULP_CBC_CMD(msg=False, threads=1, timeLimit=time_limit_s)
        return _by_pulp(problem, engine)


def plain_highs(problem: ChoiceProblem, time_limit_s: float) -> Plan:
    """Return HiGHS' plan with default settings and raw values."""
    import pulp

    return _by_pulp(problem, pulp.HiGHS(msg=False, threads=1, timeLimit=time_limit_s))


def highs_to_the_proof(problem: ChoiceProblem, time_limit_s: float) -> Plan:
    """Return HiGHS' plan at a gap of 1e-6 with values scaled to 1e6: the same proof as ours, by the engine alone."""
    import pulp

    scaled = replace(problem, value=problem.value * (1e6 / np.abs(problem.value).max()))
    return _by_pulp(scaled, pulp.HiGHS(msg=False, threads=1, gapRel=1e-6, timeLimit=time_limit_s))


def _by_pulp(problem: ChoiceProblem, engine) -> Plan:
    import pulp

    model = pulp.LpProblem("plain", pulp.LpMinimize)
    items, options = range(len(problem.items)), range(len(problem.options))
    x = [[model.add_variable(f"x_{i}_{o}", cat=pulp.LpBinary) for o in options] for i in items]
    model += pulp.lpSum(problem.value[i, o] * x[i][o] for i in items for o in options)
    for i in items:
        model += pulp.lpSum(x[i]) == 1
    for name, limit in problem.capacity.items():
        table = problem.usage[name]
        model += pulp.lpSum(table[i, o] * x[i][o] for i in items for o in options) <= limit
    for members in problem.groups():
        for other in members[1:]:
            for o in options:
                model += x[members[0]][o] == x[other][o]
    if problem.max_families is not None:
        kinds = sorted({family for family in problem.families if family})
        used = {kind: model.add_variable(f"f_{k}", cat=pulp.LpBinary) for k, kind in enumerate(kinds)}
        for i in items:
            for o in options:
                model += x[i][o] <= used[problem.families[o]]
        model += pulp.lpSum(used.values()) <= problem.max_families
    model.solve(engine)
    if model.sol_status not in (pulp.LpSolutionOptimal, pulp.LpSolutionIntegerFeasible):
        return None
    return tuple(int(np.argmax([variable.varValue or 0 for variable in row])) for row in x)


def hull_and_greedy(problem: ChoiceProblem, _: float) -> Plan:
    """Return the best plan of one Lagrangian sweep with a greedy fill (one capacity), as llama.cpp's mix does."""
    (name,) = problem.capacity
    table, rows = problem.usage[name], np.arange(len(problem.items))
    low, high = 0.0, float(problem.value.max() / max(table.min(), 1e-30))
    for _step in range(100):
        middle = np.sqrt(max(low, 1e-300) * high) if low else high / 1e6
        choice = (problem.value + middle * table).argmin(axis=1)
        if table[rows, choice].sum() <= problem.capacity[name]:
            high = middle
        else:
            low = middle
    choice = (problem.value + high * table).argmin(axis=1)
    while True:
        slack = problem.capacity[name] - table[rows, choice].sum()
        gain = problem.value - problem.value[rows, choice][:, None]
        gain[table - table[rows, choice][:, None] > slack] = 0
        item, option = np.unravel_index(gain.argmin(), gain.shape)
        if gain[item, option] >= 0:
            return tuple(choice.tolist()) if not violations(problem, choice.tolist()) else None
        choice[item] = option


def grid_dp(problem: ChoiceProblem, _: float, cells: int = 20_000) -> Plan:
    """Return the plan of dynamic programming over a budget of 20,000 cells, usage rounded up (one capacity)."""
    (name,) = problem.capacity
    floor = problem.usage[name].min(axis=1)
    cell = (problem.capacity[name] - floor.sum()) / cells
    weight = np.ceil((problem.usage[name] - floor[:, None]) / cell).astype(int)
    best, picks = np.zeros(cells + 1), []
    for item in range(len(problem.items)):
        rows = np.full((len(problem.options), cells + 1), np.inf)
        for option, step in enumerate(weight[item]):
            if step <= cells:
                rows[option, step:] = best[: cells + 1 - step] + problem.value[item, option]
        picks.append(rows.argmin(axis=0))
        best = rows.min(axis=0)
    left, choice = cells, []
    for item in reversed(range(len(problem.items))):
        option = int(picks[item][left])
        choice.append(option)
        left -= weight[item, option]
    return tuple(reversed(choice))


def exact_dp(problem: ChoiceProblem, time_limit_s: float) -> Plan:
    """Return the plan of dynamic programming over exact bytes, dominated sums dropped (AutoRound; one capacity).

    Sums that cannot be completed within the capacity are dropped too, which is kinder than AutoRound is to itself.
    """
    (name,) = problem.capacity
    table, deadline = problem.usage[name], time.process_time() + time_limit_s
    left = np.append(np.cumsum(table.min(axis=1)[::-1])[::-1], 0.0)
    used, value, steps = np.zeros(1), np.zeros(1), []
    for item in range(len(problem.items)):
        if time.process_time() > deadline:
            return None
        sums, values = used[:, None] + table[item], value[:, None] + problem.value[item]
        order = np.lexsort((values.ravel(), sums.ravel()))
        order = order[sums.ravel()[order] + left[item + 1] <= problem.capacity[name]]
        least = np.minimum.accumulate(values.ravel()[order])
        kept = order[np.append(True, least[1:] < least[:-1])] if len(order) else order
        if not len(kept):
            return None
        used, value = sums.ravel()[kept], values.ravel()[kept]
        steps.append(np.divmod(kept, len(problem.options)))
    at, choice = int(value.argmin()), []
    for parent, option in reversed(steps):
        choice.append(int(option[at]))
        at = int(parent[at])
    return tuple(reversed(choice))
