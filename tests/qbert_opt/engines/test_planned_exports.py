"""What exports of plans with static input ranges do besides answering like torch: they are fast, and fit the inputs."""

import numpy as np
import pytest
import torch

from qbert_opt.checkpoint.check_texts import check_texts_of
from qbert_opt.checkpoint.reader import load_quantized
from qbert_opt.engines.agreement import Check
from qbert_opt.evaluation.evaluate import evaluation_batches, outputs
from qbert_opt.formats.affine import affine
from qbert_opt.quantization.methods import rtn
from qbert_opt.spec.choices import choice
from qbert_opt.workflows.attention_rounding import score_ranges, scores_may_be_rounded, with_rounded_scores
from qbert_opt.workflows.export import export_model
from qbert_opt.workflows.input_fit import misfit


@pytest.mark.parametrize("factor", [0.05, 400.0], ids=["too narrow", "too wide"])
def test_a_single_wrong_range_is_refused_by_name(rounded, sentences, tmp_path, factor):
    """One of many inputs rounded badly may change no answer of a few texts; its own error shows it."""
    loaded, plan = load_quantized(rounded, round_inputs=False)
    samples = check_texts_of(evaluation_batches(loaded, sentences.take(range(8))), "texts").samples()
    assert misfit(loaded, plan.activations, samples) is None
    wrong = plan.activations[3]
    changed = wrong.model_copy(update={"low": factor * wrong.low, "high": factor * wrong.high})
    others = tuple(item for item in plan.activations if item is not wrong)
    fault = misfit(loaded, (*others, changed), samples)
    assert fault is not None and fault.startswith(f"{wrong.modules[0]}: ") and "`activations` int8" in fault


def test_queries_and_keys_are_rounded_where_that_costs_nothing(rounded, sentences, tmp_path):
    """OpenVINO multiplies them in integers; ranges leave room, and relative positions are left alone."""
    loaded, plan = load_quantized(rounded, round_inputs=False)
    samples = check_texts_of(evaluation_batches(loaded, sentences.take(range(8))), "texts").samples()
    ranges = score_ranges(loaded, plan, samples)
    assert len(ranges) == 2 * plan.profile.num_blocks
    assert all(low == pytest.approx(-128 / 127 * high) and high > 0 for low, high in ranges.values())
    model = with_rounded_scores(loaded, ranges)
    near, exact = outputs(model, sentences), outputs(loaded, sentences)
    assert 0 < float((near - exact).abs().max()) < 0.05 * float(exact.abs().max())
    checks, rough = [], []
    for answers, kept in ((exact, checks), (exact.flip(0), rough)):
        kept.append(Check({}, answers.numpy()))
    assert scores_may_be_rounded("classes", checks, checks, [Check({}, near.numpy())])
    assert not scores_may_be_rounded("classes", checks, checks, rough)


def test_products_of_planned_inputs_are_single_nodes(rounded, sentences, tmp_path):
    """Every further node costs a pass over the outputs: no casts, scalings, unread nodes or searches for NaN."""
    onnx = pytest.importorskip("onnx")
    export_model(rounded, "onnxruntime", tmp_path / "out", texts=sentences)
    nodes = onnx.load(tmp_path / "out" / "onnx" / "model.onnx").graph.node
    planned = len(load_quantized(rounded)[1].activations)
    kinds = [node.op_type for node in nodes]
    assert kinds.count("MatMulIntegerToFloat") == planned and "MatMulInteger" not in kinds and "IsNaN" not in kinds
    read = {name for node in nodes for name in node.input}
    assert all(node.output[0] in read for node in nodes if node.op_type == "DequantizeLinear")


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_rows_of_a_table_are_unpacked_exactly(bits):
    """OpenVINO gathers packed bytes and takes the codes apart in floats, where every step is exact."""
    pytest.importorskip("qbert_opt.formats.quiet_openvino")
    from qbert_opt.formats.openvino_graph import Weights
    from qbert_opt.formats.quiet_openvino import op, ov

    weight = torch.randn(40, 64, generator=torch.Generator().manual_seed(0))
    [quantized] = rtn.quantize(weight, [choice(f"{bits}bit/columns:32/rtn").layout(40, 64, heads=4)])
    weights, ids = Weights(), op.parameter([-1, -1], np.int64)
    model = ov.Model([op.result(weights.rows(ids.output(0), affine("table", quantized)))], [ids])
    asked = np.arange(40).reshape(2, 20)
    [found] = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(asked).values()
    np.testing.assert_allclose(found, quantized.dequantize().numpy()[asked], atol=1e-6)
