"""Embedding tables as items of a plan: chosen with the matrices, priced like them, and left at 8 bits if not scored."""

import itertools
import math

import numpy as np
import pytest

from qbert_opt.costs.operations import Storage
from qbert_opt.costs.pricing import fixed_costs, option_tables
from qbert_opt.costs.simulate import simulate_allocation
from qbert_opt.costs.workload import Workload
from qbert_opt.errors import InfeasibleError, InputFileError, UsageError
from qbert_opt.planning.constraints import PlanConstraints
from qbert_opt.planning.planner import allocate
from qbert_opt.spec.allocation import read_allocation, write_allocation
from qbert_opt.spec.choices import choice
from qbert_opt.spec.limits import Limits
from qbert_opt.spec.scores import ScoreTable
from qbert_opt.spec.tables import TABLE_CHOICE, table_grid

CHOICES = ("2bit/rows:each/rtn", "4bit/columns:16/rtn", "8bit/rows:each/rtn")


def with_tables(scores, choices=CHOICES, scale=1e-3):
    """Add made-up scores for every table: errors fall fourfold with each bit, and the first table dominates."""
    tables = scores.profile.tables
    value = [
        [scale / (1 + i) * 4.0 ** -choice(c).bits if divides(choice(c), table) else None for c in choices]
        for i, table in enumerate(tables)
    ]
    document = scores.model_dump(by_alias=True)
    document["tables"] = {
        "modules": [t.module for t in tables], "choices": choices, "value": value, "std_error": value,
        "weight_error": value, "unseen_rows": [0.5] * len(tables), "unseen_reads": [0.1] * len(tables),
        "contains": "made up",
    }  # fmt: skip
    return ScoreTable.model_validate(document)


def divides(c, table):
    return c.grouping == "rows:each" or table.columns % int(c.grouping.partition(":")[2]) == 0


@pytest.fixture(scope="module")
def scores(rtn_scores):
    """Scores of the tiny model with scored tables."""
    return with_tables(rtn_scores)


