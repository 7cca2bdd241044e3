"""Portable plans: every engine listed can hold them, and each file holds the same codes, read back bit for bit."""

import json
from pathlib import Path

import numpy as np
import pytest

import qbert_opt as qb
from hwmodels import load_device
from qbert_opt.costs.engine_target import engine_target
from qbert_opt.costs.portable import PORTABLE_FORMS, plan_target, portable_engines
from qbert_opt.costs.stored import refusal_of_plan
from qbert_opt.engines.session import exporting_format, rules_of
from qbert_opt.errors import QbertOptWarning, UsageError
from qbert_opt.planning.plan_bytes import engine_file
from qbert_opt.planning.program import PlanningTask
from qbert_opt.quantization.calibration import CalibrationPlan
from qbert_opt.scoring.sensitivity import measure_sensitivity
from qbert_opt.spec.choices import Choice
from qbert_opt.spec.choices import choice as named
from qbert_opt.spec.grids import grid
from qbert_opt.spec.profiles import MatrixSpec
from qbert_opt.spec.scores import write_scores
from qbert_opt.spec.tables import table_grid
from qbert_opt.workflows.rerank import MatrixQuantizer, quantized_matrices

ENGINES = ("onnxruntime", "openvino", "qnn")
GROUPINGS = ("rows:1", "rows:each", "columns:16", "columns:32")


@pytest.fixture(scope="module")
def portable_scores(tiny, sentences):
    """The tiny model scored in both forms without a stored zero, and as `offset`."""
    choices = grid((2, 3, 4, 8), GROUPINGS, "rtn", ("offset", "symmetric", "signed"))
    return measure_sensitivity(
        tiny, sentences, choices, metric="directional", plan=CalibrationPlan(20, 20, 0),
        table_choices=table_grid((4, 8), ("rows:each",)),
    )  # fmt: skip


def _solved(scores, engines, bits=5.0, **constraints):
    limits = qb.Limits(encoder_bytes=int(bits * scores.profile.encoder_elements / 8))
    return qb.solve_plans(scores, limits, constraints=qb.PlanConstraints(portable=engines, **constraints)).plan


def test_a_width_that_was_scored_in_another_form_only_is_named(portable_scores):
    """As in the scores of `optimize`, whose 4 bits are signed; a width that was not scored at all is not missed."""
    kept = [
        i
        for i, c in enumerate(map(named, portable_scores.choices))
        if c.form == ("signed" if c.bits < 8 else "symmetric")
    ]
    scores = portable_scores.model_copy(
        update={"choices": tuple(portable_scores.choices[i] for i in kept),
                "value": tuple(tuple(row[i] for i in kept) for row in portable_scores.value),
                "std_error": tuple(tuple(row[i] for i in kept) for row in portable_scores.std_error),
                "fold_value": tuple(tuple(tuple(r[i] for i in kept) for r in f) for f in portable_scores.fold_value)}
    )  # fmt: skip
    with pytest.warns(QbertOptWarning, match="needs 4 bits of form symmetric, but scored is signed: no matrix gets"):
        plan = _solved(scores, ENGINES)
    assert {m.bits for m in plan.matrices} == {2, 8}


def test_only_choices_that_every_engine_stores_in_the_same_codes(portable_scores):
    """Against each engine's own rules: form by width, no widened code, and no grouping that one refuses."""
    task = PlanningTask(portable_scores, qb.Limits(), constraints=qb.PlanConstraints(portable=ENGINES))
    members = [engine_target(name) for name in ENGINES]
    for i, item in enumerate(task.items[: task.num_matrices]):
        for j, choice in enumerate(task.choices):
            if not np.isfinite(task.value[i, j]):
                continue
            expected = PORTABLE_FORMS.get(choice.bits) == choice.form
            expected = expected and all(m.refusal(item, choice) is None for m in members)
            expected = expected and all(m.part(item, choice, 4).bits == choice.bits for m in members)
            assert task.legal[i, j] == expected, choice.name
    names = {task.choices[j].name for j in np.flatnonzero(task.legal[0])}
    assert names == {  # QNN needs more than 32 outputs at 4 bits; OpenVINO's 2 bits in columns:16 are 4 bits in ONNX
        *(f"2bit/{g}/rtn/signed" for g in ("rows:1", "rows:each", "columns:32")),
        *(f"8bit/{g}/rtn/symmetric" for g in ("rows:1", "rows:each")),
    }


