"""Plans made for an engine: they pass its pre-check, limits count its file, the simulator reads its rules."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwmodels import Operation, StoredWeight, load_device, operation_cost
from qbert_opt.costs.devices import load_device as load_checked
from qbert_opt.costs.engine_target import engine_target
from qbert_opt.costs.operations import matrix_operation
from qbert_opt.costs.simulate import simulate_allocation
from qbert_opt.costs.stored import Storage, refusal_of_plan, stored_weight, weight_bytes
from qbert_opt.costs.workload import Workload
from qbert_opt.engines.rules import EngineRules
from qbert_opt.engines.session import rules_of
from qbert_opt.errors import DeviceError, InfeasibleError, UsageError
from qbert_opt.planning.constraints import PlanConstraints
from qbert_opt.planning.planner import allocate
from qbert_opt.planning.program import PlanningTask
from qbert_opt.planning.solving import SolverOptions
from qbert_opt.planning.task_solver import solve_task
from qbert_opt.runtime import plugins
from qbert_opt.spec.activations import activation_grid
from qbert_opt.spec.choices import choice
from qbert_opt.spec.limits import Limits
from qbert_opt.spec.score_parts import ActivationScores
from qbert_opt.workflows.solve import solve_plans

ENGINES = ("onnxruntime", "openvino", "torch")
RPI5 = load_device("rpi5")
DEVICES = Path(__file__).parents[3] / "hwmodels" / "devices"


def _plan(scores, engine, **limits):
    return allocate(scores, Limits(**limits), constraints=PlanConstraints(engine=engine))


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(engine=st.sampled_from(ENGINES), bits=st.floats(4.0, 12.0))
def test_a_plan_for_an_engine_passes_its_pre_check_and_fits_in_its_file(rtn_scores, engine, bits):
    """Whatever the limit: nothing that the engine refuses, and no more bytes of its own file than allowed."""
    profile = rtn_scores.profile
    limit = int(bits * profile.encoder_elements / 8)
    plan = _plan(rtn_scores, engine, encoder_bytes=limit)
    rules, target = rules_of(engine), engine_target(engine)
    assert all(rules.refusal(m.choice) is None for m in plan.matrices)
    assert refusal_of_plan(plan, target) is None
    parts = zip(profile.matrices, plan.matrices, strict=True)
    assert plan.engine.encoder_bytes == sum(weight_bytes(m, p.choice, profile.heads, target) for m, p in parts)
    assert plan.engine.encoder_bytes <= limit and plan.limits[0].used == plan.engine.encoder_bytes
    assert plan.encoder_bytes == sum(m.bytes for m in plan.matrices)  # packed bytes stand beside


def test_total_limits_count_the_whole_file(rtn_scores):
    """Graph and tables included; one byte below what the least plan takes is infeasible for the engine alone."""
    free = _plan(rtn_scores, "openvino", encoder_bytes=10**6)
    assert free.engine.graph_bytes > 0 and free.engine.total_bytes > free.total_bytes
    capped = _plan(rtn_scores, "openvino", total_bytes=free.engine.total_bytes - 1)
    assert capped.engine.total_bytes < free.engine.total_bytes
    row = next(limit for limit in capped.limits if limit.resource == "total_bytes")
    assert row.used == capped.engine.total_bytes <= row.capacity
    torch = _plan(rtn_scores, "torch", encoder_bytes=10**6)
    assert (torch.engine.total_bytes, torch.engine.graph_bytes) == (torch.total_bytes, 0)


def test_static_inputs_need_one_range_per_row(rtn_scores):
    """Where inputs are rounded in ranges of the plan, group-wise choices fall away, for those matrices only."""
    task = PlanningTask(rtn_scores, Limits(), constraints=PlanConstraints(engine="onnxruntime"))
    first = rtn_scores.profile.matrices[0].module
    columns = [c.grouping.startswith("columns:") for c in task.choices]
    static = task.with_static_inputs([first])
    assert task.legal[0, columns].any() and not static.legal[0, columns].any()
    assert (static.legal[1:] == task.legal[1:]).all()


def test_an_engine_that_the_device_does_not_list_is_refused(reference):
    """Before anything is solved, with the engines that it has."""
    with pytest.raises(UsageError, match=r"`engine` tidl: does not run on rpi5. Engines of rpi5: onnxruntime, openvin"):
        allocate(reference, Limits(), device=RPI5, constraints=PlanConstraints(engine="tidl"))
    with pytest.raises(UsageError, match=r"`engine` openvino: does not run on coral. .*: none that qbert-opt knows"):
        allocate(reference, Limits(), device=load_device("coral"), constraints=PlanConstraints(engine="openvino"))


def test_an_engine_without_a_scored_choice_says_what_it_holds(reference):
    """The bundled table has no symmetric choices."""
    supported = r"`engine` tidl: supports none .*It supports 8 bits, form symmetric, signed, rows"
    with pytest.raises(UsageError, match=supported):
        allocate(reference, Limits(), constraints=PlanConstraints(engine="tidl"))


def test_floats_where_an_engine_has_no_integer_product():
    """The device's own rates give the seconds: 8 products a cycle and core in fp32, 32 in int8."""
    weight = StoredWeight(8, "rows", 1024, 1, 1024 * 1024, 4096)
    plain = Operation("m", "gemm", 128, 1024, 1024, 128 * 1024, 128 * 1024, weight=weight)
    floats = Operation("m", "gemm", 128, 1024, 1024, 128 * 1024, 128 * 1024, weight=weight, arithmetic="fp32")
    macs = 128 * 1024 * 1024 / (4 * 2.4e9)
    assert operation_cost(plain, RPI5).compute_s == pytest.approx(macs / (32 * 0.7))
    assert operation_cost(floats, RPI5).compute_s == pytest.approx(macs / (8 * 0.8))
    attention = Operation("a", "matmul", 128, 64, 128, 16384, 16384, batch=12)
    assert operation_cost(attention, RPI5).compute_s == pytest.approx(12 * 128 * 64 * 128 / (4 * 2.4e9 * 32 * 0.7))
    cost = operation_cost(Operation("a", "matmul", 128, 64, 128, 16384, 16384, 12, arithmetic="fp32"), RPI5)
    assert cost.compute_s == pytest.approx(12 * 128 * 64 * 128 / (4 * 2.4e9 * 8 * 0.8))


