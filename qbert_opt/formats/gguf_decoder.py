"""A decoder in llama.cpp's terms: architecture, hyper-parameters, and the name of every tensor in a GGUF file.

Sources: src/models/*.cpp of llama.cpp for what each architecture computes, conversion/*.py for what its tensors are.
What differs from transformers:

- **Llama's rows.** Its rotary embedding pairs neighbouring rows of queries and keys; transformers' pairs the first half
  of a head with the second. In the file, the rows of the two halves alternate, with their codes and ranges.
- **Gemma's norms** multiply by 1 + weight, llama.cpp's by the number in the file.
- **Llama 3's frequencies** are divided by the factors in `rope_freqs`; one factor for all is `rope.scaling.factor`.
- **Sliding windows.** Gemma 2's and 3's are in the file. Mistral's is not, because `llama` has none: the file's context
  is as long as the window, so that every token still sees all earlier ones.

A decoder that a file cannot describe is refused; in addition, every export is run and compared.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from ..models.windows import position_limit
from .gguf_rotation import rotation

if TYPE_CHECKING:
    import torch

Floats = NDArray[np.float32]
OUTPUT = "output.weight"
WORD = "token_embd.weight"
SOFTCAP = "final_logit_softcapping"
OTHERS = "Open the quantized folder with transformers' from_pretrained."
_GATED = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TWO_NORMS = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
_HEAD_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
_FOUR_NORMS = {
    "attn_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_GPT2 = {
    "attn_norm": "ln_1",
    "attn_qkv": "attn.c_attn",
    "attn_output": "attn.c_proj",
    "ffn_norm": "ln_2",
    "ffn_up": "mlp.c_fc",
    "ffn_down": "mlp.c_proj",
}


@dataclass(frozen=True, slots=True)
class _Family:
    """An architecture of llama.cpp.

    Attributes:
        architecture: its name in llama.cpp.
        parts: module of each tensor of a layer.
        activation: the only activation function that it supports.
        pairs: whether its rotary embedding pairs neighbouring rows.
        norm_offset: number that transformers' norms add to their weights.
        window: whether it has sliding windows.
        large: number of layers of the model whose attention is scaled by hidden / heads; 0 if there is none.
    """

    architecture: str
    parts: Mapping[str, str]
    activation: str = "silu"
    pairs: bool = False
    norm_offset: float = 0.0
    window: bool = False
    large: int = 0


_LLAMA = _Family("llama", _GATED | _TWO_NORMS, pairs=True)
FAMILIES = {
    "LlamaForCausalLM": _LLAMA,
    "MistralForCausalLM": _LLAMA,
    "Qwen2ForCausalLM": _Family("qwen2", _GATED | _TWO_NORMS),
    "Qwen3ForCausalLM": _Family("qwen3", _GATED | _TWO_NORMS | _HEAD_NORMS),
    "GPT2LMHeadModel": _Family("gpt2", _GPT2, "gelu_new"),
    "GemmaForCausalLM": _Family("gemma", _GATED | _TWO_NORMS, "gelu_pytorch_tanh", norm_offset=1.0),
    "Gemma2ForCausalLM": _Family(
        "gemma2", _GATED | _FOUR_NORMS, "gelu_pytorch_tanh", norm_offset=1.0, window=True, large=46
    ),
    "Gemma3ForCausalLM": _Family(
        "gemma3", _GATED | _FOUR_NORMS | _HEAD_NORMS, "gelu_pytorch_tanh", norm_offset=1.0, window=True, large=62
    ),
}


@dataclass(frozen=True, slots=True)
class GgufDecoder:
    """The description of a decoder in a file.

    Attributes:
        metadata: hyper-parameters by key.
        names: name in the file of each tensor that may have codes, by module.
        norms: module and name of each norm.
        norm_offset: number that is added to the weights of norms.
        head: module of the output layer; None if it is tied to the word embedding table.
        heads_of: number of heads, by module, of the matrices whose rows are reordered.
        rope_factors: divisors of the rotary frequencies; None if the file needs no tensor for them.
    """

    metadata: Mapping[str, Any]
    names: Mapping[str, str]
    norms: tuple[tuple[str, str], ...]
    norm_offset: float
    head: str | None
    heads_of: Mapping[str, int]
    rope_factors: Floats | None

    def in_turn(self, module: str, rows: NDArray[Any]) -> NDArray[Any]:
        """Return the rows of a matrix, or of its bias, in the order of the file.

        Args:
            module: module of the matrix.
            rows: rows in transformers' order, `[rows, ...]`.
        """
        heads = self.heads_of.get(module)
        if heads is None:
            return rows
        halves = rows.reshape(heads, 2, len(rows) // heads // 2, *rows.shape[1:])
        return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)


def is_decoder(model: Any) -> bool:
    """Return whether a model is a decoder, which `gguf_decoder` describes or refuses.

    Args:
        model: a transformers model.
    """
    return type(model).__name__.endswith(("ForCausalLM", "LMHeadModel"))


def gguf_decoder(model: Any, target: str) -> GgufDecoder:
    """Describe a decoder.

    Args:
        model: a transformers model.
        target: what the model is converted for, for messages.

    Raises:
        UsageError: llama.cpp would compute something else; says what.
    """
    name, config = type(model).__name__, model.config
    family = FAMILIES.get(name)
    if family is None:
        raise UsageError(f"{target}: {name} has no writer. Legal: {', '.join(FAMILIES)}. {OTHERS}")
    reason = _difference(config, family)
    if reason is not None:
        raise UsageError(f"{target}: {name} {reason}. {OTHERS}")
    blocks = "transformer.h" if family.architecture == "gpt2" else "model.layers"
    count, parts = len(model.get_submodule(blocks)), family.parts
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    if not tied and family.norm_offset:
        raise UsageError(f"{target}: {name} has an output layer of its own, which llama.cpp's does not have. {OTHERS}")
    names = {f"{blocks}.{i}.{part}": f"blk.{i}.{key}.weight" for i in range(count) for key, part in parts.items()}
    norms = tuple((module, tensor) for module, tensor in names.items() if "norm" in tensor)
    names = {module: tensor for module, tensor in names.items() if "norm" not in tensor}
    if family.architecture == "gpt2":
        names |= {"transformer.wte": WORD, "transformer.wpe": "position_embd.weight"}
        norms += (("transformer.ln_f", "output_norm.weight"),)
    else:
        names["model.embed_tokens"] = WORD
        norms += (("model.norm", "output_norm.weight"),)
    heads, fewer = config.num_attention_heads, getattr(config, "num_key_value_heads", config.num_attention_heads)
    turned = {}
    if family.pairs:
        turned = {f"{blocks}.{i}.{parts['attn_q']}": heads for i in range(count)}
        turned |= {f"{blocks}.{i}.{parts['attn_k']}": fewer for i in range(count)}
    rope, factors = rotation(model, family.architecture, f"{target}: {name}")
    return GgufDecoder(
        metadata=_metadata(model, family, count) | rope,
        names=names,
        norms=norms,
        norm_offset=family.norm_offset,
        head=None if tied else "lm_head",
        heads_of=turned,
        rope_factors=factors,
    )


def _difference(config: Any, family: _Family) -> str | None:
    """Return how llama.cpp's architecture differs from a config; None if no difference is known."""
    activation = getattr(config, "hidden_activation", None) or getattr(config, "hidden_act", None)
    activation = activation or getattr(config, "activation_function", None)
    if activation != family.activation:
        return f"has the activation {activation}; legal is {family.activation}"
    if family.architecture == "gpt2":
        if not config.scale_attn_weights or config.scale_attn_by_inverse_layer_idx:
            return "scales attention by layer, or not at all"
        return None
    if family.large:
        wide = config.num_hidden_layers == family.large
        scale = config.hidden_size // config.num_attention_heads if wide else config.head_dim
        if config.query_pre_attn_scalar != scale:
            return f"divides attention by the root of {config.query_pre_attn_scalar}; legal for its depth is {scale}"
        if _period(config.layer_types) is None:
            return "mixes sliding and full attention without a period"
    if family.architecture == "gemma3" and getattr(config, SOFTCAP, None):
        return "bounds its logits"
    if getattr(config, "use_bidirectional_attention", False):
        return "sees later tokens"
    return None


