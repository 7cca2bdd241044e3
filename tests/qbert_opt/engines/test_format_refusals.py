"""What a runtime or its format cannot do, through the command line: one line that says what can be done instead."""

import sys

import pytest
from families import save
from plain_bert import bert, wordpiece

from qbert_opt.data.texts import LabeledTexts
from qbert_opt.models.loading import load_model
from qbert_opt.models.structure import profile_model
from qbert_opt.planning.recipes import given_allocation
from qbert_opt.spec.choices import choice
from qbert_opt.workflows.quantize import quantize_model

PACKAGES = {"openvino": "openvino", "onnxruntime": "onnxruntime", "litert": "ai_edge_litert", "llama-cpp": "xllamacpp"}


def quantized(model, output):
    """Rows of 4 bits, which every format holds where its blocks divide the width."""
    loaded = load_model(model)
    profile = profile_model(loaded)
    chosen = {m.module: choice("4bit/rows:each/rtn/symmetric") for m in profile.matrices}
    chosen |= {t.module: choice("8bit/rows:each/rtn/symmetric") for t in profile.tables}
    texts = LabeledTexts("texts", tuple((f"w{i} w{i + 1}",) for i in range(16)), None)
    return quantize_model(loaded, given_allocation(profile, chosen), texts, output).folder


@pytest.mark.parametrize("name", PACKAGES)
def test_a_runtime_that_is_not_installed(cli, tmp_path, monkeypatch, name):
    """Before anything is read."""
    monkeypatch.setitem(sys.modules, PACKAGES[name], None)
    refused = cli("export", tmp_path, "--engine", name, "-o", tmp_path / "out")
    line = f"--engine {name}: the package is not installed. Install it with: pip install 'qbert-opt[{name}]'"
    assert refused.code == 2 and refused.complaint.endswith(line)


@pytest.mark.parametrize(
    ("make", "name", "line"),
    [
        (lambda path: bert(path, width=40), "llama-cpp",
         "bert.encoder.layer.0.attention.self.query: has 40 inputs; GGUF's blocks need a multiple of 32. Use "
         "--engine onnxruntime or openvino."),
        (lambda path: bert(path, "TokenClassification"), "llama-cpp",
         "--engine llama-cpp: the head of BertForTokenClassification has no place in it. Legal: "
         "BertForSequenceClassification, BertModel (embeddings, without a head). Use --engine onnxruntime or "
         "openvino."),
        (lambda path: save(path, "mpnet"), "litert",
         "--engine litert: MPNetForSequenceClassification is not a plain BERT. Legal: bert, electra, distilbert, "
         "roberta, xlm-roberta, camembert. Use --engine onnxruntime or openvino."),
    ],
    ids=["width", "head", "family"],
)  # fmt: skip
def test_what_a_format_cannot_hold(cli, tmp_path, make, name, line):
    """By name, with what can be done; nothing is written."""
    pytest.importorskip(PACKAGES[name])
    folder = quantized(make(tmp_path / "model"), tmp_path / "q")
    refused = cli("export", folder, "--engine", name, "-o", tmp_path / "out", "--quiet")
    assert refused.code == 2 and refused.complaint == f"qbert-opt: {line}"
    assert not (tmp_path / "out").exists()


def test_a_vocabulary_that_the_format_reads_otherwise(cli, tmp_path):
    pytest.importorskip("xllamacpp")
    model = bert(tmp_path / "model")
    wordpiece(lowercase=False).save_pretrained(model)
    folder = quantized(model, tmp_path / "q")
    refused = cli("export", folder, "--engine", "llama-cpp", "-o", tmp_path / "out", "--quiet")
    line = "splits texts differently from the model's tokenizer: it distinguishes upper and lower case. Use --engine "
    assert refused.code == 2 and line in refused.complaint and not (tmp_path / "out").exists()


def test_a_file_beyond_the_limit_of_its_format(cli, tmp_path, monkeypatch):
    pytest.importorskip("ai_edge_litert")
    folder = quantized(save(tmp_path / "model", "bert"), tmp_path / "q")
    monkeypatch.setattr("qbert_opt.formats.tflite_file.LARGEST_FILE", 20_000)
    refused = cli("export", folder, "--engine", "litert", "-o", tmp_path / "out", "--quiet")
    assert refused.code == 2 and refused.complaint.startswith("qbert-opt: model.tflite: would have ")
    assert "bytes; TFLite files have at most 20,000. Use fewer bits." in refused.complaint
    assert not (tmp_path / "out").exists()
