"""Quantized folders that somebody or something changed: refused in one line, whatever was changed."""

import json
import warnings
from hashlib import sha256

import pytest
import torch
from safetensors.torch import load_file, save_file

from qbert_opt.checkpoint.reader import load_quantized, open_packed
from qbert_opt.checkpoint.record import read_record
from qbert_opt.errors import InputFileError
from qbert_opt.planning.planner import allocate
from qbert_opt.runtime.manifest import OlderFolderWarning
from qbert_opt.spec.allocation import write_allocation
from qbert_opt.spec.limits import Limits


def reseal(folder):
    """Make the record's seal agree with what it says now."""
    path = folder / "config.json"
    document = json.loads(path.read_text())
    document["quantization_config"].pop("sha256", None)
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    document["quantization_config"]["sha256"] = sha256(text.encode()).hexdigest()
    path.write_text(json.dumps(document))


def rehash(folder):
    """Make the record agree with what the files hold now: whoever changes a file on purpose can do that too."""
    path = folder / "config.json"
    document = json.loads(path.read_text())
    files = document["quantization_config"]["files"]
    document["quantization_config"]["files"] = {
        name: sha256((folder / name).read_bytes()).hexdigest() for name in files if (folder / name).exists()
    }
    path.write_text(json.dumps(document))
    reseal(folder)


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
        reseal(folder)

    return spoil


def edit_raw(folder, **fields):
    """Change the record and not its seal."""
    document = json.loads((folder / "config.json").read_text())
    document["quantization_config"] |= fields
    (folder / "config.json").write_text(json.dumps(document))


def add_hash(name):
    return lambda folder: edit_record(files=read_record(folder).files | {name: "0"})(folder)


def drop_hash(name):
    return lambda folder: edit_record(files={n: h for n, h in read_record(folder).files.items() if n != name})(folder)


def resealed(spoil):
    return lambda folder: (spoil(folder), reseal(folder))


def linked(folder):
    """The very weights, but kept outside the folder."""
    (folder / "model.safetensors").rename(folder.parent / "elsewhere.safetensors")
    (folder / "model.safetensors").symlink_to(folder.parent / "elsewhere.safetensors")


def aged(folder):
    """What the release before wrote: other names of codes, no hash of the config."""
    path = folder / "config.json"
    document = json.loads(path.read_text())
    quantized = {name.rpartition(".")[0] for name in load_file(folder / "model.safetensors") if name.endswith(".scale")}
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {
            n.replace(".weight", ".codes") if n.removesuffix(".weight") in quantized else n: t
            for n, t in tensors.items()
        },
        folder / "model.safetensors",
    )
    for key in ("sha256", "trained", "training"):
        del document["quantization_config"][key]
    document["quantization_config"]["format"] = "qbert-opt/model@1"
    files = document["quantization_config"]["files"]
    document["quantization_config"]["files"] = {n: sha256((folder / n).read_bytes()).hexdigest() for n in files}
    path.write_text(json.dumps(document))


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
        r"config.json: format is 'qbert-opt/model@7'; this version reads 'qbert-opt/model@2'.*\(9\.1\)",
    ),
    "another tool's": (edit_record(quant_method="gptq"), r"has no quantization_config of quant_method 'qbert-opt'"),
    "hashes of no use": (edit_record(files=3), r"quantization_config\.files"),
    "hash of a file elsewhere": (add_hash("../x"), r"lists '\.\./x', which is no plain file name"),
    "hash of an absolute path": (add_hash("/etc/hostname"), r"lists '/etc/hostname', which is no plain file name"),
    "hash of the folder above": (add_hash(".."), r"lists '\.\.', which is no plain file name"),
    "no hashes and a changed byte": (
        lambda f: (flip(f), edit_record(files={})(f)),
        r"config\.json: lists no hash of mod",
    ),
    "no hash of the tokenizer": (drop_hash("tokenizer.json"), r"tokenizer\.json: is not listed in config\.json"),
    "no hash of the plan": (drop_hash("allocation.json"), r"lists no hash of allocation\.json"),
    "a plan elsewhere": (edit_record(plan="../../x.json"), r"quantization_config\.plan"),
    "a file too many": (lambda f: (f / "adapter_config.json").write_text("{}"), r"adapter_config\.json: is not listed"),
    "a folder too many": (lambda f: (f / "1_Pooling").mkdir(), r"1_Pooling: is not listed in config\.json"),
    "weights behind a link": (linked, r"model\.safetensors: is a link to .*, outside the folder"),
    "config changed": (edit_config(hidden_act="relu"), r"config\.json: has changed since it was written \(sha256\)"),
    "labels swapped": (
        edit_config(id2label={"0": "green", "1": "red", "2": "blue"}),
        r"config\.json: has changed since it was",
    ),
    "measured loss changed": (
        lambda f: edit_raw(f, read_back={"data": "x", "num_texts": 32, "loss": 0.0, "loss_unit": "nats"}),
        r"config\.json: has changed since it was written",
    ),
    "a hash changed": (lambda f: edit_raw(f, files={}), r"config\.json: has changed since it was written"),
    "no seal": (lambda f: edit_raw(f, sha256=""), r"config\.json: has changed since it was written"),
    "nested too deeply": (
        lambda f: (f / "config.json").write_text("[" * 100000),
        r"config\.json: line 1: JSON nested deeper than 64 levels",
    ),
    "a matrix missing from the plan": (drop_matrix, r"has 11 matrices; the profile has 12"),
    "a matrix that the model has not": (
        rehashed(edit_config(num_hidden_layers=1)),
        r"tensor .*layer\.1\..* is unknown",
    ),
    "codes missing": (spoil_weights(lambda t: t.pop(first(t, "query.weight"))), r"tensor .*query\.weight is missing"),
    "scale missing": (spoil_weights(lambda t: t.pop(first(t, ".scale"))), r"tensor .*\.scale is missing"),
    "bias missing": (spoil_weights(lambda t: t.pop(first(t, ".bias"))), r"tensor .*\.bias is missing"),
    "a part of another form": (
        spoil_weights(lambda t: t.update({first(t, "query.weight")[:-6] + "zero": torch.zeros(4, dtype=torch.uint8)})),
        r"tensor .*query\.zero is unknown",
    ),
    "tensor too many": (spoil_weights(lambda t: t.update(more=torch.zeros(1))), r"tensor more is unknown"),
    "codes cut": (
        spoil_weights(lambda t: t.update({first(t, "query.weight"): torch.zeros(3, dtype=torch.uint8)})),
        r"tensor .*query\.weight has another shape",
    ),
    "bias cut": (spoil_weights(lambda t: t.update({first(t, ".bias"): torch.zeros(3).half()})), r"cannot be loaded"),
    "codes of another type": (
        spoil_weights(lambda t: t.update({first(t, "query.weight"): t[first(t, "query.weight")].to(torch.int16)})),
        r"tensor .*query\.weight has another type",
    ),
    "scale NaN": (spoil_weights(lambda t: t[first(t, ".scale")].fill_(float("nan"))), r"NaN"),
    "no config": (lambda folder: (folder / "config.json").unlink(), r"config.json: no such file"),
    "broken config": (lambda folder: (folder / "config.json").write_text("{"), r"config.json: line 1: Invalid JSON"),
    "config that is no object": (lambda folder: (folder / "config.json").write_text("[]"), r"no quantization_config"),
    "config of another size": (resealed(edit_config(hidden_size=16, num_attention_heads=4)), r"cannot be loaded"),
    "config of another kind": (resealed(edit_config(hidden_size="x")), r"cannot be loaded"),
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
def test_spoiled_folders_are_refused(folder, spoiled, calls_of):
    """Whatever is missing, cut or claimed: one line, exit code 4, within seconds."""
    spoil, message = SPOILED[spoiled]
    spoil(folder)

    def refuse():
        with pytest.raises(InputFileError, match=message) as caught:
            load_quantized(folder)
        assert "\n" not in str(caught.value)

    assert calls_of(refuse) < 500_000  # a whole folder of this size takes about 60,000


