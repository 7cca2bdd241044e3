"""Tiny quantized models of every family with planned input ranges, compiled."""

import functools
import itertools

import pytest
import torch
from families import save

from qbert_opt.checkpoint.reader import load_quantized, read_matrices
from qbert_opt.data.texts import LabeledTexts
from qbert_opt.integer.compiler import compile_model
from qbert_opt.integer.families import encoder_of
from qbert_opt.integer.ways import BY_TABLE
from qbert_opt.models.loading import load_model, tokenized
from qbert_opt.models.structure import profile_model
from qbert_opt.planning.recipes import given_allocation
from qbert_opt.quantization.activation_ranges import calibrated_ranges, shared_inputs
from qbert_opt.spec.choices import choice
from qbert_opt.spec.planned import PlannedActivation
from qbert_opt.workflows.quantize import quantize_model

CHOICES = ("4bit/columns:16/rtn", "8bit/rows:each/rtn", "3bit/rows:1/rtn/symmetric", "8bit/rows:4/rtn/zero-point")
GROUPS_AND_ROWS = ("8bit/columns:16/rtn", "8bit/rows:each/rtn/symmetric")


def planned_inputs(loaded, batches, modules, bits=8):
    """Static ranges of every input, without scores."""
    ranges = calibrated_ranges(loaded.model, batches, modules)
    return tuple(
        PlannedActivation(modules=group, bits=bits, scheme="tensor", range="minmax", low=low, high=high,
                          predicted_loss=0.0, std_error=0.0)
        for group in shared_inputs(loaded.model, batches[0], modules)
        for low, high in [ranges[group[0]]["minmax"](bits)]
    )  # fmt: skip


def quantized_folder(folder, family, kind, texts, bits=8, choices=CHOICES):
    """Write a tiny model of a family quantized in every form, its inputs in static ranges."""
    loaded = load_model(save(folder / "model", family, kind))
    profile = profile_model(loaded)
    names = itertools.cycle(choices)
    plan = given_allocation(profile, {m.module: choice(next(names)) for m in profile.matrices})
    batches = tokenized(loaded, texts.texts, batch_size=8)
    planned = planned_inputs(loaded, batches, [m.module for m in profile.matrices], bits)
    return quantize_model(loaded, plan.model_copy(update={"activations": planned}), texts, folder / "out").folder


@functools.cache
def compiled(folder, texts, ways=BY_TABLE):
    """The quantized model and its program, compiled once for all tests: none may change them."""
    loaded, plan = load_quantized(folder)
    batches = tokenized(loaded, texts.texts, batch_size=8)
    inputs = tuple(name for name in batches[0].inputs)
    encoder = encoder_of(loaded)
    return loaded, compile_model(encoder, read_matrices(folder, plan), plan.activations, batches, inputs, ways)


def texts_for(sentences, kind):
    """Texts of the shape that a head reads."""
    texts = sentences.texts[:24]
    if kind == "spans":
        texts = tuple((a[0], b[0]) for a, b in itertools.pairwise(texts))
    return LabeledTexts("texts", texts, None)


FAMILY_HEADS = (
    ("bert", "classes"), ("roberta", "tags"), ("distilbert", "spans"), ("electra", "classes"), ("mpnet", "classes"),
    ("bert", "embeddings"),
)  # fmt: skip


@pytest.fixture(scope="session", params=FAMILY_HEADS, ids=[" ".join(pair) for pair in FAMILY_HEADS])
def family_folder(request, sentences, tmp_path_factory):
    """A quantized folder, with texts for its head."""
    texts = texts_for(sentences, request.param[1])
    torch.manual_seed(0)
    return quantized_folder(tmp_path_factory.mktemp("integer"), *request.param, texts), texts


@pytest.fixture(scope="session")
def with_16_bits(sentences, tmp_path_factory):
    """A folder of column groups and rows with inputs of 16 bits, and its texts."""
    texts = texts_for(sentences, "classes")
    folder = tmp_path_factory.mktemp("with_16_bits")
    return quantized_folder(folder, "bert", "classes", texts, 16, GROUPS_AND_ROWS), texts
