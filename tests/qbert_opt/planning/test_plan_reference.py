"""Plans from the bundled table: proven, within limits, and with the same costs as the simulator's."""

import math

import numpy as np
import pytest

from qbert_opt.costs.operations import Storage
from qbert_opt.costs.pricing import fixed_costs, option_tables
from qbert_opt.costs.simulate import simulate_allocation
from qbert_opt.costs.workload import Workload
from qbert_opt.errors import DeviceError, InfeasibleError, UsageError
from qbert_opt.planning.constraints import PlanConstraints
from qbert_opt.planning.device_classes import plan_for_each
from qbert_opt.planning.planner import SolverOptions, allocate
from qbert_opt.spec.limits import Limits
from qbert_opt.spec.scores import ScoreTable

BUDGETS = [22_500_000, 25_000_000, 30_000_000, 60_000_000]


def storage_of(plan):
    return {m.module: Storage(m.choice, m.residency == "resident") for m in plan.matrices}


def program_sum(plan, device, workload, row):
    """Return the program's sum over the chosen options plus everything that is not searched."""
    choices = tuple(dict.fromkeys(m.choice for m in plan.matrices))
    legal = np.ones((len(plan.matrices), len(choices)), dtype=bool)
    tables = option_tables(plan.profile, choices, legal, device, workload)
    storage = storage_of(plan)
    columns = [tables.options.index(storage[m.module]) for m in plan.matrices]
    chosen = tables.usage[row][np.arange(len(columns)), columns].tolist()
    return math.fsum([*chosen, *(getattr(c, row) for c in fixed_costs(plan.profile, storage, device, workload))])


def scaled(table, factor):
    """Return the same scores in another unit."""
    document = table.model_dump()
    for name in ("value", "std_error"):
        document[name] = [[None if v is None else v * factor for v in row] for row in document[name]]
    return ScoreTable.model_validate(document)


def test_the_readmes_plan(reference_plan):
    """Proven optimal, uses at least 24.5 of 25 MB, and its bytes are the sum over its choices."""
    plan = reference_plan
    assert plan.status == "optimal"
    assert 0 <= plan.gap <= 1e-6
    assert plan.lower_bound <= plan.sum_of_scores * (1 + 1e-12)
    assert 24_500_000 <= plan.encoder_bytes <= 25_000_000
    assert plan.encoder_bytes == sum(m.choice.bytes(m.rows, m.columns, heads=12) for m in plan.matrices)
    assert plan.total_bytes == plan.encoder_bytes + plan.profile.fixed_bytes
    assert plan.average_bits == 8 * plan.encoder_bytes / plan.profile.encoder_elements
    assert plan.next_mb_gain > 0
    assert plan.provenance.data == "snips/train"


def test_losses_are_those_of_the_scores(reference, reference_plan):
    """Predicted losses come from the score table and add up."""
    value = reference.values()
    for i, m in enumerate(reference_plan.matrices):
        assert m.predicted_loss == value[i, reference.choices.index(m.choice.name)]
    assert reference_plan.sum_of_scores == math.fsum(m.predicted_loss for m in reference_plan.matrices)


def test_the_plan_beats_every_uniform_one(reference, reference_plan):
    """The plan lists the best uniform plans within the budget, as exhaustive search finds them; none is better."""
    profile, value = reference.profile, reference.values()
    fitting = {}
    for j, candidate in enumerate(reference.grid()):
        size = sum(candidate.bytes(m.rows, m.columns, heads=profile.heads) for m in profile.matrices)
        if size <= 25_000_000:
            fitting[candidate.name] = math.fsum(value[:, j])
    best = sorted(fitting, key=fitting.get)[:3]
    assert [u.choice for u in reference_plan.uniform] == best
    assert [u.predicted_loss for u in reference_plan.uniform] == [fitting[name] for name in best]
    assert reference_plan.predicted_loss < min(fitting.values())


