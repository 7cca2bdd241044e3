"""Decoders in llama.cpp: our codes bit for bit, llama.cpp's own probabilities, its tokens, and one-line refusals."""

import itertools
import json

import numpy as np
import pytest
import torch
from decoders import LETTERS, save, sentences, tiny_decoder, tokenizer
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from qbert_opt.checkpoint.reader import load_quantized, read_matrices
from qbert_opt.costs.engine_target import engine_target
from qbert_opt.costs.stored import weight_bytes
from qbert_opt.engines.session import engine, rules_of
from qbert_opt.errors import InputFileError, UsageError
from qbert_opt.formats.ggml_blocks import dequantize
from qbert_opt.formats.gguf_decoder import gguf_decoder
from qbert_opt.formats.gguf_file import GgufFile, read_gguf, write_gguf
from qbert_opt.formats.gguf_vocabulary import BYTE, CONTROL, NORMAL, SPACE, UNKNOWN, decoder_vocabulary
from qbert_opt.models.loading import load_model
from qbert_opt.models.structure import profile_model
from qbert_opt.planning.recipes import given_allocation
from qbert_opt.spec.choices import choice
from qbert_opt.workflows.export import export_model
from qbert_opt.workflows.quantize import quantize_model

TARGET = "`engine` llama-cpp"
WIDE = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16}
SHAPES = {
    "llama": WIDE | {"attention_bias": True},
    "llama with tied tables": WIDE,
    "qwen2": WIDE,
    "qwen3": WIDE | {"head_dim": 32},
    "mistral": WIDE,
    "gpt2": {"n_embd": 64},
    "gemma": WIDE | {"head_dim": 32},
    "gemma2": WIDE | {"query_pre_attn_scalar": 16, "num_hidden_layers": 3, "sliding_window": 12},
    "gemma3": WIDE | {"query_pre_attn_scalar": 16, "num_hidden_layers": 7, "sliding_window": 12},
}
CHOICES = (
    "2bit/columns:32/rtn/signed", "4bit/columns:32/rtn/symmetric", "8bit/rows:each/rtn/signed",
    "3bit/rows:heads/rtn/signed", "5bit/columns:32/rtn/symmetric", "2bit/rows:each/rtn/signed",
    "6bit/rows:each/rtn/symmetric",
)  # fmt: skip
TABLES = {"llama": "4bit/columns:32/rtn/symmetric", "gpt2": "5bit/rows:each/rtn/signed"}
SPELLED = ["ab cd", "ab  cd\nefg", " gh", "a1b22", "héä", "ab's ab", "<unk> a"]


def quantized(folder, family, **changes):
    """A folder with every width and form that GGUF holds, one after the other."""
    loaded = load_model(save(folder / "model", family, **SHAPES[family] | changes))
    profile = profile_model(loaded)
    names = itertools.cycle(CHOICES)
    chosen = {matrix.module: choice(next(names)) for matrix in profile.matrices}
    table = choice(TABLES.get(family, "8bit/rows:each/rtn/signed"))
    chosen |= {one.module: table for one in profile.tables}
    return quantize_model(loaded, given_allocation(profile, chosen), sentences(24), folder / "q").folder


@pytest.fixture(scope="module", params=SHAPES)
def exported(request, tmp_path_factory):
    """A decoder of each family, quantized and exported."""
    pytest.importorskip("xllamacpp")
    folder = tmp_path_factory.mktemp("gguf")
    source = quantized(folder, request.param)
    return source, folder / "e", export_model(source, "llama-cpp", folder / "e")


def test_answers_are_torchs_at_every_position(exported):
    """In float32 as torch computes; with inputs rounded to 8 bits, within a few thousandths of a nat."""
    _, _, record = exported
    assert record.graph_difference < rules_of("llama-cpp").float_difference
    assert record.activations == "int8" and record.agreement.answers > 100
    assert record.agreement.loss < 0.01 and record.agreement.flipped <= 0.01 * record.agreement.decided