def test_the_simulator_streams_the_engines_bytes(rtn_scores):
    """Weights in the report are those of the file without its graph; attention in floats takes longer."""
    limits, constraints = (
        Limits(encoder_bytes=rtn_scores.profile.encoder_elements),
        PlanConstraints(engine="onnxruntime", groupings=("columns:32",), bits=(4, 8)),
    )
    plan = allocate(rtn_scores, limits, device=RPI5, constraints=constraints)
    bare = plan.model_copy(update={"engine": None})
    own, packed = (simulate_allocation(p, RPI5, Workload(32)) for p in (plan, bare))
    assert own.weight_bytes == plan.engine.total_bytes - plan.engine.graph_bytes
    assert packed.weight_bytes == plan.total_bytes and own.latency_s > packed.latency_s
    again = simulate_allocation(bare, RPI5, Workload(32), engine="onnxruntime")
    assert again.weight_bytes == own.weight_bytes


def test_tensors_are_as_wide_as_the_engine_keeps_them(rtn_scores):
    """ONNX Runtime keeps float32 between operations: by hand, four times the Pi's 8 bits; weights stay as they are.

    The simulator of the finished plan and the prices that the program is solved with agree on it.
    """
    constraints = PlanConstraints(engine="onnxruntime", groupings=("columns:32",), bits=(4,))
    plan = allocate(rtn_scores, Limits(), device=RPI5, workload=Workload(32), constraints=constraints)
    matrix, first = plan.matrices[0], rtn_scores.profile.matrices[0]
    weight = stored_weight(first, Storage(matrix.choice), rtn_scores.profile.heads, engine_target("onnxruntime"))
    moved = 32 * (first.rows + first.columns)  # read and written; nothing of it stays on chip
    op = matrix_operation(first, weight, Workload(32), matrix.choice, engine_target("onnxruntime"))
    assert op.input_bits == 8  # what it multiplies, and what bit operations count
    narrow, wide = (operation_cost(op, d).dram_bytes for d in (RPI5, engine_target("onnxruntime").on(RPI5)))
    assert wide - narrow == 3 * moved or wide == narrow == weight.bytes  # all of it, or none where the cache holds it
    own = simulate_allocation(plan, RPI5, Workload(32))
    bare = simulate_allocation(plan.model_copy(update={"engine": None}), RPI5, Workload(32))
    assert own.peak_activation_bytes == 4 * bare.peak_activation_bytes
    assert plan.device.latency_s == pytest.approx(own.latency_s)
    task = PlanningTask(rtn_scores, Limits(), device=RPI5, workload=Workload(32), constraints=constraints)
    assert task.device.activation_bits == 32 and task.device.id == "rpi5"
    assert engine_target("tidl").on(RPI5) is RPI5  # fixed point throughout: the device's own width


