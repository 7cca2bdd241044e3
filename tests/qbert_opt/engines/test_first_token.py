"""Exports of classifiers compute behind the last attention what the pooler reads, and no more."""

import pytest
import torch
from families import FAMILIES, save

from qbert_opt.formats.traced_model import traceable
from qbert_opt.models.loading import load_model

LEAN = {"bert": "bert.encoder.layer.1.attention.output", "roberta": "roberta.encoder.layer.1.attention.output",
        "electra": "electra.encoder.layer.1.attention.output"}  # fmt: skip


@pytest.fixture
def loaded(tmp_path, request):
    """A tiny model of a family."""
    save(tmp_path, *request.param)
    return load_model(tmp_path)


def named(cases):
    """A test of several families and heads."""
    return pytest.mark.parametrize("loaded", cases, ids=map("-".join, cases), indirect=True)


@named([(family, "classes") for family in FAMILIES])
@torch.no_grad()
def test_classifiers_answer_the_same_from_fewer_tokens(loaded):
    """The last layer's feed-forward part reads one token; families that need the others are left as they are."""
    lean, whole, seen = traceable(loaded, lean=True), traceable(loaded), []
    family = loaded.model.config.model_type
    if family in LEAN:
        assert lean.module.first_only == LEAN[family]
        last = loaded.model.get_submodule(LEAN[family].removesuffix("attention.output") + "output.dense")
        last.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    inputs = tuple(torch.cat([array, array.flip(1)], 1) for array in lean.example)  # other texts than decided it
    (found,), (wanted,) = lean.module(*inputs), whole.module(*inputs)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    assert seen == ([1, inputs[0].shape[1]] if family in LEAN else [])


@named([("bert", kind) for kind in ("tags", "spans", "vocabulary", "embeddings")])
def test_outputs_of_all_tokens_are_left_alone(loaded):
    """Their last layer is read as a whole; the model itself is never changed."""
    assert traceable(loaded, lean=True).module.first_only is None
    assert not any(module._forward_pre_hooks for module in loaded.model.modules())