def test_a_group_that_one_engine_widens_is_left_out():
    """2 bits in groups of 16: OpenVINO keeps them, ONNX Runtime stores 4 bits."""
    small = Choice(2, "columns:16", "rtn", "signed")
    item = MatrixSpec(module="m", block=0, kind="query", rows=64, columns=64)
    target = plan_target(None, ("openvino", "onnxruntime"))
    assert target.refusal(item, small) == "onnxruntime: 2 bits in columns:16; it stores 4 bits there"
    assert target.refusal(item, Choice(2, "columns:32", "rtn", "signed")) is None


def _openvino_levels(folder, profile):
    """Integer levels of each product with packed weights in an OpenVINO file, by shape, as sorted byte strings."""
    from qbert_opt.formats.quiet_openvino import ov

    found = []
    for node in ov.Core().read_model(Path(folder) / "openvino" / "openvino_model.xml").get_ordered_ops():
        if node.get_type_name() != "Subtract":
            continue
        codes, zero = (node.input_value(k).get_node() for k in (0, 1))
        if codes.get_type_name() != "Convert" or zero.get_type_name() != "Convert":
            continue
        codes, zero = codes.input_value(0).get_node(), zero.input_value(0).get_node()
        if codes.get_type_name() != "Constant" or zero.get_type_name() != "Constant":
            continue
        bits = {"u2": 2, "u4": 4, "u8": 8}[codes.get_element_type().get_type_name()]
        values = _unpacked(np.frombuffer(codes.data.tobytes(), np.uint8), bits)
        found.append((bits, (values[: int(np.prod(codes.shape))] - int(zero.data.flat[0])).tobytes()))
    return sorted(found)


def _onnx_levels(folder):
    """The same of an ONNX file: MatMulNBits without zero points, whose default is half of the range."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(Path(folder) / "onnx" / "model.onnx")
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    found = []
    for node in model.graph.node:
        if node.op_type == "MatMulNBits":
            assert len(node.input) == 3, "no zero points are stored"
            bits = next(a.i for a in node.attribute if a.name == "bits")
            levels = _unpacked(arrays[node.input[1]].reshape(-1), bits) - (1 << bits - 1)
            found.append((bits, levels.tobytes()))
    return sorted(found)


def _unpacked(packed, bits):
    shifts = np.arange(8 // bits) * bits
    return (packed[:, None] >> shifts & ((1 << bits) - 1)).reshape(-1).astype(np.int16)


def test_each_file_holds_the_same_codes(portable_scores, tiny, tmp_path):
    """Exported to both engines that run here, the integers that come out are those of the quantized matrices."""
    pytest.importorskip("onnx")
    pytest.importorskip("qbert_opt.formats.quiet_openvino")
    from qbert_opt.formats.traced_model import traceable
    from qbert_opt.workflows.verify import apply_plan

    plan = _solved(portable_scores, ("onnxruntime", "openvino"), 4.2, pins={"0.attention.self.query": 8})
    assert {m.bits for m in plan.matrices} == {2, 4, 8}, "the plan mixes every portable width"
    quantizer = MatrixQuantizer(tiny, portable_scores.profile, "rtn", None)
    traced = traceable(apply_plan(tiny, plan, quantizer))
    matrices = list(quantized_matrices(quantizer, plan))
    for name in ("onnxruntime", "openvino"):
        (tmp_path / name).mkdir()
        exporting_format(name).write(traced, matrices, tmp_path / name)
    ours = []
    encoder = {m.module for m in plan.matrices}
    for module, matrix in matrices:
        if module in encoder:
            assert matrix.layout.fixed_zero is not None
            levels = matrix.codes.numpy().astype(np.int16) - matrix.layout.fixed_zero
            assert matrix.layout.bits != 4 or levels.min() >= -7
            ours.append((matrix.layout.bits, levels.tobytes()))
    assert _onnx_levels(tmp_path / "onnxruntime") == sorted(ours)
    assert _openvino_levels(tmp_path / "openvino", plan.profile) == sorted(ours)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_no_engine_widens_a_portable_code(bits):
    """llama.cpp has 2 bits in blocks of 64 only; that its blocks keep codes and scales is tested with GGUF."""
    item = MatrixSpec(module="m", block=0, kind="query", rows=64, columns=128)
    target = plan_target(None, ("llama-cpp", "onnxruntime"))
    choices = [Choice(bits, grouping, "rtn", PORTABLE_FORMS[bits]) for grouping in (*GROUPINGS, "columns:64")]
    held = {c.grouping for c in choices if target.refusal(item, c) is None}
    assert held == {"rows:1", "rows:each", "columns:64"} | ({"columns:32"} if bits > 2 else set())


def test_limits_count_the_largest_file(portable_scores):
    """No engine's file is larger than what the limit counts, and the plan records the engines."""
    plan = _solved(portable_scores, ENGINES)
    storage = {m.module: m for m in (*plan.matrices, *plan.tables)}
    files = [engine_file(plan.profile, storage, engine_target(name)) for name in ENGINES]
    assert plan.engine.name == "onnxruntime,openvino,qnn"
    assert plan.engine.encoder_bytes == max(file.encoder_bytes for file in files)
    assert plan.engine.total_bytes >= max(file.total_bytes for file in files)
    assert plan.limits[0].used == plan.engine.encoder_bytes
    assert all(refusal_of_plan(plan, engine_target(name)) is None for name in ENGINES)


