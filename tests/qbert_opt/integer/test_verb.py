"""From the command line: a program is written, opened again, measured, and refused where it has no integer form."""

import json

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
    narrowed["a"] = "nothing"
    assert "nowhere before it" in refusal()
    narrowed["kind"] = "Explode"
    assert "no operation is called 'Explode'" in refusal()


@pytest.mark.parametrize(("arguments", "message"), [
    (("--nonlinearity", "magic"), "--nonlinearity magic: legal: poly, shift, table."),
    (("--nonlinearity", "gelu=poly"), "legal: table, poly, shift, or FUNCTION=WAY"),
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


def test_families_heads_and_codebooks_without_an_integer_form_are_named(cli, sentences, data_file, tmp_path):
    for family, kind, named in (("albert", "classes", "albert"), ("bert", "vocabulary", "vocabulary")):
        folder = quantized_folder(tmp_path / family, family, kind, texts_for(sentences, kind))
        result = cli("integer", folder, "--data", data_file, "-o", tmp_path / "out", "-q")
        assert result.code == 2
        assert named in result.complaint and "no integer form" in result.complaint


def test_export_says_how_programs_are_made(cli, quantized, tmp_path):
    result = cli("export", quantized, "--engine", "integer", "-o", tmp_path / "out", "-q")
    assert result.code == 2
    assert "qbert-opt integer FOLDER --data TEXT" in result.complaint
