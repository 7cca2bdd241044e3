"""Whole models as programs: how close to torch, and equal in every executor."""

import numpy as np
import pytest
import torch
from families import FAMILIES, LABELS, STANDARD, tiny_model

from qbert_opt.checkpoint.reader import load_quantized
from qbert_opt.integer.intervals import check_intervals
from qbert_opt.integer.narrow import NarrowExecutor
from qbert_opt.integer.reference import Reference
from qbert_opt.integer.ways import Ways
from qbert_opt.models.loading import tokenized

from .conftest import GROUPS_AND_ROWS, compiled, quantized_folder, texts_for


@pytest.mark.parametrize("way", ["table", "poly", "shift"])
def test_every_family_answers_nearly_as_torch_does(family_folder, way):
    folder, texts = family_folder
    loaded, result = compiled(folder, texts, Ways(way, way, way))
    check_intervals(result.program)
    reference = Reference(result.program)
    with torch.no_grad():
        for batch in tokenized(loaded, texts.texts, batch_size=8)[:2]:
            inputs = {name: tensor.numpy() for name, tensor in batch.inputs.items()}
            answers = result.program.answers(reference.run(inputs))
            exact = loaded.model(**batch.inputs)
            for name, array in answers.items():
                wanted = exact[name].numpy()
                real = batch.mask.numpy().astype(bool) if wanted.shape[:2] == batch.mask.shape else ...
                error = np.square(array - wanted)[real].mean() / np.square(wanted[real]).mean()
                assert error < {"table": 0.01, "poly": 0.01, "shift": 0.03}[way], name


@pytest.mark.parametrize("way", ["table", "poly", "shift"])
def test_the_int32_executor_agrees_bit_for_bit(family_folder, way):
    folder, texts = family_folder
    _, result = compiled(folder, texts, Ways(way, way, way))
    everything = [operation.output.name for operation in result.program.operations]
    for inputs in random_inputs(result.program, seed=1):
        expected = Reference(result.program).run(inputs, everything)
        found = NarrowExecutor(result.program).run(inputs, everything)
        for name in everything:
            assert np.array_equal(expected[name], found[name]), name


def random_inputs(program, seed, batch=3):
    """Ids of every kind, padding of every length, the longest sample included."""
    generator = np.random.default_rng(seed)
    for tokens in (1, 7, program.max_tokens):
        inputs = {
            value.name: generator.integers(value.low, value.high + 1, (batch, tokens)) for value in program.inputs
        }
        lengths = generator.integers(1, tokens + 1, batch)
        lengths[0] = tokens
        inputs["attention_mask"] = (np.arange(tokens) < lengths[:, None]).astype(np.int64)
        yield inputs


def test_padding_changes_nothing(family_folder):
    folder, texts = family_folder
    loaded, result = compiled(folder, texts)
    [one] = tokenized(loaded, texts.texts[:1], batch_size=1)
    inputs = {name: tensor.numpy() for name, tensor in one.inputs.items()}
    padding = loaded.tokenizer.pad_token_id
    longer = {
        name: np.pad(array, ((0, 0), (0, 5)), constant_values=padding if name == "input_ids" else 0)
        for name, array in inputs.items()
    }
    tokens = inputs["input_ids"].shape[1]
    reference = Reference(result.program)
    alone, beside = reference.run(inputs), reference.run(longer)
    for output in result.program.outputs:
        per_token = "tokens" in result.program.values[output.value].shape
        padded = beside[output.value][:, :tokens] if per_token else beside[output.value]
        assert np.array_equal(alone[output.value], padded)


def squared_error(folder, texts):
    """Relative squared error of the logits against torch, and the compiled program."""
    loaded, result = compiled(folder, texts)
    [batch] = tokenized(loaded, texts.texts, batch_size=len(texts.texts))
    inputs = {name: tensor.numpy() for name, tensor in batch.inputs.items()}
    answers = result.program.answers(Reference(result.program).run(inputs))["logits"]
    with torch.no_grad():
        exact = loaded.model(**batch.inputs).logits.numpy()
    return np.square(answers - exact).mean() / np.square(exact).mean(), result


