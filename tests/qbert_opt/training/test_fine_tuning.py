"""Fine-tuning: numbers that cannot be meant, labels that teach nothing, and folders that have a head already."""

import dataclasses
import json
import warnings

import pytest

from qbert_opt.errors import InputFileError, QbertOptWarning, UsageError
from qbert_opt.evaluation.evaluate import evaluate
from qbert_opt.models.loading import load_model
from qbert_opt.training.fine_tuning import _check_learned, fine_tune


@pytest.mark.parametrize(
    ("number", "message"),
    [
        ({"learning_rate": float("nan")}, "`learning_rate` nan: must be above 0 and finite"),
        ({"learning_rate": float("inf")}, "`learning_rate` inf: must be above 0 and finite"),
        ({"learning_rate": -1.0}, r"`learning_rate` -1\.0: must be above 0"),
        ({"learning_rate": 0.0}, r"`learning_rate` 0\.0: must be above 0"),
        ({"epochs": 0}, "`epochs` 0, `batch_size` 64: must be at least 1"),
        ({"batch_size": 0}, "`batch_size` 0: must be at least 1"),
    ],
)
def test_numbers_out_of_range_are_refused(tiny_folder, sentences, tmp_path, number, message):
    with pytest.raises(UsageError, match=message):
        fine_tune(tiny_folder, sentences, tmp_path / "out", **number)
    assert not (tmp_path / "out").exists()


def test_one_class_teaches_nothing(tiny_folder, sentences, tmp_path):
    """Transformers would make it a regression with one output, whose cross-entropy is 0."""
    same = dataclasses.replace(sentences, labels=("red",) * len(sentences))
    with pytest.raises(InputFileError, match="sentences: every label is 'red', so there is nothing to learn"):
        fine_tune(tiny_folder, same, tmp_path / "out")


@pytest.mark.filterwarnings("ignore:.*learned nothing")  # in two updates
@pytest.mark.parametrize("names", [("left", "right"), ("a", "b", "c"), ("1", "2", "3", "4")])
def test_a_head_of_another_size_is_replaced(tiny_folder, sentences, tmp_path, names):
    """The folder has three outputs; the texts decide how many the new one has, and what they are called."""
    labels = tuple(names[i % len(names)] for i in range(len(sentences)))
    texts = dataclasses.replace(sentences, labels=labels)
    fine_tune(tiny_folder, texts, tmp_path / "out", epochs=1)
    tuned = load_model(tmp_path / "out")
    assert tuned.labels == names
    assert evaluate(tuned, texts).accuracy is not None


def test_an_encoder_of_another_size_is_not_replaced(tiny_folder, sentences, tmp_path):
    """Only a head may be new: weights that do not fit their config are a damaged folder."""
    for file in tiny_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 50}))
    with pytest.raises(InputFileError, match=r"position_embeddings.weight has shape \(40, 32\).* asks for \(50, 32\)"):
        fine_tune(tmp_path, sentences, tmp_path / "out")


def test_a_rate_that_diverges_is_named(tiny_folder, sentences, tmp_path):
    with pytest.raises(UsageError, match=r"`learning_rate` 1e\+37: the loss is \w+ after \d+ updates\. Lower it"):
        fine_tune(tiny_folder, sentences, tmp_path / "out", learning_rate=1e37, epochs=3)


def test_a_model_that_learned_nothing_is_said_to_be_useless(tiny_folder, sentences, tmp_path):
    """Three classes: answers at random lose ln 3 = 1.10 nats."""
    said = r"`learning_rate` 10\.0: the model learned nothing: .* answers at random have 1\.1\. Lower the rate\."
    with pytest.warns(QbertOptWarning, match=said):
        fine_tune(tiny_folder, sentences, tmp_path / "out", learning_rate=10.0)
    assert (tmp_path / "out" / "config.json").exists()


def test_a_rate_that_is_too_low_is_not_to_be_lowered():
    with pytest.warns(QbertOptWarning, match=r"the training loss is 1\.5 at the end.* Train for more epochs\."):
        _check_learned([1.6, 1.55, 1.52, 1.5], 3, 1e-9)


def test_the_warning_names_the_flag(cli, tiny_folder, data_file, tmp_path):
    learn = ("--encoder", tiny_folder, "--data", data_file, "--learning-rate", 10, "-q")
    done = cli("fine-tune", *learn, "-o", tmp_path / "out")
    assert done.code == 0 and "warning: --learning-rate 10.0: the model learned nothing" in done.err


@pytest.mark.parametrize(("means", "warns"), [([9.0, 9.0, 9.0, 0.7], False), ([0.1, 0.1, 0.1, 0.8], True)])
def test_the_last_quarter_of_the_updates_counts(means, warns):
    """Two classes: ln 2 = 0.69 nats, and 0.76 with the margin."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _check_learned(means, 2, 1e-3)
    assert [w.category for w in caught] == [QbertOptWarning] * warns
