"""Tiny models of every supported family with random weights, and the words that they read."""

from __future__ import annotations

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(59)))
COMMON = {"vocab_size": len(WORDS), "pad_token_id": 0}
STANDARD = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 40, "initializer_range": 0.3,
}  # fmt: skip
RELATIVE = {"relative_attention": True, "position_buckets": 4, "pos_att_type": ["c2p", "p2c"]}
FAMILIES = {
    "bert": ("Bert", STANDARD),
    "roberta": ("Roberta", STANDARD),
    "distilbert": (
        "DistilBert",
        {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 40,
         "initializer_range": 0.3},
    ),
    "electra": ("Electra", STANDARD | {"embedding_size": 16}),
    "albert": ("Albert", STANDARD | {"num_hidden_layers": 3, "embedding_size": 16}),
    "albert with two groups": ("Albert", STANDARD | {"num_hidden_layers": 4, "num_hidden_groups": 2}),
    "mpnet": ("MPNet", STANDARD),
    "deberta-v2": ("DebertaV2", STANDARD | RELATIVE | {"share_att_key": True, "norm_rel_ebd": "layer_norm"}),
    "deberta-v2 with its own position keys": (
        "DebertaV2", STANDARD | RELATIVE | {"share_att_key": False, "embedding_size": 16},
    ),
    "mobilebert": (
        "MobileBert",
        STANDARD | {"embedding_size": 16, "true_hidden_size": 16, "intra_bottleneck_size": 16,
                    "num_feedforward_networks": 2},
    ),
    "modernbert": (
        "ModernBert",
        STANDARD | {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3, "local_attention": 4,
                    "initializer_cutoff_factor": 3.0},
    ),
}  # fmt: skip
HEADS = {
    "classes": "ForSequenceClassification",
    "tags": "ForTokenClassification",
    "spans": "ForQuestionAnswering",
    "vocabulary": "ForMaskedLM",
    "embeddings": "Model",
}
LABELS = {
    "classes": ("red", "green", "blue"),
    "tags": ("O", "B-x", "I-x", "B-y", "I-y"),
    "spans": ("start", "end"),
}


def tokenizer():
    """A tokenizer that knows a few words, with the template of BERT."""
    found = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    found.pre_tokenizer = pre_tokenizers.Whitespace()
    found.add_special_tokens(list(WORDS[:5]))
    found.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=found, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def tiny_model(family, kind="classes", attention="eager", **other):
    """A model of one family with one kind of head, random weights, in evaluation mode; `other` is of its config."""
    name, shape = FAMILIES[family]
    names = LABELS.get(kind)
    labels = (
        {}
        if names is None
        else {"id2label": dict(enumerate(names)), "label2id": dict(zip(names, range(9), strict=False))}
    )
    config = getattr(transformers, f"{name}Config")(**COMMON, **shape | labels | other)
    torch.manual_seed(0)
    return getattr(transformers, f"{name}{HEADS[kind]}")._from_config(config, attn_implementation=attention).eval()


def save(folder, family, kind="classes"):
    """Write such a model and its tokenizer as users have them."""
    tiny_model(family, kind).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder
