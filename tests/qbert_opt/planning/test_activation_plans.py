"""Plans with quantized inputs: the choices, their cost on a device, and the model that is written."""

import json
import math
import warnings
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hwmodels import load_device, operation_cost, unsupported
from qbert_opt.checkpoint.reader import load_quantized, open_packed
from qbert_opt.costs.engine_target import engine_target
from qbert_opt.costs.operations import Storage, matrix_operation, stored_weight
from qbert_opt.costs.portable import plan_target
from qbert_opt.costs.pricing import fixed_costs, option_tables
from qbert_opt.costs.simulate import simulate_allocation
from qbert_opt.costs.workload import Workload
from qbert_opt.data.texts import read_texts
from qbert_opt.errors import InfeasibleError, InputFileError, QbertOptWarning, UsageError
from qbert_opt.evaluation.evaluate import evaluate, outputs
from qbert_opt.models.batches import logits, tokenize
from qbert_opt.models.loading import load_model
from qbert_opt.planning.engine_inputs import runnable_inputs
from qbert_opt.planning.planner import allocate
from qbert_opt.planning.recipes import recipe_allocation
from qbert_opt.quantization.activation_quant import round_activations
from qbert_opt.quantization.calibration import BATCH_SIZE, MatrixQuantizer
from qbert_opt.spec.activations import (
    activation_choice,
    activation_grid,
    input_bits,
    planned_activations,
    selected_activations,
)
from qbert_opt.spec.allocation import read_allocation, write_allocation
from qbert_opt.spec.choices import choice
from qbert_opt.spec.limits import Limits
from qbert_opt.spec.score_parts import ActivationScores
from qbert_opt.spec.scores import read_scores, write_scores
from qbert_opt.workflows.verify import apply_plan

NAMES = ("8bit/token", "8bit/tensor/mse", "16bit/token")


def with_inputs(scores, eight=1e-3, sixteen=1e-6):
    """Give every matrix of a score table an input of its own; the first input is costly at 8 bits."""
    inputs = tuple((m.module,) for m in scores.profile.matrices)
    value = tuple((eight * (1000 if i == 0 else 1), 2 * eight, sixteen) for i in range(len(inputs)))
    activations = ActivationScores(
        inputs=inputs, choices=NAMES, value=value, std_error=value,
        ranges=((None, (-1.0, 2.0), None),) * len(inputs), contains="made up",
    )  # fmt: skip
    return scores.model_copy(update={"activations": activations})


def test_each_input_takes_its_best_choice(rtn_scores):
    """Least loss within a width; 16 bits only if 8 bits add more than 1 % of the plan's loss."""
    scores = with_inputs(rtn_scores)
    grid = activation_grid((8, 16))
    cheap = planned_activations(scores, grid, weight_loss=1.0)
    assert [(a.bits, a.scheme) for a in cheap[:2]] == [(8, "tensor"), (8, "token")]
    assert (cheap[0].low, cheap[0].high, cheap[0].range) == (-1.0, 2.0, "mse")
    assert [a.bits for a in planned_activations(scores, grid, weight_loss=0.15)[:2]] == [16, 8]
    assert {a.bits for a in planned_activations(scores, grid, weight_loss=0.0)} == {16}
    assert {a.scheme for a in planned_activations(scores, [c for c in grid if c.scheme == "tensor"], 0)} == {"tensor"}
    with pytest.raises(UsageError, match=r"8bit/tensor/minmax, 16bit/tensor/minmax was not scored"):
        planned_activations(scores, [c for c in grid if c.range == "minmax"], 1.0)


def test_selected_activations(rtn_scores, car_soc):
    """The user's widths and ranges, or else the device's own width; nothing without scores."""
    scores = with_inputs(rtn_scores)
    assert [c.name for c in selected_activations(None, None, scores, None)] == list(NAMES)
    assert {c.bits for c in selected_activations(None, None, scores, car_soc)} == {8}
    assert {c.bits for c in selected_activations("16", None, scores, car_soc)} == {16}
    assert selected_activations("none", None, scores, car_soc) == ()
    assert selected_activations(None, None, rtn_scores, car_soc) == ()
    assert selected_activations(None, None, scores, load_device("rpi5")) != ()
    for bits, ranges, message in (
        ("2", None, r"--activation-bits 2: '2' is not a bit width of activations. Legal: 4, 8, 16, none"),
        ("8", "row", r"`activation_ranges` row: legal: token, tensor"),
        ("16", "tensor", r"`activation_bits`: not scored. Scored: 8bit/token, "),
        ("4,8", None, r"`activation_bits` 4,8: 4 bits were not scored. Scored: 8bit/token, "),
    ):
        with pytest.raises(UsageError, match=message):
            selected_activations(bits, ranges, scores, car_soc)
    narrow = car_soc.model_copy(update={"activation_bits": 4})
    with pytest.warns(QbertOptWarning, match=r"^inputs are scored in 8 and 16 bits only and .* has 4: the plan leaves"):
        assert selected_activations(None, None, scores, narrow) == ()
    with pytest.raises(UsageError, match=r"'sensitivity --activation-bits' scores them"):
        selected_activations("8", None, rtn_scores, None)


def test_inputs_that_litert_does_not_run_are_refused_with_the_reason():
    """W8A8 and W8A16 in static ranges, and 16 bits per token; 8 bits per token are left, whatever the weights have."""
    task = SimpleNamespace(target=engine_target("litert"))
    legal = [activation_choice("8bit/token")]
    assert list(runnable_inputs(task, activation_grid((8,)))) == legal
    with pytest.warns(QbertOptWarning, match=r"^`engine` litert: runs .*; inputs of 16 bits are left out\.$"):
        assert list(runnable_inputs(task, activation_grid((8, 16)))) == legal
    for name in ("8bit/tensor/mse", "16bit/tensor/minmax", "16bit/token"):
        with pytest.raises(UsageError) as refused:
            runnable_inputs(task, [activation_choice(name)])
        assert str(refused.value) == (
            "`engine` litert: runs inputs with one range per token of 8 bits (with static or 16-bit inputs it rounds "
            f"outputs too, for which plans have no ranges); scored and selected are only {name}. Score and select what "
            "it runs, or leave the inputs to it with `activation_bits` none."
        )


def test_inputs_are_left_to_an_engine_that_rounds_them_its_own_way():
    """Named, alone or among the engines of a portable plan; where the quantized folder is opened, all are kept."""
    grid = activation_grid((8, 16))
    for target in (engine_target("llama-cpp"), plan_target(None, ("llama-cpp", "onnxruntime"))):
        task = SimpleNamespace(target=target)
        with pytest.warns(QbertOptWarning, match=rf"^{target.said}: rounds inputs in its own way, so the plan leaves"):
            assert runnable_inputs(task, grid) == ()
        with warnings.catch_warnings(action="error"):
            assert runnable_inputs(task, ()) == ()
    with warnings.catch_warnings(action="error"):
        assert runnable_inputs(SimpleNamespace(target=engine_target("torch")), grid) == tuple(grid)


