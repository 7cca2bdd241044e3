"""Plans of tiny models, made by rounding."""

import pytest
from families import save

from qbert_opt.data.texts import LabeledTexts
from qbert_opt.models.loading import load_model
from qbert_opt.planning.planner import allocate
from qbert_opt.quantization.calibration import CalibrationPlan, MatrixQuantizer, quantized_matrices
from qbert_opt.scoring.sensitivity import measure_sensitivity
from qbert_opt.spec.grids import grid
from qbert_opt.spec.limits import Limits


def texts_of(kind, count=40):
    """Distinct sentences, or questions with texts."""
    sentences = [" ".join(f"w{(7 * i + 3 * j) % 59}" for j in range(4 + i % 5)) for i in range(count)]
    pairs = [(text.split()[0], text) if kind == "spans" else (text,) for text in sentences]
    return LabeledTexts("sentences", tuple(pairs), None)


def plan_of(loaded, data, bits=(2,), **more):
    """A plan of plain rounding, three bits per weight at most."""
    choices = grid(bits, ("rows:heads", "rows:each"), "rtn")
    scores = measure_sensitivity(loaded, data, choices, metric="weight-error", plan=CalibrationPlan(4, 8, 0), **more)
    return allocate(scores, Limits(encoder_bytes=scores.profile.encoder_elements // 2))


def codes_of(loaded, plan):
    """What the plan's quantizer makes of each matrix and table."""
    return list(quantized_matrices(MatrixQuantizer(loaded, plan.profile, plan.method, None), plan))


@pytest.fixture(scope="session")
def tiny_start(tiny, sentences):
    """A plan of the tiny model at 2 bits, and its codes."""
    plan = plan_of(tiny, sentences)
    return plan, codes_of(tiny, plan)


@pytest.fixture
def family_start(tmp_path):
    """Make a model of a family with its plan and codes."""

    def make(family, kind="classes"):
        loaded = load_model(save(tmp_path / "model", family, kind))
        data = texts_of(kind)
        plan = plan_of(loaded, data)
        return loaded, plan, codes_of(loaded, plan), data

    return make
