"""Small tokenizers of every algorithm, and tiny models that read them."""

from __future__ import annotations

import json

import torch
import transformers
from families import HEADS, LABELS, STANDARD
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
TEXTS = (
    "play the next song on the kitchen speaker", "turn the kitchen light off please", "what is the weather in the city",
    "play some jazz in the living room", "turning off the lights in the room", "is it raining in the next city",
    "rate this book four stars", "book a table for four in the city", "speakers playing jazz in the kitchen",
)  # fmt: skip
SIZE = {"WordPiece": 140, "BPE": 360, "Unigram": 90}
ENDS = (("[SEP]", 3), ("[CLS]", 2))


def trained(algorithm):
    """A tokenizer of one algorithm, trained on a few texts, with the template of BERT."""
    common = {"vocab_size": SIZE[algorithm], "special_tokens": list(SPECIALS), "show_progress": False}
    if algorithm == "WordPiece":
        made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        made.normalizer = normalizers.BertNormalizer(lowercase=True)
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(**common)
        made.post_processor = processors.BertProcessing(*ENDS)
    elif algorithm == "BPE":
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), **common)
        made.post_processor = processors.RobertaProcessing(*ENDS)
    else:
        made = Tokenizer(models.Unigram())
        made.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(unk_token="[UNK]", **common)
        made.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B [SEP]",
            special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
        )
    made.train_from_iterator(TEXTS, trainer)
    return made


def document_of(tokenizer):
    """The content of its `tokenizer.json`."""
    return json.loads(tokenizer.to_str())


def as_tokenizer(document):
    """The tokenizer of a `tokenizer.json`."""
    return Tokenizer.from_str(json.dumps(document))


def save(folder, algorithm, kind="classes", spare_rows=0, dtype=torch.float32):
    """Write a tiny model that reads such a tokenizer; BPE has a RoBERTa, whose positions depend on the padding's id."""
    tokenizer = trained(algorithm)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip
    name = {"WordPiece": "Bert", "BPE": "Roberta", "Unigram": "XLMRoberta"}[algorithm]
    names = LABELS.get(kind)
    labels = (
        {} if names is None else {"id2label": dict(enumerate(names)), "label2id": {n: i for i, n in enumerate(names)}}
    )
    config = getattr(transformers, f"{name}Config")(
        vocab_size=tokenizer.get_vocab_size() + spare_rows, pad_token_id=0, bos_token_id=2, eos_token_id=3,
        **STANDARD, **labels,
    )  # fmt: skip
    torch.manual_seed(0)
    getattr(transformers, f"{name}{HEADS[kind]}")(config).to(dtype).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder
