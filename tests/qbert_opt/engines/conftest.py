"""A model with planned inputs, for the tests of engines."""

import itertools

import pytest

from qbert_opt.models.batches import tokenize
from qbert_opt.models.structure import profile_model
from qbert_opt.planning.recipes import given_allocation
from qbert_opt.quantization.activation_ranges import calibrated_ranges
from qbert_opt.spec.choices import choice
from qbert_opt.spec.planned import PlannedActivation
from qbert_opt.workflows.quantize import quantize_model


@pytest.fixture(scope="module")
def rounded(tiny, sentences, tmp_path_factory):
    """The tiny model in row groups whose inputs have ranges from text, all but one of them."""
    profile = profile_model(tiny)
    names = itertools.cycle(["4bit/rows:each/rtn", "8bit/rows:heads/rtn", "3bit/rows:1/rtn"])
    plan = given_allocation(profile, {m.module: choice(next(names)) for m in profile.matrices})
    modules = [m.module for m in profile.matrices]
    batches = tokenize(tiny.tokenizer, sentences.texts[:40], batch_size=16)
    ranges = calibrated_ranges(tiny.model, batches, modules)
    planned = [
        PlannedActivation(
            modules=(name,), bits=8, scheme="tensor", range="minmax", low=low, high=high, predicted_loss=0, std_error=0
        )
        for name in modules[:-1]
        for low, high in [ranges[name]["minmax"](8)]
    ]
    plan = plan.model_copy(update={"activations": tuple(planned)})
    return quantize_model(tiny, plan, None, tmp_path_factory.mktemp("r") / "out").folder
