"""GGUF: our codes bit for bit in llama.cpp's blocks, a file that other readers open, and answers that are torch's."""

import itertools
import struct

import numpy as np
import pytest
import torch
import transformers
from families import COMMON, STANDARD, WORDS, save
from hypothesis import given
from hypothesis import strategies as st
from optimize_quickly import optimize_quickly
from plain_bert import bert, wordpiece
from tokenizers import models
from unpacked_codes import assert_our_codes

from qbert_opt.checkpoint.reader import load_quantized, read_matrices
from qbert_opt.data.texts import LabeledTexts
from qbert_opt.engines.session import engine, rules_of
from qbert_opt.errors import InputFileError, UsageError
from qbert_opt.formats.ggml_blocks import F32, Q2_0, TYPES, block_type, dequantize, pack, unpack
from qbert_opt.formats.gguf_file import GgufFile, Tensor, read_gguf, write_gguf
from qbert_opt.formats.traced_model import traceable
from qbert_opt.formats.wordpiece import vocabulary
from qbert_opt.models.loading import load_model
from qbert_opt.models.plain_encoder import plain_encoder
from qbert_opt.models.structure import profile_model
from qbert_opt.planning.recipes import given_allocation
from qbert_opt.quantization.quantized_matrix import QuantizedMatrix, fixed_offset
from qbert_opt.spec.choices import choice
from qbert_opt.workflows.export import export_model
from qbert_opt.workflows.quantize import quantize_model

CHOICES = (
    "2bit/columns:32/rtn/signed", "4bit/columns:32/rtn/symmetric", "8bit/rows:each/rtn/signed",
    "3bit/rows:4/rtn/signed", "5bit/columns:32/rtn/symmetric", "2bit/rows:each/rtn/signed",
    "6bit/rows:each/rtn/symmetric", "2bit/rows:1/rtn/symmetric",
)  # fmt: skip
TABLES = ("8bit/rows:each/rtn/signed", "4bit/columns:32/rtn/symmetric", "8bit/rows:each/rtn/symmetric")


def quantized_folder(model, texts, output):
    """Every width and form that GGUF holds, one after the other; tables too."""
    loaded = load_model(model)
    profile = profile_model(loaded)
    names = itertools.cycle(CHOICES)
    chosen = {m.module: choice(next(names)) for m in profile.matrices}
    tables = itertools.cycle(TABLES)
    chosen |= {t.module: choice(next(tables)) for t in profile.tables}
    data = LabeledTexts("texts", texts, None)
    return quantize_model(loaded, given_allocation(profile, chosen), data, output).folder


@pytest.fixture(scope="module")
def texts(sentences):
    return sentences.texts[:24]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("gguf")
    return quantized_folder(bert(folder / "model"), texts, folder / "out")