def test_a_portable_plan_is_simulated_as_planned(portable_scores):
    """Its latency is that of the plan on a device that runs one of the engines; a device that runs none is refused."""
    device = load_device("rpi5")
    limits = qb.Limits(encoder_bytes=portable_scores.profile.encoder_elements)
    plan = qb.solve_plans(portable_scores, limits, device=device, constraints=qb.PlanConstraints(portable=ENGINES)).plan
    assert qb.simulate_allocation(plan, device, qb.Workload()).latency_s == pytest.approx(plan.device.latency_s)
    with pytest.raises(UsageError, match=r"`engine` onnxruntime: does not run on coral"):
        qb.solve_plans(
            portable_scores, limits, device=load_device("coral"), constraints=qb.PlanConstraints(portable=ENGINES)
        )


def test_all_is_every_engine_that_holds_every_portable_width():
    """TIDL has no 2 bits, torch no file."""
    everyone = portable_engines(("all",))
    assert set(ENGINES) <= set(everyone) and "tidl" not in everyone and "torch" not in everyone
    for name in everyone:
        assert rules_of(name).file is not None


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (("openvino",), "`portable` openvino: needs two engines or more, or all"),
        (("openvino", "torch"), "`portable` torch: opens the quantized folder itself"),
        (("openvino", "abacus"), "unknown 'abacus'"),
    ],
)
def test_mistakes_in_the_list_are_one_line(names, complaint):
    """What was found, what is legal."""
    with pytest.raises(UsageError, match=complaint):
        portable_engines(names)


@pytest.mark.parametrize(
    ("constraints", "complaint"),
    [
        ({"engine": "qnn", "groupings": ("columns:16",)}, r"`groupings` columns:16: `engine` qnn .*groups of 32, 64"),
        (
            {"portable": ENGINES, "groupings": ("columns:16",)},
            r"`groupings` columns:16: `portable` .*it stores 4 bits there",
        ),
        ({"engine": "qnn", "bits": (3,)}, r"`bits` 3: `engine` qnn .*it supports 2, 4, 8"),
    ],
)
def test_choices_that_the_engine_cannot_hold_are_one_line(portable_scores, constraints, complaint):
    """Scored, and asked for, but not held: what was asked for, which engine, what it supports."""
    with pytest.raises(UsageError, match=complaint):
        PlanningTask(portable_scores, qb.Limits(), constraints=qb.PlanConstraints(**constraints))


def test_on_the_command_line(cli, portable_scores, rtn_scores, tmp_path):
    """The report names the engines; a table without these forms says which to score; one engine is no list."""
    scores, plan = tmp_path / "scores.json", tmp_path / "plan.json"
    write_scores(portable_scores, scores)
    arguments = ("solve", "--scores", scores, "--budget", "9bit", "--portable", "openvino, onnxruntime")
    solved = cli(*arguments, "--groupings", "columns:32", "-o", plan)
    assert solved.code == 0, solved.err
    assert "largest file of onnxruntime, openvino (same codes in each)" in " ".join(solved.out.split())
    assert json.loads(plan.read_text())["engine"]["name"] == "onnxruntime,openvino"
    assert cli("simulate", plan, "--device", "rpi5").code == 0
    both = cli("solve", "--scores", scores, "--budget", "5bit", "--portable", "all", "--engine", "openvino")
    assert both.code == 2 and "--portable: makes a plan for several engines. Leave --engine out." in both.complaint
    write_scores(rtn_scores, scores)
    missing = cli("solve", "--scores", scores, "--budget", "5bit", "--portable", "openvino,qnn")
    assert missing.code == 2 and "--portable openvino,qnn: supports none of the choices" in missing.complaint
    assert "2 bits signed, 4 bits symmetric, 8 bits symmetric" in missing.complaint
