"""From the command line: a program is written, opened again, measured, and refused where it has no integer form."""

import json
import subprocess
import sys

import numpy as np
import pytest

from .conftest import quantized_folder, texts_for


@pytest.fixture(scope="module")
def quantized(sentences, tmp_path_factory):
    """A tiny BERT with planned inputs."""
    return quantized_folder(tmp_path_factory.mktemp("verb"), "bert", "classes", texts_for(sentences, "classes"))


@pytest.fixture(scope="module")
def written(quantized, sentences):
    """Its program, by tables."""
    from qbert_opt.workflows.integer import integer_model

    target = quantized.parent / "integers"
    integer_model(quantized, sentences, target)
    return target


def test_the_command_writes_what_run_and_evaluate_open(cli, quantized, data_file, tmp_path):
    target = tmp_path / "integers"
    result = cli("integer", quantized, "--data", data_file, "-o", target, "--nonlinearity", "softmax=poly,norm=shift")
    assert result.code == 0, result.err
    assert "every value is proven to fit 32 bits" in result.out
    assert "softmax by poly" in result.out and "activation by table" in result.out
    evaluated = cli("evaluate", target, "--data", data_file, "--engine", "integer", "--json")
    assert evaluated.code == 0, evaluated.err
    run = cli("run", target, "--text", "w1 w2 w3", "--json")
    assert run.code == 0, run.err
    assert json.loads(run.out)[0]["label"] in ("red", "green", "blue")


def test_the_ways_are_those_of_the_plan_or_the_cheapest_of_a_device(quantized, tmp_path):
    from hwmodels import load_device
    from qbert_opt.errors import UsageError
    from qbert_opt.integer.ways import Ways
    from qbert_opt.spec.allocation import read_allocation, write_allocation
    from qbert_opt.workflows.integer import planned_ways

    assert planned_ways(quantized, None, None) == Ways()
    assert planned_ways(quantized, "poly", None) == Ways("poly", "poly", "poly")
    assert planned_ways(quantized, "auto", load_device("car-soc")) == Ways()
    plan = read_allocation(quantized / "allocation.json")
    priced = {"softmax": "poly", "activation": "table", "norm": "shift"}
    write_allocation(plan.model_copy(update={"functions": priced}), tmp_path / "allocation.json")
    assert planned_ways(tmp_path, None, None) == Ways(**priced)
    floats = dict.fromkeys(priced, "float")
    write_allocation(plan.model_copy(update={"functions": floats}), tmp_path / "allocation.json")
    with pytest.raises(UsageError, match="priced with functions in floating point"):
        planned_ways(tmp_path, None, None)


def test_a_program_on_disk_is_the_program(written):
    from qbert_opt.engines.record import read_checks, read_record
    from qbert_opt.engines.session import engine

    record = read_record(written)
    session = engine("integer").open_model(written)
    for check in read_checks(written, record):
        assert np.array_equal(session.run(check.inputs)["logits"], check.answers)


def test_a_program_that_was_tampered_with_is_refused(written, tmp_path):
    from qbert_opt.errors import InputFileError
    from qbert_opt.integer.folder import CONSTANTS, PROGRAM, read_program

    (tmp_path / CONSTANTS).write_bytes((written / CONSTANTS).read_bytes())
    document = json.loads((written / PROGRAM).read_text())

    def refusal():
        (tmp_path / PROGRAM).write_text(json.dumps(document))
        with pytest.raises(InputFileError) as error:
            read_program(tmp_path)
        return str(error.value)

    [narrowed] = [step for step in document["operations"] if step["output"]["name"] == "embeddings.placed"]
    kept = narrowed["output"]["high"]
    narrowed["output"]["high"] = 5
    assert "states" in refusal() and "but can be" in refusal()
    narrowed["output"]["high"] = kept
    kept, narrowed["output"]["shape"] = narrowed["output"]["shape"], ["batch", "tokens", 31]
    assert "states the shape batch x tokens x 31, but is batch x tokens x 32" in refusal()
    narrowed["output"]["shape"] = kept
    name = next(name for name, form in document["packed"].items() if form["shape"][0] != form["shape"][1])
    document["packed"][name]["shape"].reverse()
    assert "multiplies " in refusal() or "codes and factors" in refusal()
    document["packed"][name]["shape"].reverse()
    document["packed"][name]["bits"] += 1
    assert name in refusal()
    document["packed"][name]["bits"] -= 1
    narrowed["shfit"] = 3
    assert "Binary has no shfit" in refusal()
    del narrowed["shfit"]
    narrowed["a"] = "nothing"
    assert "not defined before it" in refusal()
    for unknown in ("Explode", ["Binary"], None):
        narrowed["kind"] = unknown
        assert f"kind: found {unknown!r}; legal: Binary, " in refusal()
    del narrowed["kind"]
    assert "kind: found None; legal: Binary, " in refusal()


