"""A small real BERT and a few sentences, made here: the tests need no download."""

import gc
import signal
import sys

import pytest
from hypothesis import HealthCheck, settings

gc.disable()  # while modules are imported, of which nothing is let go

# a shell that starts the suite in the background has it ignore Ctrl-C, which some tests send
signal.signal(signal.SIGINT, signal.default_int_handler)

# how long an example takes depends on what else the machine does
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


def pytest_collection_finish():
    """What was imported is no garbage: collections begin here, and need not look at it again."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def calls_of():
    """A function that runs another one and counts the calls it makes, of Python's and of C's functions.

    It stands for time where time would be a matter of what else the machine does: garbage collection of a whole test
    run's objects alone takes a second on a busy machine.
    """

    def count(run):
        calls = 0

        def counted(frame, event, argument):
            nonlocal calls
            calls += event in ("call", "c_call")

        before = sys.getprofile()
        sys.setprofile(counted)
        try:
            run()
        finally:
            sys.setprofile(before)
        return calls

    return count


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """Folder of a BERT with 2 layers, hidden 32, 4 heads, 3 classes, random weights and a word tokenizer."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny") / "model"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{i}" for i in range(60))]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=40, num_labels=3, initializer_range=0.3,
        id2label={0: "red", 1: "green", 2: "blue"}, label2id={"red": 0, "green": 1, "blue": 2},
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny(tiny_folder):
    """The tiny model, loaded as users load theirs."""
    from qbert_opt.models.loading import load_model

    return load_model(tiny_folder)


@pytest.fixture(scope="session")
def sentences():
    """120 distinct sentences of 2 to 12 words with labels."""
    import numpy as np

    from qbert_opt.data.texts import LabeledTexts

    generator = np.random.default_rng(0)
    texts = [" ".join(f"w{i}" for i in generator.integers(0, 60, generator.integers(2, 13))) for _ in range(120)]
    labels = [["red", "green", "blue"][i] for i in generator.integers(0, 3, 120)]
    return LabeledTexts("sentences", tuple((t,) for t in texts), tuple(labels))
