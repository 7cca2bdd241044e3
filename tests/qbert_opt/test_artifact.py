"""The quantized folder: exactly the planned bytes, exactly the quantizer's weights, and no trust in what it reads."""

import json
import shutil
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from qbert_opt.allocation import write_allocation
from qbert_opt.calibration import CalibrationPlan, MatrixQuantizer, calibration_texts
from qbert_opt.deploy import plan_quantizer, quantize_model
from qbert_opt.errors import InputFileError, UsageError
from qbert_opt.evaluation import outputs
from qbert_opt.limits import Limits
from qbert_opt.models.batches import logits, tokenize
from qbert_opt.models.loading import LoadedModel
from qbert_opt.models.structure import profile_model
from qbert_opt.packing.artifact import folder_bytes, is_quantized, load_quantized
from qbert_opt.planner import allocate
from qbert_opt.recipes import uniform_allocation
from qbert_opt.scores import ScoreTable
from qbert_opt.verification import apply_plan


@pytest.fixture(scope="module")
def written(tiny, gptq_plan, file_texts, tmp_path_factory):
    """The tiny model quantized by its plan."""
    return quantize_model(tiny, gptq_plan, file_texts, tmp_path_factory.mktemp("q") / "out")


@pytest.fixture
def folder(written, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(written.folder, tmp_path / "copy")


def test_bytes_on_disk_are_the_planned_ones(written, gptq_plan):
    """Encoder and total bytes of the file are the plan's; only the header comes on top."""
    assert len({m.bits for m in gptq_plan.matrices}) > 1
    assert (written.encoder_bytes, written.tensor_bytes) == (gptq_plan.encoder_bytes, gptq_plan.total_bytes)
    assert folder_bytes(written.folder) == written.tensor_bytes + written.header_bytes
    payload = sum(t.numel() * t.element_size() for t in load_file(written.folder / "model.safetensors").values())
    assert payload == gptq_plan.total_bytes


def test_the_folder_holds_no_code(written):
    """Safetensors, JSON and text only."""
    assert {f.suffix for f in written.folder.iterdir()} <= {".safetensors", ".json", ".txt"}
    assert is_quantized(written.folder)


def test_weights_come_back_exactly(tiny, written, gptq_plan, file_texts):
    """Searched matrices and tables are the quantizer's own values bit by bit; every other tensor is rounded to fp16."""
    loaded, plan = load_quantized(written.folder)
    assert plan == gptq_plan
    fit, _ = calibration_texts(file_texts, CalibrationPlan(40, 40, 0))
    profile = profile_model(tiny)
    quantizer = MatrixQuantizer(tiny, profile, "gptq", fit)
    expected = {}
    for matrix, planned in zip(profile.matrices, plan.matrices, strict=True):
        [found] = quantizer.quantize(matrix, [planned.choice])
        expected[f"{matrix.module}.weight"] = found.dequantize()
    for table in plan.tables:
        weight = tiny.model.get_parameter(f"{table.module}.weight").detach()
        low, high = weight.aminmax(dim=1)
        step = (high - low) / 255
        back = loaded.model.get_parameter(f"{table.module}.weight")
        assert ((back - weight).abs() <= step[:, None] / 2 + weight.abs().amax() * 3 * 2.0**-11).all()
        expected[f"{table.module}.weight"] = back
    for name, parameter in loaded.model.named_parameters():
        original = tiny.model.get_parameter(name).detach()
        assert torch.equal(parameter, expected.get(name, original.half().float())), name


FORMS = ["rtn", "rtn/symmetric", "rtn/zero-point", "gptq/codebook"]


@pytest.mark.parametrize("method", FORMS)
@pytest.mark.parametrize("bits", [2, 3, 5, 8])
def test_every_width_and_form_round_trips(tiny, rtn_scores, file_texts, tmp_path, bits, method):
    """Plans of one choice come back exactly, for widths that cross bytes and for all that ranges store."""
    name = f"{bits}bit/{'rows:2' if bits > 4 else 'columns:32'}/{method}"
    blank = [[0.0]] * len(rtn_scores.profile.matrices)
    document = rtn_scores.model_dump() | {"choices": [name], "masks": {}, "method": method.split("/")[0]}
    document |= {"value": blank, "std_error": blank, "weight_error": blank, "fold_value": []}
    table = ScoreTable.model_validate(document)
    plan = uniform_allocation(table, table.grid()[0])
    written = quantize_model(tiny, plan, file_texts, tmp_path / "out")
    assert written.tensor_bytes == plan.total_bytes
    loaded, _ = load_quantized(tmp_path / "out")
    quantizer = plan_quantizer(tiny, plan, file_texts)
    for m, spec in zip(plan.matrices, plan.profile.matrices, strict=True):
        [expected] = quantizer.quantize(spec, [m.choice])
        assert torch.equal(loaded.model.get_parameter(f"{m.module}.weight"), expected.dequantize())


def test_padding_does_not_change_answers(written, sentences):
    """A sentence gets the same logits alone and padded beside longer ones."""
    loaded, _ = load_quantized(written.folder)
    together = outputs(loaded, sentences)
    alone = logits(loaded.model, tokenize(loaded.tokenizer, sentences.texts, batch_size=1))
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_answers_are_those_of_the_original_with_the_planned_weights(tiny, written, gptq_plan, file_texts, sentences):
    """The reloaded model answers exactly as the original does once its weights are replaced in memory."""
    loaded, _ = load_quantized(written.folder)
    replaced = apply_plan(tiny, gptq_plan, plan_quantizer(tiny, gptq_plan, file_texts))
    assert torch.equal(outputs(loaded, sentences), outputs(replaced, sentences))
    assert loaded.labels == tiny.labels


def test_a_plan_of_another_model_is_refused(tiny, gptq_plan, file_texts, tmp_path):
    """The plan knows the hash of its model."""
    other = LoadedModel("other", tiny.model, tiny.tokenizer, "0" * 64)
    with pytest.raises(InputFileError, match=r"other: its weights are not those the plan was made for"):
        quantize_model(other, gptq_plan, file_texts, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_other_calibration_text_is_refused(tiny, gptq_plan, sentences, tmp_path):
    """ΔW that was scored is ΔW that is deployed: the plan knows the hash of its text."""
    with pytest.raises(UsageError, match=r"quantize: method gptq needs --data"):
        quantize_model(tiny, gptq_plan, None, tmp_path / "out")
    with pytest.raises(InputFileError, match=r"sentences: is not the data the scores were made with"):
        quantize_model(tiny, gptq_plan, sentences.take(range(100)), tmp_path / "out")


def test_an_accident_leaves_nothing(tiny, gptq_plan, file_texts, tmp_path, monkeypatch):
    """Ctrl-C while the file is written leaves no folder and no part of one."""

    def stop(*_arguments, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("qbert_opt.packing.artifact.save_file", stop)
    with pytest.raises(KeyboardInterrupt):
        quantize_model(tiny, gptq_plan, file_texts, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def spoil_weights(change):
    def spoil(folder):
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return spoil


def truncate(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def huge_header(folder):
    path = folder / "model.safetensors"
    path.write_bytes((2**60).to_bytes(8, "little") + path.read_bytes()[8:])


def edit_config(**fields):
    def spoil(folder):
        document = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(document | fields))

    return spoil


def first(tensors, ending):
    return next(name for name in sorted(tensors) if name.endswith(ending))


SPOILED = {
    "truncated": (truncate, r"model.safetensors: cannot be read"),
    "huge header": (huge_header, r"model.safetensors: cannot be read: .*[hH]eader"),
    "empty": (lambda folder: (folder / "model.safetensors").write_bytes(b""), r"cannot be read"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), r"cannot be read"),
    "codes missing": (spoil_weights(lambda t: t.pop(first(t, ".codes"))), r"tensor .*\.codes is missing"),
    "scale missing": (spoil_weights(lambda t: t.pop(first(t, ".scale"))), r"tensor .*\.scale is missing"),
    "bias missing": (spoil_weights(lambda t: t.pop(first(t, ".bias"))), r"tensor .*\.bias is missing"),
    "tensor too many": (spoil_weights(lambda t: t.update(more=torch.zeros(1))), r"tensor more is unknown"),
    "codes cut": (
        spoil_weights(lambda t: t.update({first(t, ".codes"): torch.zeros(3, dtype=torch.uint8)})),
        r"tensor .*\.codes has another shape",
    ),
    "bias cut": (spoil_weights(lambda t: t.update({first(t, ".bias"): torch.zeros(3).half()})), r"cannot be loaded"),
    "codes of another type": (
        spoil_weights(lambda t: t.update({first(t, ".codes"): t[first(t, ".codes")].to(torch.int16)})),
        r"tensor .*\.codes has another type",
    ),
    "scale NaN": (spoil_weights(lambda t: t[first(t, ".scale")].fill_(float("nan"))), r"NaN"),
    "no config": (lambda folder: (folder / "config.json").unlink(), r"cannot be loaded"),
    "broken config": (lambda folder: (folder / "config.json").write_text("{"), r"cannot be loaded"),
    "config of another size": (edit_config(hidden_size=16, num_attention_heads=4), r"cannot be loaded"),
    "config of another kind": (edit_config(hidden_size="x"), r"cannot be loaded"),
    "no tokenizer": (lambda folder: [f.unlink() for f in folder.glob("tokenizer*")], r"has no tokenizer"),
    "no plan": (lambda folder: (folder / "allocation.json").unlink(), r"is no quantized folder"),
    "broken plan": (lambda folder: (folder / "allocation.json").write_text("{}"), r"Expected a qbert-opt/allocation"),
}


@pytest.mark.parametrize("spoiled", SPOILED)
def test_spoiled_folders_are_refused(folder, spoiled):
    """Whatever is missing, cut or claimed: one line, exit code 4, within seconds."""
    spoil, message = SPOILED[spoiled]
    spoil(folder)
    started = time.process_time()
    with pytest.raises(InputFileError, match=message) as caught:
        load_quantized(folder)
    assert time.process_time() - started < 5
    assert "\n" not in str(caught.value)


def test_a_plan_that_does_not_fit_the_file_is_refused(folder, gptq_scores):
    """Another plan of the same model does not read this model's codes."""
    plan = allocate(gptq_scores, Limits(encoder_bytes=gptq_scores.profile.encoder_elements))
    write_allocation(plan, folder / "allocation.json")
    with pytest.raises(InputFileError, match=r"has another shape than the plan's"):
        load_quantized(folder)
