"""Engines: what they compute is what torch computes from the same codes, and wrong answers never leave the house."""

import functools
import itertools
import json
import multiprocessing.process
import shutil
import socket
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import warm_process
from families import save
from reference_timed_as import reference_timed_as
from safetensors.numpy import save_file

from qbert_opt.checkpoint.reader import load_quantized
from qbert_opt.engines.record import read_checks, read_record
from qbert_opt.engines.session import engine
from qbert_opt.engines.timing import made_up_inputs, time_files
from qbert_opt.errors import InputFileError, UsageError
from qbert_opt.evaluation.evaluate import outputs
from qbert_opt.formats.affine import affine, with_planned_input
from qbert_opt.formats.traced_model import traceable
from qbert_opt.models.loading import load_model
from qbert_opt.models.structure import profile_model
from qbert_opt.planning.recipes import given_allocation
from qbert_opt.quantization.activation_quant import round_activations
from qbert_opt.quantization.methods import rtn
from qbert_opt.runtime import plugins
from qbert_opt.runtime.manifest import OlderFolderWarning, file_sha256, seal
from qbert_opt.runtime.processor import sums_bytes_exactly
from qbert_opt.serving.predictor import Predictor
from qbert_opt.spec.choices import choice
from qbert_opt.spec.planned import PlannedActivation
from qbert_opt.workflows.export import export_model
from qbert_opt.workflows.quantize import quantize_model

ROOT = Path(__file__).parents[3]
ANY_GRAPH = ("onnx", "openvino-ir")  # formats that hold every architecture
RUNNABLE = [
    name
    for name in plugins.available("engines")
    if name == "torch"
    or (
        getattr(plugins.load("engines", name), "FORMAT", None) in ANY_GRAPH
        and not plugins.load("engines", name).RULES.checked_on  # the same files as another engine's
    )
]
ENGINES = [name for name in RUNNABLE if plugins.load("engines", name).usable()]
EXPORTERS = [name for name in ENGINES if name != "torch"]
MIXED = (
    "2bit/columns:32/rtn", "3bit/columns:16/rtn", "4bit/columns:32/rtn", "8bit/columns:32/rtn", "2bit/rows:each/rtn",
    "4bit/rows:4/rtn/zero-point", "8bit/rows:1/rtn", "4bit/columns:16/rtn/symmetric", "5bit/rows:heads/rtn",
    "2bit/columns:32/rtn/zero-point", "3bit/rows:each/rtn/symmetric", "2bit/columns:32/rtn/signed",
)  # fmt: skip


@pytest.fixture(scope="module")
def quantized(tiny, tmp_path_factory):
    """The tiny model with every form, axis and width that engines carry."""
    profile = profile_model(tiny)
    names = itertools.cycle(MIXED)
    plan = given_allocation(profile, {m.module: choice(next(names)) for m in profile.matrices})
    return quantize_model(tiny, plan, None, tmp_path_factory.mktemp("q") / "out").folder


@pytest.fixture(scope="module", params=EXPORTERS)
def exported(request, quantized, sentences, tmp_path_factory):
    """The quantized model exported to an engine; random weights feel 8-bit activations more than trained ones."""
    target = tmp_path_factory.mktemp(request.param) / "out"
    export_model(quantized, request.param, target, texts=sentences, tolerance=0.5)
    return target


@pytest.fixture(scope="module")
def exact(quantized, sentences):
    """Folders of the quantized model by engine, inputs left alone; each is exported where it is first asked for."""

    @functools.cache
    def folder(name):
        target = quantized.parent / f"{name}-exact"
        export_model(quantized, name, target, texts=sentences, activations="float32")
        return target

    return folder