def test_offsets_are_priced_where_an_engine_adds_them_beside_the_product(rtn_scores):
    """A sum over 32 rows of inputs and two passes over the outputs; nothing for other forms and other engines."""
    matrix, workload = rtn_scores.profile.matrices[0], Workload(32)

    def extra(name, engine):
        target = engine_target(engine)
        weight = stored_weight(matrix, Storage(choice(name)), 4, target)
        return matrix_operation(matrix, weight, workload, choice(name), target).extra_elements

    for engine in ("openvino", "onnxruntime"):
        assert extra("8bit/rows:each/rtn", engine) == 32 * (matrix.columns + 2 * matrix.rows)
        assert extra("8bit/rows:each/rtn/symmetric", engine) == extra("4bit/columns:32/rtn/zero-point", engine) == 0
    assert extra("8bit/rows:each/rtn", "torch") == extra("8bit/rows:each/rtn", None) == 0


def test_planned_inputs_need_no_narrow_kernel_of_the_device(rtn_scores):
    """The Pi 4 multiplies 8-bit rows only; the engine expands 4-bit ones when it starts, so they run as these."""
    names = ("4bit/rows:each/rtn", "8bit/rows:each/rtn")
    columns = [rtn_scores.choices.index(name) for name in names]
    fields = ("value", "std_error", "weight_error")
    rows = {name: tuple(tuple(row[j] for j in columns) for row in getattr(rtn_scores, name)) for name in fields}
    inputs = tuple((m.module,) for m in rtn_scores.profile.matrices)
    one = ((1e-6,),) * len(inputs)
    activations = ActivationScores(
        inputs=inputs, choices=("8bit/tensor/minmax",), value=one, std_error=one,
        ranges=(((-1.0, 2.0),),) * len(inputs), contains="made up",
    )  # fmt: skip
    scores = rtn_scores.model_copy(
        update=rows | {"choices": names, "fold_value": (), "masks": {}, "activations": activations}
    )
    device, constraints = load_device("rpi4"), PlanConstraints(engine="onnxruntime")
    limits = Limits(encoder_bytes=int(6.5 * rtn_scores.profile.encoder_elements / 8))
    with pytest.raises(InfeasibleError, match="binding limit encoder_bytes"):  # with inputs left to the engine
        allocate(scores, limits, device=device, constraints=constraints)
    grid = activation_grid((8,))
    plan = allocate(scores, limits, device=device, constraints=constraints, activations=grid)
    assert {m.choice.bits for m in plan.matrices} == {4, 8}
    wide = allocate(scores, Limits(), device=device, constraints=constraints, activations=grid)
    assert {m.choice.bits for m in wide.matrices} == {8}
    assert plan.device.latency_s == pytest.approx(wide.device.latency_s)
    own, eight = (simulate_allocation(p, device, Workload()) for p in (plan, wide))
    assert own.weight_bytes < eight.weight_bytes and own.peak_memory_bytes == eight.peak_memory_bytes


def test_a_limit_on_memory_counts_expanded_codes(rtn_scores):
    """Memory holds a byte for each weight, whatever the file holds: one byte less than that takes is infeasible."""
    task = PlanningTask(
        rtn_scores, Limits(memory_bytes=10**9), device=load_device("rpi4"),
        constraints=PlanConstraints(engine="onnxruntime", bits=(4, 8), groupings=("rows:each",)),
    ).with_static_inputs(m.module for m in rtn_scores.profile.matrices)  # fmt: skip
    held, stored = (task.tables.usage[name] for name in ("held_bytes", "total_bytes"))
    for i, j in np.argwhere(task.legal):
        assert held[i, j] - stored[i, j] == rtn_scores.profile.matrices[i].elements * (8 - task.choices[j].bits) // 8
    [row] = [row for row in task.rows if row.measure == "peak_memory_bytes"]
    least = int(row.stated - row.capacity + np.where(task.legal, held, np.inf).min(1).sum())
    assert solve_task(task.under(Limits(memory_bytes=least)), SolverOptions()).solution.choice is not None
    with pytest.raises(InfeasibleError, match=r"--max-memory = .* is below the floor"):
        solve_task(task.under(Limits(memory_bytes=least - 1)), SolverOptions())


