"""The ONNX model of a program: integers only, and equal to the reference bit for bit in ONNX Runtime."""

import numpy as np
import pytest

from qbert_opt.integer.reference import Reference
from qbert_opt.integer.ways import Ways

from .conftest import compiled
from .small_programs import edge_program, packed_program
from .test_programs import random_inputs

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")


def session(program, folder):
    """The model and its session on one thread, without optimizations that fuse."""
    from qbert_opt.integer.emitters.onnx import FILE, emit

    emit(program, folder, program.max_tokens)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return onnx.load(folder / FILE), ort.InferenceSession(str(folder / FILE), options, ["CPUExecutionProvider"])


def integers(program, inputs):
    """The reference's integers by output."""
    numbers = Reference(program).run(inputs)
    return {
        output.name: numbers[output.value] if output.column is None else numbers[output.value][..., output.column]
        for output in program.outputs
    }


@pytest.mark.parametrize("way", ["table", "poly", "shift"])
def test_every_family_answers_bit_for_bit_as_the_reference(family_folder, tmp_path, way):
    folder, texts = family_folder
    program = compiled(folder, texts, Ways(way, way, way))[1].program
    model, running = session(program, tmp_path)
    assert not floating(model)
    names = [output.name for output in program.outputs]
    for inputs in random_inputs(program, seed=5):
        answers = running.run(names, {name: array.astype(np.int64) for name, array in inputs.items()})
        for name, answer in zip(names, answers, strict=True):
            assert np.array_equal(answer, integers(program, inputs)[name]), name


def test_groups_of_columns_with_inputs_of_16_bits(with_16_bits, tmp_path):
    program = compiled(*with_16_bits)[1].program
    model, running = session(program, tmp_path)
    assert not floating(model)
    for inputs in random_inputs(program, seed=6):
        answer = running.run(["logits"], {name: array.astype(np.int64) for name, array in inputs.items()})[0]
        assert np.array_equal(answer, integers(program, inputs)["logits"])


INTEGERS = {"INT8", "UINT8", "INT32", "INT64", "UINT64", "BOOL"}


def floating(model):
    """Tensors of any other type than integers and truth values, and operators outside the standard set."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    name = onnx.TensorProto.DataType.Name
    graph = inferred.graph
    types = {tensor.name: name(tensor.data_type) for tensor in graph.initializer}
    types |= {
        info.name: name(info.type.tensor_type.elem_type) for info in (*graph.input, *graph.output, *graph.value_info)
    }
    made = [output for node in graph.node for output in node.output]
    assert set(made) <= set(types), "a tensor without a type"
    odd = [node.op_type for node in graph.node if node.domain or "Linear" in node.op_type]
    return {tensor: kind for tensor, kind in types.items() if kind not in INTEGERS} or odd


@pytest.mark.parametrize(("bits", "shift"), [(1, 0), (2, 0), (4, 0), (8, 0), (2, 18), (8, 30)])
def test_codes_of_every_width_in_groups(tmp_path, bits, shift):
    program, rows = packed_program(bits, shift)
    model, running = session(program, tmp_path)
    assert not floating(model)
    for row in rows:
        inputs = {"input_ids": np.array([row])}
        assert np.array_equal(running.run(["y"], inputs)[0], integers(program, inputs)["y"])


@pytest.mark.parametrize("way", ["table", "poly", "shift"])
def test_negative_numbers_are_shifted_and_rounded_as_the_reference_does(tmp_path, way):
    program, rows = edge_program(way)
    model, running = session(program, tmp_path)
    assert not floating(model)
    for row in rows:
        inputs = {"input_ids": np.array([row])}
        wanted = integers(program, inputs)
        for name, answer in zip(wanted, running.run(list(wanted), inputs), strict=True):
            assert np.array_equal(answer, wanted[name]), name


def test_a_floating_tensor_would_be_seen(tmp_path):
    model, _ = session(edge_program("table")[0], tmp_path)
    model.graph.node.append(onnx.helper.make_node("Cast", ["input_ids"], ["real"], to=onnx.TensorProto.FLOAT))
    assert floating(model) == {"real": "FLOAT"}