@pytest.mark.parametrize("activations", ["int8", "int8-coarse", "float32"])
@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("which", [*MIXED, "8bit/columns:64/rtn", "6bit/columns:32/rtn", "8bit/rows:1/rtn/zero-point"])
def test_a_product_is_the_dequantized_one(name, which, activations):
    """X @ Wᵀ of every form: off by no more than 8-bit rounding of x explains."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(48, 128, generator=generator) + 0.3
    x = torch.randn(20, 128, generator=generator)
    [quantized] = rtn.quantize(weight, [choice(which).layout(48, 128, heads=4)])
    matrix = affine("m", quantized)
    np.testing.assert_allclose(matrix.dequantize(), quantized.dequantize().numpy(), atol=2e-6)
    found = plugins.load("engines", name).product(matrix, 1, activations).run({"x": x.numpy()})["y"]
    truth = x @ quantized.dequantize().T
    # an int8 step of x is at most 2 · max|x| / 255; its errors are independent over 128 inputs
    step = 2 * x.abs().max() / 255
    noise = step / 12**0.5 * quantized.dequantize().norm(dim=1).max()
    bound = 1e-5 * truth.abs().max() if activations == "float32" else 6 * noise
    assert np.abs(found - truth.numpy()).max() < bound


ROWS = tuple(which for which in MIXED if "rows" in which)


def skip_where_sums_saturate(name, bits):
    """Without VNNI, sums of 8-bit products are cut off in OpenVINO, as `export` says; narrower codes fit."""
    if bits == 8 and plugins.load("engines", name).RULES.saturates and not sums_bytes_exactly():
        pytest.skip(f"{name} cuts off sums of 8-bit products on this processor, which has no VNNI")


def skip_where_inputs_are_left_alone(name):
    """Without VNNI, OpenVINO computes in floats what has no static range, so that nothing differs."""
    if name == "openvino" and not sums_bytes_exactly():
        pytest.skip("openvino rounds no inputs on this processor, which has no VNNI")


@pytest.mark.parametrize("low", [-3.0, -0.7, 0.0])
@pytest.mark.parametrize("name", EXPORTERS)
@pytest.mark.parametrize("which", [*ROWS, "8bit/rows:1/rtn/zero-point", "8bit/rows:each/rtn/symmetric",
                                   "2bit/rows:each/rtn/signed", "6bit/rows:each/rtn",
                                   "3bit/rows:4/rtn/zero-point"])  # fmt: skip
def test_a_product_with_planned_inputs_is_exact(name, which, low):
    """With a range from the plan, nothing is rounded but what the plan rounds: integers are summed as integers."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(48, 128, generator=generator) + 0.3
    x = torch.randn(20, 128, generator=generator)
    [quantized] = rtn.quantize(weight, [choice(which).layout(48, 128, heads=4)])
    planned = PlannedActivation(
        modules=("m",), bits=8, scheme="tensor", range="mse", low=low, high=2.5, predicted_loss=0, std_error=0
    )
    matrix = with_planned_input("m", affine("m", quantized), planned)
    np.testing.assert_allclose(matrix.dequantize(), quantized.dequantize().numpy(), atol=2e-6)
    skip_where_sums_saturate(name, matrix.bits)
    truth = round_activations(x, 8, low, 2.5) @ quantized.dequantize().T
    found = plugins.load("engines", name).product(matrix, 1, "planned").run({"x": x.numpy()})["y"]
    np.testing.assert_allclose(found, truth.numpy(), atol=2e-6 * float(truth.abs().max()))
    found = plugins.load("engines", name).product(matrix, 1, "float32").run({"x": x.numpy()})["y"]
    plain = x @ quantized.dequantize().T
    np.testing.assert_allclose(found, plain.numpy(), atol=2e-6 * float(plain.abs().max()))


@pytest.mark.parametrize("activations", ["int8", "planned", "float32"])
@pytest.mark.parametrize("name", EXPORTERS)
@pytest.mark.parametrize("which", ["2bit/rows:each/rtn", "4bit/rows:4/rtn/zero-point", "3bit/rows:1/rtn/symmetric",
                                   "8bit/rows:each/rtn"])  # fmt: skip