@given(
    st.sampled_from([2, 3, 4, 5, 6, 7, 8]), st.sampled_from(["signed", "symmetric"]),
    st.sampled_from(["rows:each", "rows:1", "columns:32", "columns:64"]), st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_blocks_keep_every_code_and_scale(bits, form, grouping, seed):
    random = np.random.default_rng(seed)
    rows, columns = 4, 128
    layout = choice(f"{bits}bit/{grouping}/rtn/{form}").layout(rows, columns, heads=1)
    codes = random.integers(0, 2**bits - (form == "symmetric"), (rows, columns), dtype=np.uint8)
    shape = (rows, columns // layout.group_size) if layout.axis == "columns" else (layout.num_groups,)
    scale = torch.from_numpy(random.uniform(1e-4, 2, shape).astype(np.float16))
    matrix = QuantizedMatrix(layout, torch.from_numpy(codes), scale, fixed_offset(scale, layout))
    kind, data = pack("m", matrix)
    assert data.shape == (rows, kind.row_bytes(columns))
    values, scales = unpack(kind, data)
    zero = layout.fixed_zero
    mirrored = np.sign(scales.astype(np.float32)).repeat(kind.inputs, 1)
    assert np.array_equal(values * mirrored, codes.astype(int) - zero)
    assert np.array_equal(dequantize(kind, data), matrix.dequantize().numpy())


def test_a_block_of_each_type_by_hand():
    """One block with scale 2: bytes as ggml-quants.c has them."""
    two = np.float16(2).tobytes()
    layout = choice("4bit/columns:32/rtn/signed").layout(1, 32, heads=1)
    scale = torch.tensor([[2.0]], dtype=torch.float16)
    codes = torch.arange(32, dtype=torch.uint8)[None] % 16
    kind, data = pack("m", QuantizedMatrix(layout, codes, scale, fixed_offset(scale, layout)))
    assert kind.name == "Q4_0"
    assert data.tobytes() == two + bytes(code | code << 4 for code in range(16))
    layout = choice("2bit/columns:64/rtn/signed").layout(1, 64, heads=1)
    codes = torch.tensor(
        [[0, 1, 2, 3] * 16], dtype=torch.uint8
    )  # -2, -1, 0, 1: mirrored 2, 1, 0, -1, stored 3, 2, 1, 0
    kind, data = pack("m", QuantizedMatrix(layout, codes, scale, fixed_offset(scale, layout)))
    assert kind is Q2_0
    assert data.tobytes() == np.float16(-2).tobytes() + bytes([0b00_01_10_11]) * 16


@pytest.mark.parametrize("name", ["Q4_0", "Q5_0", "Q8_0"])
def test_another_reader_sees_the_same_weights(name):
    quants = pytest.importorskip("gguf.quants")
    constants = pytest.importorskip("gguf.constants")
    kind = next(kind for kind in TYPES.values() if kind.name == name)
    random = np.random.default_rng(0)
    data = random.integers(0, 256, (3, kind.row_bytes(96)), np.uint8)
    data.reshape(-1, kind.block_bytes)[:, :2] = np.float16(0.37).view(np.uint16).reshape(1, 1).view(np.uint8)
    theirs = quants.dequantize(data, constants.GGMLQuantizationType[name])
    assert np.array_equal(dequantize(kind, data), theirs)


def test_the_container_comes_back_and_another_reader_opens_it(tmp_path):
    values = np.arange(64, dtype=np.float32).reshape(2, 32)
    tensors = {
        "a.weight": Tensor(F32, (2, 32), values.view(np.uint8)),
        "b": Tensor(F32, (32,), values[:1].view(np.uint8)),
    }
    metadata = {
        "general.architecture": "bert", "n": 7, "f": 0.5, "yes": True, "words": ["a", "ä▁"], "types": [1, 3],
    }  # fmt: skip
    path = tmp_path / "m.gguf"
    write_gguf(path, GgufFile(metadata, tensors))
    found = read_gguf(path)
    assert found.metadata == metadata
    assert {n: (t.shape, t.data.tobytes()) for n, t in found.tensors.items()} == {
        n: (t.shape, t.data.tobytes()) for n, t in tensors.items()
    }
    gguf = pytest.importorskip("gguf")
    reader = gguf.GGUFReader(path)
    assert {t.name: np.array_equal(t.data, tensors[t.name].data.view(np.float32).reshape(tensors[t.name].shape))
            for t in reader.tensors} == {"a.weight": True, "b": True}  # fmt: skip
    assert reader.fields["words"].contents() == ["a", "ä▁"] and reader.fields["n"].contents() == 7


@given(st.integers(0, 400), st.integers(0, 255), st.booleans())
def test_a_damaged_container_is_one_line(tmp_path_factory, position, byte, cut):
    values = np.zeros((2, 32), np.float32)
    path = tmp_path_factory.getbasetemp() / "damaged.gguf"
    write_gguf(path, GgufFile({"a": "b", "c": [1, 2], "d": ["e"]}, {"t": Tensor(F32, (2, 32), values.view(np.uint8))}))
    data = bytearray(path.read_bytes())
    position %= len(data)
    data[position] = byte
    path.write_bytes(data[:position] if cut else data)
    try:
        contents = read_gguf(path)
    except InputFileError as error:
        assert "\n" not in str(error) and "damaged.gguf" in str(error)
    else:
        assert all(tensor.data.nbytes <= len(data) for tensor in contents.tensors.values())


def test_sizes_are_checked_before_memory_is_taken(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + struct.pack("<Q", 1 << 60) + b"x")
    with pytest.raises(InputFileError, match="is damaged: it ends at byte"):
        read_gguf(path)


def test_tokenizers_that_llama_cpp_reads_otherwise_are_refused():
    with pytest.raises(UsageError, match="upper and lower case"):
        vocabulary(wordpiece(lowercase=False), "`engine` llama-cpp", len(WORDS))
    found = wordpiece()
    found.backend_tokenizer.model = models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]")
    with pytest.raises(UsageError, match="WordLevel, not WordPiece"):
        vocabulary(found, "`engine` llama-cpp", len(WORDS))


def test_the_file_holds_the_vocabulary_in_its_order():
    metadata = vocabulary(wordpiece(), "`engine` llama-cpp", len(WORDS))
    tokens = metadata["tokenizer.ggml.tokens"]
    assert tokens[:5] == list(WORDS[:5]) and tokens[5] == "▁" + WORDS[5] and len(tokens) == len(WORDS)
    assert metadata["tokenizer.ggml.bos_token_id"] == WORDS.index("[CLS]")
    with pytest.raises(UsageError, match="has the id 63, but the model's table has 60 rows"):
        vocabulary(wordpiece(), "`engine` llama-cpp", 60)


class TestRunning:
    """With llama.cpp itself."""

    @pytest.fixture(autouse=True)
    def needs_it(self):
        pytest.importorskip("xllamacpp")

    def test_the_file_holds_our_codes_and_answers_as_torch_does(self, classifier, tmp_path):
        record = export_model(classifier, "llama-cpp", tmp_path / "out")
        assert record.agreement.flipped == 0 and record.graph_difference < rules_of("llama-cpp").float_difference
        assert_our_codes(classifier, tmp_path / "out")
        _, allocation = load_quantized(classifier)
        contents = read_gguf(tmp_path / "out" / "model.gguf")
        kinds = set()
        for stored in read_matrices(classifier, allocation):
            name = {"word": "token_embd", "position": "position_embd"}.get(
                stored.module.split(".")[-1].split("_")[0]
            ) or _name(stored.module)
            if name is None:
                continue
            tensor = contents.tensors[f"{name}.weight"]
            assert np.array_equal(dequantize(tensor.kind, tensor.data), stored.quantized.dequantize().numpy())
            kinds.add(tensor.kind.name)
        assert kinds == {"Q2_0", "Q4_0", "Q5_0", "Q8_0"}

    def test_llama_cpp_reads_text_as_the_tokenizer_does(self, classifier, tmp_path, texts):
        """A text and its token ids have the same state."""
        import xllamacpp

        export_model(classifier, "llama-cpp", tmp_path / "out")
        settings = xllamacpp.CommonParams()
        settings.model.path = str(tmp_path / "out" / "model.gguf")
        settings.embedding, settings.embd_normalize, settings.warmup, settings.verbosity = True, -1, False, -1
        settings.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_CLS
        server = xllamacpp.Server(settings)
        tokenizer = wordpiece()
        for (text,) in texts[:8]:
            for spelled in (text, text.upper()):
                ids = tokenizer(spelled)["input_ids"]
                states = [
                    server.handle_embeddings({"input": [given], "embd_normalize": -1})["data"][0]["embedding"]
                    for given in (spelled, ids)
                ]
                assert states[0] == states[1]

    def test_a_tokenizer_that_reads_otherwise_is_found_before_the_file_is_done(self, tmp_path, texts, monkeypatch):
        """The rules name what is known to differ; the rest shows in how llama.cpp reads the check texts."""
        model = bert(tmp_path / "model")
        wordpiece(lowercase=False).save_pretrained(model)
        quantized = quantized_folder(model, texts, tmp_path / "q")
        monkeypatch.setattr("qbert_opt.formats.wordpiece._difference", lambda *_: None)
        with pytest.raises(UsageError, match=r"^`engine` llama-cpp: its own tokenizer splits 'W[0-9 W]+' differently"):
            export_model(quantized, "llama-cpp", tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_llama_cpp_applies_the_head_that_the_file_has(self, tmp_path, texts):
        """As many classes as the model is wide, because the server hands back that many numbers."""
        import xllamacpp

        quantized = quantized_folder(bert(tmp_path / "model", labels=64), texts, tmp_path / "q")
        export_model(quantized, "llama-cpp", tmp_path / "out", tolerance=1.0)
        ids = [2, 7, 8, 9, 3]
        session = engine("llama-cpp").open_model(tmp_path / "out")
        ours = session.run({"input_ids": np.array([ids]), "attention_mask": np.ones((1, 5), int)})["logits"][0]
        settings = xllamacpp.CommonParams()
        settings.model.path = str(tmp_path / "out" / "model.gguf")
        settings.embedding, settings.embd_normalize, settings.warmup, settings.verbosity = True, -1, False, -1
        answer = xllamacpp.Server(settings).handle_embeddings({"input": [ids], "embd_normalize": -1})
        theirs = np.array(answer["data"][0]["embedding"])
        assert np.abs(ours - theirs).max() < 1e-3 * np.abs(theirs).max()

    def test_rows_of_the_table_without_a_token_are_kept(self, tmp_path, texts):
        """Tables are padded to whole blocks of rows; llama.cpp needs as many tokens as the table has rows."""
        quantized = quantized_folder(bert(tmp_path / "model", vocab_size=len(WORDS) + 8), texts, tmp_path / "q")
        assert export_model(quantized, "llama-cpp", tmp_path / "out").agreement.flipped == 0
        contents = read_gguf(tmp_path / "out" / "model.gguf")
        assert len(contents.metadata["tokenizer.ggml.tokens"]) == len(WORDS) + 8

    @pytest.mark.parametrize("pooling", ["mean", "cls"])
    def test_embeddings_are_pooled_as_the_model_does(self, tmp_path, texts, pooling):
        fields = {"sentence_embedding": {"pooling": [pooling], "normalized": False}}
        quantized = quantized_folder(bert(tmp_path / "model", "Model", **fields), texts, tmp_path / "q")
        record = export_model(quantized, "llama-cpp", tmp_path / "out")
        assert record.kind == "embeddings" and record.agreement.cosine > 0.999

    @pytest.mark.parametrize("family", ["distilbert", "electra"])
    def test_families_of_the_same_architecture(self, tmp_path, texts, family):
        torch.manual_seed(0)
        if family == "distilbert":
            config = transformers.DistilBertConfig(
                **COMMON, dim=64, n_layers=2, n_heads=4, hidden_dim=128, max_position_embeddings=40
            )
            model = transformers.DistilBertModel(config)
        else:
            config = transformers.ElectraConfig(**COMMON, **STANDARD | {"hidden_size": 64, "embedding_size": 64})
            model = transformers.ElectraModel(config)
        model.save_pretrained(tmp_path / "model")
        wordpiece().save_pretrained(tmp_path / "model")
        quantized = quantized_folder(tmp_path / "model", texts, tmp_path / "q")
        assert export_model(quantized, "llama-cpp", tmp_path / "out").agreement.cosine > 0.999
        assert_our_codes(quantized, tmp_path / "out")

    @pytest.mark.parametrize(("width", "layers"), [(64, 3), (128, 2)])
    def test_predicted_bytes_are_written(self, tmp_path, texts, width, layers):
        """All but the vocabulary, whose words are shorter here than English ones."""
        from qbert_opt.costs.engine_target import engine_target
        from qbert_opt.costs.stored import weight_bytes

        model = bert(tmp_path / "model", width=width, num_hidden_layers=layers)
        classifier = quantized_folder(model, texts, tmp_path / "q")
        export_model(classifier, "llama-cpp", tmp_path / "out", tolerance=1.0)
        _, allocation = load_quantized(classifier)
        target, profile = engine_target("llama-cpp"), allocation.profile
        items = (*profile.matrices, *profile.tables)
        parts = (*allocation.matrices, *allocation.tables)
        held = sum(weight_bytes(i, p.choice, profile.heads, target) for i, p in zip(items, parts, strict=True))
        contents = read_gguf(tmp_path / "out" / "model.gguf")
        coded = sum(t.data.nbytes for n, t in contents.tensors.items() if t.kind.inputs > 1)
        token_type = allocation.tables[-1]  # is float32 in the file
        assert held - weight_bytes(items[-1], token_type.choice, 1, target) == coded
        words = sum(8 + len(word.encode()) + 4 for word in contents.metadata["tokenizer.ggml.tokens"])
        law = rules_of("llama-cpp").file
        predicted = law.other_bytes(profile) - round(law.graph.entry * len(WORDS)) + words
        assert abs((tmp_path / "out" / "model.gguf").stat().st_size - coded - predicted) < 100  # padding and names

    def test_a_damaged_model_is_one_line(self, classifier, tmp_path):
        export_model(classifier, "llama-cpp", tmp_path / "out")
        path = tmp_path / "out" / "model.gguf"
        contents = read_gguf(path)
        missing = {n: t for n, t in contents.tensors.items() if n != "blk.1.ffn_up.weight"}
        again = GgufFile(contents.metadata, {n: Tensor(t.kind, t.shape, t.data.copy()) for n, t in missing.items()})
        write_gguf(path, again)
        for activations in ("int8", "float32"):  # for float32 another file is opened, which nobody knows of
            with pytest.raises(InputFileError, match=f"^{path}: llama.cpp cannot load it"):
                engine("llama-cpp").open_model(path.parent, None, activations)

    def test_a_head_that_does_not_fit_is_one_line(self, classifier, tmp_path):
        """A bias of one label would be added to every label."""
        export_model(classifier, "llama-cpp", tmp_path / "out")
        path = tmp_path / "out" / "model.gguf"
        contents = read_gguf(path)
        tensors = {n: Tensor(t.kind, t.shape, t.data.copy()) for n, t in contents.tensors.items()}
        tensors["cls.output.bias"] = Tensor(F32, (1,), np.zeros((1, 4), np.uint8))
        write_gguf(path, GgufFile(contents.metadata, tensors))
        with pytest.raises(InputFileError, match="pooler and classifier do not fit the width 64"):
            engine("llama-cpp").open_model(path.parent)

    def test_pairs_are_refused(self, classifier, tmp_path):
        export_model(classifier, "llama-cpp", tmp_path / "out")
        session = engine("llama-cpp").open_model(tmp_path / "out")
        ids = np.array([[2, 7, 3, 8, 3]])
        with pytest.raises(UsageError, match="no token types"):
            session.run({"input_ids": ids, "attention_mask": ids * 0 + 1, "token_type_ids": ids * 0 + 1})


def _name(module):
    """llama.cpp's name of a matrix of a layer; None for token types."""
    parts = {
        "attention.self.query": "attn_q", "attention.self.key": "attn_k", "attention.self.value": "attn_v",
        "attention.output.dense": "attn_output", "intermediate.dense": "ffn_up", "output.dense": "ffn_down",
    }  # fmt: skip
    layer, _, part = module.partition("layer.")[2].partition(".")
    return f"blk.{layer}.{parts[part]}" if part in parts else None


@pytest.mark.parametrize(
    ("family", "kind", "reason"),
    [
        ("roberta", "classes", "is not a plain BERT. Legal: bert, electra, distilbert"),
        ("albert", "classes", "is not a plain BERT"),
        ("bert", "tags", r"the head of BertForTokenClassification has no place in it. Legal: "
         r"BertForSequenceClassification, BertModel \(embeddings, without a head\)\. Use"),
        ("distilbert", "classes", r"the head of DistilBertForSequenceClassification has no place in it. Legal: "
         r"DistilBertModel \(embeddings, without a head\)\. Use"),
        ("electra", "embeddings", "has embeddings narrower than its layers"),
    ],
)  # fmt: skip
def test_what_the_format_cannot_hold_is_named(tmp_path, family, kind, reason):
    from qbert_opt.formats.writers import gguf

    traced = traceable(load_model(save(tmp_path / "model", family, kind)))
    with pytest.raises(UsageError, match="`engine` llama-cpp: .*" + reason):
        gguf.write(traced, (), tmp_path)


def test_a_decoder_is_refused():
    """The file says that attention looks both ways."""
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 32, "intermediate_size": 32}
    model = transformers.BertModel(transformers.BertConfig(**COMMON, **sizes, is_decoder=True))
    with pytest.raises(UsageError, match="`engine` llama-cpp: BertModel is a decoder"):
        plain_encoder(model, "`engine` llama-cpp")


def test_forms_with_offsets_are_refused_by_name(tmp_path):
    layout = choice("4bit/columns:32/rtn").layout(1, 32, heads=1)
    scale = torch.ones(1, 1, dtype=torch.float16)
    matrix = QuantizedMatrix(layout, torch.zeros(1, 32, dtype=torch.uint8), scale, scale)
    with pytest.raises(UsageError, match=r"a.b: is stored with form offset"):
        pack("a.b", matrix)


def test_the_narrowest_type_is_taken():
    assert [block_type(bits, 64).name for bits in range(2, 9)] == [
        "Q2_0",
        "Q4_0",
        "Q4_0",
        "Q5_0",
        "Q8_0",
        "Q8_0",
        "Q8_0",
    ]
    assert block_type(2, 32).name == "Q4_0"


def test_from_scores_to_answers_on_the_command_line(tmp_path, cli, data_file):
    """The engine's rules hold for tables too, scored or not; the written file is as large as planned."""
    pytest.importorskip("xllamacpp")
    model = bert(tmp_path / "model", id2label={0: "red", 1: "green", 2: "blue"})
    grid = ["--model", model, "--data", data_file, "--method", "rtn", "--forms", "signed", "--groupings", "columns:32",
            "--calibration-samples", 16, "--scoring-samples", 16, "--quiet"]  # fmt: skip
    assert cli("sensitivity", *grid, "--table-bits", "none", "-o", tmp_path / "bare.json").code == 0
    refused = cli("solve", "--scores", tmp_path / "bare.json", "--engine", "llama-cpp", "--budget", "4.5bit")
    assert (
        refused.code == 2 and "cannot hold bert.embeddings.word_embeddings, which was not scored" in refused.complaint
    )
    scored = cli("sensitivity", *grid, "--table-bits", "4,8", "-o", tmp_path / "scores.json")
    assert scored.code == 0, scored.err
    solved = cli("solve", "--scores", tmp_path / "scores.json", "--engine", "llama-cpp", "--budget", "5bit",
                 "-o", tmp_path / "plan.json")  # fmt: skip
    assert solved.code == 0, solved.err
    made = cli(
        "quantize", tmp_path / "plan.json", "--model", model, "--data", data_file, "-o", tmp_path / "q", "--quiet"
    )
    assert made.code == 0, made.err
    exported = cli("export", tmp_path / "q", "--engine", "llama-cpp", "-o", tmp_path / "e", "--quiet")
    assert exported.code == 0, exported.err
    ran = cli("run", tmp_path / "e", "--text", "w7 w8")
    assert ran.code == 0 and ran.out.strip(), ran.err


def test_one_command_ends_in_a_verified_file(tmp_path, cli, data_file, monkeypatch):
    """Scored in a form that the engine holds; its uniform rival is in such forms too."""
    pytest.importorskip("xllamacpp")
    optimize_quickly(monkeypatch)
    model = bert(tmp_path / "model", id2label={0: "red", 1: "green", 2: "blue"})
    done = cli("optimize", "--model", model, "--data", data_file, "--engine", "llama-cpp", "--budget", "5bit",
               "--method", "rtn", "-o", tmp_path / "out", "--quiet")  # fmt: skip
    assert done.code == 0, done.err
    assert list((tmp_path / "out").rglob("model.gguf")), done.out
    assert "uniform" in done.out
