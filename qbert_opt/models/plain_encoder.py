"""Names of a plain BERT's parts, for file formats that know the architecture and take the tensors only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..errors import UsageError

_BERT_LAYER = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention_output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "intermediate": "intermediate.dense",
    "output": "output.dense",
    "output_norm": "output.LayerNorm",
}
_DISTILBERT_LAYER = {
    "query": "attention.q_lin",
    "key": "attention.k_lin",
    "value": "attention.v_lin",
    "attention_output": "attention.out_lin",
    "attention_norm": "sa_layer_norm",
    "intermediate": "ffn.lin1",
    "output": "ffn.lin2",
    "output_norm": "output_layer_norm",
}
_LAYERS = {
    "bert": ("encoder.layer", _BERT_LAYER),
    "electra": ("encoder.layer", _BERT_LAYER),
    "distilbert": ("transformer.layer", _DISTILBERT_LAYER),
}
FAMILIES = tuple(_LAYERS)
"""Families that are the architecture of BERT under their own names: post-LayerNorm, learned absolute positions."""


@dataclass(frozen=True, slots=True)
class PlainEncoder:
    """Modules of a plain BERT, by what they are.

    Attributes:
        hidden: width.
        feed_forward: width of the intermediate layer.
        heads: attention heads.
        positions: rows of the position table.
        epsilon: of every LayerNorm.
        word, position, token_type: embedding tables; `token_type` is None for a family without token types.
        embedding_norm: LayerNorm behind the embeddings.
        layers: by layer, module name of each part: `query`, `key`, `value`, `attention_output`, `attention_norm`,
            `intermediate`, `output`, `output_norm`.
        pooler: dense layer before the classifier, followed by tanh; None without a classifier.
        classifier: last layer; None if the model's answer is its last hidden states.
    """

    hidden: int
    feed_forward: int
    heads: int
    positions: int
    epsilon: float
    word: str
    position: str
    token_type: str | None
    embedding_norm: str
    layers: tuple[dict[str, str], ...]
    pooler: str | None
    classifier: str | None

    @property
    def matrices(self) -> Iterator[tuple[int, str, str]]:
        """Layer, part and module name of every weight matrix of the encoder."""
        for index, layer in enumerate(self.layers):
            yield from ((index, part, module) for part, module in layer.items() if not part.endswith("_norm"))


def plain_encoder(model: nn.Module, target: str) -> PlainEncoder:
    """Find the parts of a plain BERT.

    Args:
        model: a transformers model.
        target: what it is for, for messages: `engine` llama-cpp.

    Raises:
        UsageError: another architecture, activation or head, or a decoder; says which, and what is possible instead.
    """
    config: Any = model.config
    name = type(model).__name__
    if config.model_type not in FAMILIES:
        raise UsageError(f"{target}: {name} is not a plain BERT. Legal: {', '.join(FAMILIES)}. {_OTHERS}")
    activation = getattr(config, "hidden_act", None) or getattr(config, "activation", None)
    if activation != "gelu":
        raise UsageError(f"{target}: {name} has the activation {activation}; legal is gelu. {_OTHERS}")
    if getattr(config, "is_decoder", False):
        raise UsageError(f"{target}: {name} is a decoder, whose tokens see only earlier ones. {_OTHERS}")
    base = "" if model.base_model is model else f"{model.base_model_prefix}."
    if hasattr(model.base_model, "embeddings_project"):
        raise UsageError(f"{target}: {name} has embeddings narrower than its layers. {_OTHERS}")
    pooler, classifier = _head(model, base, target)
    block, parts = _LAYERS[config.model_type]
    blocks: Any = model.get_submodule(base + block)
    embeddings = f"{base}embeddings."
    position: Any = model.get_submodule(f"{embeddings}position_embeddings")
    norm: Any = model.get_submodule(f"{embeddings}LayerNorm")
    layers = tuple({part: f"{base}{block}.{i}.{name}" for part, name in parts.items()} for i in range(len(blocks)))
    intermediate: Any = model.get_submodule(layers[0]["intermediate"])
    types = config.model_type != "distilbert"
    return PlainEncoder(
        hidden=config.hidden_size,
        feed_forward=intermediate.out_features,
        heads=config.num_attention_heads,
        positions=int(position.weight.shape[0]),
        epsilon=float(norm.eps),
        word=f"{embeddings}word_embeddings",
        position=f"{embeddings}position_embeddings",
        token_type=f"{embeddings}token_type_embeddings" if types else None,
        embedding_norm=f"{embeddings}LayerNorm",
        layers=layers,
        pooler=pooler,
        classifier=classifier,
    )


_OTHERS = "Use `engine` onnxruntime or openvino."


def _head(model: nn.Module, base: str, target: str) -> tuple[str | None, str | None]:
    """Return pooler and classifier; both None for a model without a head."""
    if not base:
        return None, None
    if type(model).__name__ == "BertForSequenceClassification":
        return f"{base}pooler.dense", "classifier"
    raise UsageError(
        f"{target}: the head of {type(model).__name__} has no place in it. Legal: BertForSequenceClassification, or "
        f"a model without a head (embeddings). {_OTHERS}"
    )
