"""Plans for integers only: how functions are computed, what that costs, and widths of inputs beside bits of weights."""

import itertools
import json
import math
from dataclasses import replace

import pytest

from hwmodels import load_device, operation_cost, operations
from qbert_opt.costs.functions import LARGEST_ERROR, cheapest_ways, parse_functions, planned_functions, recorded
from qbert_opt.costs.operations import model_graph
from qbert_opt.costs.simulate import simulate_allocation, simulate_baselines
from qbert_opt.costs.workload import FLOAT, Workload
from qbert_opt.errors import InfeasibleError, QbertOptWarning, UsageError
from qbert_opt.integer.errors import usual_error
from qbert_opt.integer.ways import Ways
from qbert_opt.planning.constraints import PlanConstraints
from qbert_opt.planning.input_widths import solve_rounded
from qbert_opt.planning.planner import allocate
from qbert_opt.planning.program import PlanningTask
from qbert_opt.planning.solving import SolverOptions
from qbert_opt.planning.task_solver import solve_task
from qbert_opt.spec.activations import activation_choice, input_bits, planned_activations, selected_activations
from qbert_opt.spec.limits import Limits
from qbert_opt.spec.score_parts import ActivationScores
from qbert_opt.spec.scores import write_scores

FOR_INTEGERS = PlanConstraints(engine="integer")
NAMES = ("8bit/tensor/mse", "16bit/tensor/mse")
WIDTHS = [activation_choice(name) for name in NAMES]
ASKING = (5, 40)  # inputs that lose too much at 8 bits


def with_inputs(scores, eight):
    """Give matrices of a score table inputs of their own, with some loss at 8 bits and none to speak of at 16."""
    inputs = tuple((m.module,) for m in scores.profile.matrices)
    value = tuple((eight.get(i, 1e-9), 1e-12) for i in range(len(inputs)))
    activations = ActivationScores(
        inputs=inputs, choices=NAMES, value=value, std_error=value,
        ranges=(((-1.0, 2.0), (-1.0, 2.0)),) * len(inputs), contains="made up",
    )  # fmt: skip
    return scores.model_copy(update={"activations": activations})


def test_the_cheapest_exact_ways_are_those_of_the_operations_prices(reference, car_soc):
    """An independent sum over the graph: no way that is exact enough costs less, and no other is taken."""
    workload = Workload(64)
    chosen = cheapest_ways(reference.profile, workload, car_soc)
    for kind, function in (("softmax", "softmax"), ("gelu", "activation"), ("layernorm", "norm")):
        seconds = {}
        for way in ("table", "poly", "shift"):
            graph = model_graph(reference.profile, None, replace(workload, functions=Ways(way, way, way)))
            ops = [op for op in operations(graph).values() if op.kind == kind]
            seconds[way] = math.fsum(operation_cost(op, car_soc).latency_bound_s for op in ops)
        exact = [way for way in seconds if usual_error(function, way).largest <= LARGEST_ERROR[function]]
        assert seconds[getattr(chosen, function)] == min(seconds[way] for way in exact)
    assert "shift" not in (chosen.softmax, chosen.activation)


def test_a_unit_without_table_reads_takes_polynomials_and_one_without_divisions_none(reference, car_soc):
    def lacking(part):
        units = tuple(
            unit.model_copy(update={"integers": unit.integers.model_copy(update={part: None})})
            for unit in car_soc.units
        )
        return car_soc.model_copy(update={"units": units})

    ways = cheapest_ways(reference.profile, Workload(64), lacking("table_reads"))
    assert (ways.softmax, ways.activation) == ("poly", "poly")
    with pytest.raises(InfeasibleError, match="car-soc: found a softmax in integers; mma has no divisions; a72 has no"):
        cheapest_ways(reference.profile, Workload(64), lacking("divisions"))


def test_a_plan_for_integers_records_the_ways_and_is_simulated_with_them(rtn_scores, car_soc):
    limits = Limits(encoder_bytes=rtn_scores.profile.encoder_elements)
    plan = allocate(rtn_scores, limits, device=car_soc, workload=Workload(16), constraints=FOR_INTEGERS)
    assert plan.functions == {"softmax": "table", "activation": "table", "norm": "table"}
    again = simulate_allocation(plan, car_soc, Workload(16))
    assert again.latency_s == plan.device.latency_s and again.peak_memory_bytes == plan.device.peak_memory_bytes
    plain = allocate(rtn_scores, limits, device=car_soc, workload=Workload(16))
    assert plain.functions == {} and plain.device.latency_s != plan.device.latency_s
    tables = sum(
        op.table_bytes for op in operations(model_graph(plan.profile, None, Workload(16, 1, {}, Ways()))).values()
    )
    assert tables > 0 and plan.device.peak_memory_bytes == plain.device.peak_memory_bytes + tables
    reports = simulate_baselines(plain, ["table", "float"], car_soc, Workload(16))
    assert reports["table"].latency_s == pytest.approx(plan.device.latency_s, rel=0.2)  # other choices of weights
    units = {row.cost.unit for row in reports["float"].operations if row.cost.format == "softmax"}
    assert units == {"a72"}
    with pytest.raises(UsageError, match=r"`compare` tables: legal: fp32, fp16, int2.*poly, shift, table, float"):
        simulate_baselines(plain, ["tables"], car_soc, Workload(16))