def test_inputs_of_16_bits_are_more_exact_in_groups_of_columns_too(sentences, tmp_path):
    texts = texts_for(sentences, "classes")
    short, long = (
        quantized_folder(tmp_path / str(bits), "bert", "classes", texts, bits, GROUPS_AND_ROWS[:1]) for bits in (8, 16)
    )
    (coarse, first), (fine, second) = squared_error(short, texts), squared_error(long, texts)
    assert fine < coarse / 4  # what is left is the 8 bits of query, key and value
    assert first.narrowed == second.narrowed == {}
    check_intervals(second.program)
    assert any(getattr(step, "shift", 0) for step in second.program.operations if type(step).__name__ == "Linear")
    for inputs in random_inputs(second.program, seed=3):
        expected = Reference(second.program).run(inputs)
        for name, array in NarrowExecutor(second.program).run(inputs).items():
            assert np.array_equal(array, expected[name])


def test_an_input_is_narrowed_where_32_bits_would_not_hold_the_sums(sentences, tmp_path, monkeypatch):
    monkeypatch.setitem(FAMILIES, "bert", ("Bert", STANDARD | {"intermediate_size": 1024}))
    made, texts = tiny_model("bert"), texts_for(sentences, "classes")
    torch.nn.init.constant_(made.bert.encoder.layer[0].output.dense.weight, 0.01)  # every code is 127
    monkeypatch.setattr("families.tiny_model", lambda family, kind: made)
    folder = quantized_folder(tmp_path, "bert", "classes", texts, 16, ("8bit/rows:each/rtn/symmetric",))
    program = compiled(folder, texts)[1]
    # 1024 * 127 * 2**14, of signed inputs of 15 bits, nearly is 2**31, and the zero point of GELU's range comes on top
    assert program.narrowed == {"bert.encoder.layer.0.output.dense": 14}
    check_intervals(program.program)


def test_ids_that_saturate_everything_stay_in_their_intervals(family_folder):
    """Every row of every table, at every position, in every order of types: nothing leaves its interval."""
    folder, texts = family_folder
    _, result = compiled(folder, texts)
    program = result.program
    ids = next(value for value in program.inputs if value.name == "input_ids")
    reference = Reference(program)
    for first in range(0, ids.high + 1, program.max_tokens):
        row = np.arange(first, first + program.max_tokens) % (ids.high + 1)
        inputs = {value.name: np.tile(row % (value.high + 1), (2, 1)) for value in program.inputs}
        inputs["attention_mask"] = np.ones_like(row)[None].repeat(2, 0)
        inputs["attention_mask"][1, 1:] = 0
        reference.run(inputs)  # raises where an interval is left


def test_a_sample_without_real_tokens_divides_nothing_by_zero(family_folder):
    folder, texts = family_folder
    _, result = compiled(folder, texts)
    inputs = {value.name: np.zeros((1, 4), np.int64) for value in result.program.inputs}
    Reference(result.program).run(inputs)


@pytest.mark.parametrize(
    ("family", "name", "labels"), [("xlm-roberta", "XLMRoberta", 3), ("camembert", "Camembert", 1)]
)
def test_relatives_of_roberta_and_regressions_have_an_integer_form(
    sentences, tmp_path, monkeypatch, family, name, labels
):
    monkeypatch.setitem(FAMILIES, family, (name, STANDARD | {"num_labels": labels}))
    monkeypatch.delitem(LABELS, "classes")
    texts = texts_for(sentences, "classes")
    folder = quantized_folder(tmp_path, family, "classes", texts)
    assert load_quantized(folder)[0].head.kind == ("regression" if labels == 1 else "classes")
    error, result = squared_error(folder, texts)
    assert error < 0.02
    [inputs, *_] = random_inputs(result.program, seed=5)
    expected = Reference(result.program).run(inputs)
    for key, array in NarrowExecutor(result.program).run(inputs).items():
        assert np.array_equal(array, expected[key])