@pytest.mark.parametrize(("arguments", "message"), [
    (("--nonlinearity", "magic"), "--nonlinearity magic: legal: poly, shift, table, auto."),
    (("--nonlinearity", ""), "--nonlinearity '': is empty. Give a value, or leave --nonlinearity out."),
    (("--nonlinearity", "gelu=poly"), "legal: poly, shift, table, auto, or FUNCTION=METHOD"),
    (("--nonlinearity", "auto"), "--nonlinearity auto: needs --device"),
    (("--device", "car-soc"), "--device: belongs to --nonlinearity auto"),
    (("--calibration-samples", "3"), "--data: 3 texts are too few to fix ranges. Give at least 8."),
])  # fmt: skip
def test_options_are_refused_in_one_line(cli, quantized, data_file, tmp_path, arguments, message):
    result = cli("integer", quantized, "--data", data_file, "-o", tmp_path / "out", "-q", *arguments)
    assert result.code == 2
    assert message in result.complaint
    assert not (tmp_path / "out").exists()


def test_a_plan_without_rounded_inputs_says_how_to_get_them(cli, tiny, gptq_plan, file_texts, data_file, tmp_path):
    from qbert_opt.workflows.quantize import quantize_model

    folder = quantize_model(tiny, gptq_plan, file_texts, tmp_path / "q").folder
    result = cli("integer", folder, "--data", data_file, "-o", tmp_path / "out", "-q")
    assert result.code == 2
    assert "--activation-bits 8,16" in result.complaint


def test_training_goes_through_integer_functions(cli, quantized, data_file, tmp_path):
    from qbert_opt.checkpoint.record import read_record

    words = ("recover", quantized, "--model", quantized.parent / "model", "--data", data_file, "--steps", "distill",
             "--epochs", "6", "--rates", "distill:1e-3:5e-4", "-q")  # fmt: skip
    for name, ways in (("real", ()), ("integers", ("--nonlinearity", "softmax=shift,norm=poly"))):
        result = cli(*words, *ways, "-o", tmp_path / name)
        assert result.code == 0, result.err
    methods = [read_record(tmp_path / name).training.method for name in ("real", "integers")]
    assert "functions in integers: softmax=shift,norm=poly" in methods[1] and "functions" not in methods[0]
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("real", "integers")]
    assert weights[0] != weights[1]
    assert cli("integer", tmp_path / "integers", "--data", data_file, "-o", tmp_path / "program", "-q").code == 0


def test_training_through_integer_functions_is_refused_by_name(
    cli, quantized, tiny, gptq_plan, file_texts, data_file, tmp_path
):
    from qbert_opt.workflows.quantize import quantize_model

    model = quantized.parent / "model"
    result = cli("recover", quantized, "--model", model, "--data", data_file, "-o", tmp_path / "out", "-q",
                 "--nonlinearity", "magic")  # fmt: skip
    assert result.code == 2 and "--nonlinearity magic: legal: poly, shift, table." in result.complaint
    bare = quantize_model(tiny, gptq_plan, file_texts, tmp_path / "q").folder
    result = cli("recover", bare, "--model", tiny.name, "--data", data_file, "-o", tmp_path / "out", "-q",
                 "--nonlinearity", "poly")  # fmt: skip
    assert result.code == 2 and "the plan does not round the inputs of" in result.complaint
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("family", "kind", "named"), [
    ("albert", "classes", "type albert"),
    ("bert", "vocabulary", "kind vocabulary"),
])  # fmt: skip
def test_what_has_no_integer_form_is_named(cli, sentences, data_file, tmp_path, family, kind, named):
    folder = quantized_folder(tmp_path / family, family, kind, texts_for(sentences, kind))
    result = cli("integer", folder, "--data", data_file, "-o", tmp_path / "out", "-q")
    assert result.code == 2
    assert named in result.complaint and "no integer form" in result.complaint


