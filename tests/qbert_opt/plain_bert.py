"""A tiny BERT with a WordPiece tokenizer, as llama.cpp reads it."""

import torch
import transformers
from families import COMMON, STANDARD, WORDS
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast


def wordpiece(lowercase=True):
    """A WordPiece tokenizer as BERT has it, over the words of the tiny models."""
    found = Tokenizer(
        models.WordPiece({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]", continuing_subword_prefix="##")
    )
    found.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    found.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    found.add_special_tokens(list(WORDS[:5]))
    found.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=found, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip


def bert(folder, kind="SequenceClassification", width=64, labels=3, **fields):
    """A tiny BERT in blocks of 64, which two bits need."""
    torch.manual_seed(0)
    sizes = {"hidden_size": width, "intermediate_size": 2 * width, "num_labels": labels}
    config = transformers.BertConfig(**COMMON | STANDARD | sizes | fields)
    model = getattr(transformers, f"BertFor{kind}" if kind != "Model" else "BertModel")(config)
    model.save_pretrained(folder)
    wordpiece().save_pretrained(folder)
    return folder
