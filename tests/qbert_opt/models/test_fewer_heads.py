"""Fewer attention heads: the smaller model is the one whose missing heads return their means, or it is refused."""

import copy
import json
from dataclasses import replace

import decoders
import numpy as np
import pytest
import torch
from families import save
from torch import nn

from qbert_opt.errors import InputFileError, UsageError
from qbert_opt.models.batches import tokenize
from qbert_opt.models.fewer_heads import attention_layers, head_means, replaced, without_heads
from qbert_opt.models.head_counts import FIELD, narrow_attention
from qbert_opt.models.loading import load_model, weights_sha256
from qbert_opt.models.structure import profile_model
from qbert_opt.spec.dropped import DroppedHeads

MISSING = ((1, 2), (0,))  # by layer, of four
TEXTS = [("w1 w2 w3",), ("w9 w4",), ("w5 w6 w7 w8 w9 w1",)]


def dropped_of(loaded, missing=MISSING, batches=None):
    """These heads, with their means over a few texts."""
    layers = attention_layers(loaded)
    means = head_means(loaded, layers, batches or tokenize(loaded.tokenizer, TEXTS, batch_size=2))
    chosen = [means[layer, head] for layer, heads in enumerate(missing) for head in heads]
    return DroppedHeads(heads=missing, num_heads=4, means=chosen, predicted_loss=0.0, std_error=0.0)


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra", "mobilebert"])
def test_the_smaller_model_answers_as_if_its_heads_returned_their_means(family, tmp_path):
    """By another path: columns of the output matrix zeroed, and the mean, taken from captured inputs, in its bias."""
    loaded = load_model(save(tmp_path, family))
    before = weights_sha256(loaded.model)
    batches = tokenize(loaded.tokenizer, TEXTS, batch_size=2)
    dropped = dropped_of(loaded, batches=batches)
    smaller = without_heads(loaded, dropped)
    assert weights_sha256(loaded.model) == before == loaded.sha256 != smaller.sha256
    by_hand = copy.deepcopy(loaded.model)
    layers = attention_layers(loaded)
    for layer, heads in zip(layers, MISSING, strict=True):
        seen = []
        handle = loaded.model.get_submodule(layer.output).register_forward_pre_hook(
            lambda _, args, seen=seen: seen.append(args[0].detach().numpy())
        )
        with torch.no_grad():
            rows = np.concatenate(
                [(loaded.model(**batch.inputs), seen[-1][batch.mask.bool().numpy()])[1] for batch in batches]
            )
        handle.remove()
        output = by_hand.get_submodule(layer.output)
        for head in heads:
            place = slice(head * layer.size, (head + 1) * layer.size)
            with torch.no_grad():
                output.bias += output.weight[:, place] @ torch.tensor(rows[:, place].mean(0))
                output.weight[:, place] = 0
    means = dict(zip([(0, 1), (0, 2), (1, 0)], dropped.means, strict=True))
    for batch in tokenize(loaded.tokenizer, [("w11 w12",), ("w3 w3 w3 w30",)], batch_size=2):
        with torch.no_grad():
            expected = by_hand.eval()(**batch.inputs).logits
            torch.testing.assert_close(smaller.model(**batch.inputs).logits, expected, atol=1e-4, rtol=0)
            with replaced(loaded, layers, means):
                torch.testing.assert_close(loaded.model(**batch.inputs).logits, expected, atol=1e-4, rtol=0)