@pytest.mark.parametrize("columns", [63, 66, 37])
def test_a_product_of_rows_that_end_within_a_byte(name, which, activations, columns):
    """Feed-forward layers may have any width; OpenVINO's float kernels misread such rows when they are packed."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(48, columns, generator=generator) + 0.3
    x = torch.randn(20, columns, generator=generator)
    [quantized] = rtn.quantize(weight, [choice(which).layout(48, columns, heads=4)])
    matrix, truth = affine("m", quantized), x
    if activations == "planned":
        skip_where_sums_saturate(name, matrix.bits)
        planned = PlannedActivation(
            modules=("m",), bits=8, scheme="tensor", range="mse", low=-3, high=2.5, predicted_loss=0, std_error=0
        )
        matrix, truth = with_planned_input("m", matrix, planned), round_activations(x, 8, -3, 2.5)
    found = plugins.load("engines", name).product(matrix, 1, activations).run({"x": x.numpy()})["y"]
    wanted = (truth @ quantized.dequantize().T).numpy()
    step = 2 * x.abs().max() / 255 / 12**0.5 * quantized.dequantize().norm(dim=1).max()
    bound = 6 * float(step) if activations == "int8" else 1e-5 * np.abs(wanted).max()
    assert np.abs(found - wanted).max() < bound


@pytest.mark.parametrize(
    ("which", "change", "message"),
    [("2bit/columns:32/rtn", {}, r"columns:32 has several ranges per output.*`groupings`"),
     ("2bit/rows:each/rtn", {"bits": 16}, r"its inputs have 16 bits"),
     ("2bit/rows:each/rtn", {"low": None, "high": None, "scheme": "token"}, r"rounded per token")],
)  # fmt: skip
def test_planned_inputs_that_no_engine_carries_are_refused_by_name(which, change, message):
    """Not approximated in silence: the matrix, what is in the way, and what to do."""
    [quantized] = rtn.quantize(torch.randn(32, 64), [choice(which).layout(32, 64, heads=4)])
    fields = {"modules": ("m",), "bits": 8, "scheme": "tensor", "low": -1.0, "high": 1.0}
    planned = PlannedActivation(**(fields | change), predicted_loss=0, std_error=0)
    with pytest.raises(UsageError, match=rf"encoder\.3\.query: .*{message}.*`activations` int8"):
        with_planned_input("encoder.3.query", affine("encoder.3.query", quantized), planned)


@pytest.mark.parametrize("name", EXPORTERS)
def test_planned_inputs_are_exported_and_answer_as_torch_rounds(
    rounded, quantized, sentences, tmp_path, name, monkeypatch
):
    """By default what the plan rounds is rounded as planned; `int8` still means the engine's own way."""
    skip_where_sums_saturate(name, 8)
    module = plugins.load("engines", name)
    monkeypatch.setattr(module, "RULES", replace(module.RULES, static_scores=False))  # see test_planned_exports
    record = export_model(rounded, name, tmp_path / "out", texts=sentences)
    # float sums in another order move an input to the next level now and then; nothing else differs
    assert record.activations == "planned" and record.graph_difference < 1e-4 and record.difference < 2e-2
    found = Predictor(tmp_path / "out", threads=1).logits(sentences.texts)
    truth, floats = (outputs(load_quantized(rounded, round_inputs=r)[0], sentences).numpy() for r in (True, False))
    assert np.abs(found - truth).mean() < 0.1 * np.abs(floats - truth).mean()
    other = export_model(rounded, name, tmp_path / "own", texts=sentences, activations="int8", tolerance=0.5)
    assert other.activations == "int8"
    with pytest.raises(UsageError, match="the plan rounds no inputs"):
        export_model(quantized, name, tmp_path / "none", texts=sentences, activations="planned")


