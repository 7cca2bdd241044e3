"""Every supported family goes through every engine: what is quantized is found in the converted graph, and is right."""

import itertools
import warnings

import pytest
from families import save
from unpacked_codes import assert_our_codes

from qbert_opt.data.texts import LabeledTexts
from qbert_opt.models.batches import tokenize
from qbert_opt.models.loading import load_model
from qbert_opt.models.structure import profile_model
from qbert_opt.planning.recipes import given_allocation
from qbert_opt.quantization.activation_ranges import calibrated_ranges
from qbert_opt.runtime import plugins
from qbert_opt.serving.predictor import Predictor
from qbert_opt.spec.choices import choice
from qbert_opt.spec.planned import PlannedActivation
from qbert_opt.workflows.export import export_model
from qbert_opt.workflows.quantize import quantize_model

EXPORTERS = [n for n in ("openvino", "onnxruntime") if plugins.load("engines", n).usable()]
MODELS = (
    ("bert", "vocabulary"),  # its table is the head's matrix
    ("roberta", "tags"),
    ("distilbert", "spans"),
    ("electra", "embeddings"),
    ("albert", "vocabulary"),  # one block's weights several times, which exporters share
    ("albert with two groups", "classes"),
    ("mpnet", "spans"),
    ("deberta-v2", "vocabulary"),  # products with constants, which converters fold
    ("deberta-v2 with its own position keys", "classes"),
    ("mobilebert", "classes"),
    ("modernbert", "tags"),
    ("modernbert", "embeddings"),  # padding beyond its window sees no token
)


CHOICES = (  # with what rounds the inputs in the file: nothing, or a static range
    ("4bit/columns:16/rtn", False),
    ("8bit/rows:each/rtn/symmetric", True),
    ("3bit/rows:1/rtn/symmetric", False),
    ("4bit/rows:each/rtn", True),
    ("8bit/rows:1/rtn/zero-point", True),
)


@pytest.fixture(scope="module", params=MODELS, ids=[" ".join(model) for model in MODELS])
def quantized(request, sentences, tmp_path_factory):
    """A tiny model of a family in column and row groups, with static ranges for most inputs of rows."""
    family, kind = request.param
    folder = tmp_path_factory.mktemp("family")
    loaded = load_model(save(folder / "model", family, kind))
    profile = profile_model(loaded)
    modules = [m.module for m in profile.matrices]
    chosen = dict(zip(modules, itertools.cycle(CHOICES), strict=False))
    plan = given_allocation(profile, {module: choice(name) for module, (name, _) in chosen.items()})
    texts = sentences.texts[:24]
    if kind == "spans":
        texts = tuple((a[0], b[0]) for a, b in itertools.pairwise(texts))
    ranges = calibrated_ranges(loaded.model, tokenize(loaded.tokenizer, texts, batch_size=16), modules)
    inputs = tuple(
        PlannedActivation(modules=(name,), bits=8, scheme="tensor", range="minmax", low=low, high=high,
                          predicted_loss=0, std_error=0)
        for name, (_, rounded) in chosen.items() if rounded for low, high in [ranges[name]["minmax"](8)]
    )  # fmt: skip
    plan = plan.model_copy(update={"activations": inputs})
    return quantize_model(loaded, plan, LabeledTexts("texts", texts, None), folder / "out").folder


@pytest.mark.parametrize("name", EXPORTERS)
def test_every_family_is_exported(cli, quantized, tmp_path, name, request):
    """In float32 the graph answers as torch does; with rounded inputs as torch does that rounds alike.

    Its file, unpacked again, holds our codes and scales. `run` prints vectors of texts, and refuses what has no label.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        record = export_model(quantized, name, tmp_path / "out", activations="planned", tolerance=0.5)
    assert_our_codes(quantized, tmp_path / "out")
    assert record.graph_difference < 2e-4
    assert record.checked_on == "texts" and record.agreement.answers >= 20
    if request.node.callspec.params["quantized"] in MODELS[:4]:  # one of each kind
        found = cli("run", tmp_path / "out", "--text", "w1 w2")
        if record.kind == "embeddings":
            assert found.code == 0 and len(found.out.split("\t")) == 33
        else:
            assert found.code == 2 and "is neither a classifier of texts nor an encoder" in found.complaint
        assert Predictor(tmp_path / "out").encode([("w1 w2",)])["input_ids"].tolist() == [[2, 6, 7, 3]]
    if any("this processor has no VNNI" in str(warning.message) for warning in caught):
        pytest.skip("sums of 8-bit products are cut off on this processor, as a warning says")
    assert record.agreement.flipped <= 1
    assert record.agreement.loss < 1e-2
