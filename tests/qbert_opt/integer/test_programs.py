"""Whole models as programs: how close to torch, and equal in every executor."""

import numpy as np
import pytest
import torch

from qbert_opt.integer.compiler import Ways
from qbert_opt.integer.intervals import check_intervals
from qbert_opt.integer.reference import Reference
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
