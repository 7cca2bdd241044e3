"""The quantized folder: exactly the planned bytes, exactly the quantizer's weights, and no trust in what it reads."""

import errno
import os
import signal

import pytest
import torch
import warm_process
from safetensors.torch import load_file

from qbert_opt.checkpoint.reader import folder_bytes, is_quantized, load_quantized
from qbert_opt.checkpoint.record import read_record
from qbert_opt.checkpoint.streamed_file import StreamedFile
from qbert_opt.errors import InputFileError, UsageError
from qbert_opt.evaluation.evaluate import evaluate, outputs
from qbert_opt.models.batches import logits, tokenize
from qbert_opt.models.loading import LoadedModel
from qbert_opt.models.structure import profile_model
from qbert_opt.planning.recipes import uniform_allocation
from qbert_opt.quantization.calibration import CalibrationPlan, MatrixQuantizer, calibration_texts
from qbert_opt.spec.allocation import write_allocation
from qbert_opt.spec.choices import choice
from qbert_opt.spec.scores import ScoreTable
from qbert_opt.workflows.quantize import quantize_model, writing_quantizer
from qbert_opt.workflows.verify import apply_plan


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
    quantizer = MatrixQuantizer(tiny, profile, "guided", fit)
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


FORMS = ["rtn", "rtn/symmetric", "rtn/signed", "rtn/zero-point", "gptq/codebook"]


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
    quantizer = writing_quantizer(tiny, plan, file_texts)
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
    replaced = apply_plan(tiny, gptq_plan, writing_quantizer(tiny, gptq_plan, file_texts))
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
    with pytest.raises(UsageError, match=r"quantize: method gptq needs `data`"):
        quantize_model(tiny, gptq_plan, None, tmp_path / "out")
    with pytest.raises(InputFileError, match=r"sentences: is not the data the scores were made with"):
        quantize_model(tiny, gptq_plan, sentences.take(range(100)), tmp_path / "out")


@pytest.mark.parametrize("tensors_written", [0, 5])
def test_an_accident_leaves_nothing(tiny, gptq_plan, file_texts, tmp_path, monkeypatch, tensors_written):
    """Ctrl-C while the file is written leaves no folder and no part of one."""
    _after(monkeypatch, tensors_written, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        quantize_model(tiny, gptq_plan, file_texts, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_said_and_leaves_nothing(cli, tiny_folder, gptq_plan, data_file, tmp_path, monkeypatch):
    """The system's error becomes one line and exit code 2; nothing half-written stays."""
    write_allocation(gptq_plan, tmp_path / "plan.json")
    _after(monkeypatch, 7, OSError(errno.ENOSPC, "No space left on device"))
    command = ("quantize", tmp_path / "plan.json", "--model", tiny_folder, "--data", data_file)
    found = cli(*command, "--quiet", "-o", tmp_path / "out")
    assert found.code == 2 and "was not written: the disk is full" in found.complaint
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


def _after(monkeypatch, tensors, error):
    """Fail when so many tensors are written."""
    write = StreamedFile.write

    def failing(file, name, tensor):
        if len(file.digests) == tensors:
            raise error
        write(file, name, tensor)

    monkeypatch.setattr(StreamedFile, "write", failing)


def die_in_the_9th_tensor():
    """`kill -9` while the file of tensors is written."""
    write = StreamedFile.write

    def dying(file, name, tensor):
        write(file, name, tensor)
        if len(file.digests) == 9:
            os.kill(os.getpid(), signal.SIGKILL)

    StreamedFile.write = dying


def test_kill_9_never_serves_half_a_model(cli, tiny_folder, gptq_plan, data_file, tmp_path):
    """What a killed run leaves has another name, is refused, and is removed by the next run, which starts clean."""
    write_allocation(gptq_plan, tmp_path / "plan.json")
    target = tmp_path / "out"
    command = ["quantize", tmp_path / "plan.json", "--model", tiny_folder, "--data", data_file, "--quiet", "-o", target]
    child = warm_process.start(tmp_path / "log", command, die_in_the_9th_tensor)
    child.join()
    assert child.exitcode == -signal.SIGKILL, (tmp_path / "log").read_text()
    [left] = tmp_path.glob(".out.*.part")
    assert not target.exists() and (left / "model.safetensors").exists()
    for folder in (target, left):
        with pytest.raises(InputFileError, match=r"is no quantized folder"):
            load_quantized(folder)
    found = cli(*command)
    assert found.code == 0 and "read back" in found.out
    assert not left.exists() and is_quantized(target)


def test_what_reads_back_otherwise_is_never_left(tiny, gptq_plan, file_texts, tmp_path, monkeypatch):
    """A disk that returns other bytes than it was given is noticed before the folder has its name."""

    def spoiled(file, name, tensor, write=StreamedFile.write):
        write(file, name, tensor)
        if len(file.digests) == 3:
            file._file.seek(-1, os.SEEK_CUR)
            file._file.write(b"\xa5" if bytes(tensor.flatten().view(torch.uint8)[-1:].numpy()) != b"\xa5" else b"\x5a")

    monkeypatch.setattr(StreamedFile, "write", spoiled)
    with pytest.raises(RuntimeError, match=r"differs from what was written"):
        quantize_model(tiny, gptq_plan, file_texts, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_the_loss_of_what_was_read_back_is_kept(tiny, written, file_texts):
    """The record's figure is the loss of the folder as anybody loads it, on texts that did not fit the quantizer."""
    record = read_record(written.folder)
    assert record.read_back == written.read_back and record.read_back.num_texts == 40
    _, scored = calibration_texts(file_texts, CalibrationPlan(40, 40, 0))
    texts = scored.take(range(40))
    found = evaluate(load_quantized(written.folder)[0], texts, outputs(tiny, texts))
    assert record.read_back.loss == pytest.approx(found.kl.value, rel=1e-3)
    assert set(record.files) == {path.name for path in written.folder.iterdir()} - {"config.json"}


def test_statistics_are_made_for_as_many_matrices_as_memory_holds(tiny, file_texts, monkeypatch):
    """A bound on statistics changes how often the text is read, and no bit of what is written."""
    profile = profile_model(tiny)
    fit, _ = calibration_texts(file_texts, CalibrationPlan(40, 40, 0))
    whole = MatrixQuantizer(tiny, profile, "gptq", fit)
    monkeypatch.setattr("qbert_opt.quantization.calibration.GRAM_BYTES", 4 * 32**2 * 2)
    parts = MatrixQuantizer(tiny, profile, "gptq", fit)
    asked = choice("2bit/rows:4/gptq")
    for matrix in (*profile.matrices, profile.matrices[0]):
        [a], [b] = whole.quantize(matrix, [asked]), parts.quantize(matrix, [asked])
        assert torch.equal(a.codes, b.codes) and torch.equal(a.scale, b.scale)
        assert len(parts._grams) <= 2
