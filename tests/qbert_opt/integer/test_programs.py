"""Whole models as programs: how close to torch, and equal in every executor."""

import numpy as np
import pytest
import torch

from qbert_opt.integer.intervals import check_intervals
from qbert_opt.integer.narrow import NarrowExecutor
from qbert_opt.integer.reference import Reference
from qbert_opt.integer.ways import Ways
from qbert_opt.models.loading import tokenized

from .conftest import compiled


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
