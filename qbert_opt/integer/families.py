"""Names of the modules of an encoder, for each model family that has an integer form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ..errors import UsageError
from ..models.head_counts import is_narrowed
from ..models.loading import LoadedModel
from ..models.tiers import in_tiers
from .nonlinearity import Activation

LayerFunction = Activation | Literal["relu"]
Steps = tuple[tuple[str, LayerFunction | None], ...]
"""Linear layers of a head in order, each with the function after it."""


@dataclass(frozen=True, slots=True)
class Block:
    """Modules of one encoder block, relative to the block."""

    query: str = "attention.self.query"
    key: str = "attention.self.key"
    value: str = "attention.self.value"
    attention_output: str = "attention.output.dense"
    attention_norm: str = "attention.output.LayerNorm"
    intermediate: str = "intermediate.dense"
    output: str = "output.dense"
    output_norm: str = "output.LayerNorm"


@dataclass(frozen=True, slots=True)
class Family:
    """Module names of a family, relative to the encoder; the head's are relative to the whole model.

    Attributes:
        blocks: the list of blocks.
        block: modules of one block.
        words: table of token embeddings.
        positions: table of position embeddings.
        types: table of token type embeddings; None if the family has none.
        norm: LayerNorm of the summed embeddings.
        project: linear layer from embeddings to a wider encoder; used if the model has it.
        relative: table of relative positions; None if the family has none.
        counts_real_tokens: whether positions skip padding and start after the padding token's id.
        classes: layers of a classification or regression head, which reads the first token.
    """

    blocks: str = "encoder.layer"
    block: Block = field(default_factory=Block)
    words: str = "embeddings.word_embeddings"
    positions: str = "embeddings.position_embeddings"
    types: str | None = "embeddings.token_type_embeddings"
    norm: str = "embeddings.LayerNorm"
    project: str = "embeddings_project"
    relative: str | None = None
    counts_real_tokens: bool = False
    classes: Steps = (("classifier.dense", "tanh"), ("classifier.out_proj", None))


_ROBERTA = Family(counts_real_tokens=True)
FAMILIES: Mapping[str, Family] = {
    "bert": Family(classes=(("bert.pooler.dense", "tanh"), ("classifier", None))),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "electra": Family(classes=(("classifier.dense", "gelu"), ("classifier.out_proj", None))),
    "distilbert": Family(
        blocks="transformer.layer",
        block=Block(
            "attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin", "sa_layer_norm", "ffn.lin1",
            "ffn.lin2", "output_layer_norm",
        ),
        types=None,
        classes=(("pre_classifier", "relu"), ("classifier", None)),
    ),
    "mpnet": Family(
        block=Block(
            "attention.attn.q", "attention.attn.k", "attention.attn.v", "attention.attn.o", "attention.LayerNorm",
        ),
        types=None,
        relative="encoder.relative_attention_bias",
        counts_real_tokens=True,
    ),
}  # fmt: skip
PER_TOKEN: Mapping[str, Steps] = {"tags": (("classifier", None),), "spans": (("qa_outputs", None),), "embeddings": ()}
ACTIVATION_NAMES: Mapping[str, LayerFunction] = {
    "gelu": "gelu", "gelu_new": "gelu_new", "gelu_pytorch_tanh": "gelu_new", "relu": "relu",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Encoder:
    """A model of a known family, with every module's full name.

    Attributes:
        loaded: the model.
        family: the family, its embedding modules by full name.
        blocks: modules of each block by full name.
        heads: number of attention heads.
        hidden: width of the residual stream.
        activation: activation function of the feed-forward layers.
        head: layers after the encoder.
        first_token: whether the head reads only the first token.
    """

    loaded: LoadedModel
    family: Family
    blocks: tuple[Block, ...]
    heads: int
    hidden: int
    activation: LayerFunction
    head: Steps
    first_token: bool

    def module(self, name: str) -> Any:
        """Return a module of the model.

        Args:
            name: its whole name in the model.
        """
        return self.loaded.model.get_submodule(name)


def encoder_of(loaded: LoadedModel) -> Encoder:
    """Find the modules that the compiler needs in a model.

    Args:
        loaded: the model.

    Raises:
        UsageError: its family, its head, its activation function or another property has no integer form; names it.
    """
    model, config = loaded.model, getattr(loaded.model, "config", None)
    kind = getattr(config, "model_type", type(model).__name__)
    family = FAMILIES.get(kind)
    if config is None or family is None:
        raise UsageError(f"{loaded.name}: models of type {kind} have no integer form. Legal: {', '.join(FAMILIES)}.")
    for setting, legal in (
        ("is_decoder", False),
        ("position_embedding_type", "absolute"),
        ("add_cross_attention", False),
    ):
        if (value := getattr(config, setting, legal)) not in (legal, None):
            raise UsageError(f"{loaded.name}: {setting} {value!r} has no integer form. Legal: {legal!r}.")
    function = str(getattr(config, "hidden_act", None) or getattr(config, "activation", None))
    if function not in ACTIVATION_NAMES:
        raise UsageError(f"{loaded.name}: the activation function {function} has no integer form. Legal: "
                         f"{', '.join(ACTIVATION_NAMES)}.")  # fmt: skip
    outputs = loaded.head.kind
    if outputs not in (*PER_TOKEN, "classes", "regression"):
        raise UsageError(f"{loaded.name}: a head of kind {outputs} has no integer form. Legal: classes, regression, "
                         f"{', '.join(PER_TOKEN)}.")  # fmt: skip
    if in_tiers(model):
        raise UsageError(
            f"{loaded.name}: a table of words in tiers has no integer form. Plan for the model that it was made from."
        )
    if is_narrowed(model):
        raise UsageError(
            f"{loaded.name}: layers with fewer attention heads than others have no integer form. Plan without "
            "`allow_drop_heads`."
        )
    own = next(name for name, module in model.named_modules() if module is model.base_model)
    prefix = f"{own}." if own else ""
    blocks = model.base_model.get_submodule(family.blocks)
    return Encoder(
        loaded,
        replace(
            family,
            words=prefix + family.words,
            positions=prefix + family.positions,
            types=None if family.types is None else prefix + family.types,
            norm=prefix + family.norm,
            project=prefix + family.project if hasattr(model.base_model, family.project) else "",
            relative=None if family.relative is None else prefix + family.relative,
        ),
        tuple(_named(family.block, f"{prefix}{family.blocks}.{index}.") for index in range(len(blocks))),
        config.num_attention_heads,
        config.hidden_size,
        ACTIVATION_NAMES[function],
        PER_TOKEN.get(outputs, family.classes),
        outputs not in PER_TOKEN,
    )


def _named(block: Block, prefix: str) -> Block:
    return Block(*(prefix + getattr(block, name) for name in Block.__slots__))
