"""Metrics on outputs without a softmax: losses, units, and no label."""

import pytest
from families import save

from qbert_opt.data.texts import LabeledTexts
from qbert_opt.models.loading import load_model
from qbert_opt.models.outputs import Head
from qbert_opt.quantization.calibration import CalibrationPlan
from qbert_opt.runtime import plugins
from qbert_opt.scoring.sensitivity import measure_sensitivity, unit_of
from qbert_opt.spec.grids import grid


@pytest.mark.parametrize("metric", ["trace", "top-eigenvalue", "qbert", "qbert-matrix"])
def test_hessian_metrics_score_embeddings_without_labels(metric, tmp_path):
    """The loss is the distance to the float model's own embeddings, so that every score is positive without a label."""
    loaded = load_model(save(tmp_path / "encoder", "bert", "embeddings"))
    texts = LabeledTexts("texts", tuple((f"w{i} w{i * i % 7} w{i % 5}",) for i in range(24)), None)
    table = measure_sensitivity(
        loaded, texts, grid((2, 4), ("rows:1",), "rtn"), metric=metric, plan=CalibrationPlan(4, 12, 0)
    )
    two, four = zip(*table.value, strict=True)
    assert all(low > high > 0 for low, high in zip(two, four, strict=True))
    assert bool(table.block_sensitivity) == (metric == "qbert")
    assert all(value >= 0 for layer in table.block_sensitivity for value in layer.eigenvalues)


@pytest.mark.parametrize(
    ("metric", "kind", "unit"),
    [
        ("directional", "classes", "nats of KL(reference || quantized) per sample"),
        ("directional", "tags", "nats of KL(reference || quantized) per word"),
        ("fisher", "embeddings", "squared output distance relative to the output's squared length, diagonal of the"),
        ("trace", "embeddings", "squared output distance relative to the output's squared length, if errors were"),
        ("trace", "tags", "nats of cross-entropy per word, if errors were"),
        ("qbert", "embeddings", "Q-BERT Ω × ‖ΔW‖² (not a loss; ranks only)"),
    ],
)
def test_the_unit_of_scores_is_that_of_the_outputs(metric, kind, unit):
    """Metrics name a classifier's unit; other outputs have their own."""
    head = Head(kind, 3, lambda model, batch: None)
    assert unit_of(plugins.load("metrics", metric).LOSS_UNIT, head).startswith(unit)
