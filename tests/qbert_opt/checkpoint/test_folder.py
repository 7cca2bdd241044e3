"""The quantized folder: exactly the planned bytes, exactly the quantizer's weights, and no trust in what it reads."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from qbert_opt.checkpoint.packed_modules import PackedEmbedding
from qbert_opt.checkpoint.reader import folder_bytes, is_quantized, load_quantized, open_packed
from qbert_opt.checkpoint.record import read_record
from qbert_opt.checkpoint.stored_tensors import stored_parts
from qbert_opt.checkpoint.streamed_file import StreamedFile
from qbert_opt.errors import InputFileError, UsageError
from qbert_opt.evaluation.evaluate import evaluate, outputs
from qbert_opt.models.batches import logits, tokenize
from qbert_opt.models.loading import LoadedModel
from qbert_opt.models.structure import profile_model
from qbert_opt.planning.planner import allocate
from qbert_opt.planning.recipes import uniform_allocation
from qbert_opt.quantization.calibration import CalibrationPlan, MatrixQuantizer, calibration_texts
from qbert_opt.quantization.methods import rtn
from qbert_opt.runtime.files import atomic_folder
from qbert_opt.spec.allocation import write_allocation
from qbert_opt.spec.choices import choice
from qbert_opt.spec.limits import Limits
from qbert_opt.spec.scores import ScoreTable
from qbert_opt.workflows.quantize import plan_quantizer, quantize_model
from qbert_opt.workflows.verify import apply_plan

ROOT = Path(__file__).parents[3]


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
    assert found.code == 2 and "the disk is full; nothing was written" in found.complaint
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


def _after(monkeypatch, tensors, error):
    """Fail when so many tensors are written."""
    write = StreamedFile.write

    def failing(file, name, tensor):
        if len(file.digests) == tensors:
            raise error
        write(file, name, tensor)

    monkeypatch.setattr(StreamedFile, "write", failing)


KILLED = """
import os, signal, sys
from qbert_opt.checkpoint.streamed_file import StreamedFile
write = StreamedFile.write
def dying(file, name, tensor):
    write(file, name, tensor)
    if len(file.digests) == 9:
        os.kill(os.getpid(), signal.SIGKILL)
StreamedFile.write = dying
from qbert_opt.cli import main
sys.argv = ["qbert-opt", *sys.argv[1:]]
main.run()
"""


def test_kill_9_never_serves_half_a_model(cli, tiny_folder, gptq_plan, data_file, tmp_path, monkeypatch):
    """What a killed run leaves has another name, is refused, and is removed by the next run, which starts clean."""
    write_allocation(gptq_plan, tmp_path / "plan.json")
    target = tmp_path / "out"
    command = ["quantize", tmp_path / "plan.json", "--model", tiny_folder, "--data", data_file, "--quiet", "-o", target]
    command = [str(part) for part in command]
    done = subprocess.run([sys.executable, "-c", KILLED, *command], capture_output=True, cwd=ROOT)
    assert done.returncode == -signal.SIGKILL
    [left] = tmp_path.glob(".out.*.part")
    assert not target.exists() and (left / "model.safetensors").exists()
    for folder in (target, left):
        with pytest.raises(InputFileError, match=r"is no quantized folder"):
            load_quantized(folder)
    monkeypatch.setattr("qbert_opt.runtime.files.JUST_MADE_S", 0.0)
    found = cli(*command)
    assert found.code == 0 and "read back" in found.out
    assert not left.exists() and is_quantized(target)


def test_the_folder_of_a_living_process_is_left_alone(tmp_path, monkeypatch):
    """Two runs with one target: the second does not take the first one's unfinished folder for a dead one's."""
    monkeypatch.setattr("qbert_opt.runtime.files.JUST_MADE_S", 0.0)
    with atomic_folder(tmp_path / "out") as first:
        with atomic_folder(tmp_path / "out") as second:
            assert first.is_dir() and second.is_dir() and first != second
            (second / "x").touch()
        assert first.is_dir()
        shutil.rmtree(tmp_path / "out")
        (first / "y").touch()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["y"] and len(list(tmp_path.iterdir())) == 1


def test_what_reads_back_otherwise_is_never_left(tiny, gptq_plan, file_texts, tmp_path, monkeypatch):
    """A disk that returns other bytes than it was given is noticed before the folder has its name."""

    def spoiled(file, name, tensor, write=StreamedFile.write):
        write(file, name, tensor)
        if len(file.digests) == 3:
            file._file.seek(-1, os.SEEK_CUR)
            file._file.write(b"\xa5" if bytes(tensor.flatten().view(torch.uint8)[-1:].numpy()) != b"\xa5" else b"\x5a")

    monkeypatch.setattr(StreamedFile, "write", spoiled)
    with pytest.raises(RuntimeError, match=r"reads otherwise than it was written"):
        quantize_model(tiny, gptq_plan, file_texts, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_the_loss_of_what_was_read_back_is_kept(tiny, written, file_texts):
    """The record's figure is the loss of the folder as anybody loads it, on texts that did not fit the quantizer."""
    record = read_record(written.folder)
    assert record.read_back == written.read_back and record.read_back.num_texts == 32
    _, scored = calibration_texts(file_texts, CalibrationPlan(40, 40, 0))
    texts = scored.take(range(32))
    found = evaluate(load_quantized(written.folder)[0], texts, outputs(tiny, texts))
    assert record.read_back.loss == pytest.approx(found.kl.value, rel=1e-3)
    assert set(record.files) == {path.name for path in written.folder.iterdir()} - {"config.json"}


