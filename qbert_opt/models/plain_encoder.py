"""Module names of a plain BERT, for file formats that define the architecture and store only the tensors."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from ..errors import UsageError
from .head_counts import is_narrowed
from .tiers import in_tiers

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
    "roberta": ("encoder.layer", _BERT_LAYER),
    "xlm-roberta": ("encoder.layer", _BERT_LAYER),
    "camembert": ("encoder.layer", _BERT_LAYER),
}
FAMILIES = tuple(_LAYERS)
"""Families with the architecture of BERT under names of their own: post-LayerNorm, learned absolute positions."""
ZERO_BASED = ("bert", "electra", "distilbert")
"""The families whose first token has position 0; in the others, positions start after the padding token's row."""
Activation = Literal["tanh", "relu", "gelu"]
# architecture: dense layer before the last one and what follows it, last layer, and whether it reads every token
_HEADS: dict[str, tuple[tuple[str, Activation] | None, str, bool]] = {
    "BertForSequenceClassification": (("bert.pooler.dense", "tanh"), "classifier", False),
    "DistilBertForSequenceClassification": (("pre_classifier", "relu"), "classifier", False),
    "ElectraForSequenceClassification": (("classifier.dense", "gelu"), "classifier.out_proj", False),
    "RobertaForSequenceClassification": (("classifier.dense", "tanh"), "classifier.out_proj", False),
    "XLMRobertaForSequenceClassification": (("classifier.dense", "tanh"), "classifier.out_proj", False),
    "CamembertForSequenceClassification": (("classifier.dense", "tanh"), "classifier.out_proj", False),
    **{
        f"{family}ForTokenClassification": (None, "classifier", True)
        for family in ("Bert", "DistilBert", "Electra", "Roberta", "XLMRoberta", "Camembert")
    },
    **{
        f"{family}ForQuestionAnswering": (None, "qa_outputs", True)
        for family in ("Bert", "DistilBert", "Electra", "Roberta", "XLMRoberta", "Camembert")
    },
}
HEADS = tuple(_HEADS)
"""Architectures whose head is one or two dense layers, on the first token or on each."""


@dataclass(frozen=True, slots=True)
class PlainHead:
    """The head, i.e. what follows the last encoder layer.

    Attributes:
        dense: module of the dense layer before the last one; None if there is none.
        activation: activation function after `dense`.
        classifier: module of the last layer.
        each_token: whether every token has an output; else the first token's output is the text's.
    """

    dense: str | None
    activation: Activation | None
    classifier: str
    each_token: bool


@dataclass(frozen=True, slots=True)
class PlainEncoder:
    """Modules of a plain BERT by their role.

    Attributes:
        hidden: width of the hidden states.
        feed_forward: width of the intermediate layer.
        heads: attention heads.
        positions: rows of the position table.
        padding: token whose positions are not counted, so that the first token has position `padding + 1`; None for
            families that count every token, from 0.
        epsilon: epsilon of every LayerNorm.
        word, position, token_type: embedding tables; `token_type` is None for a family without token types.
        embedding_norm: LayerNorm after the embeddings.
        projection: dense layer after it, if embeddings are narrower than the layers; else None.
        layers: by layer, module name of each part: `query`, `key`, `value`, `attention_output`, `attention_norm`,
            `intermediate`, `output`, `output_norm`.
        head: the head; None if the model's outputs are its last hidden states.
    """

    hidden: int
    feed_forward: int
    heads: int
    positions: int
    padding: int | None
    epsilon: float
    word: str
    position: str
    token_type: str | None
    embedding_norm: str
    projection: str | None
    layers: tuple[dict[str, str], ...]
    head: PlainHead | None

    @property
    def matrices(self) -> Iterator[tuple[int, str, str]]:
        """Layer, part and module name of every weight matrix of the encoder."""
        for index, layer in enumerate(self.layers):
            yield from ((index, part, module) for part, module in layer.items() if not part.endswith("_norm"))


def plain_encoder(
    model: nn.Module,
    target: str,
    families: Collection[str] = FAMILIES,
    heads: Collection[str] = HEADS,
    *,
    narrow_embeddings: bool = False,
) -> PlainEncoder:
    """Find the modules of a plain BERT by their role.

    Args:
        model: a transformers model.
        target: what the model is converted for, for messages, for example "`engine` llama-cpp".
        families: families that the target supports.
        heads: architectures whose head the target supports.
        narrow_embeddings: whether the target supports embeddings narrower than the layers.

    Raises:
        UsageError: the target does not support the architecture, activation or head, or the model is a decoder; says
            which, and what is possible instead.
    """
    config: Any = model.config
    name = type(model).__name__
    if config.model_type not in families:
        raise UsageError(f"{target}: {name} is not a plain BERT. Legal: {', '.join(families)}. {_OTHERS}")
    activation = getattr(config, "hidden_act", None) or getattr(config, "activation", None)
    if activation != "gelu":
        raise UsageError(f"{target}: {name} has the activation {activation}; legal is gelu. {_OTHERS}")
    if getattr(config, "is_decoder", False):
        raise UsageError(f"{target}: {name} is a decoder, whose tokens see only earlier ones. {_OTHERS}")
    base = "" if model.base_model is model else f"{model.base_model_prefix}."
    narrow = hasattr(model.base_model, "embeddings_project")
    if narrow and not narrow_embeddings:
        raise UsageError(f"{target}: {name} has embeddings narrower than its layers. {_OTHERS}")
    if in_tiers(model):
        raise UsageError(f"{target}: {name} has its table of words in tiers, and the file holds one table. {_OTHERS}")
    if is_narrowed(model):
        raise UsageError(
            f"{target}: layers of {name} have fewer attention heads than others, and the file holds one number. "
            f"{_OTHERS}"
        )
    head = _head(model, heads, target)
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
        padding=None if config.model_type in ZERO_BASED else int(position.padding_idx),
        epsilon=float(norm.eps),
        word=f"{embeddings}word_embeddings",
        position=f"{embeddings}position_embeddings",
        token_type=f"{embeddings}token_type_embeddings" if types else None,
        embedding_norm=f"{embeddings}LayerNorm",
        projection=f"{base}embeddings_project" if narrow else None,
        layers=layers,
        head=head,
    )


_OTHERS = "Use `engine` onnxruntime or openvino."


def _head(model: nn.Module, heads: Collection[str], target: str) -> PlainHead | None:
    """Return the head; None for a model without one."""
    if model.base_model is model:
        return None
    architecture = type(model).__name__
    if architecture not in heads:
        family = architecture.partition("For")[0]
        legal = [name for name in heads if name.partition("For")[0] == family]
        raise UsageError(
            f"{target}: the head of {architecture} has no place in it. Legal: "
            f"{', '.join([*legal, f'{family}Model (embeddings, without a head)'])}. {_OTHERS}"
        )
    before, last, each_token = _HEADS[architecture]
    dense, activation = before or (None, None)
    return PlainHead(dense, activation, last, each_token)