def test_a_plan_that_does_not_fit_the_file_is_refused(folder, gptq_scores):
    """Another plan of the same model does not read this model's codes."""
    plan = allocate(gptq_scores, Limits(encoder_bytes=gptq_scores.profile.encoder_elements))
    write_allocation(plan, folder / "allocation.json")
    rehash(folder)
    with pytest.raises(InputFileError, match=r"has another shape than the plan's"):
        load_quantized(folder)


@pytest.mark.parametrize("spoil", ["truncate", "flip", "format"])
def test_transformers_refuses_spoiled_folders(folder, spoil):
    """The same hashes and the same format version guard `from_pretrained`."""
    from transformers import AutoModelForSequenceClassification

    {"truncate": truncate, "flip": flip, "format": edit_record(format="x@2")}[spoil](folder)
    with pytest.raises(InputFileError, match=r"(is not the file that was written|format is 'x@2')"):
        AutoModelForSequenceClassification.from_pretrained(folder)


def test_notes_and_hidden_files_are_nobody_s_business(folder):
    """A model card or git's own files may be added."""
    (folder / "README.md").write_text("# A model")
    (folder / ".gitattributes").write_text("*.safetensors filter=lfs")
    load_quantized(folder)


def test_the_hub_s_cache_may_hold_files_behind_links(folder, tmp_path):
    """There `snapshots/REVISION/NAME` links to `blobs/HASH`."""
    snapshot, blobs = tmp_path / "cache" / "snapshots" / "abc", tmp_path / "cache" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for index, path in enumerate(sorted(folder.iterdir())):
        path.rename(blobs / str(index))
        (snapshot / path.name).symlink_to(f"../../blobs/{index}")
    load_quantized(snapshot)


def test_older_folders_open_with_one_warning(folder):
    """Folders of the release before keep opening, in both ways, with the same weights."""
    model = load_quantized(folder)[0].model
    aged(folder)
    for open_ in (load_quantized, open_packed):
        with pytest.warns(OlderFolderWarning, match=r"older format qbert-opt/model@1; changes to its config") as caught:
            opened = open_(folder)
        assert len(caught) == 1
    packed = opened.model
    for module, planned in ((packed.get_submodule(m.module), m) for m in opened_plan(folder)):
        assert torch.equal(module.weight, model.get_parameter(f"{planned.module}.weight"))


def opened_plan(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OlderFolderWarning)
        return load_quantized(folder)[1].matrices


def test_older_folders_are_checked_as_far_as_their_hashes_go(folder):
    """A changed byte of the weights is noticed there too."""
    aged(folder)
    flip(folder)
    with pytest.warns(OlderFolderWarning), pytest.raises(InputFileError, match=CHANGED):
        load_quantized(folder)


def test_the_command_line_says_the_warning_in_one_line(cli, folder):
    """Without the place in the code that gave it; on stderr, so that answers can be read on."""
    aged(folder)
    found = cli("run", folder, "--text", "w1 w2")
    assert found.code == 0
    [line] = found.err.splitlines()
    assert line.startswith("qbert-opt: warning: ") and "is of the older format" in line
