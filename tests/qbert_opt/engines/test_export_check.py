"""What exports are checked on, and that broken ones are refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from qbert_opt.checkpoint.check_texts import CHECK_TEXTS, check_texts_of
from qbert_opt.checkpoint.reader import load_quantized
from qbert_opt.checkpoint.record import CONFIG, ENTRY
from qbert_opt.checkpoint.writer import write_checkpoint
from qbert_opt.data.texts import LabeledTexts
from qbert_opt.errors import InputFileError, QbertOptWarning, UsageError
from qbert_opt.models.batches import tokenize
from qbert_opt.models.depth import without_layers
from qbert_opt.models.structure import profile_model
from qbert_opt.planning.planner import allocate
from qbert_opt.planning.recipes import given_allocation
from qbert_opt.quantization.activation_ranges import calibrated_ranges
from qbert_opt.quantization.calibration import MatrixQuantizer, quantized_matrices
from qbert_opt.reports.written import written_lines
from qbert_opt.runtime import plugins
from qbert_opt.runtime.manifest import file_sha256, seal
from qbert_opt.spec.allocation import PlannedActivation
from qbert_opt.spec.choices import choice
from qbert_opt.spec.limits import Limits
from qbert_opt.spec.scores import ScoreTable
from qbert_opt.workflows.export import export_model
from qbert_opt.workflows.export_check import check_samples, in_batches, longest_sample
from qbert_opt.workflows.quantize import quantize_model

EXPORTERS = [n for n in ("openvino", "onnxruntime") if plugins.load("engines", n).usable()]


def _writer(name):
    return plugins.load("formats", plugins.load("engines", name).FORMAT)


def _plan(loaded, which, planned=()):
    profile = profile_model(loaded)
    plan = given_allocation(profile, {m.module: choice(which) for m in profile.matrices})
    return plan.model_copy(update={"activations": tuple(planned)})


def _ranges(loaded, texts, stretch=1.0):
    modules = [m.module for m in profile_model(loaded).matrices]
    ranges = calibrated_ranges(loaded.model, tokenize(loaded.tokenizer, texts.texts[:40], batch_size=16), modules)
    return [
        PlannedActivation(
            modules=(name,), bits=8, scheme="tensor", range="minmax", low=stretch * low, high=stretch * high,
            predicted_loss=0, std_error=0,
        )
        for name in modules
        for low, high in [ranges[name]["minmax"](8)]
    ]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tiny, sentences, tmp_path_factory):
    """One layer of the tiny model by a choice with integer zero points and static ranges, with texts to check it on."""
    single = without_layers(tiny, (1,))
    plan = _plan(single, "4bit/rows:each/rtn/zero-point", _ranges(single, sentences))
    return quantize_model(single, plan, sentences, tmp_path_factory.mktemp("q") / "out").folder


def test_a_quantized_folder_holds_the_texts_that_it_was_read_back_on(folder, tiny, sentences):
    """Token ids as the tokenizer makes them; every export of the folder is checked on them."""
    loaded, plan = load_quantized(folder)
    data, samples = check_samples(folder, loaded, plan, None)
    assert data == sentences.name and len(samples) == 64
    wanted = [tiny.tokenizer(*text)["input_ids"] for text in sentences.texts[:64]]
    assert [sample.inputs["input_ids"][0].tolist() for sample in samples] == wanted
    again, given = check_samples(folder, loaded, plan, replace(sentences, name="other"))
    assert again == "other" and [s.inputs["input_ids"].tolist() for s in given] == [[ids] for ids in wanted]


def test_both_single_texts_and_padded_ones_are_asked(folder):
    """And one as long as the model reads."""
    loaded, plan = load_quantized(folder)
    _, samples = check_samples(folder, loaded, plan, None)
    batches = in_batches(samples)
    assert [len(batch.indices) for batch in batches] == [1] * 16 + [16] * 3
    assert any(not batch.mask.all() for batch in batches)
    assert len(in_batches(samples[:3])) == 4
    assert longest_sample(samples, loaded.longest).mask.shape == (1, loaded.longest)


def test_folders_of_earlier_releases_ask_for_their_texts(tiny, sentences, tmp_path):
    """They hold none. A foreign text would judge a model by answers that it never gives."""
    plan = _plan(tiny, "8bit/rows:each/rtn")
    origin = plan.provenance.model_copy(update={"data": "my.tsv", "data_sha256": sentences.sha256})
    plan = plan.model_copy(update={"provenance": origin})
    matrices = quantized_matrices(MatrixQuantizer(tiny, plan.profile, plan.method, None), plan)
    write_checkpoint(tiny, plan, matrices, tmp_path / "old")
    with pytest.raises(UsageError, match=r"holds no check_texts\.json.*Give `texts`, .* scored on \(my\.tsv\)"):
        export_model(tmp_path / "old", EXPORTERS[0], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    record = export_model(tmp_path / "old", EXPORTERS[0], tmp_path / "out", texts=sentences)
    assert record.checked_on == sentences.name and record.agreement.answers == 64


@pytest.mark.parametrize(
    ("change", "message"),
    [(lambda d: d["inputs"]["input_ids"][0].__setitem__(0, 10**6), "ids up to 1000000; the model reads"),
     (lambda d: d.update(positions=[[True]]), "numbers for every token of the same samples"),
     (lambda d: d["inputs"]["input_ids"][0].__setitem__(0, -1), "at least 0")],
)  # fmt: skip
def test_texts_that_are_none_of_this_model_are_refused(folder, tmp_path, change, message):
    """An id beyond the table would read memory that is none of the table's."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    document = json.loads((copy / CHECK_TEXTS).read_text())
    change(document)
    (copy / CHECK_TEXTS).write_text(json.dumps(document))
    config = json.loads((copy / CONFIG).read_text())
    entry = config[ENTRY]
    entry["files"][CHECK_TEXTS] = file_sha256(copy / CHECK_TEXTS)
    entry["sha256"] = seal(config | {ENTRY: {k: v for k, v in entry.items() if k != "sha256"}})
    (copy / CONFIG).write_text(json.dumps(config))
    with pytest.raises(InputFileError, match=message):
        export_model(copy, EXPORTERS[0], tmp_path / "out")