@pytest.mark.parametrize("vnni", [False, True])
def test_slow_exact_kernels_are_asked_for_without_vnni_only(vnni, monkeypatch):
    """ONNX Runtime takes them, at a third of the speed, where they are asked for: VNNI sums exactly without."""
    onnxruntime = pytest.importorskip("onnxruntime")
    module, asked = plugins.load("engines", "onnxruntime"), []

    class Watched(onnxruntime.SessionOptions):
        def add_session_config_entry(self, key, value):
            asked.append((key, value))
            super().add_session_config_entry(key, value)

    monkeypatch.setattr(onnxruntime, "SessionOptions", Watched)
    monkeypatch.setattr(module, "has_vnni", lambda: vnni)
    weight = torch.randn(8, 32, generator=torch.Generator().manual_seed(0))
    [quantized] = rtn.quantize(weight, [choice("8bit/rows:each/rtn").layout(8, 32, heads=4)])
    module.product(affine("m", quantized), 1)
    assert ("session.x64quantprecision", "0" if vnni else "1") in asked


@pytest.mark.parametrize(("way", "vnni"), [("planned", False), ("planned", True), ("float32", False)])
def test_sums_that_may_saturate_are_said(rounded, sentences, tmp_path, way, vnni, monkeypatch):
    """Planned inputs, OpenVINO, a processor without VNNI: one line; nothing with VNNI or in floats."""
    pytest.importorskip("qbert_opt.formats.quiet_openvino")
    monkeypatch.setattr("qbert_opt.workflows.export.sums_bytes_exactly", lambda: vnni)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        export_model(rounded, "openvino", tmp_path / "out", texts=sentences, activations=way, tolerance=0.5)
    said = ["adds pairs of 8-bit products in 16 bits, which saturate" in str(one.message) for one in caught]
    assert any(said) == (way == "planned" and not vnni)


def test_the_rest_of_an_offset_is_exact():
    """Scale · (code - zero) + rest is scale · code + offset, for offsets far from the grid too."""
    weight = torch.linspace(5, 9, 64).reshape(2, 32)
    for which in ("2bit/columns:16/rtn", "3bit/rows:each/rtn"):
        [quantized] = rtn.quantize(weight, [choice(which).layout(2, 32, heads=1)])
        matrix = affine("m", quantized)
        np.testing.assert_allclose(matrix.dequantize(), quantized.dequantize().numpy(), rtol=1e-6)


def test_codebooks_are_refused_by_name():
    """What an engine cannot carry is said, not approximated."""
    from qbert_opt.quantization.methods import kmeans

    layout = choice("2bit/columns:32/kmeans/codebook").layout(4, 32, heads=1)
    [quantized] = kmeans.quantize(
        torch.randn(4, 32, generator=torch.Generator().manual_seed(0)), [layout], torch.eye(32)
    )
    with pytest.raises(UsageError, match=r"encoder\.3\.query: is stored with form codebook"):
        affine("encoder.3.query", quantized)


def test_an_export_is_right_in_float32(exported, sentences):
    """With activations left alone the graph answers as torch does; with 8 bits it stays within what was allowed."""
    record = read_record(exported)
    assert record.graph_difference < 1e-4
    assert record.difference < 0.5
    if record.engine != "openvino" or sums_bytes_exactly():  # without VNNI, OpenVINO leaves inputs alone
        assert record.difference > 1e-4
    files = [path for path in exported.rglob("*") if path.is_file()]
    assert {f.suffix for f in files} <= {".json", ".safetensors", ".xml", ".bin", ".onnx", ".data"}


@pytest.mark.parametrize("name", EXPORTERS)
def test_exact_exports_answer_as_torch(exact, quantized, sentences, name):
    """`activations` stays in the folder: what opens it computes in float32."""
    record = read_record(exact(name))
    assert record.activations == "float32" and record.difference <= record.graph_difference < 1e-4
    found = Predictor(exact(name), threads=1).logits(sentences.texts)
    truth = outputs(load_quantized(quantized)[0], sentences).numpy()
    np.testing.assert_allclose(found, truth, atol=1e-4 * np.abs(truth).max())