def test_every_code_and_range_is_in_the_file(exported):
    """Bit for bit, in llama.cpp's order of rows."""
    source, target, _ = exported
    loaded, plan = load_quantized(source)
    decoder, contents = gguf_decoder(loaded.model, TARGET), read_gguf(target / "model.gguf")
    seen = set()
    for stored in read_matrices(source, plan):
        tensor = contents.tensors[decoder.names[stored.module]]
        expected = decoder.in_turn(stored.module, stored.quantized.dequantize().numpy())
        assert np.array_equal(dequantize(tensor.kind, tensor.data), expected)
        seen.add(tensor.kind.name)
    assert seen >= {"Q2_0", "Q4_0", "Q5_0", "Q8_0"} and set(decoder.names.values()) <= set(contents.tensors)


def test_the_logits_are_those_that_llama_cpp_itself_answers(exported):
    """Its server's own probabilities behind a text, for every token of the vocabulary."""
    import xllamacpp

    _, target, _ = exported
    session = engine("llama-cpp").open_model(target, 1)
    ids = [1, 13, 22, 40, 15, 60]
    ours = session.run({"input_ids": np.array([ids]), "attention_mask": np.ones((1, 6), int)})["logits"][0, -1]
    settings = xllamacpp.CommonParams()
    settings.model.path, settings.n_ctx, settings.warmup, settings.verbosity = str(target / "model.gguf"), 64, False, -1
    asked = {"prompt": ids, "n_predict": 1, "n_probs": len(ours), "temperature": 1.0}
    answer = xllamacpp.Server(settings).handle_completions(asked)
    tokens = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    theirs = np.empty(len(ours))
    theirs[[token["id"] for token in tokens]] = [token["logprob"] for token in tokens]
    assert len(tokens) == len(ours)
    assert np.abs(torch.log_softmax(torch.tensor(ours), 0).numpy() - theirs).max() < 0.02


def test_the_file_is_as_large_as_predicted(exported):
    """All but the vocabulary, whose pieces are shorter here than English ones, within 2 %."""
    source, target, _ = exported
    _, plan = load_quantized(source)
    law, parts = engine_target("llama-cpp"), (*plan.matrices, *plan.tables)
    items = (*plan.profile.matrices, *plan.profile.tables)
    predicted = law.other_bytes(plan.profile)
    predicted += sum(
        weight_bytes(item, part.choice, plan.profile.heads_of(item), law)
        for item, part in zip(items, parts, strict=True)
    )
    rows = plan.profile.tables[0].rows
    predicted -= round(law.rules.file.decoders.entry * rows)
    keys = read_gguf(target / "model.gguf").metadata
    words = sum(len(word.encode()) + 8 for word in (*keys["tokenizer.ggml.tokens"], *keys["tokenizer.ggml.merges"]))
    measured = (target / "model.gguf").stat().st_size - words - 4 * rows
    assert measured == pytest.approx(predicted, rel=0.02)


@pytest.mark.parametrize(
    ("scaling", "keys"),
    [
        ({"rope_type": "linear", "factor": 4.0}, {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4}),
        ({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 2.0,
          "original_max_position_embeddings": 16}, None),
    ],
)  # fmt: skip
def test_scaled_positions(tmp_path, scaling, keys):
    """Llama 3's frequencies are a tensor; one factor for all is a key."""
    pytest.importorskip("xllamacpp")
    source = quantized(tmp_path, "llama", rope_parameters=scaling | {"rope_theta": 10000.0})
    assert export_model(source, "llama-cpp", tmp_path / "e").graph_difference < 1e-2
    contents = read_gguf(tmp_path / "e" / "model.gguf")
    if keys is None:
        factors = dequantize(contents.tensors["rope_freqs.weight"].kind, contents.tensors["rope_freqs.weight"].data)
        assert factors.max() == pytest.approx(8) and factors.min() == pytest.approx(1)
    else:
        assert {key: contents.metadata[key] for key in keys} == keys and "rope_freqs.weight" not in contents.tensors


@pytest.mark.parametrize(
    ("family", "changes", "said"),
    [
        ("llama", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}}, "of type yarn; legal"),
        ("llama", {"hidden_act": "gelu"}, "has the activation gelu; legal is silu"),
        ("qwen2", {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0,
                   "high_freq_factor": 4.0, "original_max_position_embeddings": 16}}, "llama.cpp's qwen2 does not"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scales attention by layer"),
        ("gemma", {"tie_word_embeddings": False}, "an output layer of its own"),
        ("gemma2", {"query_pre_attn_scalar": 24}, "divides attention by the root of 24; legal for its depth is 8"),
        ("gemma3", {"final_logit_softcapping": 30.0}, "bounds its logits"),
        ("gemma3", {"layer_types": ["full_attention", "sliding_attention"]}, "without a period"),
    ],
)  # fmt: skip
def test_what_llama_cpp_computes_otherwise_is_refused(family, changes, said):
    with pytest.raises(UsageError, match=r"^`engine` llama-cpp: ") as refused:
        gguf_decoder(tiny_decoder(family, **changes), TARGET)
    assert said in str(refused.value) and "\n" not in str(refused.value)


