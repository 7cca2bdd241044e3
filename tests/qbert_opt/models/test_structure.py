"""What a model's structure says of its weights."""

import pytest
from families import save

from qbert_opt.costs.engine_target import engine_target
from qbert_opt.costs.operations import Storage
from qbert_opt.models.loading import load_model
from qbert_opt.models.structure import profile_model
from qbert_opt.planning.plan_bytes import engine_file
from qbert_opt.spec.choices import choice


@pytest.mark.parametrize("kind", ["embeddings", "classes", "tags"])
def test_weights_that_no_answer_reads_are_counted_and_take_no_time(tmp_path, kind):
    """Mean pooling leaves BERT's pooler aside: engines drop it from their files."""
    model = load_model(save(tmp_path / "model", "bert", kind))
    profile = profile_model(model)
    pooler = getattr(getattr(model.model, "bert", model.model), "pooler", None)
    elements = 0 if pooler is None else sum(p.numel() for p in pooler.parameters())
    assert profile.unread_elements == (elements if kind == "embeddings" else 0)
    assert (elements > 0) == (kind != "tags")
    storage = {m.module: Storage(choice("8bit/rows:each/rtn")) for m in profile.matrices}
    read = {"other_elements": profile.other_elements - profile.unread_elements, "unread_elements": 0}
    for name in ("openvino", "onnxruntime", "litert"):  # the file, and its graph, are those of a model without a pooler
        target = engine_target(name)
        assert engine_file(profile, storage, target) == engine_file(profile.model_copy(update=read), storage, target)
    assert any("pooler" in spec.module for spec in profile.head) == (kind == "classes")