def test_predictors_agree(exported, quantized, sentences):
    """Labels and probabilities are torch's but for 8-bit activations; batches do not change answers."""
    ours, truth = Predictor(exported, threads=1), Predictor(quantized)
    a, b = (p.predict(sentences.texts[:24]) for p in (ours, truth))
    assert np.mean([x.label == y.label for x, y in zip(a, b, strict=True)]) > 0.8
    for one in a:
        assert one.probability == max(one.probabilities.values()) == one.probabilities[one.label]
        assert sum(one.probabilities.values()) == pytest.approx(1)
        assert set(one.probabilities) == {"red", "green", "blue"}
    assert ours("w1 w2 w3").label in ("red", "green", "blue")
    assert ours("w1 w2", "w3").probabilities != ours("w1 w2").probabilities


@pytest.mark.parametrize("texts", [[""], ["w1", " \t"], [("w1", "")], ["\u200b"]])
def test_an_empty_text_has_no_answer(quantized, texts):
    """As in a file of texts: the tokenizer's special tokens alone have an answer, but not to anything."""
    with pytest.raises(UsageError, match=rf"text {len(texts)} is empty\. Give texts of at least one word"):
        Predictor(quantized).predict(texts)


def test_a_tight_tolerance_refuses_and_leaves_nothing(exported, quantized, tmp_path):
    """Answers that are off are not exported; the message says by how much, and what to do."""
    name = read_record(exported).engine
    skip_where_inputs_are_left_alone(name)
    with pytest.raises(
        InputFileError, match=r"\(int8\) change too much: .* nats .*`activations` float32 .* slower here"
    ):
        export_model(quantized, name, tmp_path / "out", tolerance=1e-9, activations="int8")
    assert not list(tmp_path.iterdir())


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-8])


def _flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("spoil", [_truncate, _flip, lambda path: path.unlink()])
def test_spoiled_exports_are_refused(exported, tmp_path, spoil):
    """Every file that answers depend on has its hash in the record."""
    record = read_record(exported)
    for name in record.files:
        copy = shutil.copytree(exported, tmp_path / f"{spoil.__name__}-{name}")
        spoil(copy / name)
        with pytest.raises(InputFileError, match=r"(is not the file that was written|is missing)"):
            Predictor(copy)


def test_wrong_answers_on_this_machine_are_refused(exported, tmp_path):
    """The folder brings questions and answers along: an engine that fails them does not serve."""
    copy = shutil.copytree(exported, tmp_path / "copy")
    record = json.loads((copy / "engine.json").read_text())
    record["limits"] = {"loss": record["agreement"]["loss"] / 1e3}
    (copy / "engine.json").write_text(json.dumps(record | {"sha256": seal(record)}))
    with pytest.raises(InputFileError, match=r"answers wrongly on this machine"):
        Predictor(copy)


def test_a_record_cannot_point_outside(exported, tmp_path):
    """Names in the record are names in the folder."""
    copy = shutil.copytree(exported, tmp_path / "copy")
    record = json.loads((copy / "engine.json").read_text())
    record["files"]["../engine.json"] = "0"
    (copy / "engine.json").write_text(json.dumps(record | {"sha256": seal(record)}))
    with pytest.raises(InputFileError, match=r"lists '\.\./engine\.json', which is no plain file name"):
        Predictor(copy)