@pytest.mark.parametrize("workload", [Workload(), Workload(32, 4)])
def test_program_and_simulator_agree(reference_sums, car_soc, workload):
    """The program's encoder bytes, DRAM bytes and dynamic energy equal the simulator's exactly."""
    plan = allocate(reference_sums, Limits(encoder_bytes=25_000_000), device=car_soc, workload=workload)
    report = simulate_allocation(plan, car_soc, workload)
    assert {m.residency for m in plan.matrices} == {"resident", "streamed"}
    assert program_sum(plan, car_soc, workload, "dram_bytes") == report.dram_bytes == plan.device.dram_bytes
    assert program_sum(plan, car_soc, workload, "dynamic_energy_j") == report.dynamic_energy_j
    assert program_sum(plan, car_soc, workload, "latency_bound_s") == report.latency_bound_s
    assert program_sum(plan, car_soc, workload, "bops") == report.bops
    assert program_sum(plan, car_soc, workload, "scratchpad_bytes") == report.scratchpad_bytes
    assert report.weight_bytes == plan.total_bytes
    searched = {m.module for m in plan.matrices}
    assert sum(op.cost.weight_bytes for op in report.operations if op.cost.name in searched) == plan.encoder_bytes


@pytest.mark.parametrize("budget", BUDGETS)
def test_scheduled_values_keep_their_bounds(reference_sums, car_soc, budget):
    """Scheduled latency and peak memory never exceed their separable bounds, and resident weights fit on chip."""
    plan = allocate(reference_sums, Limits(encoder_bytes=budget), device=car_soc)
    report = simulate_allocation(plan, car_soc, Workload())
    assert report.latency_s <= report.latency_bound_s
    assert report.peak_memory_bytes <= report.peak_bound_bytes
    assert report.scratchpad_bytes <= report.scratchpad_room_bytes
    assert plan.device.latency_s == report.latency_s


def test_more_bytes_never_cost_more(reference, reference_sums):
    """A larger budget never has a larger predicted loss, and one more MB gains what the plan states."""
    budgets = np.linspace(22_000_000, 85_000_000, 8).astype(int).tolist()
    losses = [allocate(reference_sums, Limits(encoder_bytes=b)).sum_of_scores for b in budgets]
    assert losses == sorted(losses, reverse=True)
    plan = allocate(reference, Limits(encoder_bytes=25_000_000))
    after = allocate(reference, Limits(encoder_bytes=26_000_000))
    assert plan.next_mb_gain == pytest.approx(plan.predicted_loss - after.predicted_loss, rel=1e-4)


@pytest.mark.parametrize("factor", [1e-12, 1e12])
def test_the_unit_of_the_scores_does_not_matter(reference_sums, factor):
    """Scores a factor of 10¹² smaller or larger give the same plan."""
    limits = Limits(encoder_bytes=25_000_000)
    expected, rescaled = (allocate(t, limits) for t in (reference_sums, scaled(reference_sums, factor)))
    assert rescaled.status == "optimal"
    assert [m.choice for m in rescaled.matrices] == [m.choice for m in expected.matrices]
    assert rescaled.sum_of_scores == pytest.approx(expected.sum_of_scores * factor)


def test_below_the_floor(reference_sums, car_soc):
    """The message gives the nearest feasible value, the ceiling and the binding limit; the first is the floor."""
    profile = reference_sums.profile
    price = [[c.bytes(m.rows, m.columns, heads=12) for c in reference_sums.grid()] for m in profile.matrices]
    floor, ceiling = sum(map(min, price)), sum(map(max, price))
    with pytest.raises(InfeasibleError, match=r"--budget = .*floor: .*ceiling .*binding limit encoder_bytes") as caught:
        allocate(reference_sums, Limits(encoder_bytes=floor - 1), device=car_soc)
    message = str(caught.value)
    assert "\n" not in message
    assert f"{floor:,}" in message and f"{ceiling:,}" in message  # to the byte: in MB limit and floor look alike
    assert allocate(reference_sums, Limits(encoder_bytes=floor)).encoder_bytes == floor


