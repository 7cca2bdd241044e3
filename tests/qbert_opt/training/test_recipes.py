"""Recipes of papers: what they set, that they train on the same plan, and what they refuse."""

import pytest

from qbert_opt.checkpoint.record import read_record
from qbert_opt.errors import UsageError
from qbert_opt.spec.allocation import write_allocation
from qbert_opt.training.objective import needs_labels
from qbert_opt.training.recipes import RECIPES, recipe
from qbert_opt.training.settings import RecoverySettings
from qbert_opt.workflows.recover import recover


@pytest.mark.parametrize("name", RECIPES)
def test_each_recipe_trains_the_plan(cli, tiny, tiny_folder, gptq_plan, data_file, tmp_path, name):
    """Through the command line: the planned bytes, and the provenance names losses, quantizer and start."""
    write_allocation(gptq_plan, tmp_path / "plan.json")
    found = cli(
        "recover", tmp_path / "plan.json", "--model", tiny_folder, "--data", data_file, "-o", tmp_path / "out",
        "--recipe", name, "--epochs", 1, "--batch-size", 8,
    )  # fmt: skip
    assert found.code == 0, found.err
    method = read_record(tmp_path / "out").training.method
    settings = recipe(name)
    assert f"quantizer {settings.quantizer}; from nearest codes" in method
    assert all(loss in method for loss in settings.losses)
    assert f"{gptq_plan.encoder_bytes:,} bytes (planned {gptq_plan.encoder_bytes:,})" in found.out


def test_only_qberts_recipe_needs_labels():
    """The others have a teacher."""
    assert [name for name in RECIPES if needs_labels(RECIPES[name].losses)] == ["qbert"]


def test_nearest_codes_are_the_same_from_plan_and_folder(tiny, gptq_plan, file_texts, tmp_path):
    """The folder's own codes and biases play no part; the first loss is that of plain rounding."""
    from qbert_opt.workflows.quantize import quantize_model

    quantize_model(tiny, gptq_plan, file_texts, tmp_path / "start")
    settings = RecoverySettings(
        steps=("distill",), epochs={"distill": 0.1}, start="nearest", quantizer="minmax", batch_size=8
    )
    runs = [
        recover(tiny, source, [file_texts], tmp_path / out, settings=settings)
        for source, out in ((gptq_plan, "a"), (tmp_path / "start", "b"))
    ]
    assert runs[0].start_loss == runs[1].start_loss
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1]


def test_what_cannot_start_is_refused(cli, tiny, tiny_start, gptq_plan, file_texts, tmp_path):
    """Min-max ranges from a quantizer's codes; a codebook has no range to round in; unknown names."""
    with pytest.raises(UsageError, match=r"'minmax' cannot start from another quantizer's codes; set start"):
        recover(tiny, gptq_plan, [file_texts], tmp_path / "out", settings=RecoverySettings(quantizer="minmax"))
    with pytest.raises(UsageError, match=r"training quantizer codebook does not support form 'offset'"):
        recover(tiny, tiny_start[0], [file_texts], tmp_path / "out", settings=RecoverySettings(quantizer="codebook"))
    with pytest.raises(UsageError, match=r"quantizer 'magic': unknown. Available: codebook, lsq, minmax"):
        RecoverySettings(quantizer="magic")
    with pytest.raises(UsageError, match=r"start 'zero': unknown. Available: codes, nearest"):
        RecoverySettings(start="zero")
    found = cli("recover", "p", "-m", "m", "--data", "d", "-o", tmp_path / "out", "--recipe", "gpt")
    assert (found.code, "--recipe 'gpt': unknown. Available: qbert, kdlsq" in found.complaint) == (2, True)