def test_everything_that_an_exported_folder_holds_is_covered(exported, tmp_path):
    """Config, plan and tokenizer too; `files: {}` opens nothing, and nothing may be added or changed in the record."""
    record = json.loads((exported / "engine.json").read_text())
    files = {str(path.relative_to(exported)) for path in exported.rglob("*") if path.is_file()}
    assert set(record["files"]) == files - {"engine.json"}
    copy = shutil.copytree(exported, tmp_path / "changed")
    (copy / "engine.json").write_text(json.dumps(record | {"tolerance": 1e9}))
    with pytest.raises(InputFileError, match=r"engine\.json: has changed since it was written \(sha256\)"):
        Predictor(copy)
    emptied = record | {"files": {}}
    (copy / "engine.json").write_text(json.dumps(emptied | {"sha256": seal(emptied)}))
    with pytest.raises(InputFileError, match=r"engine\.json: lists no hash of check\.safetensors"):
        Predictor(copy)
    copy = shutil.copytree(exported, tmp_path / "added")
    (copy / "special_tokens_map.json").write_text("{}")
    with pytest.raises(InputFileError, match=r"special_tokens_map\.json: is not listed in engine\.json"):
        Predictor(copy)


@pytest.mark.parametrize(
    "change",
    [{"inputs": ["input_ids"]}, {"inputs": ["nonsense"]}, {"outputs": ["pooled"]}, {"labels": ["only one"]}],
)
def test_a_record_that_its_checks_do_not_know(exported, tmp_path, change):
    """Inputs, outputs and labels are those that the questions and answers have; no traceback from the engine."""
    copy = shutil.copytree(exported, tmp_path / "copy")
    record = json.loads((copy / "engine.json").read_text()) | change
    (copy / "engine.json").write_text(json.dumps(record | {"sha256": seal(record)}))
    with pytest.raises(InputFileError, match=r"check\.safetensors: (does not match the inputs|has outputs of width)"):
        Predictor(copy)


def test_an_export_without_checks_does_not_open(exported, tmp_path):
    """No questions would be no wrong answers."""
    copy = shutil.copytree(exported, tmp_path / "copy")
    save_file({}, copy / "check.safetensors")
    record = json.loads((copy / "engine.json").read_text())
    record["files"]["check.safetensors"] = file_sha256(copy / "check.safetensors")
    (copy / "engine.json").write_text(json.dumps(record | {"sha256": seal(record)}))
    with pytest.raises(InputFileError, match=r"check\.safetensors: does not match"):
        Predictor(copy)


def _of_the_second_schema(exported, quantized, folder):
    """The same export as the release before wrote it: raw outputs in the checks, one tolerance."""
    copy = shutil.copytree(exported, folder)
    record = json.loads((copy / "engine.json").read_text())
    agreement = record.pop("agreement")
    for name in ("kind", "checked_on", "limits", "refused"):
        del record[name]
    record |= {"schema": "qbert-opt/engine@2", "difference": agreement["difference"], "tolerance": 0.5}
    traced = traceable(load_quantized(quantized)[0])
    arrays = {}
    for index, check in enumerate(read_checks(exported, read_record(exported))[:3]):
        [logits] = traced.module(*(torch.from_numpy(check.inputs[name]) for name in traced.inputs))
        arrays |= {f"{index}.input.{name}": array for name, array in check.inputs.items()}
        arrays[f"{index}.output.logits"] = logits.detach().numpy()
    save_file(arrays, copy / "check.safetensors")
    record["files"]["check.safetensors"] = file_sha256(copy / "check.safetensors")
    return copy, record


def test_exports_of_the_release_before_open(exported, quantized, tmp_path):
    """They hold raw outputs and one tolerance; both still count."""
    copy, record = _of_the_second_schema(exported, quantized, tmp_path / "copy")
    (copy / "engine.json").write_text(json.dumps(record | {"sha256": seal(record)}))
    assert Predictor(copy)("w1 w2") == Predictor(exported)("w1 w2")
    skip_where_inputs_are_left_alone(record["engine"])
    record["tolerance"] = 1e-6
    (copy / "engine.json").write_text(json.dumps(record | {"sha256": seal(record)}))
    with pytest.raises(InputFileError, match=r"answers wrongly on this machine"):
        Predictor(copy)