def test_the_loss_of_inputs_is_added_to_every_prediction(rtn_scores):
    """The loss of quantized inputs is added to plan, bound, uniform and random plans; the proof stays the same."""
    limits = Limits(encoder_bytes=rtn_scores.profile.encoder_elements // 2)
    plain = allocate(rtn_scores, limits)
    plan = allocate(with_inputs(rtn_scores), limits, activations=activation_grid((8,)))
    more = math.fsum(a.predicted_loss for a in plan.activations)
    assert more > 0.01
    assert plan.matrices == plain.matrices and plan.gap == plain.gap
    assert plan.roundings == ("matrices", "activations")
    for name in ("predicted_loss", "lower_bound", "random_loss"):
        assert getattr(plan, name) == pytest.approx(getattr(plain, name) + more)
    assert plan.uniform[0].predicted_loss == pytest.approx(plain.uniform[0].predicted_loss + more)
    name, roomy = "uniform:4bit/rows:1/rtn", Limits(encoder_bytes=rtn_scores.profile.encoder_elements)
    recipe = recipe_allocation(with_inputs(rtn_scores), name, roomy, activations=activation_grid((8,)))
    alone = recipe_allocation(rtn_scores, name, roomy)
    assert recipe.predicted_loss == pytest.approx(alone.predicted_loss + more)


def test_wide_inputs_take_the_wide_multiplier(reference, car_soc):
    """16 bits on an 8-bit device: twice the bit operations, the rate and energy of int16, twice the bytes read."""
    matrix = reference.profile.matrices[0]
    storage = Storage(choice("8bit/rows:each/gptq"))
    weight = stored_weight(matrix, storage, reference.profile.heads)
    own, eight, sixteen = (
        operation_cost(matrix_operation(matrix, weight, Workload(128, 1, bits)), car_soc)
        for bits in ({}, {matrix.module: 8}, {matrix.module: 16})
    )
    assert own == eight
    assert sixteen.bops == 2 * eight.bops
    assert sixteen.compute_s == pytest.approx(4 * eight.compute_s)  # 1024 products a cycle in place of 4096
    assert sixteen.dynamic_energy_j > eight.dynamic_energy_j + 0.69e-12 * eight.macs  # 1.0 pJ in place of 0.3
    wide = matrix_operation(matrix, weight, Workload(128, 1, {matrix.module: 16}))
    assert "a72 multiplies no int16, which inputs of 16 bits need" in (unsupported(wide, load_device("rpi4")) or "")


def test_program_and_simulator_agree_on_wide_inputs(reference, car_soc):
    """With 16-bit inputs, the program's bytes, DRAM bytes and energy equal the simulator's exactly."""
    scores = with_inputs(reference, eight=1.0)
    workload = Workload(64, 1)
    limits = Limits(encoder_bytes=25_000_000)
    plan = allocate(scores, limits, device=car_soc, workload=workload, activations=activation_grid((16,)))
    assert {a.bits for a in plan.activations} == {16}
    report = simulate_allocation(plan, car_soc, workload)
    assert report.latency_s == plan.device.latency_s and report.dram_bytes == plan.device.dram_bytes
    narrow = simulate_allocation(plan.model_copy(update={"activations": ()}), car_soc, workload)
    assert report.bops > narrow.bops and report.latency_s > narrow.latency_s
    read = replace(workload, input_bits=input_bits(plan.activations))
    choices = tuple(dict.fromkeys(m.choice for m in plan.matrices))
    storage = {m.module: Storage(m.choice, m.residency == "resident") for m in plan.matrices}
    legal = np.array([[m.choice == c for c in choices] for m in plan.matrices])
    priced = option_tables(plan.profile, choices, legal, car_soc, read)
    rest = fixed_costs(plan.profile, storage, car_soc, read)
    for row in ("dram_bytes", "dynamic_energy_j", "latency_bound_s", "bops"):
        chosen = [priced.usage[row][i, priced.options.index(storage[m.module])] for i, m in enumerate(plan.matrices)]
        assert math.fsum([*chosen, *(getattr(cost, row) for cost in rest)]) == getattr(report, row)


def test_a_device_without_the_wide_multiplier_says_so(reference):
    """Coral multiplies only 8-bit integers: no plan is feasible, and the message gives the reason."""
    with pytest.raises(InfeasibleError, match=r"no choice is allowed: .*multiplies no int16, which inputs of 16"):
        allocate(
            with_inputs(reference, eight=1.0),
            Limits(encoder_bytes=85_000_000),
            device=load_device("coral"),
            activations=activation_grid((16,)),
        )


def test_changed_plans_are_rejected(rtn_scores, tmp_path):
    """A plan reads back as written; an unknown module, or a scheme without its range, is a bad input file."""
    limits = Limits(encoder_bytes=rtn_scores.profile.encoder_elements // 2)
    plan = allocate(with_inputs(rtn_scores), limits, activations=activation_grid((8,)))
    path = tmp_path / "plan.json"
    write_allocation(plan, path)
    assert read_allocation(path) == plan
    for change, message in (
        ({"modules": ["nowhere"]}, "activations: nowhere is not a matrix of the profile"),
        ({"low": None}, "scheme tensor needs low and high"),
        ({"low": 5.0, "high": -5.0}, r"low 5, high -5: low must be at most 0 and high at least 0"),
        ({"low": 0.5}, r"low 0\.5, high 2: low must be at most 0"),
        ({"high": -0.5}, r"low -1, high -0\.5: low must be at most 0"),
        ({"low": float("-inf")}, "low"),
        ({"high": float("nan")}, "high"),
        ({"bits": 12}, "bits"),
    ):
        broken = json.loads(plan.model_dump_json(by_alias=True))
        broken["activations"][0] |= change
        path.write_text(json.dumps(broken))
        with pytest.raises(InputFileError, match=message):
            read_allocation(path)
    scores = with_inputs(rtn_scores)
    write_scores(scores, tmp_path / "scores.json")
    assert read_scores(tmp_path / "scores.json") == scores
    broken = json.loads((tmp_path / "scores.json").read_text())
    swapped = json.loads((tmp_path / "scores.json").read_text())
    swapped["activations"]["ranges"][0] = [r and r[::-1] for r in swapped["activations"]["ranges"][0]]
    (tmp_path / "swapped.json").write_text(json.dumps(swapped))
    with pytest.raises(InputFileError, match=r"low 2, high -1: a range must include zero"):
        read_scores(tmp_path / "swapped.json")
    for field, value, message in (
        ("choices", ["3bit/token", *NAMES[1:]], r"activations: choice '3bit/token'; legal: 4bit/token, "),
        ("inputs", [["elsewhere"], *broken["activations"]["inputs"][1:]], r"elsewhere is not a matrix of the profile"),
        ("inputs", broken["activations"]["inputs"][:1] * 12, r"query is named twice; a matrix reads one input"),
        ("ranges", [[None, None, None]] * 12, r"8bit/tensor/mse has no range"),
        ("ranges", [[[-1, 2], [-1, 2], None]] * 12, r"8bit/token has a range, and each token has its own"),
    ):
        damaged = {**broken, "activations": {**broken["activations"], field: value}}
        (tmp_path / "damaged.json").write_text(json.dumps(damaged))
        with pytest.raises(InputFileError, match=message):
            read_scores(tmp_path / "damaged.json")
    broken["activations"]["ranges"].pop()
    (tmp_path / "scores.json").write_text(json.dumps(broken))
    with pytest.raises(InputFileError, match=r"activations: ranges is not \[12 inputs, 3 choices\]"):
        read_scores(tmp_path / "scores.json")


def test_from_scores_to_a_model_that_rounds(cli, tiny_folder, data_file, tmp_path):
    """sensitivity, solve, quantize, load, evaluate: the loaded model quantizes its inputs as planned and says so."""
    scores, plan, out = (tmp_path / name for name in ("scores.json", "plan.json", "out"))
    run = cli(
        "sensitivity", "--model", tiny_folder, "--data", data_file, "--method", "rtn", "--bits", "4,8", "--groupings",
        "rows:each", "--activation-bits", "8", "--calibration-samples", 20, "--scoring-samples", 20, "-o", scores,
    )  # fmt: skip
    assert run.code == 0, run.err
    scored = read_scores(scores).activations
    assert len(scored.choices) == 5 and len(scored.inputs) == 8
    run = cli("solve", "--scores", scores, "-b", "9bit", "--activation-ranges", "tensor", "-o", plan)
    assert run.code == 0, run.err
    assert "tables and activations included" in run.out
    assert "inputs           8 of matrices rounded: " in run.out and "8 bits per tensor" in run.out
    allocation = read_allocation(plan)
    assert allocation.roundings == ("matrices", "tables", "activations")
    assert sum(len(a.modules) for a in allocation.activations) == 12
    run = cli("quantize", plan, "--model", tiny_folder, "--data", data_file, "-o", out)
    assert run.code == 0, run.err
    loaded, _ = load_quantized(out)
    plain, _ = load_quantized(out, round_inputs=False)
    item = allocation.activations[-1]
    seen = {}
    module = loaded.model.get_submodule(item.modules[0])
    module.register_forward_hook(lambda _m, args, output: seen.update(input=args[0], output=output))
    texts = read_texts(data_file)
    [batch, *_] = batches = tokenize(loaded.tokenizer, texts.texts[:20], batch_size=BATCH_SIZE)
    loaded.model(**batch.inputs)
    levels = round_activations(seen["input"], 8, item.low, item.high)
    torch.testing.assert_close(seen["input"], levels, rtol=0, atol=1e-5)
    assert len(seen["input"].unique()) <= 256
    torch.testing.assert_close(seen["output"], torch.nn.functional.linear(levels, module.weight, module.bias))
    assert not torch.equal(logits(loaded.model, batches), logits(plain.model, batches))
    original = load_model(tiny_folder)
    verified = apply_plan(original, allocation, MatrixQuantizer(original, allocation.profile, "rtn", None))
    torch.testing.assert_close(logits(verified.model, batches), logits(loaded.model, batches))
    packed = open_packed(out)
    for model in (packed.model, packed.model.dequantize()):
        torch.testing.assert_close(logits(model, batches), logits(loaded.model, batches))
    truth = outputs(original, texts)
    rounded, floats = (evaluate(model, texts, truth).loss.value for model in (loaded, plain))
    assert rounded > 0 and rounded != floats
    run = cli("evaluate", out, "--data", data_file, "--reference", tiny_folder)
    assert run.code == 0, run.err
    assert f"{rounded:.3g}" in run.out


def test_solve_scores_inputs_when_asked(cli, tiny_folder, data_file, tmp_path):
    """`solve --model --activation-bits` scores the inputs; a metric that cannot score inputs is rejected."""
    plan = tmp_path / "plan.json"
    common = ("--model", tiny_folder, "--data", data_file, "--method", "rtn", "--activation-bits", "8")
    run = cli(
        "solve", *common, "-b", "9bit", "--calibration-samples", 20, "--scoring-samples", 20, "--device", "car-soc",
        "-o", plan,
    )  # fmt: skip
    assert run.code == 0, run.err
    assert {a.bits for a in read_allocation(plan).activations} == {8}
    assert "metric weight-error does not score inputs; directional does" in cli(
        "sensitivity", *common, "--metric", "weight-error"
    ).complaint  # fmt: skip