def sentence_pieces(prefix=True):
    """A tokenizer as Llama 2's: pieces with SentencePiece's space, bytes for what has no piece."""
    pairs = [(SPACE, one) for one in LETTERS] + [(one, two) for one in LETTERS for two in LETTERS]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), SPACE, *LETTERS]
    pieces += ["".join(pair) for pair in pairs]
    made = Tokenizer(models.BPE(
        {piece: i for i, piece in enumerate(pieces)}, pairs, unk_token="<unk>", byte_fallback=True, fuse_unk=True
    ))  # fmt: skip
    steps = [normalizers.Prepend(SPACE)] if prefix else []
    made.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
    made.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    found = PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    return found, len(pieces)


@pytest.mark.parametrize("prefix", [True, False])
def test_sentence_pieces_are_read_as_the_model_reads_them(tmp_path, prefix):
    """Through llama.cpp's own tokenizer; the file has scores in place of merges."""
    pytest.importorskip("xllamacpp")
    made, rows = sentence_pieces(prefix)
    folder = save(tmp_path / "model", "gemma", **SHAPES["gemma"], vocab_size=rows)
    made.save_pretrained(folder)
    loaded = load_model(folder)
    profile = profile_model(loaded)
    chosen = {item.module: choice("8bit/rows:each/rtn/signed") for item in (*profile.matrices, *profile.tables)}
    source = quantize_model(loaded, given_allocation(profile, chosen), sentences(24), tmp_path / "q").folder
    export_model(source, "llama-cpp", tmp_path / "e")
    session = engine("llama-cpp").open_model(tmp_path / "e", 1)
    for text in SPELLED[:-1]:
        assert session.tokens(text) == made(text)["input_ids"]
    keys = read_gguf(tmp_path / "e" / "model.gguf").metadata
    types = keys["tokenizer.ggml.token_type"]
    assert (types[0], types[1], types[3], types[-1]) == (UNKNOWN, CONTROL, BYTE, NORMAL)
    assert keys["tokenizer.ggml.scores"][-1] == -(len(LETTERS) ** 2) - len(LETTERS) + 1


@pytest.mark.parametrize("first", [True, False])
def test_bytes_are_read_as_the_model_reads_them(tmp_path, first):
    pytest.importorskip("xllamacpp")
    folder = save(tmp_path / "model", "llama", **SHAPES["llama"])
    made = tokenizer(first)
    made.save_pretrained(folder)
    loaded = load_model(folder)
    profile = profile_model(loaded)
    chosen = {item.module: choice("8bit/rows:each/rtn/signed") for item in (*profile.matrices, *profile.tables)}
    source = quantize_model(loaded, given_allocation(profile, chosen), sentences(24), tmp_path / "q").folder
    export_model(source, "llama-cpp", tmp_path / "e")
    session = engine("llama-cpp").open_model(tmp_path / "e", 1)
    for text in ("ab cd", "abcd  efgh a", " gh"):
        assert session.tokens(text) == made(text)["input_ids"]


WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


