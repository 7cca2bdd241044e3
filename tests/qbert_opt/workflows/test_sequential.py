"""Quantized in sequence: the first block as ever, the others on inputs that carry errors, the losses scored again."""

import copy
import json
import math

import pytest
import torch

from qbert_opt.checkpoint.folder import load_quantized
from qbert_opt.curvature.capture import input_grams
from qbert_opt.errors import UsageError
from qbert_opt.planning.planner import allocate
from qbert_opt.quantization.calibration import fit_batches
from qbert_opt.quantization.methods import gptq
from qbert_opt.spec.limits import Limits
from qbert_opt.workflows.quantize import plan_quantizer, plan_texts, quantize_model
from qbert_opt.workflows.sequential import CONTAINS, SequentialQuantizer, rescored


@pytest.fixture(scope="module")
def low_plan(gptq_scores):
    """A plan with errors to speak of: 3.3 bits per weight."""
    return allocate(gptq_scores, Limits(encoder_bytes=int(gptq_scores.profile.encoder_elements * 3.3 / 8)))


@pytest.fixture(scope="module")
def in_sequence(tiny, low_plan, file_texts):
    fit, _ = plan_texts(tiny, low_plan, file_texts)
    return SequentialQuantizer(tiny, low_plan, fit)


def test_each_block_sees_the_errors_before_it(tiny, low_plan, in_sequence, file_texts):
    """By hand: the second block's matrices are gptq's on inputs of a model whose first block is quantized."""
    fit, _ = plan_texts(tiny, low_plan, file_texts)
    batches = fit_batches(tiny, "gptq", fit)
    model = copy.deepcopy(tiny.model)
    profile, differ = low_plan.profile, 0
    together = plan_quantizer(tiny, low_plan, file_texts)
    for block in (0, 1):
        inside = [(m, p) for m, p in zip(profile.matrices, low_plan.matrices, strict=True) if m.block == block]
        grams = input_grams(model, batches, [m.module for m, _ in inside])
        for matrix, planned in inside:
            weight = tiny.model.get_parameter(f"{matrix.module}.weight").detach()
            [expected] = gptq.quantize(weight, [planned.layout], grams[matrix.module])
            [found] = in_sequence.quantize(matrix, [planned.choice])
            assert torch.equal(found.dequantize(), expected.dequantize())
            [parallel] = together.quantize(matrix, [planned.choice])
            same = torch.equal(parallel.dequantize(), found.dequantize())
            assert same or block == 1
            differ += not same
            with torch.no_grad():
                model.get_parameter(f"{matrix.module}.weight").copy_(expected.dequantize())
    assert differ


def test_scoring_the_plan_s_own_errors_again_gives_its_own_losses(tiny, low_plan, file_texts):
    """With the quantizer that the scores were made with, `rescored` changes nothing but the words."""
    _, scored = plan_texts(tiny, low_plan, file_texts)
    again = rescored(tiny, low_plan, plan_quantizer(tiny, low_plan, file_texts), scored)
    for before, after in zip(low_plan.matrices, again.matrices, strict=True):
        assert after.predicted_loss == pytest.approx(before.predicted_loss, rel=1e-3)
        assert after.std_error == pytest.approx(before.std_error, rel=1e-3)
    assert again.predicted_loss == pytest.approx(low_plan.predicted_loss, rel=1e-3)
    assert again.contains.endswith(CONTAINS)


def test_what_is_written_is_what_was_scored_again(tiny, low_plan, in_sequence, file_texts, tmp_path):
    """The folder holds the sequential weights, in as many bytes, and a plan with the new losses."""
    written = quantize_model(tiny, low_plan, file_texts, tmp_path / "out", sequential=True)
    assert written.encoder_bytes == low_plan.encoder_bytes
    loaded, plan = load_quantized(tmp_path / "out")
    for matrix, planned in zip(plan.profile.matrices, plan.matrices, strict=True):
        [expected] = in_sequence.quantize(matrix, [planned.choice])
        assert torch.equal(loaded.model.get_parameter(f"{matrix.module}.weight"), expected.dequantize())
    assert plan.predicted_loss != low_plan.predicted_loss
    assert plan.sum_of_scores == pytest.approx(math.fsum(m.predicted_loss for m in plan.matrices))


def test_from_the_command_line(cli, low_plan, tiny_folder, data_file, tmp_path):
    """Both losses are printed; a method without inputs and a matrix outside the plan are refused."""
    plan = tmp_path / "plan.json"
    plan.write_text(low_plan.model_dump_json(by_alias=True))
    found = cli(
        "quantize", plan, "--model", tiny_folder, "--data", data_file, "--sequential", "-o", tmp_path / "o", "-q"
    )
    assert found.code == 0, found.err
    again = json.loads((tmp_path / "o" / "allocation.json").read_text())["predicted_loss"]
    assert f"{low_plan.predicted_loss:.4g} by the plan, {again:.4g} scored again" in found.out


def test_what_cannot_be_done_in_sequence(tiny, low_plan, in_sequence, rtn_scores, file_texts):
    """Rounding looks at no inputs; other metrics have other units; other choices were not made."""
    plain = allocate(rtn_scores, Limits(encoder_bytes=rtn_scores.profile.encoder_elements // 2))
    with pytest.raises(UsageError, match="--sequential: method rtn looks at no inputs"):
        SequentialQuantizer(tiny, plain, file_texts)
    with pytest.raises(UsageError, match="--sequential: scores of metric qbert cannot be made again"):
        rescored(tiny, low_plan.model_copy(update={"metric": "qbert"}), in_sequence, file_texts)
    matrix, planned = low_plan.profile.matrices[0], low_plan.matrices[0]
    other = planned.choice.__class__(8, "rows:1", "gptq")
    with pytest.raises(ValueError, match="was quantized by the plan's choice only"):
        in_sequence.quantize(matrix, [other])
