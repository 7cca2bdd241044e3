"""A model of four layers, its scores, and its losses without some of them."""

import pytest
import torch

from qbert_opt.models.loading import load_model
from qbert_opt.quantization.calibration import CalibrationPlan, calibration_texts
from qbert_opt.scoring.layer_drops import layer_drops
from qbert_opt.scoring.sensitivity import measure_sensitivity
from qbert_opt.spec.grids import grid

DEPTH = 4


@pytest.fixture(scope="session")
def deep_folder(tiny_folder, tmp_path_factory):
    """The tiny model with four layers of random weights."""
    from transformers import AutoConfig, AutoTokenizer, BertForSequenceClassification

    folder = tmp_path_factory.mktemp("deep") / "model"
    config = AutoConfig.from_pretrained(tiny_folder)
    config.num_hidden_layers = DEPTH
    torch.manual_seed(3)
    BertForSequenceClassification(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_folder).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def deep(deep_folder):
    return load_model(deep_folder)


@pytest.fixture(scope="session")
def deep_scores(deep, file_texts):
    """Few choices and texts."""
    choices = grid((2, 4, 8), ("rows:each", "columns:32"), "rtn")
    return measure_sensitivity(deep, file_texts, choices, plan=CalibrationPlan(20, 40, 0), activation_choices=())


@pytest.fixture(scope="session")
def deep_drops(deep, file_texts):
    """The model without each set of at most two layers, on the text of the scores."""
    _, texts = calibration_texts(file_texts, CalibrationPlan(20, 40, 0))
    return layer_drops(deep, texts, 2)