def _period(kinds: Any) -> int | None:
    """Return n if every n-th layer, and no other, has full attention; None if there is no such n."""
    first = next((i for i, kind in enumerate(kinds) if kind == "full_attention"), None)
    period = len(kinds) + 1 if first is None else first + 1
    regular = all((kind == "full_attention") == ((i + 1) % period == 0) for i, kind in enumerate(kinds))
    return period if regular else None


def _metadata(model: Any, family: _Family, count: int) -> dict[str, Any]:
    config, name = model.config, family.architecture
    fields: dict[str, Any] = {
        "general.architecture": name,
        f"{name}.context_length": config.max_position_embeddings,
        f"{name}.embedding_length": config.hidden_size,
        f"{name}.block_count": count,
        f"{name}.attention.head_count": config.num_attention_heads,
        f"{name}.vocab_size": model.get_input_embeddings().weight.shape[0],
    }
    if name == "gpt2":
        inner = config.n_inner or 4 * config.hidden_size
        return fields | {
            f"{name}.feed_forward_length": inner,
            f"{name}.attention.layer_norm_epsilon": float(config.layer_norm_epsilon),
        }
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    fields |= {
        f"{name}.feed_forward_length": config.intermediate_size,
        f"{name}.attention.head_count_kv": config.num_key_value_heads,
        f"{name}.attention.key_length": size,
        f"{name}.attention.value_length": size,
        f"{name}.attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        f"{name}.rope.dimension_count": size,
    }
    if not family.window:
        fields[f"{name}.context_length"] = position_limit(config, causal=True)
        return fields
    fields[f"{name}.attention.sliding_window"] = config.sliding_window
    fields[f"{name}.attention.sliding_window_pattern"] = _period(config.layer_types)
    if name == "gemma2":
        fields[f"{name}.attn_logit_softcapping"] = float(config.attn_logit_softcapping)
        fields[f"{name}.{SOFTCAP}"] = float(config.final_logit_softcapping)
    return fields