def test_the_outlook_of_a_plan_for_no_engine(reference, car_soc):
    """On the car SoC nothing runs 2 and 3 bits today, and what TIDL would take instead is said."""
    outlook = solve_plans(reference, Limits(encoder_bytes=25_000_000), device=car_soc).plan.outlook
    assert outlook.engines == ("tidl",) and outlook.runs == () and outlook.instead is None
    assert {"2bit/rows/offset", "3bit/columns/offset"} <= set(outlook.custom)
    assert "85.10 MB" in outlook.reason  # 84,934,656 bytes of codes, 82,944 rows of 2


def test_the_outlook_compares_with_a_plan_for_an_engine(rtn_scores, car_soc, monkeypatch):
    """An engine without 2 and 3 bits: the ratio is that of the plans solved with and without them."""
    rules = EngineRules(bits=(4, 8), integer_inputs={"gemm": (8,), "matmul": (8,)})
    monkeypatch.setattr("qbert_opt.costs.engine_target.rules_of", lambda name: rules)
    device = car_soc.model_copy(update={"engines": ("openvino",)})
    limits = Limits(encoder_bytes=int(4.6 * rtn_scores.profile.encoder_elements / 8))
    plan = solve_plans(rtn_scores, limits, device=device).plan
    wide = allocate(rtn_scores, limits, device=car_soc, constraints=PlanConstraints(bits=(4, 8)))
    assert plan.outlook.runs == () and plan.outlook.instead == "openvino"
    assert {name[0] for name in plan.outlook.custom} <= {"2", "3"}
    assert plan.outlook.loss_ratio == pytest.approx(wide.sum_of_scores / plan.sum_of_scores, rel=1e-3)
    assert plan.outlook.loss_ratio > 1


def test_a_plan_that_an_engine_runs_needs_no_other(reference):
    """On the Pi both engines run what its own formats allow."""
    outlook = solve_plans(reference, Limits(encoder_bytes=60_000_000), device=RPI5).plan.outlook
    assert (outlook.runs, outlook.custom, outlook.instead) == (("onnxruntime", "openvino"), (), None)


def test_devices_name_known_engines(tmp_path, cli):
    """Every bundled device lists engines that exist; an unknown one is refused with the legal ones."""
    for path in DEVICES.glob("*.yaml"):
        assert set(load_checked(path.stem).engines) <= set(plugins.available("engines")), path.stem
    odd = tmp_path / "odd.yaml"
    odd.write_text("inherit: rpi5\nengines: [abacus]\n")
    with pytest.raises(
        DeviceError,
        match=r"odd\.yaml: engines: found 'abacus'; legal are integer, litert, llama-cpp, onnxruntime, "
        r"onnxruntime-arm64, openvino, qnn",
    ):
        load_checked(str(odd))
    assert "engines: onnxruntime, openvino" in cli("devices", "show", "rpi5").out
    assert cli("solve", "--engine", "onnxruntime", "--device", odd).code in (2, 4)


def test_engines_on_the_command_line(cli, rtn_scores, tmp_path):
    """Solve for an engine, simulate in another; wrong pairs are one line."""
    from qbert_opt.spec.scores import write_scores

    scores, plan = tmp_path / "scores.json", tmp_path / "plan.json"
    write_scores(rtn_scores, scores)
    solved = cli("solve", "--scores", scores, "--budget", "9bit", "--engine", "openvino", "-o", plan)
    assert solved.code == 0 and "file of openvino: " in solved.out
    assert json.loads(plan.read_text())["engine"]["name"] == "openvino"
    assert cli("simulate", plan, "--device", "rpi5", "--engine", "openvino").code == 0
    stopped = cli("simulate", plan, "--device", "rpi5", "--engine", "tidl")
    assert stopped.code == 2 and "does not run on rpi5" in stopped.complaint
    stopped = cli("solve", "--scores", scores, "--budget", "9bit", "--engine", "qnn", "--device", "rpi5")
    assert stopped.code == 2 and "Engines of rpi5: onnxruntime, openvino" in stopped.complaint
    stopped = cli("export", tmp_path, "--engine", "tidl", "-o", tmp_path / "out")
    assert stopped.code == 2 and "planned for only" in stopped.complaint
