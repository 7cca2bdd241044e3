"""Exports as other tools look for them: file names, settings beside them, and profiles of the ONNX export."""

import itertools
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from families import save
from onnx import numpy_helper

from qbert_opt.checkpoint.bits import unpack
from qbert_opt.checkpoint.reader import read_matrices
from qbert_opt.data.texts import LabeledTexts
from qbert_opt.engines.record import read_record
from qbert_opt.engines.session import engine, rules_of
from qbert_opt.errors import InputFileError, UsageError
from qbert_opt.formats.affine import affine, with_planned_input
from qbert_opt.formats.hub_names import SUFFIXES
from qbert_opt.formats.writers import onnx as onnx_writer
from qbert_opt.formats.writers import openvino_ir
from qbert_opt.models.batches import tokenize
from qbert_opt.models.loading import load_model
from qbert_opt.models.structure import profile_model
from qbert_opt.planning.recipes import given_allocation
from qbert_opt.quantization.activation_quant import round_activations
from qbert_opt.quantization.activation_ranges import calibrated_ranges
from qbert_opt.quantization.methods import rtn
from qbert_opt.serving.predictor import Predictor
from qbert_opt.spec.allocation import read_allocation
from qbert_opt.spec.choices import choice
from qbert_opt.spec.planned import PlannedActivation
from qbert_opt.workflows.export import export_model
from qbert_opt.workflows.quantize import quantize_model

TEXTS = LabeledTexts("texts", tuple((f"w{i} w{i + 1} w{(7 * i) % 50}",) for i in range(40)), None)
MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
]
COMPANIONS = {"modules.json", "sentence_bert_config.json", "config_sentence_transformers.json", "1_Pooling/config.json"}
FOR_QNN = ("2bit/columns:32/rtn/signed", "4bit/rows:each/rtn/symmetric", "8bit/rows:each/rtn/symmetric")