def test_older_exports_open_with_one_warning(exported, quantized, tmp_path):
    """Exports of the first release keep running; the record covered the engine's own files only."""
    copy, record = _of_the_second_schema(exported, quantized, tmp_path / "copy")
    for name in ("config.json", "allocation.json", "tokenizer.json"):
        del record["files"][name]
    del record["sha256"]
    (copy / "engine.json").write_text(json.dumps(record | {"schema": "qbert-opt/engine@1"}))
    with pytest.warns(OlderFolderWarning, match=r"older schema qbert-opt/engine@1") as caught:
        answer = Predictor(copy)("w1 w2")
    assert len(caught) == 1 and answer == Predictor(exported)("w1 w2")


def test_export_and_run_from_the_command_line(cli, quantized, data_file, tmp_path):
    """Export says sizes and differences; run answers in lines and JSON, from every kind of folder."""
    for name in EXPORTERS:
        target = tmp_path / name
        found = cli("export", quantized, "--engine", name, "-o", target, "--data", data_file, "--tolerance", 0.5)
        assert found.code == 0, found.err
        assert "decided answers changed" in found.out and "bytes" in found.out
        found = cli("run", target, "--text", "w1 w2", "--text", "w3", "--json")
        assert found.code == 0, found.err
        rows = json.loads(found.out)
        assert [row["text"] for row in rows] == ["w1 w2", "w3"]
        assert all(row["label"] in row["probabilities"] for row in rows)
        found = cli("run", target, "--engine", "torch", "--text", "w1")
        assert found.code == 2 and f"was exported to {name}" in found.complaint
    found = cli("run", quantized, "--data", data_file)
    assert found.code == 0 and len(found.out.splitlines()) == 120
    found = cli("run", quantized)
    assert found.code == 2 and "--text" in found.complaint
    found = cli("export", quantized, "--engine", "torch", "-o", tmp_path / "t")
    assert found.code == 2 and "needs no export" in found.complaint
    found = cli("export", quantized, "--engine", "tensorrt", "-o", tmp_path / "t")
    assert found.code == 2 and "--engine tensorrt: unknown. Available: " in found.complaint


@pytest.mark.parametrize("kind", ["tags", "spans", "vocabulary", "embeddings"])
def test_run_answers_with_labels_and_vectors_of_texts_only(cli, tmp_path, kind):
    """A tagger has labels too, one per word: it is refused by its kind; test_export_families does it after exports."""
    loaded = load_model(save(tmp_path / "model", "bert", kind))
    profile = profile_model(loaded)
    plan = given_allocation(profile, {matrix.module: choice("8bit/rows:each/rtn") for matrix in profile.matrices})
    folder = quantize_model(loaded, plan, None, tmp_path / "quantized").folder
    found = cli("run", folder, "--text", "w1 w2")
    if kind == "embeddings":
        assert found.code == 0 and len(found.out.split("\t")) == 33
    else:
        assert found.code == 2 and "is neither a classifier of texts nor an encoder" in found.complaint
    assert Predictor(folder).encode([("w1 w2",)])["input_ids"].tolist() == [[2, 6, 7, 3]]


def test_an_engine_that_is_not_installed_says_how(cli, quantized, tmp_path, monkeypatch):
    """One line with the command that installs it."""
    for name in EXPORTERS:
        monkeypatch.setattr(plugins.load("engines", name), "usable", lambda: False)
        found = cli("export", quantized, "--engine", name, "-o", tmp_path / "out")
        assert found.code == 2
        assert f"pip install 'qbert-opt[{name}]'" in found.complaint


