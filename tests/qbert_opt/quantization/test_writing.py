"""Which quantizer writes a plan's codes, and what it writes."""

from types import SimpleNamespace

import pytest
import torch

from qbert_opt.checkpoint.reader import read_matrices
from qbert_opt.checkpoint.record import read_record
from qbert_opt.errors import UsageError
from qbert_opt.planning.planner import allocate
from qbert_opt.quantization.calibration import MatrixQuantizer, quantized_matrices
from qbert_opt.quantization.writing import checked_method, writing_method
from qbert_opt.reports.written import written_lines
from qbert_opt.spec.limits import Limits
from qbert_opt.workflows.quantize import plan_quantizer, plan_texts, quantize_model, writing_quantizer


@pytest.fixture(scope="module")
def low_plan(gptq_scores):
    """A plan with errors to speak of: 3.3 bits per weight."""
    return allocate(gptq_scores, Limits(encoder_bytes=int(gptq_scores.profile.encoder_elements * 3.3 / 8)))


def plan_of(method, bits, *, causal=False, form="offset"):
    matrices = tuple(SimpleNamespace(module=f"layer{i}", bits=width, form=form) for i, width in enumerate(bits))
    return SimpleNamespace(method=method, matrices=matrices, profile=SimpleNamespace(causal=causal))


@pytest.mark.parametrize(
    ("plan", "method"),
    [
        (plan_of("gptq", (2, 8)), "guided"),
        (plan_of("gptq", (4,)), "guided"),
        (plan_of("quantease", (3,)), "guided"),
        (plan_of("gptq", (5, 8)), "gptq"),  # nothing to gain
        (plan_of("gptq", (2,), causal=True), "gptq"),  # not measured
        (plan_of("rtn", (2,)), "rtn"),
        (plan_of("mse", (2,)), "mse"),
        (plan_of("kmeans", (2,), form="codebook"), "kmeans"),
        (plan_of("guided", (2,)), "guided"),
    ],
)
def test_a_closer_quantizer_writes_where_that_pays(plan, method):
    """Narrow plans of encoders that gptq or quantease scored, and no others."""
    assert writing_method(plan) == method


def test_a_quantizer_that_stores_no_such_ranges_is_refused():
    """Codebooks are no ranges, and the reverse."""
    with pytest.raises(UsageError, match="`method` rtn: layer0 is planned in form codebook; rtn stores offset"):
        checked_method(plan_of("kmeans", (2,), form="codebook"), "rtn")
    with pytest.raises(UsageError, match="`method` kmeans: layer0 is planned in form offset; kmeans stores codebook"):
        checked_method(plan_of("gptq", (2,)), "kmeans")
    with pytest.raises(UsageError, match="unknown"):
        checked_method(plan_of("gptq", (2,)), "gtpq")
    assert checked_method(plan_of("gptq", (2,)), "rtn") == "rtn"


def codes_in(folder, plan):
    return {module: quantized.codes for module, quantized in read_matrices(folder, plan)}


@pytest.mark.parametrize(("asked", "wrote"), [(None, "guided"), ("gptq", "gptq"), ("rtn", "rtn")])
def test_the_folder_holds_the_codes_of_the_quantizer_that_it_names(tiny, low_plan, file_texts, tmp_path, asked, wrote):
    """Bit for bit; the plan in it, and its bytes, stay those of the scores."""
    written = quantize_model(tiny, low_plan, file_texts, tmp_path / "q", method=asked)
    fit, _ = plan_texts(tiny, low_plan, file_texts)
    expected = dict(quantized_matrices(MatrixQuantizer(tiny, low_plan.profile, wrote, fit), low_plan))
    for module, codes in codes_in(tmp_path / "q", low_plan).items():
        assert torch.equal(codes, expected[module].codes), module
    record = read_record(tmp_path / "q")
    assert written.written_by == record.written_by == wrote
    assert (written.encoder_bytes, written.tensor_bytes) == (low_plan.encoder_bytes, low_plan.total_bytes)
    said = [line for line in written_lines(written, low_plan) if line.startswith("codes ")]
    assert [wrote in line for line in said] == ([] if wrote == "gptq" else [True])


def test_codes_that_are_written_by_default_have_less_error(tiny, low_plan, file_texts):
    """In the second moments that weight tokens by their influence, on which guided descends from gptq's codes."""
    close, scored = writing_quantizer(tiny, low_plan, file_texts), plan_quantizer(tiny, low_plan, file_texts)
    errors = []
    for matrix, planned in zip(low_plan.profile.matrices, low_plan.matrices, strict=True):
        gram = close._gram(matrix)
        pair = [q.errors(matrix, [planned.choice])[0] for q in (close, scored)]
        errors.append([float((error @ gram * error).sum()) for error in pair])
    totals = torch.tensor(errors).sum(0)
    assert totals[0] < 0.99 * totals[1]


def test_plans_of_wide_codes_are_written_as_scored(tiny, low_plan):
    """Nothing is gained above 4 bits, so nothing is fitted twice."""
    wide = low_plan.model_copy(update={"matrices": tuple(m.model_copy(update={"bits": 8}) for m in low_plan.matrices)})
    assert writing_method(wide) == "gptq" and writing_method(low_plan) == "guided"
