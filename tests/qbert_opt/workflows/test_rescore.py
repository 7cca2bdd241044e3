"""A plan quantized in sequence: its losses are scored again from the errors that are written."""

import json
import math

import pytest
import torch

from qbert_opt.checkpoint.reader import load_quantized
from qbert_opt.errors import UsageError
from qbert_opt.planning.planner import allocate
from qbert_opt.quantization.calibration import quantized_matrices
from qbert_opt.quantization.sequential import sequential_matrices
from qbert_opt.spec.limits import Limits
from qbert_opt.spec.plan_checks import RESCORED
from qbert_opt.workflows.quantize import plan_quantizer, plan_texts, quantize_model
from qbert_opt.workflows.rescore import rescored


@pytest.fixture(scope="module")
def low_plan(gptq_scores):
    """A plan with errors to speak of: 3.3 bits per weight."""
    return allocate(gptq_scores, Limits(encoder_bytes=int(gptq_scores.profile.encoder_elements * 3.3 / 8)))


@pytest.fixture(scope="module")
def in_sequence(tiny, low_plan, file_texts):
    fit, _ = plan_texts(tiny, low_plan, file_texts)
    return sequential_matrices(tiny, low_plan, fit)


def test_scoring_the_plan_s_own_errors_again_gives_its_own_losses(tiny, low_plan, file_texts):
    """With the quantizer that the scores were made with, `rescored` changes nothing but the words."""
    _, scored = plan_texts(tiny, low_plan, file_texts)
    matrices = quantized_matrices(plan_quantizer(tiny, low_plan, file_texts), low_plan)
    again = rescored(tiny, low_plan, dict(matrices), scored)
    for before, after in zip(low_plan.matrices, again.matrices, strict=True):
        assert after.predicted_loss == pytest.approx(before.predicted_loss, rel=1e-3)
        assert after.std_error == pytest.approx(before.std_error, rel=1e-3)
    assert again.predicted_loss == pytest.approx(low_plan.predicted_loss, rel=1e-3)
    assert again.contains.endswith(RESCORED)


def test_what_is_written_is_what_was_scored_again(tiny, low_plan, in_sequence, file_texts, tmp_path):
    """The folder holds the sequential weights, in as many bytes, and a plan with the new losses."""
    written = quantize_model(tiny, low_plan, file_texts, tmp_path / "out", sequential=True)
    assert written.encoder_bytes == low_plan.encoder_bytes
    loaded, plan = load_quantized(tmp_path / "out")
    for module, expected in in_sequence:
        assert torch.equal(loaded.model.get_parameter(f"{module}.weight"), expected.dequantize())
    assert plan.predicted_loss != low_plan.predicted_loss
    assert plan.sum_of_scores == pytest.approx(math.fsum(m.predicted_loss for m in plan.matrices))


def test_from_the_command_line(cli, low_plan, tiny_folder, data_file, tmp_path):
    """Both losses are printed."""
    plan = tmp_path / "plan.json"
    plan.write_text(low_plan.model_dump_json(by_alias=True))
    found = cli(
        "quantize", plan, "--model", tiny_folder, "--data", data_file, "--sequential", "-o", tmp_path / "o", "-q"
    )
    assert found.code == 0, found.err
    again = json.loads((tmp_path / "o" / "allocation.json").read_text())["predicted_loss"]
    assert f"{low_plan.predicted_loss:.4g} in the plan, {again:.4g} scored again" in found.out


def test_scores_of_other_metrics_are_refused(tiny, low_plan, in_sequence, file_texts):
    """Other metrics have other units."""
    with pytest.raises(UsageError, match="sequential: scores of metric qbert cannot be recomputed"):
        rescored(tiny, low_plan.model_copy(update={"metric": "qbert"}), dict(in_sequence), file_texts)


def test_a_method_without_inputs_is_refused(tiny, rtn_scores, file_texts):
    """Round-to-nearest does not use the inputs."""
    plain = allocate(rtn_scores, Limits(encoder_bytes=rtn_scores.profile.encoder_elements // 2))
    with pytest.raises(UsageError, match="`sequential`: method rtn does not use inputs"):
        sequential_matrices(tiny, plain, file_texts)
