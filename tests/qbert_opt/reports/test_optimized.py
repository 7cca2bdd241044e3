"""The verdict in words: every figure is that of the outcome, and advice is given where it holds."""

import pytest

from qbert_opt.evaluation.intervals import Interval
from qbert_opt.reports.optimized import outcome_lines, verdict
from qbert_opt.reports.printing import print_lines
from qbert_opt.workflows.outcome import Measured, Outcome, ShareProof


def row(name, megabytes, **more):
    """A row of the comparison."""
    accuracy = Interval(0.9, 0.88, 0.92)
    return Measured(name=name, stored_bytes=int(1e6 * megabytes), num_texts=872, accuracy=accuracy, **more)


def outcome(**changes):
    """A plan of 13 MB that is proven to flip at most 2 %, beside 25 MB of uniform 8 bits."""
    proof = ShareProof(limit="flips", allowed=0.02, measured=7 / 872, upper=0.015, confidence=0.95, holds=True)
    measured = {"flips": Interval(7 / 872, 0.003, 0.0165), "flipped": 7, "kl": Interval(0.0024, 0.002, 0.003)}
    fields = {
        "model": "m", "engine": "onnxruntime 1.31.1", "device": "rpi5", "activations": "int8",
        "loss_unit": "nats of KL(reference || quantized) per sample", "texts": "256 texts calibrate",
        "original": row("float32", 90, engine_bytes=45_000_000, latency_s=0.03),
        "uniform": row("uniform 8-bit", 24, engine_bytes=25_000_000, latency_s=0.02, flipped=2),
        "uniform_choice": "8bit/rows:each/gptq", "uniform_suffices": False,
        "plan": row(
            "this plan", 12, engine_bytes=13_000_000, latency_s=0.01, predicted_loss=0.0019, proofs=(proof,), **measured
        ),
        "files": ("out/onnxruntime",),
    }  # fmt: skip
    return Outcome(**(fields | changes))


def test_the_verdict_states_the_proof_and_the_size():
    """Counts, bound, confidence, limit, and both comparisons of the engine's files."""
    said = verdict(outcome())
    assert said.startswith("holds: 7 of 872 answers change (0.80 %, at most 1.50 at 95 % confidence; limit 2 %)")
    assert "13.00 MB, 71 % smaller than float32 and 48 % smaller than uniform 8-bit" in said


def test_uniform_is_advised_only_where_it_suffices(capsys):
    """The words that an engineer acts on, and what the plan has over it."""
    print_lines(outcome_lines(outcome(uniform_suffices=True)))
    text = capsys.readouterr().out
    advice = "uniform 8-bit already meets your limits: use it, unless 12.00 MB (48 %) matter"
    assert advice in text and "its time here is 0.50 x" in text
    print_lines(outcome_lines(outcome()))
    assert "use it" not in capsys.readouterr().out


def test_no_column_is_cut(capsys):
    """Every heading and figure of the table is printed whole; columns without figures are left out."""
    print_lines(outcome_lines(outcome()))
    text = capsys.readouterr().out
    whole = ("uniform 8-bit", "13.00 MB", "0.80 [0.30, 1.65]", "0.0024 (0.0019)", "answers changed", "10 ms")
    assert [part for part in whole if part not in text] == [] and "rpi5" not in text
    assert "…" not in text


@pytest.mark.parametrize(("size", "words"), [(25.05, "as large as uniform"), (30, "20 % larger than uniform")])
def test_a_plan_that_is_not_smaller_says_so(size, words):
    """No saving is claimed that is not there."""
    plan = outcome().plan.model_copy(update={"engine_bytes": int(size * 1e6)})
    assert words in verdict(outcome(plan=plan))


@pytest.mark.parametrize(("drop", "said"), [(0.0, "+0.00"), (4e-6, "+0.00"), (0.0023, "-0.23"), (-0.0023, "+0.23")])
def test_points_of_accuracy_have_a_sign_that_means_something(drop, said):
    plan = outcome().plan.model_copy(update={"proofs": (), "drop": Interval(drop, -0.01, 0.01)})
    assert f"accuracy {said} points" in verdict(outcome(plan=plan))