def test_the_whole_model_has_a_budget_too(reference_sums):
    """`--total-budget` counts tables, biases and head; a budget below those alone is infeasible with that reason."""
    fixed = reference_sums.profile.fixed_bytes
    plan = allocate(reference_sums, Limits(total_bytes=fixed + 25_000_000))
    assert plan.encoder_bytes <= 25_000_000
    [limit] = plan.limits
    assert (limit.resource, limit.used, limit.binds) == ("total_bytes", plan.total_bytes, True)
    with pytest.raises(InfeasibleError, match=r"--total-budget = .*: the parts that are not searched .* already need"):
        allocate(reference_sums, Limits(total_bytes=fixed - 1))


def test_a_latency_limit_is_kept(reference_sums, car_soc):
    """A limit below the unlimited plan's latency is kept on the scheduled value, at the cost of loss."""
    relaxed = allocate(reference_sums, Limits(encoder_bytes=30_000_000), device=car_soc)
    limit = 0.97 * relaxed.device.latency_s
    plan = allocate(reference_sums, Limits(encoder_bytes=30_000_000, latency_s=limit), device=car_soc)
    assert simulate_allocation(plan, car_soc, Workload()).latency_s <= limit
    assert plan.device.latency_s <= limit
    assert plan.sum_of_scores >= relaxed.sum_of_scores * (1 - 1e-6)
    assert plan.lower_bound <= plan.sum_of_scores
    result = {row.resource: row for row in plan.limits}
    assert result["latency_s"].used <= result["latency_s"].capacity == limit


@pytest.mark.parametrize("which", ["energy_j", "bops"])
def test_limits_on_energy_and_bops_are_kept(reference_sums, car_soc, which):
    """Limits below what the unlimited plan uses are kept, according to the simulator."""
    few = {"device": car_soc, "constraints": PlanConstraints(bits=(2, 4, 8), groupings=("columns:64",))}
    relaxed = allocate(reference_sums, Limits(encoder_bytes=40_000_000), **few)
    used = getattr(simulate_allocation(relaxed, car_soc, Workload()), which)
    plan = allocate(reference_sums, Limits(encoder_bytes=40_000_000, **{which: 0.98 * used}), **few)
    assert getattr(simulate_allocation(plan, car_soc, Workload()), which) <= 0.98 * used
    assert plan.sum_of_scores >= relaxed.sum_of_scores * (1 - 1e-6)


def test_impossible_limits(reference_sums, car_soc):
    """A latency that no plan reaches is infeasible, and the message names the limit."""
    with pytest.raises(InfeasibleError, match=r"--max-latency"):
        allocate(reference_sums, Limits(latency_s=1e-4), device=car_soc)
    with pytest.raises(InfeasibleError, match=r"--max-dram-bytes"):
        allocate(reference_sums, Limits(dram_bytes=1000), device=car_soc)
    with pytest.raises(InfeasibleError, match=r"--max-memory"):
        allocate(reference_sums, Limits(memory_bytes=1_000_000), device=car_soc)


def test_a_traffic_limit_decides_what_stays_on_chip(reference_sums, car_soc):
    """DRAM bytes are a hard limit of the program, residency included."""
    few = {"device": car_soc, "constraints": PlanConstraints(bits=(2, 4, 8), groupings=("columns:64",))}
    relaxed = allocate(reference_sums, Limits(encoder_bytes=40_000_000), **few)
    limit = int(0.8 * relaxed.device.dram_bytes)
    plan = allocate(reference_sums, Limits(encoder_bytes=40_000_000, dram_bytes=limit), **few)
    assert simulate_allocation(plan, car_soc, Workload()).dram_bytes <= limit
    assert next(row for row in plan.limits if row.resource == "dram_bytes").binds


