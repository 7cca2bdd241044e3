"""A small real classifier of the bundled SNIPS intents, trained here in seconds: the notebooks need no download.

    python notebooks/small_model.py models/small
"""

import sys
import tempfile
import warnings
from pathlib import Path

warnings.filterwarnings("ignore", message="IProgress not found")  # a note on progress bars, not on the model

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast
from transformers.utils import logging

import qbert_opt as qb
from qbert_opt.training.fine_tuning import fine_tune


def train_small_model(folder: Path, *, layers: int = 2, hidden: int = 128, epochs: int = 1) -> Path:
    """Train a small BERT from scratch on half of snips/train, write it to a folder, and return that folder."""
    logging.disable_progress_bar()
    folder.parent.mkdir(parents=True, exist_ok=True)
    texts = qb.read_texts("snips/train")
    train = texts.take(range(0, len(texts), 2))  # half of them are enough for a demonstration, and twice as fast
    words = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    words.normalizer = normalizers.BertNormalizer()
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    trainer = trainers.WordLevelTrainer(vocab_size=4000, special_tokens=special, show_progress=False)
    words.train_from_iterator((text for (text,) in train.texts), trainer)
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        model_max_length=64,
    )
    config = BertConfig(
        vocab_size=words.get_vocab_size(), hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=4,
        intermediate_size=4 * hidden, max_position_embeddings=64,
    )
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as encoder:
        BertModel(config).save_pretrained(encoder)
        fast.save_pretrained(encoder)
        fine_tune(encoder, train, folder, epochs=epochs, learning_rate=1e-3)
    return folder


if __name__ == "__main__":
    print(train_small_model(Path(sys.argv[1])))
