"""Tiny decoders of every family with random weights, and the words that they read."""

from __future__ import annotations

import random

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from qbert_opt.data.texts import LabeledTexts

SPECIALS = ("<unk>", "<s>", "</s>", "<|endoftext|>")
LETTERS = "abcdefgh"
MERGES = [("Ġ", one) for one in LETTERS] + [(one, two) for one in LETTERS for two in LETTERS]
PIECES = (*SPECIALS, "Ġ", *LETTERS, *("".join(pair) for pair in MERGES))
COMMON = {"vocab_size": len(PIECES), "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.3}
SHAPE = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 48, "max_position_embeddings": 40, "head_dim": 8,
}  # fmt: skip
FAMILIES = {
    "llama": ("Llama", SHAPE),
    "llama with tied tables": ("Llama", SHAPE | {"tie_word_embeddings": True}),
    "qwen2": ("Qwen2", SHAPE),
    "qwen3": ("Qwen3", SHAPE | {"head_dim": 12}),
    "mistral": ("Mistral", SHAPE | {"sliding_window": 24}),
    "gpt2": ("GPT2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40}),
    "gemma": ("Gemma", SHAPE | {"num_key_value_heads": 1, "head_dim": 16, "pad_token_id": 0}),
    "gemma2": ("Gemma2", SHAPE | {"sliding_window": 24, "query_pre_attn_scalar": 8, "pad_token_id": 0}),
    "gemma3": ("Gemma3", SHAPE | {"sliding_window": 24, "query_pre_attn_scalar": 8, "pad_token_id": 0}),
}
CONFIGS = {"Gemma3": "Gemma3TextConfig"}
CLASSES = {"GPT2": "GPT2LMHeadModel"}


def tokenizer(first=True):
    """A byte-level BPE of a few letters without padding; `first` puts `<s>` before every text."""
    found = Tokenizer(models.BPE({piece: i for i, piece in enumerate(PIECES)}, MERGES))
    found.pre_tokenizer, found.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    found.add_special_tokens(list(SPECIALS))
    if first:
        found.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=found, unk_token="<unk>", bos_token="<s>", eos_token="</s>",
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def sentences(count, seed=0, longest=9):
    """Distinct texts of a few words of these letters."""
    draw = random.Random(seed)
    word = lambda: "".join(draw.choices(LETTERS, k=draw.randint(1, 4)))  # noqa: E731
    texts = tuple((" ".join(word() for _ in range(draw.randint(2, longest))),) for _ in range(count))
    return LabeledTexts("letters", texts, None)


def tiny_decoder(family, attention=None, **changes):
    """A decoder of one family, random weights, in evaluation mode."""
    name, shape = FAMILIES[family]
    config = getattr(transformers, CONFIGS.get(name, f"{name}Config"))(**COMMON | shape | changes)
    torch.manual_seed(0)
    made = getattr(transformers, CLASSES.get(name, f"{name}ForCausalLM"))
    return made._from_config(config, attn_implementation=attention).eval()


def save(folder, family, **changes):
    """Write such a model and its tokenizer as users have them."""
    tiny_decoder(family, **changes).save_pretrained(folder)
    tokenizer(first=family != "gpt2").save_pretrained(folder)
    return folder