@pytest.fixture(scope="module")
def quantized(tmp_path_factory):
    """A quantized sentence-transformers folder: maximum over tokens, normalized, with a default prompt."""
    folder = save(tmp_path_factory.mktemp("sentence") / "model", "bert", "embeddings")
    (folder / "modules.json").write_text(json.dumps(MODULES))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_max_tokens": True}))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 30}))
    prompts = {"prompts": {"query": "w9 "}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    loaded = load_model(folder)
    profile = profile_model(loaded)
    plan = given_allocation(profile, {m.module: choice(FOR_QNN[index % 3]) for index, m in enumerate(profile.matrices)})
    return quantize_model(loaded, plan, None, tmp_path_factory.mktemp("q") / "out").folder


@pytest.mark.parametrize(
    ("name", "graph", "dtype"),
    [("onnxruntime", "onnx/model_quantized.onnx", "q8"), ("openvino", "openvino/openvino_model.xml", None)],
)
def test_an_export_is_where_other_tools_look(quantized, tmp_path, name, graph, dtype):
    """Graph, settings and tokenizer by their usual names; our own run pools, normalizes and prompts as they say."""
    record = export_model(quantized, name, tmp_path / "out", texts=TEXTS, tolerance=1.0, dtype=dtype)
    out = tmp_path / "out"
    assert COMPANIONS | {graph, "config.json", "tokenizer.json"} <= set(record.files)
    assert all((out / path).read_bytes() == (quantized / path).read_bytes() for path in COMPANIONS)
    assert record.outputs == ("last_hidden_state",) and record.exported_bytes >= (out / graph).stat().st_size
    config = json.loads((out / "config.json").read_text())
    assert config.get("transformers.js_config") == ({"dtype": dtype} if dtype else None)
    texts = [text for (text,) in TEXTS.texts[:5]]
    found, truth = Predictor(out).embed(texts), Predictor(quantized).embed(texts)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert (found * truth).sum(1).min() > 0.9
    (out / graph).write_bytes((out / graph).read_bytes() + b" ")
    with pytest.raises(InputFileError, match=rf"{Path(graph).name}: is not the file that was written"):
        read_record(out)
    (out / graph).unlink()
    with pytest.raises(InputFileError, match=rf"{Path(graph).name}: is missing"):
        read_record(out)


def test_exports_of_earlier_releases_are_found(tmp_path):
    """They have the graph beside the other files."""
    assert onnx_writer.graph_file(tmp_path) == tmp_path / "model.onnx"
    assert openvino_ir.graph_file(tmp_path) == tmp_path / "model.xml"


def test_every_dtype_has_transformers_js_name():
    """As src/utils/dtypes.js of transformers.js 4.3 lists them."""
    assert SUFFIXES["fp32"] == "" and SUFFIXES["q8"] == "_quantized" and SUFFIXES["q4"] == "_q4"


def test_dtypes_that_do_not_apply(quantized, tmp_path, cli):
    """Of another format, or unknown: one line, and nothing is written."""
    refused = cli("export", quantized, "--engine", "openvino", "--dtype", "q8", "-o", tmp_path / "out")
    assert refused.code == 2 and "--dtype q8: names ONNX files; --engine openvino has another" in refused.complaint
    refused = cli("export", quantized, "--engine", "onnxruntime", "--dtype", "q3", "-o", tmp_path / "out")
    assert refused.code == 2 and "--dtype q3: legal: fp32, q8, int8, uint8, q4, q2" in refused.complaint
    assert not (tmp_path / "out").exists()


def test_a_file_for_qnn_holds_our_codes_in_its_blocks(quantized, tmp_path):
    """2 and 4 bits in blocks of 32 or 64, 8 bits in QDQ form, accuracy_level 4, and every code as it was."""
    record = export_model(quantized, "qnn", tmp_path / "out", texts=TEXTS, tolerance=1.0)
    assert record.graph_difference < 1e-4 and "in place of a Qualcomm NPU" in record.engine_label
    model = onnx.load(tmp_path / "out" / "onnx" / "model.onnx")
    arrays = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    seen = set()
    plan = read_allocation(Path(quantized) / "allocation.json")
    stored = {m.module: affine(m.module, m.quantized) for m in read_matrices(quantized, plan)}
    for node in model.graph.node:
        if node.op_type == "MatMulNBits":
            fields = {a.name: a.i for a in node.attribute}
            assert fields["bits"] in (2, 4) and fields["block_size"] in (32, 64) and fields["accuracy_level"] == 4
            module = node.input[1].removesuffix(".codes")
            codes = unpack(arrays[node.input[1]].reshape(-1), fields["bits"], fields["N"] * fields["K"])
            zero = 1 << fields["bits"] - 1
            levels = codes.reshape(fields["N"], fields["K"]).astype(int) - zero
        elif node.op_type == "DequantizeLinear" and node.input[0].endswith(".codes"):
            module, levels = node.input[0].removesuffix(".codes"), arrays[node.input[0]].T.astype(int)
            assert arrays[node.input[0]].dtype == np.int8
        else:
            continue
        np.testing.assert_array_equal(levels, stored[module].codes.astype(int) - stored[module].zero)
        seen.add(module)
    assert seen == {matrix.module for matrix in plan.matrices}
    assert not {node.op_type for node in model.graph.node} & {"MatMulIntegerToFloat", "DynamicQuantizeLinear"}


@pytest.mark.parametrize("which", [*FOR_QNN, "4bit/columns:64/rtn/symmetric"])
def test_a_product_for_qnn_is_the_dequantized_one(which):
    """In float32, and with inputs rounded in a planned range, which stays in standard operators."""
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(48, 128, generator=generator), torch.randn(20, 128, generator=generator)
    [quantized] = rtn.quantize(weight, [choice(which).layout(48, 128, heads=4)])
    matrix = affine("m", quantized)
    truth = x @ quantized.dequantize().T
    found = engine("qnn").product(matrix, 1, "float32").run({"x": x.numpy()})["y"]
    np.testing.assert_allclose(found, truth.numpy(), atol=1e-5 * float(truth.abs().max()))
    for bits in (8, 16):
        planned = PlannedActivation(
            modules=("m",), bits=bits, scheme="tensor", range="mse", low=-3.0, high=2.5, predicted_loss=0, std_error=0
        )
        rounded = with_planned_input("m", matrix, planned, bits=(8, 16), groups=True)
        assert rounded.input.ends == pytest.approx((-3.0, 2.5), abs=5.5 / (2**bits - 1))
        found = engine("qnn").product(rounded, 1, "planned").run({"x": x.numpy()})["y"]
        truth = round_activations(x, bits, -3.0, 2.5) @ quantized.dequantize().T
        np.testing.assert_allclose(found, truth.numpy(), atol=2e-5 * float(truth.abs().max()))


def test_a_plan_of_both_input_widths_is_exported_for_qnn(tiny, sentences, tmp_path):
    """Static inputs of 16 bits beside 8, also before matrices in blocks: QDQ in the file, answers as torch rounds.

    An input at the border of two codes may get the other one where a processor sums in another order. On an Intel core
    with VNNI one text of 120 does: one code of 8 bits, 3e-5 of a step from its border, moves its answer by 0.4 % of the
    largest; with that code torch answers within 6e-7. The other texts agree within 1e-5.
    """
    profile, names = profile_model(tiny), itertools.cycle(FOR_QNN)
    plan = given_allocation(profile, {m.module: choice(next(names)) for m in profile.matrices})
    ranges = calibrated_ranges(
        tiny.model, tokenize(tiny.tokenizer, sentences.texts[:24], batch_size=8), [m.module for m in profile.matrices]
    )
    widths = itertools.cycle((16, 8))
    planned = [
        PlannedActivation(modules=(name,), bits=bits, scheme="tensor", range="minmax", low=low, high=high,
                          predicted_loss=0, std_error=0)
        for name, bits in zip(ranges, widths, strict=False) for low, high in [ranges[name]["minmax"](bits)]
    ]  # fmt: skip
    plan = plan.model_copy(update={"activations": tuple(planned)})
    folder = quantize_model(tiny, plan, None, tmp_path / "q").folder
    record = export_model(folder, "qnn", tmp_path / "out", texts=sentences, activations="planned")
    assert record.graph_difference < 1e-4 and record.agreement.loss < 1e-5 and record.agreement.difference < 2e-2
    nodes = onnx.load(tmp_path / "out" / "onnx" / "model.onnx").graph.node
    rounding = [node.domain for node in nodes if node.op_type == "QuantizeLinear"]
    assert rounding.count("com.microsoft") >= 4 and rounding.count("") >= 4


def test_what_qnn_does_not_take_is_refused():
    """Offsets and ranges of 8-bit groups, by the rules and by the writer."""
    rules = rules_of("qnn")
    assert "form offset" in rules.refusal(choice("4bit/columns:32/rtn"))
    [quantized] = rtn.quantize(torch.randn(8, 64), [choice("8bit/columns:32/rtn/symmetric").layout(8, 64, heads=1)])
    with pytest.raises(UsageError, match="weight: needs symmetric ranges, at 8 bits one per row"):
        engine("qnn").product(affine("m", quantized))
    [quantized] = rtn.quantize(torch.randn(8, 48), [choice("4bit/columns:16/rtn/symmetric").layout(8, 48, heads=1)])
    with pytest.raises(UsageError, match="16 inputs per range are not a multiple of 32"):
        engine("qnn").product(affine("m", quantized))


def test_the_arm_profile_keeps_to_blocks_that_all_kernels_have():
    """It writes the same file as onnxruntime and says where that was checked."""
    arm, plain = rules_of("onnxruntime-arm64"), rules_of("onnxruntime")
    assert arm.refusal(choice("2bit/columns:64/rtn")) is None
    assert arm.refusal(choice("4bit/columns:16/rtn")) == "columns:16; it supports groups of 32, 64, 128 inputs"
    assert plain.refusal(choice("4bit/columns:16/rtn")) is None
    assert engine("onnxruntime-arm64").FORMAT == engine("onnxruntime").FORMAT and arm.checked_on


def test_tidl_names_layers_as_the_onnx_file_does(tiny, cli, tmp_path):
    """Every listed name is an output of the exported model; 16-bit inputs are listed, others are not."""
    import warnings

    from qbert_opt.spec.allocation import write_allocation

    profile = profile_model(tiny)
    plan = given_allocation(profile, {m.module: choice("4bit/rows:each/rtn") for m in profile.matrices})
    wide = [matrix.module for matrix in profile.matrices[::2]]
    planned = tuple(
        PlannedActivation(modules=(m.module,), bits=16 if m.module in wide else 8, scheme="token", predicted_loss=0,
                          std_error=0)
        for m in profile.matrices
    )  # fmt: skip
    write_allocation(plan.model_copy(update={"activations": planned}), tmp_path / "plan.json")
    found = cli("export-config", tmp_path / "plan.json", "--to", "tidl", "-o", tmp_path / "tidl.json")
    assert found.code == 0 and "4 bits become 8" in found.out
    options = json.loads((tmp_path / "tidl.json").read_text())
    names = options["advanced_options:output_feature_16bit_names_list"].split(", ")
    assert options["tensor_bits"] == 8 and options["advanced_options:params_16bit_names_list"] == ""
    assert [name.replace("/", ".") for name in names] == [f".{module}.Add_output_0" for module in wide]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            tiny.model, (torch.ones(1, 5, dtype=torch.int64),), tmp_path / "m.onnx", dynamo=False, opset_version=17
        )
    outputs = {name for node in onnx.load(tmp_path / "m.onnx").graph.node for name in node.output}
    assert set(names) <= outputs
