"""Training in two processes of torchrun equals training in one."""

import numpy as np
import pytest
import warm_process
from safetensors.numpy import load_file

from qbert_opt.data.texts import LabeledTexts
from qbert_opt.errors import UsageError
from qbert_opt.evaluation.evaluate import outputs
from qbert_opt.models.loading import load_model
from qbert_opt.runtime.distributed import Processes
from qbert_opt.training.fine_tuning import fine_tune
from qbert_opt.training.settings import RecoverySettings
from qbert_opt.workflows.quantize import quantize_model
from qbert_opt.workflows.recover import recover


@pytest.mark.slow
def test_two_processes_recover_as_one(cli, tiny, tiny_folder, gptq_plan, file_texts, data_file, tmp_path):
    """The same global batch: ranges and scales to 1e-5, and one report; blocks and end to end."""
    quantize_model(tiny, gptq_plan, file_texts, tmp_path / "start")
    command = [
        "recover", tmp_path / "start", "--model", tiny_folder, "--data", data_file, "--batch-size", 8, "--epochs", 1,
        "--batches-per-update", 2, "-q", "-o",
    ]  # fmt: skip
    said = warm_process.in_two(tmp_path, [*command, tmp_path / "two"])
    assert cli(*command, tmp_path / "one").code == 0
    assert said.count("measured loss") == 1
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, values in one.items():
        if values.dtype == np.float16:
            np.testing.assert_allclose(
                two[name].astype(float), values.astype(float), rtol=1e-5, atol=1e-7, err_msg=name
            )
        else:
            assert np.array_equal(two[name], values), name
    assert {path.name for path in tmp_path.iterdir()} == {"start", "one", "two"}


@pytest.mark.slow
def test_two_processes_fine_tune_as_one(cli, tiny_folder, data_file, tmp_path):
    """By torchrun's agent: the same weights to 1e-5, without dropout, which each process draws for its own batches."""
    loaded = load_model(tiny_folder)
    loaded.model.config.hidden_dropout_prob = loaded.model.config.attention_probs_dropout_prob = 0.0
    loaded.model.save_pretrained(tmp_path / "encoder")
    loaded.tokenizer.save_pretrained(tmp_path / "encoder")
    command = [
        "fine-tune", "--encoder", tmp_path / "encoder", "--data", data_file, "--batch-size", 8, "--epochs", 1,
        "--batches-per-update", 2, "-q", "-o",
    ]  # fmt: skip
    warm_process.in_two_by_torchrun(tmp_path, [*command, tmp_path / "two"])
    assert cli(*command, tmp_path / "one").code == 0
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name, values in one.items():
        np.testing.assert_allclose(two[name], values, rtol=1e-5, atol=1e-5, err_msg=name)


def test_processes_that_cannot_share_are_refused(tiny, tiny_start, tiny_folder, file_texts, tmp_path):
    """One line, before any work."""
    with pytest.raises(UsageError, match=r"batches_per_update: 3; 2 processes need a multiple of 2, at least 2"):
        recover(
            tiny, tiny_start[0], [file_texts], tmp_path / "out",
            settings=RecoverySettings(batches_per_update=3), processes=Processes(0, 2),
        )  # fmt: skip
    with pytest.raises(UsageError, match=r"batches_per_update: 1; 2 processes"):
        fine_tune(tiny_folder, file_texts, tmp_path / "out", processes=Processes(1, 2))


def test_fine_tuning_with_dice(tiny_folder, file_texts, tmp_path):
    """Imbalanced classes are learned; losses of a teacher are refused."""
    texts = tuple((f"w{i} w{(3 * i) % 40} w{'50' if i % 6 == 0 else '51'}",) for i in range(60))
    data = LabeledTexts("rare", texts, tuple("rare" if i % 6 == 0 else "usual" for i in range(60)))
    fine_tune(tiny_folder, data, tmp_path / "out", epochs=12, batch_size=12, learning_rate=5e-3, loss="dice")
    loaded = load_model(tmp_path / "out")
    names = [loaded.model.config.id2label[i] for i in outputs(loaded, data).argmax(1).tolist()]
    right = [name == label for name, label in zip(names, data.labels, strict=True)]
    assert np.mean(right) > 0.95 and names.count("rare") >= 8
    with pytest.raises(UsageError, match=r"loss: 'logits' compares with a teacher"):
        fine_tune(tiny_folder, file_texts, tmp_path / "other", loss="logits")
