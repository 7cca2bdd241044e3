"""Seeded problems with the statistics of real score tables: BERT-base shapes, 36 choices, up to four resources.

A value is sensitivity × ‖ΔW‖²: sensitivities spread log-normally by two orders of magnitude, the error falls
four-fold per bit and by up to three-fold with finer groups, and each entry has its own log-normal scatter of 0.35
(what is left between options of one matrix in measured tables). Bytes are exact: packed codes and four bytes per
group. Traffic, seconds and joules follow from bytes and multiply-adds with per-format unpack costs, so the four
resources are correlated but not proportional.
"""

import numpy as np
from numpy.typing import NDArray

from qbert_opt.planning.program import PlanningTask
from qbert_opt.spec.limits import Limits
from solvers import ChoiceProblem

BITS = (2, 3, 4, 8)
GROUPINGS = ("rows1", "rows12", "rows128", "rows", "columns32", "columns64", "columns128", "columns256", "columns384")
OPTIONS = tuple(f"{bits}/{grouping}" for bits in BITS for grouping in GROUPINGS)
LAYER = ((768, 768),) * 4 + ((3072, 768), (768, 3072))
ENDS = ((30522, 768), (768, 768), (3, 768))


def bert_shapes(items: int) -> list[tuple[int, int]]:
    """Return encoder layers (six matrices each), then word table, pooler and classifier: 12 layers give 75."""
    layers = max(0, items - len(ENDS)) // len(LAYER) + 1
    return [*(list(LAYER) * layers)[: items - len(ENDS)], *ENDS]


def groups_of(shape: tuple[int, int], grouping: str) -> int:
    """Return how many ranges a matrix has."""
    rows, columns = shape
    if grouping == "rows":
        return rows
    if grouping.startswith("rows"):
        return min(rows, int(grouping.removeprefix("rows")))
    return rows * (columns // int(grouping.removeprefix("columns")))


def tables(items: int, seed: int) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]:
    """Return value [I, 36] and usage {bytes, dram_bytes, latency_s, energy_j}, each [I, 36]."""
    rng = np.random.default_rng(seed)
    shapes = bert_shapes(items)
    bits = np.array([bits for bits in BITS for _ in GROUPINGS], dtype=float)
    weights = np.array([rows * columns for rows, columns in shapes], dtype=float)[:, None]
    groups = np.array([[groups_of(shape, option.split("/")[1]) for option in OPTIONS] for shape in shapes])
    sensitivity = np.exp(rng.normal(0, 2.3, (items, 1))) * 1e-6
    fineness = 1 + 2 * np.exp(-groups / groups.max(axis=1, keepdims=True) * 4) + rng.uniform(0, 0.5, (items, 1))
    value = sensitivity * np.sqrt(weights) * 4.0**-bits * fineness * np.exp(rng.normal(0, 0.35, (items, 36)))
    stored = np.ceil(weights * bits / 8) + 4 * groups
    resident = rng.uniform(0, 0.3, (items, 1))  # the part of a matrix that stays in the scratchpad
    traffic = np.ceil(stored * (1 - resident) + 256 * np.sqrt(weights))
    unpack = np.array([{2: 3.0, 3: 5.0, 4: 2.0, 8: 0.2}[int(b)] for b in bits]) * weights * (1 + groups / weights * 64)
    kernel = np.exp(rng.normal(0, 0.25, (2, items, 36)))  # how well the kernel of a format suits a shape
    latency = np.maximum(traffic / 12e9, 128 * weights / 2e12 * (1 + bits / 8)) + unpack / 8e10 * kernel[0]
    energy = traffic * 4e-11 + (128 * weights * 1e-13 * (1 + bits / 4) + unpack * 4e-12) * kernel[1]
    return value, {"bytes": stored, "dram_bytes": traffic, "latency_s": latency, "energy_j": energy}


def instance(
    items: int, resources: int, seed: int, *, ties: bool = False, max_families: int | None = None
) -> ChoiceProblem:
    """Return one problem whose capacities are all tight: a random compromise's usage, ± 3 percent."""
    value, usage = tables(items, seed)
    rng = np.random.default_rng(1_000_000 + seed)
    limited = list(usage)[:resources]
    # A plan of least value + Σ price × usage; prices such that each resource weighs about as much as the value.
    weight = sum(rng.uniform(0.5, 1.5) * usage[name] / usage[name].mean() for name in limited)
    plan = (value + weight * np.median(value) * 10.0 ** rng.uniform(0.0, 1.5) / resources).argmin(axis=1)
    capacity = {}
    for name in limited:
        limit = usage[name][np.arange(items), plan].sum() * rng.uniform(0.97, 1.03)
        floor = usage[name].min(axis=1).sum()
        capacity[name] = (
            float(np.floor(max(limit, floor * 1.02))) if "bytes" in name else float(max(limit, floor * 1.02))
        )
    names = tuple(f"m{i}" for i in range(items))
    fused = tuple((f"m{6 * k}", f"m{6 * k + 1}", f"m{6 * k + 2}") for k in range((items - 3) // 6)) if ties else ()
    return ChoiceProblem(
        names, OPTIONS, value, {name: usage[name] for name in list(usage)[:resources]}, capacity, ties=fused,
        families=tuple(OPTIONS) if max_families else None, max_families=max_families,
    )  # fmt: skip


REAL_RESOURCES = ("encoder_bytes", "dram_bytes", "latency_bound_s", "energy_bound_j")


def real_instance(scores, device, resources: int, seed: int) -> ChoiceProblem:
    """Return the program of a real table of scores on a device, capacities drawn as in `instance`.

    Peers know no masks, so a masked option is a copy of one that is not.
    """
    problem = PlanningTask(scores, Limits(), device=device).problem({})
    mask, limited = problem.mask(), REAL_RESOURCES[:resources]
    stand_in = np.where(mask, np.arange(len(problem.options)), mask.argmax(axis=1)[:, None])
    value = np.take_along_axis(problem.value, stand_in, 1)
    usage = {name: np.take_along_axis(problem.usage[name], stand_in, 1) for name in limited}
    rng, rows = np.random.default_rng(2_000_000 + seed), np.arange(len(problem.items))
    weight = sum(rng.uniform(0.5, 1.5) * table / table.mean() for table in usage.values())
    price = np.median(value) * 10.0 ** rng.uniform(0, 2.5) / resources
    plan = (value + weight * price).argmin(axis=1)
    capacity = {}
    for name, table in usage.items():
        limit = max(table[rows, plan].sum() * rng.uniform(0.97, 1.03), table.min(axis=1).sum() * 1.02)
        capacity[name] = float(np.floor(limit)) if "bytes" in name else float(limit)
    return ChoiceProblem(problem.items, problem.options, value, usage, capacity)