def test_export_says_how_programs_are_made(cli, quantized, tmp_path):
    result = cli("export", quantized, "--engine", "integer", "-o", tmp_path / "out", "-q")
    assert result.code == 2
    assert "qbert-opt integer FOLDER --data TEXT" in result.complaint


def test_a_quantized_folder_is_not_yet_a_program(cli, quantized, data_file):
    result = cli("evaluate", quantized, "--data", data_file, "--engine", "integer")
    assert result.code == 2
    assert "qbert-opt integer FOLDER --data TEXT" in result.complaint


def test_a_program_runs_without_torch(written):
    code = f"""
import sys
from pathlib import Path
import numpy as np
from qbert_opt.engines.session import engine
ids = np.array([[2, 7, 3]])
session = engine("integer").open_model(Path({str(written)!r}))
answers = session.run({{"input_ids": ids, "attention_mask": ids * 0 + 1, "token_type_ids": ids * 0}})
print(answers["logits"].shape, "torch" in sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split("\n")[0] == "(1, 3) False"


@pytest.mark.parametrize("change", ["token", "length"])
def test_tokens_that_the_program_was_not_proven_for_are_refused(written, change):
    from qbert_opt.engines.session import engine
    from qbert_opt.errors import UsageError

    ids = np.full((1, 3), 64) if change == "token" else np.ones((1, 41), np.int64)
    inputs = {"input_ids": ids, "attention_mask": ids * 0 + 1, "token_type_ids": ids * 0}
    with pytest.raises(UsageError, match="the program reads up to 40 tokens from 0 to 63"):
        engine("integer").open_model(written).run(inputs)


def test_artifacts_are_part_of_the_folder(cli, quantized, data_file, tmp_path):
    target = tmp_path / "integers"
    result = cli("integer", quantized, "--data", data_file, "-o", target, "--emit", "c,onnx", "--emit-tokens", "12")
    assert result.code == 0, result.err
    assert "c: encoder.h, encoder.c" in result.out and "texts of up to 12 tokens" in result.out
    summary = json.loads((target / "integer.json").read_text())
    for item in summary["emitted"]:
        assert all((target / name).stat().st_size for name in item["files"])
    assert f"#define ENCODER_RAM_BYTES {summary['emitted'][0]['ram_bytes']} " in (target / "encoder.h").read_text()
    run = cli("run", target, "--text", "w1 w2 w3", "--json")
    assert run.code == 0, run.err
    (target / "encoder.c").write_text("damaged")
    assert cli("run", target, "--text", "w1", "--json").code == 4


@pytest.mark.parametrize(("arguments", "message"), [
    (("--emit", "fortran"), "--emit fortran: unknown. Available: c, onnx."),
    (("--emit", "c,"), "--emit 'c,': name 2 of the list is empty."),
    (("--emit", "c", "--emit-tokens", "1000"), "--emit-tokens 1000: legal: 1 to "),
    (("--emit", "c", "--emit-tokens", "0"), "--emit-tokens 0: legal: 1 to "),
    (("--emit-tokens", "8"), "--emit-tokens: needs --emit."),
])  # fmt: skip
def test_what_cannot_be_emitted_is_refused_before_any_work(cli, quantized, data_file, tmp_path, arguments, message):
    result = cli("integer", quantized, "--data", data_file, "-o", tmp_path / "out", "-q", *arguments)
    assert result.code == 2
    assert message in result.complaint
    assert not (tmp_path / "out").exists()


def test_onnx_needs_its_package(monkeypatch):
    import importlib.util

    from qbert_opt.errors import UsageError
    from qbert_opt.integer.emitter import emitter

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="needs the package onnx"):
        emitter("onnx")