@pytest.mark.parametrize("name", ENGINES)
def test_evaluate_in_an_engine(cli, quantized, exact, tiny_folder, data_file, name, monkeypatch):
    """Quality as torch measures it but for 8-bit activations; time and memory of a process that only serves."""
    command = ("evaluate", quantized, "--data", data_file, "--reference", tiny_folder)
    target = quantized if name == "torch" else exact(name)
    reference_timed_as(target, monkeypatch)
    found = cli(*(command[0], target, *command[2:]), "--engine", name, "--seq-len", 16, "--json")
    assert found.code == 0, found.err
    served, plain = json.loads(found.out), json.loads(cli(*command, "--json").out)
    assert served["kl"]["value"] == pytest.approx(plain["kl"]["value"], rel=1e-3)
    assert served["flipped"] == plain["flipped"]
    timing = served["timing"][str(target)]
    assert name in timing["engine_label"] and timing["shape"] == [1, 16] and timing["threads"] == 1
    assert len(timing["cpu_s"]) == len(timing["wall_s"]) >= 10 and min(timing["cpu_s"]) > 0
    assert timing["floor_bytes"] < timing["private_bytes"] < timing["peak_bytes"] < 2**31
    if name == "torch":
        floats = engine("torch").open_model(tiny_folder, 1)  # what a process of its own times as the reference
        [answers] = floats.run(made_up_inputs(floats.inputs, 1, 16)).values()
        assert answers.shape == (1, 3) and np.isfinite(answers).all()
        return
    found = cli("evaluate", target, "--data", data_file, "--seq-len", 16)
    assert "ms of processor time in the median" in found.out and "private memory" in found.out


def test_serving_needs_no_torch_and_no_network(exported):
    """A process that opens an export loads neither torch nor transformers, and opens no socket."""
    code = f"""
import socket, sys
def refuse(*arguments, **options):
    raise AssertionError("network")
socket.socket.connect = refuse
socket.create_connection = refuse
from pathlib import Path
from qbert_opt.serving.predictor import open_exported
from qbert_opt.engines.record import read_checks, read_record
folder = Path({str(exported)!r})
open_exported(folder, read_record(folder), 1)
assert not {{"torch", "transformers"}} & set(sys.modules), "torch was loaded"
assert "openvino_telemetry" not in sys.modules, "OpenVINO tells that it was imported"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def exported_without_network(folder, target, names):
    """Export to some engines; fails if anything asks for a connection, from any thread, or for a process that might.

    No engine is loaded yet.
    """
    called = []

    def refuse(*arguments, **options):
        called.append((name, arguments))
        raise OSError("network")

    assert not {"openvino", "onnxruntime", "onnx"} & set(sys.modules)
    socket.socket.connect = socket.socket.sendto = socket.getaddrinfo = refuse
    multiprocessing.process.BaseProcess.start = refuse
    for name in names:
        export_model(folder, name, f"{target}/{name}", tolerance=0.5)
        time.sleep(0.5)
    assert not called, called


def test_export_talks_to_nobody(quantized, tmp_path):
    """No telemetry: an export to any engine opens no connection, from any thread."""
    log = tmp_path / "log"
    process = warm_process.call(log, exported_without_network, str(quantized), str(tmp_path), EXPORTERS)
    process.join()
    assert process.exitcode == 0, log.read_text()


@pytest.mark.parametrize("name", ENGINES)
def test_a_single_product_is_the_product(name):
    """`x @ weight.T` of floats, as a calibration times it."""
    generator = np.random.default_rng(0)
    weight, x = (generator.standard_normal(shape).astype(np.float32) for shape in ((32, 64), (4, 64)))
    [found] = engine(name).product(weight, 1, "float32").run({"x": x}).values()
    np.testing.assert_allclose(found, x @ weight.T, rtol=1e-3, atol=1e-4)


def test_a_model_that_cannot_run_is_said_in_one_line(tmp_path):
    """A process that dies is one line, not a traceback."""
    name = ENGINES[0]  # a process of torch, the last, takes seconds to start
    with pytest.raises(InputFileError, match=rf"{name} died while running it"):
        time_files(name, tmp_path, made_up_inputs(("input_ids",), 1, 4), threads=1, runs=1, activations="float32")