def test_matrices_are_smaller_and_the_profile_says_so(tiny):
    smaller = without_heads(tiny, dropped_of(tiny))
    profile = profile_model(smaller)
    assert profile.block_heads == (2, 3) and profile.heads == 4 and profile.hidden == 32
    shapes = {(m.block, m.kind): (m.rows, m.columns) for m in profile.matrices}
    for block, width in ((0, 16), (1, 24)):
        assert {shapes[block, kind] for kind in ("query", "key", "value")} == {(width, 32)}
        assert shapes[block, "attention_output"] == (32, width)
        assert shapes[block, "intermediate"] == (64, 32)
    query, output = (next(m for m in profile.matrices if m.kind == kind) for kind in ("query", "attention_output"))
    assert (profile.heads_of(query), profile.heads_of(output)) == (2, 4)
    whole = profile_model(tiny)
    assert whole.block_heads == () and "block_heads" not in whole.model_dump(mode="json")
    assert whole.encoder_elements - profile.encoder_elements == 3 * 8 * 32 * 4  # three heads in four matrices each
    assert whole.other_elements - profile.other_elements == 3 * 8 * 3  # their biases of query, key and value
    assert type(profile).model_validate_json(profile.model_dump_json()) == profile


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("albert", "AlbertForSequenceClassification: layers share their weights"),
        ("mpnet", "MPNetForSequenceClassification: its attention does not run with fewer"),
        ("deberta-v2", "DebertaV2ForSequenceClassification: its relative positions have a part for each head"),
        ("modernbert", "ModernBertForSequenceClassification: one matrix makes queries, keys and values"),
    ],
)
def test_classes_that_cannot_do_with_fewer_are_refused_by_name(family, reason, tmp_path):
    with pytest.raises(UsageError, match=f"no attention heads can be left out of {reason}"):
        attention_layers(load_model(save(tmp_path, family)))


def test_decoders_plain_modules_and_single_heads_are_refused(tiny, tmp_path):
    decoders.save(tmp_path / "decoder", "llama")
    with pytest.raises(UsageError, match="LlamaForCausalLM: heads of decoders cannot be left out"):
        attention_layers(load_model(tmp_path / "decoder"))
    config = copy.deepcopy(tiny.model.config)
    config.num_attention_heads = 1
    with pytest.raises(UsageError, match="BertForSequenceClassification: its layers have one each"):
        attention_layers(replace(tiny, model=type(tiny.model)(config).eval()))
    smaller = without_heads(tiny, dropped_of(tiny))
    with pytest.raises(UsageError, match="some are left out already"):
        attention_layers(smaller)
    for change in ({"heads": ((1, 2),)}, {"num_heads": 5}, {"means": ((0.0,) * 7,) * 3}):
        with pytest.raises(UsageError, match="has 2 layers of 4 heads of 8 outputs; the plan leaves heads out of"):
            without_heads(tiny, dropped_of(tiny).model_copy(update=change))


@pytest.mark.parametrize(
    "field",
    [
        [4, 3],
        {"heads": "ab", "shapes": {}},
        {"heads": [2, 4], "shapes": {"bert.embeddings.word_embeddings": [2, 2]}},
        {"heads": [2, 4], "shapes": {"bert.pooler.dense": [33, 32]}},
        {"heads": [2, 4], "shapes": {"bert.pooler.dense": [True, 32]}},
        {"heads": [2, 4], "shapes": {"bert.pooler.dense": [8]}},
        {"heads": [2, 4], "shapes": {"elsewhere": [8, 8]}},
    ],
    ids=str,
)
def test_a_config_that_names_no_part_of_the_model_is_refused(tiny, field):
    model = copy.deepcopy(tiny.model)
    setattr(model.config, FIELD, field)
    with pytest.raises(InputFileError, match=rf"^folder: config\.json: {FIELD}") as refused:
        narrow_attention(model, "folder")
    assert "\n" not in str(refused.value)


def test_shapes_of_a_config_are_taken_also_without_memory(tiny):
    model = copy.deepcopy(tiny.model).to("meta")
    setattr(model.config, FIELD, {"heads": [2, 4], "shapes": {"bert.pooler.dense": [8, 32]}})
    narrow_attention(model, "folder")
    layer = model.bert.pooler.dense
    assert isinstance(layer, nn.Linear) and tuple(layer.weight.shape) == (8, 32) and layer.weight.is_meta


def test_a_float_folder_with_the_field_is_refused(tiny_folder, tmp_path):
    """Its weights would be read in the shapes of the whole model."""
    for file in tiny_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {FIELD: {"heads": [2, 4], "shapes": {}}}))
    with pytest.raises(InputFileError, match=f"{FIELD} belongs to a quantized folder"):
        load_model(tmp_path)