def test_pins_and_filters(reference_sums):
    """Pins hold for every matrix whose name contains the given name; filters leave only the listed choices."""
    plan = allocate(
        reference_sums,
        Limits(encoder_bytes=40_000_000),
        constraints=PlanConstraints(pins={"layer.0.": 8}, groupings=("columns:64",)),
    )
    assert {m.bits for m in plan.matrices if m.block == 0} == {8}
    assert {m.grouping for m in plan.matrices} == {"columns:64"}
    assert {
        m.bits
        for m in allocate(
            reference_sums, Limits(encoder_bytes=60_000_000), constraints=PlanConstraints(bits=(2, 4))
        ).matrices
    } <= {2, 4}
    name = reference_sums.profile.matrices[0].module
    with pytest.raises(UsageError, match=r"`pins` nothing=8: no matrix of .* has 'nothing' in its name"):
        allocate(reference_sums, Limits(), constraints=PlanConstraints(pins={"nothing": 8}))
    with pytest.raises(UsageError, match=r"`pins` .*=5: 5 bits were not scored for it, or are not allowed"):
        allocate(reference_sums, Limits(), constraints=PlanConstraints(pins={name: 5}))
    with pytest.raises(UsageError, match=r"`bits` 7: none of these was scored. Scored: 2, 3, 4, 8 bits, in rows:1, .*"):
        allocate(reference_sums, Limits(), constraints=PlanConstraints(bits=(7,)))


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(latency_s=1.0), r"`latency_s`: needs `device`"),
        (Limits(memory_bytes=10**9), r"`memory_bytes`: needs `device`"),
        (Limits(dram_bytes=10**9), r"`dram_bytes`: needs `device`"),
        (Limits(energy_j=1.0), r"`energy_j`: needs `device`"),
        (Limits(bops=1e15), r"`bops`: needs `device`"),
        (Limits(bandwidth_bytes_per_s=1e9), r"`bandwidth_bytes_per_s`: needs `device`"),
    ],
)
def test_limits_that_need_a_device(reference_sums, limits, message):
    """Without a device only bytes can be limited."""
    with pytest.raises(UsageError, match=message):
        allocate(reference_sums, limits)


def test_a_bandwidth_needs_a_rate(reference_sums, car_soc):
    """Bytes per second are bytes per inference times a rate; with a rate, the limit is met."""
    with pytest.raises(UsageError, match=r"`bandwidth_bytes_per_s`: needs `inferences_per_s`"):
        allocate(reference_sums, Limits(bandwidth_bytes_per_s=1e9), device=car_soc)
    limits = Limits(encoder_bytes=25_000_000, bandwidth_bytes_per_s=1e9, inferences_per_s=30)
    plan = allocate(reference_sums, limits, device=car_soc)
    assert plan.device.bandwidth_bytes_per_s <= 1e9
    assert plan.device.bandwidth_bytes_per_s == 30 * plan.device.dram_bytes


def test_unknown_solver(reference_sums):
    """An unknown solver is a usage error."""
    with pytest.raises(UsageError, match=r"'oracle-of-delphi' is unknown. Choose one of auto"):
        allocate(reference_sums, Limits(encoder_bytes=25_000_000), options=SolverOptions(solver="oracle-of-delphi"))


def test_a_device_by_name_is_the_loaded_one(reference_sums, car_soc):
    limits = Limits(encoder_bytes=25_000_000)
    assert allocate(reference_sums, limits, device="car-soc") == allocate(reference_sums, limits, device=car_soc)
    [by_name] = plan_for_each(reference_sums, ["car-soc"], limits, Workload())
    assert by_name.plan is not None and by_name.plan.device.name == "car-soc"


@pytest.mark.parametrize(
    ("device", "error", "message"),
    [("toaster", DeviceError, "toaster"), (5, UsageError, "`device`: 5 is not a device. Give a name, a YAML file or")],
)
def test_what_is_no_device_is_refused(reference_sums, device, error, message):
    with pytest.raises(error, match=message):
        allocate(reference_sums, Limits(), device=device)
    with pytest.raises(error, match=message):
        plan_for_each(reference_sums, [device], Limits(), Workload())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time_limit_s": "5"}, "`time_limit` '5': give seconds, a number above 0, or None"),
        ({"time_limit_s": 0}, "`time_limit` 0: give seconds"),
        ({"time_limit_s": True}, "`time_limit` True: give seconds"),
        ({"time_limit_s": math.nan}, "`time_limit` nan: give seconds"),
        ({"relative_gap": "1%"}, "relative_gap '1%': give a number of at least 0"),
        ({"relative_gap": -1e-6}, "relative_gap -1e-06: give a number of at least 0"),
    ],
)
def test_solver_options_are_numbers(options, message):
    with pytest.raises(UsageError, match=message):
        SolverOptions(**options)