def test_a_device_without_such_rates_is_priced_at_its_own_and_says_so(rtn_scores):
    rpi5 = load_device("rpi5")
    with pytest.warns(QbertOptWarning, match="rpi5: states no rates of elementary integer operations"):
        plan = allocate(rtn_scores, Limits(encoder_bytes=10**6), device=rpi5, constraints=FOR_INTEGERS)
    assert plan.functions == {} and plan.engine.name == "integer"


def test_functions_are_read_and_recorded(reference, car_soc):
    assert parse_functions(None, reference.profile, Workload(), car_soc) is None
    for text in ("float", "poly", "softmax=shift,norm=poly"):
        functions = parse_functions(text, reference.profile, Workload(), car_soc)
        assert planned_functions(recorded(functions)) == functions
    assert recorded(FLOAT) == {"softmax": "float", "activation": "float", "norm": "float"}
    assert planned_functions({}) is None
    with pytest.raises(UsageError, match="`nonlinearity` magic: legal: poly, shift, table, auto, float"):
        parse_functions("magic", reference.profile, Workload(), car_soc)


def test_an_engine_of_integers_takes_every_scored_width(rtn_scores, car_soc):
    scores = with_inputs(rtn_scores, {})
    assert {c.bits for c in selected_activations(None, None, scores, car_soc)} == {8}
    assert {c.bits for c in selected_activations(None, None, scores, car_soc, every_width=True)} == {8, 16}
    assert {c.bits for c in selected_activations("8", None, scores, car_soc, every_width=True)} == {8}


@pytest.fixture(scope="module")
def asking(reference):
    """The bundled scores, where two inputs ask for 16 bits."""
    return with_inputs(reference, dict(zip(ASKING, (5e-2, 2.5e-2), strict=True)))


def task_with(scores, device, latency_s):
    """Few choices, so that programs are solved quickly."""
    return PlanningTask(
        scores, Limits(encoder_bytes=25_000_000, latency_s=latency_s), device=device, workload=Workload(64),
        constraints=PlanConstraints(bits=(2, 3), groupings=("rows:each", "columns:128")),
    )  # fmt: skip


def total(task, plan, planned):
    return task.sum_of_scores(plan.storage) + math.fsum(item.predicted_loss for item in planned)


def test_widths_and_bits_are_as_good_as_every_choice_of_widths_tried_out(asking, car_soc):
    """4 combinations of widths, each with its best weights: the search finds one of the best within the limit."""
    options, free = SolverOptions(), task_with(asking, car_soc, 1.0)
    plain = planned_activations(asking, WIDTHS[:1], 0.0)
    wide = planned_activations(asking, WIDTHS[1:], 0.0)
    ends = []
    for asked in ((), ASKING):
        widths = input_bits(wide[i] if i in asked else item for i, item in enumerate(plain))
        ends.append(solve_task(free.reading(widths), options).report.latency_s)
    task = task_with(asking, car_soc, ends[0] + 0.3 * (ends[1] - ends[0]))
    found = total(*solve_rounded(task, options, WIDTHS))
    losses = {}
    for chosen in itertools.chain.from_iterable(itertools.combinations(ASKING, n) for n in range(3)):
        planned = tuple(wide[i] if i in chosen else item for i, item in enumerate(plain))
        own = task.reading(input_bits(planned))
        try:
            losses[chosen] = total(own, solve_task(own, options), planned)
        except InfeasibleError:
            continue
    assert found <= losses[()] and min(losses.values()) <= found * (1 + 1e-9)
    assert found <= 1.02 * min(losses.values())


def test_without_a_limit_that_binds_every_input_that_asks_gets_16_bits(asking, car_soc):
    task, plan, planned = solve_rounded(task_with(asking, car_soc, 1.0), SolverOptions(), WIDTHS)
    assert [i for i, item in enumerate(planned) if item.bits == 16] == [*ASKING]
    assert plan.report.latency_s < 1.0 and task.workload.input_bits[planned[ASKING[0]].modules[0]] == 16


def test_the_command_line_prices_functions(cli, rtn_scores, tmp_path):
    write_scores(with_inputs(rtn_scores, {0: 1.0}), tmp_path / "scores.json")
    plan = tmp_path / "plan.json"
    run = cli("solve", "--scores", tmp_path / "scores.json", "-b", "8bit", "--device", "car-soc", "--engine", "integer",
              "--seq-len", "16", "-o", plan)  # fmt: skip
    assert run.code == 0, run.err
    written = json.loads(plan.read_text())
    assert written["functions"]["softmax"] == "table"
    assert {item["bits"] for item in written["activations"]} == {8, 16}
    run = cli("simulate", plan, "--device", "car-soc", "--seq-len", "16", "--compare", "table,float,int8")
    assert run.code == 0, run.err
    assert "softmax by table" in run.out and "on mma" in run.out and "float" in run.out
    run = cli("simulate", plan, "--device", "car-soc", "--nonlinearity", "float", "--lengths", "8:1,16:2")
    assert run.code == 0, run.err
    for way in ("poly", "auto"):
        run = cli("simulate", plan, "--device", "rpi5", "--nonlinearity", way)
        assert run.code == 3 and "a76 states no rates of elementary integer operations" in run.complaint
    run = cli("solve", "--scores", tmp_path / "scores.json", "-b", "8bit", "--nonlinearity", "auto")
    assert run.code == 2 and "--nonlinearity: belongs to --device" in run.complaint