BROKEN = {
    "zero point of another row": lambda m: replace(m, zero=np.roll(m.zero, 1, 0)),
    "zero point lost": lambda m: replace(m, zero=8),
    "scales in another order": lambda m: replace(m, scale=m.scale[::-1].copy()),
    "codes along the wrong axis": lambda m: replace(m, codes=np.ascontiguousarray(m.codes.T.reshape(m.codes.shape))),
    "one scale doubled": lambda m: replace(
        m, scale=np.where(np.arange(m.rows)[:, None] == 0, 2, 1).astype("e") * m.scale
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
@pytest.mark.parametrize("name", EXPORTERS)
def test_one_broken_matrix_is_refused(folder, tmp_path, monkeypatch, name, fault):
    """Whatever is allowed for rounding: with float32 activations a graph must compute what torch computes.

    It is one that reads GELU's output: behind a LayerNorm inputs may sum to zero, and a zero point then counts nothing.
    """
    writer = _writer(name)
    real = writer.affine
    broken = []

    def spoiled(module, matrix):
        found = real(module, matrix)
        if broken or not isinstance(found.zero, np.ndarray) or "layer.0.output" not in module:
            return found
        broken.append(module)
        return BROKEN[fault](found)

    monkeypatch.setattr(writer, "affine", spoiled)
    with pytest.raises(InputFileError, match=r"even with float32 activations: .* This is a bug in the export"):
        export_model(folder, name, tmp_path / "out", tolerance=10)
    assert broken and not (tmp_path / "out").exists()


RANGES = {
    "zero point elsewhere": lambda i: replace(i, zero=(i.zero + 96) % 256),
    "zero point lost": lambda i: replace(i, zero=0),
    "scale of another input": lambda i: replace(i, scale=16 * i.scale),
    "scale halved": lambda i: replace(i, scale=i.scale / 2),
}


@pytest.mark.parametrize("fault", RANGES)
@pytest.mark.parametrize("name", EXPORTERS)
def test_broken_input_ranges_are_refused(folder, tmp_path, monkeypatch, name, fault):
    """They change nothing with float32 activations, so that the comparison with torch's own rounding must see them."""
    writer = _writer(name)
    real = writer.with_planned_input

    def spoiled(module, matrix, planned, **kernels):
        found = real(module, matrix, planned, **kernels)
        return replace(found, input=RANGES[fault](found.input))

    monkeypatch.setattr(writer, "with_planned_input", spoiled)
    with pytest.raises(InputFileError, match=r"with the same rounding: .* This is a bug in the export or the engine"):
        export_model(folder, name, tmp_path / "out", activations="planned")


CHANGE = r"static 8-bit activations change too much \(.* decided answers changed.*`activations` int8 .*float32 not at"
MISFIT = r"bert\.encoder\.layer\.0\.attention\.self\.query: rounding its inputs to .* loses 100% of their squared size"


@pytest.mark.parametrize(("stretch", "told"), [(60, CHANGE), (1e4, MISFIT)])
@pytest.mark.parametrize("name", EXPORTERS)
def test_ranges_that_change_answers_are_said_and_the_engines_own_are_taken(
    tiny, sentences, tmp_path, name, stretch, told
):
    """Static ranges that are far too wide round everything away: by default the next way that agrees is taken."""
    plan = _plan(tiny, "8bit/rows:each/rtn/symmetric", _ranges(tiny, sentences, stretch=stretch))
    quantize_model(tiny, plan, sentences, tmp_path / "q")
    with pytest.raises(InputFileError, match=told):
        export_model(tmp_path / "q", name, tmp_path / "out", activations="planned")
    with pytest.warns(QbertOptWarning, match=f"exported with activations int8 instead of planned: {told}"):
        record = export_model(tmp_path / "q", name, tmp_path / "out")
    assert record.activations == "int8" and list(record.refused) == ["planned"]


def test_samples_of_pairs_keep_their_segments(tiny):
    """Token types are stored as the tokenizer makes them, padding is not."""
    texts = LabeledTexts("pairs", (("w1 w2", "w3"), ("w4", "w5 w6 w7")), None)
    kept = check_texts_of(tokenize(tiny.tokenizer, texts.texts, batch_size=2), "pairs")
    assert "attention_mask" not in kept.inputs
    for sample, text in zip(kept.samples(), texts.texts, strict=True):
        for name, values in tiny.tokenizer(*text, return_tensors="pt").items():
            torch.testing.assert_close(sample.inputs[name], values)


def test_without_data_the_plans_own_text_is_checked_on(tiny, rtn_scores, file_texts, tmp_path):
    """A plan says where its text is; what is read there counts if it has the hash that was scored."""
    plan = allocate(rtn_scores, Limits(encoder_bytes=rtn_scores.profile.encoder_elements // 2))
    written = quantize_model(tiny, plan, None, tmp_path / "out")
    given = quantize_model(tiny, plan, file_texts, tmp_path / "given")
    for name in (CHECK_TEXTS, "model.safetensors"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "given" / name).read_bytes()
    assert written.read_back == given.read_back and written.read_back.data == file_texts.name
    assert not any("check texts" in line for line in written_lines(written, plan))


@pytest.mark.parametrize("where", ["moved", "changed", "device"])
def test_text_that_is_not_the_plans_any_more_is_not_taken_for_it(tiny, rtn_scores, file_texts, tmp_path, where):
    """A line says which text is used instead, and how to give the right one. A device is not read: it has no end."""
    path = "/dev/zero" if where == "device" else str(tmp_path / "texts.tsv")
    if where == "changed":
        (tmp_path / "texts.tsv").write_text("text\tlabel\nw1 w2\tred\nw3\tblue\n")
    document = rtn_scores.model_dump(by_alias=True)
    document["provenance"]["data"] = path
    scores = ScoreTable.model_validate(document)
    plan = allocate(scores, Limits(encoder_bytes=scores.profile.encoder_elements // 2))
    written = quantize_model(tiny, plan, None, tmp_path / "out")
    assert written.read_back.data != path
    line = written_lines(written, plan)[-1]
    assert line.startswith(f"check texts      {written.read_back.data}, not {path}, which") and "--data" in line