def float_parts(model: Any, decoder: GgufDecoder, coded: Collection[str]) -> Iterator[tuple[str, Floats]]:
    """Yield every tensor without codes by name: matrices and tables, biases, norms, the output layer, and factors.

    Args:
        model: a transformers model.
        decoder: its description.
        coded: names of the tensors that have codes.
    """
    from ..models.layers import matrix_of

    def values(tensor: torch.Tensor) -> Floats:
        array: Floats = tensor.detach().float().numpy()
        return array

    for module, name in decoder.names.items():
        layer = model.get_submodule(module)
        if name not in coded:
            yield name, decoder.in_turn(module, values(matrix_of(layer)))
        if getattr(layer, "bias", None) is not None:
            yield name.removesuffix("weight") + "bias", decoder.in_turn(module, values(layer.bias))
    for module, name in decoder.norms:
        norm = model.get_submodule(module)
        yield name, values(norm.weight) + np.float32(decoder.norm_offset)
        if getattr(norm, "bias", None) is not None:
            yield name.removesuffix("weight") + "bias", values(norm.bias)
    if decoder.head is not None:
        yield OUTPUT, values(model.get_submodule(decoder.head).weight)
    if decoder.rope_factors is not None:
        yield "rope_freqs.weight", decoder.rope_factors