def test_without_a_limit_on_the_whole_model_tables_keep_their_best(rtn_scores, scores):
    """`--budget` covers matrices only: they are chosen as without scored tables, and tables take their best choice."""
    limits = Limits(encoder_bytes=scores.profile.encoder_elements // 2)
    plain, plan = allocate(rtn_scores, limits), allocate(scores, limits)
    assert [m.choice for m in plan.matrices] == [m.choice for m in plain.matrices]
    assert {t.choice.name for t in plan.tables} == {TABLE_CHOICE.name}
    assert plan.total_bytes == plain.total_bytes == plan.encoder_bytes + plan.profile.fixed_bytes
    assert (plain.folds, plan.folds) == (8, 0)  # these tables were scored without folds
    without_folds = allocate(rtn_scores.model_copy(update={"fold_value": ()}), limits)
    assert plan.next_mb_gain == pytest.approx(without_folds.next_mb_gain)
    losses = [m.predicted_loss for m in plan.matrices] + [t.predicted_loss for t in plan.tables]
    assert plan.sum_of_scores == math.fsum(losses) > plain.sum_of_scores
    assert (plain.roundings, plan.roundings) == (("matrices",), ("matrices", "tables"))
    assert all(t.predicted_loss is None for t in plain.tables)


@pytest.mark.parametrize("share", [0.35, 0.55, 0.8])
def test_tables_and_matrices_share_a_total_budget_best(rtn_scores, scores, share):
    """The plan is as good as the best over all combinations of table choices, with the matrices solved for the rest."""
    profile = scores.profile
    smallest = sum(c.bytes(t.rows, t.columns, heads=1) for t in profile.tables for c in [choice(CHOICES[0])])
    largest = profile.fixed_bytes + profile.encoder_elements
    total = int(smallest + profile.other_bytes + share * (largest - smallest - profile.other_bytes))
    plan = allocate(scores, Limits(total_bytes=total))
    assert plan.status == "optimal"
    assert plan.total_bytes <= total
    assert plan.total_bytes == plan.encoder_bytes + sum(t.bytes for t in plan.tables) + profile.other_bytes
    sums, best = rtn_scores.model_copy(update={"fold_value": ()}), math.inf  # cross-fitting plays no part here
    for combination in itertools.product(range(len(CHOICES)), repeat=len(profile.tables)):
        picked = [choice(CHOICES[j]) for j in combination]
        table_bytes = sum(c.bytes(t.rows, t.columns, heads=1) for c, t in zip(picked, profile.tables, strict=True))
        try:
            rest = allocate(sums, Limits(encoder_bytes=total - table_bytes - profile.other_bytes)).sum_of_scores
        except InfeasibleError:
            continue
        best = min(best, rest + math.fsum(scores.tables.value[i][j] for i, j in enumerate(combination)))
    assert plan.sum_of_scores == pytest.approx(best, rel=1e-6)
    assert plan.limits[0].binds


def test_pins_and_filters_reach_tables(scores):
    """`--pin` and `--table-bits` also apply to tables; a width that was not scored is rejected."""
    limits = Limits(encoder_bytes=scores.profile.encoder_elements // 2)
    plan = allocate(scores, limits, constraints=PlanConstraints(pins={"word_embeddings": 4}))
    assert {t.module.rsplit(".", 1)[-1]: t.bits for t in plan.tables}["word_embeddings"] == 4
    assert {t.bits for t in allocate(scores, limits, constraints=PlanConstraints(table_bits=(2, 4))).tables} == {4}
    with pytest.raises(UsageError, match=r"`table_bits`: not scored .* 2bit/rows:each/rtn"):
        allocate(scores, limits, constraints=PlanConstraints(table_bits=(3,)))
    with pytest.raises(UsageError, match=r"`pins` word=3"):
        allocate(scores, limits, constraints=PlanConstraints(pins={"word": 3}))


def test_a_total_budget_below_every_plan(scores):
    """The message gives the nearest feasible total, and it is feasible."""
    profile = scores.profile
    with pytest.raises(InfeasibleError, match=r"--total-budget = .*nearest feasible .*binding limit total_bytes"):
        allocate(scores, Limits(total_bytes=profile.other_bytes + 100))


def test_program_and_simulator_agree_on_tables(reference_sums, car_soc):
    """With tables at mixed bits, the program's bytes, DRAM bytes and dynamic energy equal the simulator's exactly."""
    scores = with_tables(reference_sums, tuple(c.name for c in table_grid()))
    first, *_ = [t.module for t in scores.profile.tables]
    workload = Workload(64, 2)
    limits = Limits(encoder_bytes=25_000_000)
    plan = allocate(scores, limits, device=car_soc, workload=workload, constraints=PlanConstraints(pins={first: 3}))
    assert {t.bits for t in plan.tables} == {3, 8}
    report = simulate_allocation(plan, car_soc, workload)
    assert report.weight_bytes == plan.total_bytes
    items = [*plan.matrices, *plan.tables]
    choices = tuple(dict.fromkeys(item.choice for item in items))
    storage = {m.module: Storage(m.choice, m.residency == "resident") for m in plan.matrices}
    storage |= {t.module: Storage(t.choice) for t in plan.tables}
    legal = [[item.choice == c for c in choices] for item in items]
    tables = plan.profile.tables
    priced = option_tables(plan.profile, choices, np.array(legal), car_soc, workload, tables)
    rest = fixed_costs(plan.profile, storage, car_soc, workload, tables)
    for row in ("dram_bytes", "dynamic_energy_j", "latency_bound_s"):
        chosen = [priced.usage[row][i, priced.options.index(storage[item.module])] for i, item in enumerate(items)]
        assert math.fsum([*chosen, *(getattr(cost, row) for cost in rest)]) == getattr(report, row)


def test_fewer_table_bits_move_fewer_bytes(reference_sums, car_soc):
    """The simulator counts the bits of gathered rows: 3 bits move fewer bytes than 8."""
    scores = with_tables(reference_sums, tuple(c.name for c in table_grid()))
    word = scores.profile.tables[0]
    moved = {}
    for bits in (3, 8):
        plan = allocate(
            scores,
            Limits(encoder_bytes=25_000_000),
            device=car_soc,
            constraints=PlanConstraints(pins={word.module: bits}),
        )
        report = simulate_allocation(plan, car_soc, Workload())
        moved[bits] = next(o.cost.dram_bytes for o in report.operations if o.cost.name == word.module)
    assert moved[8] - moved[3] >= 128 * word.columns * 5 / 8 * 0.9


def test_a_plan_whose_tables_were_changed_is_refused(scores, tmp_path):
    """Tables read back as written; bytes other than the choice's are a bad input file."""
    plan = allocate(scores, Limits(encoder_bytes=scores.profile.encoder_elements // 2))
    path = tmp_path / "allocation.json"
    write_allocation(plan, path)
    assert read_allocation(path) == plan
    path.write_text(
        path.read_text().replace('"bits": 8,\n   "grouping": "rows:each"', '"bits": 4,\n   "grouping": "rows:each"')
    )
    with pytest.raises(InputFileError, match=r"tables: .*: 4bit/rows:each/rtn: bytes is 2304; legal here: 1280"):
        read_allocation(path)


def test_tables_share_no_range_between_rows():
    """Row groups over several rows of a table are rejected."""
    with pytest.raises(UsageError, match=r"rows:128: rows of a table cannot share a range"):
        table_grid((4,), ("rows:128",))