@pytest.mark.parametrize(
    ("steps", "name"),
    [
        ([pre_tokenizers.ByteLevel(add_prefix_space=False)], "gpt-2"),
        ([pre_tokenizers.Split(Regex(WORDS % ""), "isolated"), BYTES], "qwen2"),
        ([pre_tokenizers.Split(Regex(WORDS % "{1,3}"), "isolated"), BYTES], "llama-bpe"),
        ([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)], "smollm"),
        ([pre_tokenizers.Split(Regex(r"\s+"), "isolated"), BYTES], "Split and ByteLevel in a way of its own"),
        ([pre_tokenizers.Split(Regex(WORDS % ""), "removed"), BYTES], "Split and ByteLevel in a way of its own"),
        ([pre_tokenizers.ByteLevel(add_prefix_space=True)], "ByteLevel in a way of its own"),
        ([pre_tokenizers.Whitespace()], "Whitespace in a way of its own"),
    ],
)  # fmt: skip
def test_the_rule_by_which_words_are_split_has_a_name_or_is_refused(steps, name):
    made = tokenizer()
    made.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    made.backend_tokenizer.model.ignore_merges = name == "llama-bpe"
    if "way" in name:
        with pytest.raises(UsageError, match=f"from the model's tokenizer: it splits words by {name}"):
            decoder_vocabulary(made, TARGET, 90)
        return
    found = decoder_vocabulary(made, TARGET, 90)
    assert found["tokenizer.ggml.pre"] == name and found["tokenizer.ggml.add_bos_token"] is True
    assert len(found["tokenizer.ggml.tokens"]) == 90 and found["tokenizer.ggml.tokens"][-1] == "[unused-89]"


def test_tokenizers_that_are_read_otherwise_are_refused():
    made = tokenizer()
    made.backend_tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(UsageError, match="it normalizes texts by Lowercase"):
        decoder_vocabulary(made, TARGET, 90)
    with pytest.raises(UsageError, match="has the id 84, but the model's table has 80 rows"):
        decoder_vocabulary(tokenizer(), TARGET, 80)
    made, rows = sentence_pieces()
    document = json.loads(made.backend_tokenizer.to_str())
    document["model"]["merges"].append(["ab", "c"])  # the piece abc can be made of a and bc too
    document["model"]["vocab"]["abc"] = rows
    changed = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(document)), unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    with pytest.raises(UsageError, match="its merges do not contain every split of the piece 'abc'"):
        decoder_vocabulary(changed, TARGET, rows + 1)


def test_from_scores_to_a_file_on_the_command_line(tmp_path, cli):
    """A tied table is planned in a form that the engine holds; limits are on the file's bytes."""
    pytest.importorskip("xllamacpp")
    save(tmp_path / "model", "llama with tied tables", **WIDE)
    data = tmp_path / "texts.tsv"
    data.write_text("text\n" + "\n".join(text for (text,) in sentences(40).texts) + "\n")
    grid = ["--model", tmp_path / "model", "--data", data, "--method", "rtn", "--forms", "signed", "--groupings",
            "columns:32", "--calibration-samples", 16, "--scoring-samples", 16, "--quiet"]  # fmt: skip
    assert cli("sensitivity", *grid, "--table-bits", "4,8", "-o", tmp_path / "scores.json").code == 0
    solved = cli("solve", "--scores", tmp_path / "scores.json", "--engine", "llama-cpp", "--budget", "5bit",
                 "-o", tmp_path / "plan.json")  # fmt: skip
    assert solved.code == 0, solved.err
    assert "qbert-opt cannot export" not in solved.out
    made = cli("quantize", tmp_path / "plan.json", "--model", tmp_path / "model", "--data", data, "-o", tmp_path / "q",
               "--quiet")  # fmt: skip
    assert made.code == 0, made.err
    done = cli("export", tmp_path / "q", "--engine", "llama-cpp", "-o", tmp_path / "e", "--quiet")
    assert done.code == 0, done.err
    figures = json.loads(cli("evaluate", tmp_path / "q", "--data", data, "--reference", tmp_path / "model", "--engine",
                             "llama-cpp", "--json").out)  # fmt: skip
    assert 0 < figures["kl"]["value"] < 0.5 and all(each["cpu_s"] for each in figures["timing"].values())
    refused = cli("export", tmp_path / "q", "--engine", "openvino", "-o", tmp_path / "o", "--quiet")
    assert (
        refused.code == 2
        and "is a decoder, which its writer does not convert. Use --engine llama-cpp" in refused.complaint
    )


def test_a_file_that_cannot_be_opened_leaves_no_copy(tmp_path, monkeypatch):
    """With float32 activations a copy without codes is opened; nothing of it stays where that fails."""
    write_gguf(tmp_path / "model.gguf", GgufFile({"general.architecture": "llama"}, {}))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    with pytest.raises(InputFileError, match="lacks length, width or output layer"):
        engine("llama-cpp").open_model(tmp_path, activations="float32")
    assert not any(scratch.iterdir())