def test_transformers_opens_the_folder(written, sentences):
    """`from_pretrained` answers as `load_quantized` does, holds packed codes, and can be made a float model."""
    plain, _ = load_quantized(written.folder)
    packed = open_packed(written.folder)
    truth = outputs(plain, sentences)
    torch.testing.assert_close(outputs(packed, sentences), truth, atol=1e-5, rtol=0)
    held = sum(t.numel() * t.element_size() for t in packed.model.state_dict().values())
    assert held < sum(t.numel() * t.element_size() for t in plain.model.state_dict().values()) / 2
    assert packed.model.is_quantized
    packed.model.dequantize()
    torch.testing.assert_close(outputs(packed, sentences), truth, atol=1e-5, rtol=0)
    for name, parameter in plain.model.named_parameters():
        assert torch.equal(packed.model.get_parameter(name), parameter), name


FROM_PRETRAINED = """
import sys
{imports}
from transformers import AutoModelForSequenceClassification
model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1])
print(model.hf_quantizer.quantization_config.format, type(model.bert.encoder.layer[0].attention.self.query).__name__)
try:
    model.save_pretrained(sys.argv[1] + "-again")
except ValueError as error:
    print("not serializable")
"""


@pytest.mark.parametrize("imports", ["import qbert_opt", "import transformers.quantizers.auto\nimport qbert_opt"])
def test_importing_qbert_opt_is_enough_for_from_pretrained(written, imports):
    """In a fresh process, whichever was imported first; a folder that was tampered with is refused there too."""
    command = [sys.executable, "-c", FROM_PRETRAINED.format(imports=imports), str(written.folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["qbert-opt/model@1 PackedLinear", "not serializable"]


@pytest.mark.parametrize("spoil", ["truncate", "flip", "format"])
def test_transformers_refuses_spoiled_folders(folder, spoil):
    """The same hashes and the same format version guard `from_pretrained`."""
    from transformers import AutoModelForSequenceClassification

    {"truncate": truncate, "flip": flip, "format": edit_record(format="x@2")}[spoil](folder)
    with pytest.raises(InputFileError, match=r"(is not the file that was written|format is 'x@2')"):
        AutoModelForSequenceClassification.from_pretrained(folder)


@pytest.mark.parametrize("which", ["8bit/rows:each/rtn", "4bit/columns:16/rtn", "3bit/rows:16/rtn/symmetric",
                                   "3bit/columns:8/rtn", "4bit/rows:each/rtn/zero-point"])  # fmt: skip
def test_rows_of_packed_tables(which):
    """Only the rows that are read are unpacked, and they are those of the whole table."""
    weight = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    layout = choice(which).layout(64, 16, heads=1)
    [quantized] = rtn.quantize(weight, [layout])
    table = PackedEmbedding(layout, torch.nn.Embedding(64, 16))
    table.load_state_dict(stored_parts(quantized))
    ids = torch.tensor([[3, 3, 63], [0, 17, 41]])
    assert torch.equal(table(ids), quantized.dequantize()[ids])
    assert torch.equal(table.weight, table.plain().weight)


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


def rehash(folder):
    """Make the record agree with what the files hold now: whoever changes a file on purpose can do that too."""
    path = folder / "config.json"
    document = json.loads(path.read_text())
    files = document["quantization_config"]["files"]
    document["quantization_config"]["files"] = {
        name: sha256((folder / name).read_bytes()).hexdigest() for name in files if (folder / name).exists()
    }
    path.write_text(json.dumps(document))


def rehashed(spoil):
    def both(folder):
        spoil(folder)
        rehash(folder)

    return both


def spoil_weights(change):
    def spoil(folder):
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")
        rehash(folder)

    return spoil


def truncate(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def flip(folder):
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-len(data) // 3] ^= 4
    path.write_bytes(data)


def swap(folder):
    """The weights of another model of the same shapes and plan."""
    tensors = load_file(folder / "model.safetensors")
    save_file({n: torch.zeros_like(t) for n, t in tensors.items()}, folder / "model.safetensors")


def huge_header(folder):
    path = folder / "model.safetensors"
    path.write_bytes((2**60).to_bytes(8, "little") + path.read_bytes()[8:])


def edit_config(**fields):
    def spoil(folder):
        document = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(document | fields))

    return spoil


def edit_record(**fields):
    def spoil(folder):
        document = json.loads((folder / "config.json").read_text())
        document["quantization_config"] |= fields
        (folder / "config.json").write_text(json.dumps(document))

    return spoil


def drop_matrix(folder):
    """A plan that does not know one of the matrices."""
    path = folder / "allocation.json"
    document = json.loads(path.read_text())
    document["matrices"] = document["matrices"][1:]
    path.write_text(json.dumps(document))
    rehash(folder)


def first(tensors, ending):
    return next(name for name in sorted(tensors) if name.endswith(ending))


CHANGED = r"model.safetensors: is not the file that was written \(sha256\)"
SPOILED = {
    "truncated": (truncate, CHANGED),
    "truncated, hash and all": (rehashed(truncate), r"model.safetensors: cannot be read"),
    "one bit flipped": (flip, CHANGED),
    "swapped": (swap, CHANGED),
    "huge header": (huge_header, CHANGED),
    "huge header, hash and all": (rehashed(huge_header), r"model.safetensors: cannot be read: .*[hH]eader"),
    "empty": (lambda folder: (folder / "model.safetensors").write_bytes(b""), CHANGED),
    "empty, hash and all": (rehashed(lambda f: (f / "model.safetensors").write_bytes(b"")), r"cannot be read"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), r"model.safetensors: is missing"),
    "unknown format": (
        edit_record(format="qbert-opt/model@7", version="9.1"),
        r"config.json: format is 'qbert-opt/model@7'; this version reads 'qbert-opt/model@1'.*\(9\.1\)",
    ),
    "another tool's": (edit_record(quant_method="gptq"), r"has no quantization_config of quant_method 'qbert-opt'"),
    "hashes of no use": (edit_record(files=3), r"quantization_config\.files"),
    "hash of a file elsewhere": (edit_record(files={"../x": "0"}), r"is missing"),
    "a matrix missing from the plan": (drop_matrix, r"has 11 matrices; the profile has 12"),
    "a matrix that the model has not": (
        rehashed(edit_config(num_hidden_layers=1)),
        r"tensor .*layer\.1\..* is unknown",
    ),
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
    "no config": (lambda folder: (folder / "config.json").unlink(), r"config.json: cannot be read"),
    "broken config": (lambda folder: (folder / "config.json").write_text("{"), r"config.json: cannot be read"),
    "config that is no object": (lambda folder: (folder / "config.json").write_text("[]"), r"no quantization_config"),
    "config of another size": (edit_config(hidden_size=16, num_attention_heads=4), r"cannot be loaded"),
    "config of another kind": (edit_config(hidden_size="x"), r"cannot be loaded"),
    "no tokenizer": (lambda folder: [f.unlink() for f in folder.glob("tokenizer*")], r"tokenizer.*: is missing"),
    "no tokenizer, hash and all": (
        rehashed(lambda folder: [f.unlink() for f in folder.glob("tokenizer*")]),
        r"has no tokenizer",
    ),
    "no plan": (lambda folder: (folder / "allocation.json").unlink(), r"is no quantized folder"),
    "broken plan": (lambda folder: (folder / "allocation.json").write_text("{}"), r"allocation.json: is not the file"),
    "broken plan, hash and all": (
        rehashed(lambda folder: (folder / "allocation.json").write_text("{}")),
        r"Expected a qbert-opt/allocation",
    ),
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
    rehash(folder)
    with pytest.raises(InputFileError, match=r"has another shape than the plan's"):
        load_quantized(folder)
