"""Inputs of 4 bits: planned, simulated in torch, and refused by name wherever they would become something else."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from qbert_opt.checkpoint.reader import load_quantized
from qbert_opt.configs.tool import config_tool
from qbert_opt.costs.portable import plan_target
from qbert_opt.costs.simulate import simulate_allocation
from qbert_opt.costs.workload import Workload
from qbert_opt.engines.session import rules_of
from qbert_opt.errors import InfeasibleError, UsageError
from qbert_opt.planning.constraints import PlanConstraints
from qbert_opt.planning.engine_inputs import runnable_inputs
from qbert_opt.planning.input_widths import solve_rounded
from qbert_opt.planning.planner import allocate
from qbert_opt.planning.program import PlanningTask
from qbert_opt.planning.solving import SolverOptions
from qbert_opt.planning.task_solver import solve_task
from qbert_opt.quantization.activation_quant import round_activations
from qbert_opt.reports.exchange import export_lines
from qbert_opt.reports.rivals import running_engines
from qbert_opt.runtime.plugins import available
from qbert_opt.spec.activations import (
    ActivationChoice,
    activation_grid,
    input_bits,
    planned_activations,
    selected_activations,
)
from qbert_opt.spec.allocation import read_allocation
from qbert_opt.spec.limits import Limits
from qbert_opt.spec.score_parts import ActivationScores
from qbert_opt.sweep.steps.solve import _widths as sweep_widths
from qbert_opt.workflows.export import export_model
from qbert_opt.workflows.export_config import export_plan
from qbert_opt.workflows.quantize import quantize_model
from qbert_opt.workflows.solve import solve_plans

FOUR = activation_grid((4,))
WIDTHS = (ActivationChoice(4), ActivationChoice(8), ActivationChoice(16))
ROUNDING = sorted(set(available("engines")) - {"torch"})


def with_inputs(scores, *, range=None, four=4e-4, eight=1e-5, sixteen=1e-8):
    """Give every matrix an input of its own; the second one loses ten times as much."""
    inputs = tuple((m.module,) for m in scores.profile.matrices)
    value = tuple(tuple((10 if i == 1 else 1) * v for v in (four, eight, sixteen)) for i in range_of(inputs))
    ends = None if range is None else (-1.0, 2.0)
    activations = ActivationScores(
        inputs=inputs, choices=tuple(replace(choice, range=range).name for choice in WIDTHS), value=value,
        std_error=value, ranges=((ends, ends, ends),) * len(inputs), contains="made up",
    )  # fmt: skip
    return scores.model_copy(update={"activations": activations})


def range_of(items):
    return range(len(items))


def test_an_input_takes_the_fewest_bits_that_lose_a_hundredth_at_most(rtn_scores):
    """4e-4 and 4e-3 at 4 bits, 1e-5 and 1e-4 at 8, in plans that lose 1, 0.1, 0.005 and 0.0005 without inputs."""
    scores = with_inputs(rtn_scores)
    for loss, first, second in ((1.0, 4, 4), (0.1, 4, 8), (0.005, 8, 16), (0.0005, 16, 16)):
        planned = planned_activations(scores, WIDTHS, loss)
        assert [item.bits for item in planned[:3]] == [first, second, first]
    assert {item.bits for item in planned_activations(scores, FOUR, 0.0)} == {4}


@pytest.mark.parametrize("name", ROUNDING)
def test_every_engine_that_rounds_inputs_refuses_4_bits_by_name(name):
    """In one line with the widths that it multiplies; what stays are widths that it knows."""
    task, held = SimpleNamespace(target=plan_target(name)), rules_of(name).integer_inputs["gemm"]
    assert 4 not in held
    with pytest.raises(UsageError) as refused:
        runnable_inputs(task, FOUR)
    message = str(refused.value)
    assert message.startswith(f"`engine` {name}: ") and "\n" not in message
    assert f"{' or '.join(map(str, held))} bits" in message and "4bit/token" in message
    with pytest.warns(match=rf"`engine` {name}: "):
        kept = runnable_inputs(task, [*FOUR, *activation_grid(held)])
    assert {choice.bits for choice in kept} <= set(held)


def test_engines_of_a_portable_plan_refuse_4_bits_too():
    with pytest.raises(UsageError, match=r"onnxruntime,openvino.*of 8 bits.*only 4bit/token"):
        runnable_inputs(SimpleNamespace(target=plan_target(None, ("openvino", "onnxruntime"))), FOUR)
    with pytest.raises(UsageError, match=r"llama-cpp,onnxruntime.*in its own way, to 8 bits; .* only 4bit/token"):
        runnable_inputs(SimpleNamespace(target=plan_target(None, ("onnxruntime", "llama-cpp"))), FOUR)


def test_torch_rounds_to_4_bits_as_planned():
    assert runnable_inputs(SimpleNamespace(target=plan_target("torch")), FOUR) == FOUR


@pytest.fixture(scope="module")
def four_bit_plan(rtn_scores):
    """The tiny model in rows of 4 and 8 bits without offsets, which most engines hold; all inputs of 4 bits, static."""
    limits = Limits(encoder_bytes=2 * rtn_scores.profile.encoder_elements)
    scores = with_inputs(rtn_scores, range="mse")
    constraints = PlanConstraints(bits=(4, 8), groupings=("rows:each",))
    return allocate(scores, limits, constraints=constraints, activations=[replace(WIDTHS[0], range="mse")])


def test_no_engine_but_torch_is_said_to_run_the_plan(four_bit_plan):
    eight = tuple(item.model_copy(update={"bits": 8}) for item in four_bit_plan.activations)
    assert {"torch", "onnxruntime"} <= set(
        running_engines(four_bit_plan.model_copy(update={"activations": eight}), available("engines"))
    )
    assert running_engines(four_bit_plan, available("engines")) == ("torch",)


def test_a_device_is_simulated_with_its_own_products_and_with_no_engine_that_lacks_them(rtn_scores, car_soc):
    """car-soc lists no product of 4 bits: the time is that of bytes. Its engine takes 8 and 16 bits."""
    limits, workload = Limits(encoder_bytes=rtn_scores.profile.encoder_elements), Workload(16)
    plans = [
        solve_plans(with_inputs(rtn_scores), limits, device=car_soc, workload=workload, activations=[choice]).plan
        for choice in WIDTHS
    ]
    four, eight, sixteen = plans
    assert four.device == eight.device and four.device.latency_s < sixteen.device.latency_s
    assert [m.choice for m in four.matrices] == [m.choice for m in eight.matrices]
    assert simulate_allocation(four, car_soc, workload).latency_s == four.device.latency_s
    assert four.outlook.runs == () and "4bit/inputs" in four.outlook.custom
    assert "4bit/inputs" not in eight.outlook.custom
    with pytest.raises(UsageError, match=r"`engine` openvino: .* inputs of 4 bits; it multiplies those of 8"):
        simulate_allocation(four, car_soc.model_copy(update={"engines": ("openvino",)}), workload, engine="openvino")


@pytest.fixture(scope="module")
def slow_bytes(car_soc):
    """car-soc, if its matrix unit were ten times as slow with bytes, and multiplied 4-bit inputs by 2 to 4 bits."""
    unit, *rest = car_soc.units
    bytewise = next(rate for rate in unit.rates if rate.op == "gemm" and rate.type == "int8")
    slow = bytewise.model_copy(update={"per_cycle": bytewise.per_cycle / 10})
    others = (rate for rate in unit.rates if rate is not bytewise)
    rates = (bytewise.model_copy(update={"type": "int4"}), slow, *others)
    unit = unit.model_copy(update={"rates": rates, "energy_mac_j": unit.energy_mac_j | {"int4": 1e-13}})
    native = {"compute": "int4", "how": "native"}
    formats = tuple(f.model_copy(update=native) if f.weight_bits <= 4 else f for f in car_soc.formats)
    return car_soc.model_copy(update={"units": (unit, *rest), "formats": formats})


def task_with(scores, device, latency_s):
    constraints = PlanConstraints(bits=(2, 4), groupings=("rows:each",))
    limits = Limits(encoder_bytes=25_000_000, latency_s=latency_s)
    return PlanningTask(scores, limits, device=device, workload=Workload(128), constraints=constraints)


def test_inputs_of_4_bits_are_taken_where_a_limit_on_time_asks_for_them(reference, slow_bytes):
    """With room, no input has fewer bits than the device; where only 4 bits are fast enough, all have them."""
    scores, options = with_inputs(reference), SolverOptions()
    ends = {}
    for choice in WIDTHS[:2]:
        _, plan, planned = solve_rounded(task_with(scores, slow_bytes, 1.0), options, [choice])
        assert set(input_bits(planned).values()) == {choice.bits}
        ends[choice.bits] = plan.report.latency_s
    assert ends[4] < 0.9 * ends[8]
    free = task_with(scores, slow_bytes, 1.0)
    _, _, planned = solve_rounded(free, options, WIDTHS[:2])
    assert set(input_bits(planned).values()) == {8}
    narrow = task_with(scores, slow_bytes, 1.001 * ends[4])
    with pytest.raises(InfeasibleError):
        solve_task(narrow, options)
    _, plan, planned = solve_rounded(narrow, options, WIDTHS[:2])
    assert set(input_bits(planned).values()) == {4} and plan.report.latency_s <= 1.001 * ends[4]


@pytest.fixture(scope="module")
def four_bit_folder(tiny, four_bit_plan, tmp_path_factory):
    return quantize_model(tiny, four_bit_plan, None, tmp_path_factory.mktemp("four") / "out").folder


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_an_export_of_planned_inputs_is_refused_before_anything_is_written(four_bit_folder, tmp_path, name):
    for activations in (None, "planned"):
        with pytest.raises(UsageError) as refused:
            export_model(four_bit_folder, name, tmp_path / "out", activations=activations)
        assert str(refused.value).startswith(f"`engine` {name}: ")
        assert "cannot run inputs of 4 bits; it multiplies those of 8 bits" in str(refused.value)
        assert "`activations` int8" in str(refused.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize(("tool", "legal"), [("tidl", "8 or 16"), ("ai-edge-quantizer", "8")])
def test_a_tool_that_rounds_inputs_to_other_widths_is_refused(four_bit_plan, tool, legal):
    with pytest.raises(UsageError, match=rf"its inputs have 4 bits; .* rounds inputs to {legal}\. Plan with"):
        export_plan(four_bit_plan, config_tool(tool), ".json")


def test_a_config_that_holds_no_inputs_says_so(four_bit_plan):
    export = export_plan(four_bit_plan, config_tool("gptqmodel"), ".json")
    lines = list(export_lines(export, None, four_bit_plan))
    assert [line for line in lines if "inputs" in line] == [
        "not carried      12 of matrices rounded: 12 in 4 bits per tensor (mse); predicted loss 0.0084: the config "
        "says nothing about inputs"
    ]


@pytest.mark.parametrize("ranges", ["token", "tensor"])
def test_from_scores_to_a_model_that_rounds_to_16_levels(cli, tiny_folder, data_file, tmp_path, ranges):
    """sensitivity, solve, quantize, evaluate, recover: the folders round inputs to 4 bits; no engine gets them."""
    scores, plan, out, again = (tmp_path / name for name in ("scores.json", "plan.json", "out", "again"))
    run = cli(
        "sensitivity", "--model", tiny_folder, "--data", data_file, "--method", "rtn", "--bits", "4,8", "--groupings",
        "rows:each", "--activation-bits", "4,8", "--calibration-samples", 20, "--scoring-samples", 20, "-o", scores,
    )  # fmt: skip
    assert run.code == 0, run.err
    solve = ("solve", "--scores", scores, "-b", "9bit", "--activation-bits", "4", "--activation-ranges", ranges)
    run = cli(*solve, "-o", plan)
    assert run.code == 0, run.err
    assert f"4 bits per {ranges}" in run.out
    run = cli(*solve, "--engine", "openvino", "-o", tmp_path / "none.json")
    assert run.code == 2 and "--engine openvino: runs inputs with static ranges of 8 bits" in run.complaint
    assert cli("quantize", plan, "--model", tiny_folder, "--data", data_file, "-o", out).code == 0
    run = cli("recover", out, "--model", tiny_folder, "--data", data_file, "--steps", "ranges", "--epochs", 1,
              "-o", again, "-q")  # fmt: skip
    assert run.code == 0, run.err
    for folder in (out, again):
        loaded, allocation = load_quantized(folder)
        assert {(item.bits, item.scheme) for item in allocation.activations} == {(4, ranges)}
        item, seen = allocation.activations[-1], []
        handle = loaded.model.get_submodule(item.modules[0]).register_forward_hook(
            lambda _m, args, _output, seen=seen: seen.append(args[0].detach())
        )
        loaded.model(**loaded.tokenizer("w1 w2 w3 w4 w5", return_tensors="pt"))
        handle.remove()
        torch.testing.assert_close(seen[0], round_activations(seen[0], 4, item.low, item.high), rtol=0, atol=1e-5)
        rows = seen[0].flatten(0, 1) if ranges == "token" else seen[0].reshape(1, -1)
        assert all(2 < len(row.unique()) <= 16 for row in rows)
    run = cli("evaluate", again, "--data", data_file, "--reference", tiny_folder)
    assert run.code == 0, run.err
    run = cli("integer", out, "--data", data_file, "-o", tmp_path / "program", "-q")
    wanted = "per token" if ranges == "token" else "inputs have 4 bits; integer programs take 8 or 16"
    assert run.code == 2 and wanted in run.complaint and "--activation-bits 8,16" in run.complaint
    written = json.loads(plan.read_text())
    written["activations"][0]["bits"] = 5
    plan.write_text(json.dumps(written))
    run = cli("quantize", plan, "--model", tiny_folder, "--data", data_file, "-o", tmp_path / "odd")
    assert run.code == 4 and "bits" in run.complaint
    assert read_allocation(out / "allocation.json").activations != ()


def test_a_sweep_takes_the_widths_that_it_scored(rtn_scores, car_soc):
    """A device of 8-bit inputs leaves 4-bit ones out unless selected; a sweep asked for them by scoring them."""
    scores = with_inputs(rtn_scores)
    four = scores.activations.model_copy(
        update={
            "choices": scores.activations.choices[:1],
            "value": tuple(row[:1] for row in scores.activations.value),
            "std_error": tuple(row[:1] for row in scores.activations.std_error),
            "ranges": tuple(row[:1] for row in scores.activations.ranges),
        }
    )
    assert sweep_widths(scores, car_soc) is None  # 8 is among them
    assert sweep_widths(scores, None) is None
    assert sweep_widths(rtn_scores, car_soc) is None
    only = scores.model_copy(update={"activations": four})
    assert sweep_widths(only, car_soc) == "4"
    assert [c.bits for c in selected_activations(sweep_widths(only, car_soc), None, only, car_soc)] == [4]
