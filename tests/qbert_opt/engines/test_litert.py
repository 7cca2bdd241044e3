"""LiteRT: our codes bit for bit in a file that other readers open, answers that are torch's, and damage as one line."""

import itertools
import json
import re
import struct

import numpy as np
import pytest
import torch
import transformers
from families import COMMON, STANDARD, save, tokenizer
from hypothesis import given
from hypothesis import strategies as st
from optimize_quickly import optimize_quickly
from reference_timed_as import reference_timed_as
from unpacked_codes import assert_our_codes

from qbert_opt.checkpoint.reader import load_quantized, read_matrices
from qbert_opt.configs.tool import config_tool
from qbert_opt.costs.engine_target import engine_target
from qbert_opt.costs.stored import other_stored_bytes, weight_bytes
from qbert_opt.data.texts import LabeledTexts
from qbert_opt.engines.backends.litert import in_float
from qbert_opt.engines.session import engine, rules_of
from qbert_opt.errors import InputFileError, UsageError
from qbert_opt.formats.flatbuffer import MalformedError, Schema, check_layout, parse, pieces
from qbert_opt.formats.litert_codes import Codes, dequantize, pack, unpack
from qbert_opt.formats.tflite_file import Operation, TfliteFile, read_tflite, write_tflite
from qbert_opt.formats.tflite_graph import Graph
from qbert_opt.formats.traced_model import traceable
from qbert_opt.formats.writers import tflite
from qbert_opt.models.loading import load_model
from qbert_opt.models.structure import profile_model
from qbert_opt.planning.recipes import given_allocation
from qbert_opt.quantization.activation_quant import with_rounded_inputs
from qbert_opt.quantization.quantized_matrix import QuantizedMatrix, expand, fixed_offset
from qbert_opt.spec.activations import activation_choice
from qbert_opt.spec.choices import choice
from qbert_opt.spec.planned import PlannedActivation
from qbert_opt.workflows.export import export_float, export_model
from qbert_opt.workflows.export_config import export_plan
from qbert_opt.workflows.quantize import quantize_model

ROWS = (
    "8bit/rows:each/rtn/symmetric", "4bit/rows:each/rtn/symmetric", "2bit/rows:each/rtn/signed",
    "3bit/rows:1/rtn/signed", "2bit/rows:each/rtn/symmetric", "6bit/rows:4/rtn/signed",
)  # fmt: skip
BLOCKS = ("4bit/columns:32/rtn/symmetric", "3bit/columns:32/rtn/signed")
LIKE_ROBERTA = {"xlm-roberta": "XLMRoberta", "camembert": "Camembert"}
TABLES = ("4bit/rows:each/rtn/symmetric", "8bit/rows:each/rtn/signed", "2bit/rows:each/rtn/signed")


def rounded_by_token(profile):
    """Plan every input as LiteRT rounds it."""
    return tuple(
        PlannedActivation(modules=(m.module,), bits=8, scheme="token", range=None, low=None, high=None,
                          predicted_loss=0, std_error=0)
        for m in profile.matrices
    )  # fmt: skip


def quantized_folder(model, texts, output, names=(*ROWS, *BLOCKS), tables=TABLES, rounded=True):
    """Some choices, one after the other; tables too."""
    loaded = load_model(model)
    profile = profile_model(loaded)
    cycle, of_tables = itertools.cycle(names), itertools.cycle(tables)
    chosen = {m.module: choice(next(cycle)) for m in profile.matrices}
    chosen |= {t.module: choice(next(of_tables)) for t in profile.tables}
    plan = given_allocation(profile, chosen)
    if rounded:
        plan = plan.model_copy(update={"activations": rounded_by_token(profile)})
    return quantize_model(loaded, plan, LabeledTexts("texts", texts, None), output).folder


@pytest.fixture(scope="module")
def texts(sentences):
    return sentences.texts[:24]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory, texts):
    """Every form that LiteRT holds."""
    folder = tmp_path_factory.mktemp("litert")
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_labels": 3}
    transformers.BertForSequenceClassification(transformers.BertConfig(**COMMON | STANDARD | sizes)).save_pretrained(
        folder / "model"
    )
    tokenizer().save_pretrained(folder / "model")
    return quantized_folder(folder / "model", texts, folder / "out")


@pytest.fixture(scope="module")
def exported(tmp_path_factory, classifier):
    pytest.importorskip("ai_edge_litert")
    out = tmp_path_factory.mktemp("exported") / "out"
    export_model(classifier, "litert", out, tolerance=1.0)
    return out


def random_matrix(name, rows, columns, seed):
    random = np.random.default_rng(seed)
    layout = choice(name).layout(rows, columns, heads=1)
    low = 1 if layout.bits == 4 and layout.form == "signed" else 0  # -8 is refused
    codes = random.integers(low, 2**layout.bits - (layout.form == "symmetric"), (rows, columns), dtype=np.uint8)
    shape = (rows, columns // layout.group_size) if layout.axis == "columns" else (layout.num_groups,)
    scale = torch.from_numpy(random.uniform(1e-4, 2, shape).astype(np.float16))
    return QuantizedMatrix(layout, torch.from_numpy(codes), scale, fixed_offset(scale, layout))


@given(
    st.sampled_from(["2bit/rows:each", "2bit/rows:1", "3bit/rows:each", "5bit/rows:2", "7bit/rows:1", "8bit/rows:each",
                     "4bit/rows:4", "3bit/columns:32", "4bit/columns:64", "4bit/columns:96", "4bit/columns:192"]),
    st.sampled_from(["signed", "symmetric"]), st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_every_code_and_scale_is_kept(name, form, seed):
    matrix = random_matrix(f"{name}/rtn/{form}", 4, 192, seed)
    codes = pack("m", matrix)
    assert np.array_equal(unpack(codes), matrix.codes.numpy().astype(int) - matrix.layout.fixed_zero)
    assert np.array_equal(dequantize(codes), matrix.dequantize().numpy())
    assert codes.block in (None, 32, 64) and codes.data.nbytes == 4 * 192 * codes.bits // 8


def test_bytes_by_hand():
    """Low bits first, two's complement."""
    scale = torch.tensor([2.0], dtype=torch.float16)
    layout = choice("4bit/rows:each/rtn/symmetric").layout(1, 4, heads=1)
    codes = torch.tensor([[0, 7, 8, 14]], dtype=torch.uint8)  # -7, 0, 1, 7
    found = pack("m", QuantizedMatrix(layout, codes, scale, fixed_offset(scale, layout)))
    assert found.data.tobytes() == bytes([0x09, 0x71]) and found.scale.tolist() == [2.0]
    layout = choice("2bit/rows:each/rtn/signed").layout(1, 4, heads=1)
    codes = torch.tensor([[0, 1, 2, 3]], dtype=torch.uint8)  # -2, -1, 0, 1
    found = pack("m", QuantizedMatrix(layout, codes, scale, fixed_offset(scale, layout)))
    assert found.data.tobytes() == bytes([0b01_00_11_10])


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("4bit/columns:32/rtn", "is stored with form offset"),
        ("2bit/columns:32/rtn/signed", "2 bits in columns:32"),
        ("8bit/columns:32/rtn/symmetric", "8 bits in columns:32"),
        ("4bit/columns:16/rtn/symmetric", "blocks of 32, 64, 128, 256 inputs at 3 and 4 bits"),
        ("4bit/rows:each/rtn/signed", "the code -8"),
    ],
)
def test_what_has_no_kernel_is_refused_by_name(name, reason):
    layout = choice(name).layout(4, 64, heads=1)
    shape = (4, 64 // layout.group_size) if layout.axis == "columns" else (4,)
    scale = torch.ones(shape, dtype=torch.float16)
    matrix = QuantizedMatrix(layout, torch.zeros(4, 64, dtype=torch.uint8), scale, scale)
    with pytest.raises(UsageError, match=rf"^a\.b: .*{reason}.*Plan again with `engine` litert"):
        pack("a.b", matrix)
    if name != "4bit/rows:each/rtn":
        assert rules_of("litert").refusal(choice(name)) is not None


def test_rules_hold_what_the_codes_hold():
    rules = rules_of("litert")
    for name in (*ROWS, *BLOCKS, "4bit/columns:256/rtn/symmetric", "4bit/columns:96/rtn/symmetric"):
        assert rules.refusal(choice(name), (64, 768)) is None, name
    assert "4, 8" not in rules.refusal(choice("8bit/rows:each/rtn/signed"))
    assert "one range per row" in rules.table_refusal(choice("4bit/columns:32/rtn/symmetric"), 64)
    assert rules.runs_input(activation_choice("8bit/token")) and not rules.runs_input(
        activation_choice("8bit/tensor/mse")
    )


NUMBERS = Schema(
    b"TEST",
    {
        "A": ((0, "n", "i32"), (1, "b", "i8"), (2, "words", "[i32]"), (3, "name", "text"), (4, "kids", "[B]"),
              (5, "one", "U?"), (7, "wide", "[i64]")),
        "B": ((0, "x", "f32"), (2, "yes", "bool")),
    },
    {"U": {3: "B"}},
)  # fmt: skip
RECORD = {
    "n": -5, "b": 7, "words": np.arange(40, dtype=np.int32), "name": "ä", "kids": [{"x": 0.5}, {}, {"yes": True}],
    "one": ("B", {"x": 2.0}), "wide": np.array([1, -1]),
}  # fmt: skip


def written(record):
    data = b"".join(p if isinstance(p, bytes) else p.tobytes() for p in pieces(NUMBERS, "A", record))
    return np.frombuffer(data, np.uint8)


def test_records_come_back():
    data = written(RECORD)
    found = parse(NUMBERS, "A", data)
    check_layout(NUMBERS, "A", found, data)
    assert {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in found.items()} == {
        k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in RECORD.items()
    }


def test_a_table_by_hand():
    """Root offset, identifier, a table of one byte field: slots of the vtable, then the table."""
    data = written({"b": 7}).tobytes()
    root = struct.unpack_from("<I", data)[0]
    vtable = root - struct.unpack_from("<i", data, root)[0]
    assert data[4:8] == b"TEST" and struct.unpack_from("<4H", data, vtable) == (8, 5, 0, 4) and data[root + 4] == 7


@given(st.integers(0, 10_000), st.integers(1, 255), st.booleans())
def test_no_other_layout_is_read(position, change, cut):
    """Whatever byte is changed, records are refused or are others than before, themselves laid out as here."""
    data = written(RECORD).copy()
    position %= len(data)
    if cut:
        data = data[:position]
    else:
        data[position] ^= change
    try:
        found = parse(NUMBERS, "A", data)
        check_layout(NUMBERS, "A", found, data)
    except MalformedError:
        return
    assert written(found).tobytes() == data.tobytes() != written(RECORD).tobytes()


def small_file():
    """Codes in rows and blocks, in the smallest graph that has both."""
    graph = Graph(4)
    ids = graph.reshaped(graph.ids("input_ids"), (-1,))
    x = graph.rows(ids, pack("t", random_matrix("2bit/rows:each/rtn/signed", 16, 64, 0)), "table")
    y = graph.linear(
        x, pack("w", random_matrix("4bit/columns:32/rtn/symmetric", 8, 64, 1)), np.ones(8, np.float32), "w"
    )
    z = graph.linear(y, np.eye(8, dtype=np.float16), None, "half")
    return graph.finished({"input_ids": 0}, {"y": graph.reshaped(z, (1, -1, 8), "y")})


def same(a, b):
    if isinstance(a, Codes):
        return a.bits == b.bits and np.array_equal(dequantize(a), dequantize(b))
    return a is b or (np.array_equal(a, b) and a.dtype == b.dtype)


def test_a_file_comes_back(tmp_path):
    contents = small_file()
    write_tflite(tmp_path / "m.tflite", contents)
    found = read_tflite(tmp_path / "m.tflite")
    assert (found.inputs, found.outputs, found.tokens) == (contents.inputs, contents.outputs, 4)
    assert [(t.kind, t.shape, t.name) for t in found.tensors] == [(t.kind, t.shape, t.name) for t in contents.tensors]
    assert all(same(a.value, b.value) for a, b in zip(found.tensors, contents.tensors, strict=True))
    assert [(o.operator, o.inputs, o.outputs) for o in found.operations] == [
        (o.operator, o.inputs, o.outputs) for o in contents.operations
    ]


def test_a_file_beyond_the_format_is_refused_before_it_is_written(tmp_path, monkeypatch):
    """One line with both sizes; nothing is left."""
    write_tflite(tmp_path / "m.tflite", small_file())
    size = (tmp_path / "m.tflite").stat().st_size
    monkeypatch.setattr("qbert_opt.formats.tflite_file.LARGEST_FILE", size)
    write_tflite(tmp_path / "same.tflite", small_file())
    monkeypatch.setattr("qbert_opt.formats.tflite_file.LARGEST_FILE", size - 1)
    with pytest.raises(UsageError, match=rf"would have {size:,} bytes; TFLite files have at most {size - 1:,}"):
        write_tflite(tmp_path / "big.tflite", small_file())
    assert not (tmp_path / "big.tflite").exists()


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("small") / "m.tflite"
    write_tflite(path, small_file())
    return path.read_bytes()


@given(st.integers(0, 100_000), st.integers(1, 255), st.booleans())
def test_a_damaged_file_is_one_line(small, tmp_path_factory, position, change, cut):
    path = tmp_path_factory.getbasetemp() / "damaged.tflite"
    data = bytearray(small)
    position %= len(data)
    data[position] ^= change
    path.write_bytes(data[:position] if cut else data)
    try:
        found = read_tflite(path)
    except InputFileError as error:
        assert "\n" not in str(error) and "damaged.tflite" in str(error)
    else:  # a code, a scale or a bias: the graph is the same
        assert not cut and [o.options.keys() for o in found.operations] == [
            o.options.keys() for o in small_file().operations
        ]
        assert sum(t.value is not None and not same(t.value, o.value)
                   for t, o in zip(found.tensors, small_file().tensors, strict=True)) == 1  # fmt: skip


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "m.tflite"
    for data in (b"", b"GGUF", bytes(4096), b"\x10\0\0\0TFL3", b"\x10\0\0\0TFL3" + b"\xff" * 200):
        path.write_bytes(data)
        with pytest.raises(InputFileError, match=r"m\.tflite: is (not a TFLite file|damaged).*Export the model again"):
            read_tflite(path)


def test_operations_without_tensors_are_refused(tmp_path):
    """An index beyond the tensors would be read from memory behind them."""
    contents = small_file()
    wrong = (*contents.operations[:-1], Operation("RESHAPE", (400, 1), (0,), {"new_shape": np.array([1], np.int32)}))
    write_tflite(tmp_path / "m.tflite", TfliteFile(contents.tensors, wrong, contents.inputs, contents.outputs, 4))
    with pytest.raises(InputFileError, match="an operation RESHAPE has tensors that do not exist"):
        read_tflite(tmp_path / "m.tflite")


def theirs(path):
    """The tensors of a file as LiteRT's own schema has them: signed codes and float32 scales `[rows, blocks]`."""
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    [graph] = model.subgraphs
    found = {}
    for tensor in graph.tensors:
        if tensor.type not in (schema.TensorType.INT8, schema.TensorType.INT4, schema.TensorType.INT2):
            continue
        raw = np.asarray(model.buffers[tensor.buffer].data, np.uint8)
        width = {schema.TensorType.INT8: 8, schema.TensorType.INT4: 4, schema.TensorType.INT2: 2}[tensor.type]
        bits = np.unpackbits(raw, bitorder="little").reshape(-1, width)
        values = bits[:, :-1] @ (1 << np.arange(width - 1)) - (bits[:, -1].astype(int) << width - 1)
        rows = tensor.shape[0]
        blocks = tensor.quantization.details
        if blocks is None:
            assert not np.any(tensor.quantization.zeroPoint) and len(tensor.quantization.zeroPoint) == rows
            scale = np.asarray(tensor.quantization.scale, np.float32)[:, None]
        else:
            other = graph.tensors[blocks.scales]
            scale = np.asarray(model.buffers[other.buffer].data, np.uint8).view(np.float16).reshape(other.shape)
            assert other.shape[1] * blocks.blockSize == tensor.shape[1] and blocks.zeroPoints == -1
        found[tensor.name.decode()] = values.reshape(tensor.shape), scale.astype(np.float32), width
    return found


class TestRunning:
    """With LiteRT itself."""

    @pytest.fixture(autouse=True)
    def needs_it(self):
        pytest.importorskip("ai_edge_litert")

    def test_another_reader_unpacks_our_very_codes(self, classifier, exported):
        found = theirs(exported / "model.tflite")
        _, allocation = load_quantized(classifier)
        widths = set()
        for stored in read_matrices(classifier, allocation):
            quantized = stored.quantized
            values, scale, width = found.pop(f"{stored.module}.weight")
            assert np.array_equal(values, quantized.codes.numpy().astype(int) - quantized.layout.fixed_zero)
            rows, columns = values.shape
            ours = expand(quantized.scale.float(), quantized.layout, rows, columns).expand(rows, columns).numpy()
            assert np.array_equal(np.repeat(scale, columns // scale.shape[1], 1), ours)
            widths.add((width, scale.shape[1] > 1))
        assert not found and widths == {(8, False), (4, False), (2, False), (4, True)}

    @pytest.mark.parametrize(
        "name",
        [
            *ROWS,
            "4bit/columns:32/rtn/symmetric",
            "4bit/columns:64/rtn/symmetric",
            "4bit/columns:128/rtn/symmetric",
            "4bit/columns:256/rtn/symmetric",
        ],
    )
    def test_products_are_those_of_our_codes(self, tmp_path, name):
        """With inputs rounded per token by torch, and scales of blocks rounded to bfloat16: no other difference."""
        matrix = random_matrix(name, 24, 256, 3)
        graph = Graph(8)
        ids = graph.reshaped(graph.ids("input_ids"), (-1,))
        random = np.random.default_rng(4)
        table = random.standard_normal((16, 256)).astype(np.float32) + random.standard_normal((16, 1)).astype(
            np.float32
        )
        y = graph.linear(graph.rows(ids, table, "t"), pack("w", matrix), None, "w")
        path = tmp_path / "model.tflite"
        write_tflite(path, graph.finished({"input_ids": 0, "attention_mask": graph.ids("attention_mask")},
                                          {"last_hidden_state": graph.reshaped(y, (1, -1, 24), "y")}))  # fmt: skip
        every = np.arange(16)[None]
        asked = {"input_ids": every, "attention_mask": np.ones_like(every)}
        found = engine("litert").open_model(tmp_path, 1).run(asked)["last_hidden_state"][0]
        blocks = matrix.layout.axis == "columns" and matrix.layout.group_size < 256
        scale = matrix.scale.bfloat16().float() if blocks else matrix.scale.float()
        weight = (matrix.codes.float() - matrix.layout.fixed_zero) * expand(scale, matrix.layout, 24, 256)
        linear = torch.nn.Linear(256, 24, bias=False)
        linear.weight = torch.nn.Parameter(weight)
        rounded = with_rounded_inputs(torch.nn.Sequential(linear), [
            PlannedActivation(modules=("0",), bits=8, scheme="token", range=None, low=None, high=None,
                              predicted_loss=0, std_error=0)
        ])(torch.from_numpy(table)).detach().numpy()  # fmt: skip
        assert np.abs(found - rounded).max() < 1e-4 * np.abs(rounded).max()
        floats = engine("litert").open_model(tmp_path, 1, "float32").run(asked)["last_hidden_state"][0]
        assert np.abs(floats - table @ matrix.dequantize().numpy().T).max() < 1e-4 * np.abs(rounded).max()

    @pytest.mark.parametrize(
        "name",
        [
            "8bit/rows:each/rtn/signed",
            "4bit/rows:each/rtn/symmetric",
            "2bit/rows:each/rtn/signed",
            "3bit/rows:1/rtn/signed",
        ],
    )
    def test_rows_of_a_table_are_exact(self, tmp_path, name):
        matrix = random_matrix(name, 16, 32, 5)
        graph = Graph(8)
        x = graph.rows(graph.reshaped(graph.ids("input_ids"), (-1,)), pack("t", matrix), "t")
        write_tflite(tmp_path / "model.tflite", graph.finished(
            {"input_ids": 0, "attention_mask": graph.ids("attention_mask")},
            {"last_hidden_state": graph.reshaped(x, (1, -1, 32), "y")}))  # fmt: skip
        every = np.arange(16)[None]
        found = engine("litert").open_model(tmp_path, 1).run({"input_ids": every, "attention_mask": every * 0 + 1})
        assert np.array_equal(found["last_hidden_state"][0], matrix.dequantize().numpy())

    @pytest.mark.parametrize(
        ("family", "kind"),
        [("bert", "classes"), ("bert", "tags"), ("distilbert", "classes"), ("distilbert", "spans"),
         ("electra", "classes"), ("electra", "embeddings"), ("roberta", "classes"), ("roberta", "tags"),
         ("roberta", "spans")],
    )  # fmt: skip
    def test_families_and_heads_answer_as_torch_does(self, tmp_path, family, kind):
        traced = traceable(load_model(save(tmp_path / "model", family, kind)))
        tflite.write(traced, (), tmp_path)
        ids = torch.tensor([[2, 7, 8, 3, 0, 0], [2, 9, 10, 11, 12, 3], [2, 0, 4, 4, 0, 3]])
        mask = torch.tensor([[1, 1, 1, 1, 0, 0], [1] * 6, [1] * 6])
        with torch.no_grad():
            expected = dict(zip(traced.outputs, traced.module(ids, mask), strict=True))
        found = engine("litert").open_model(tmp_path, 1).run({"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
        assert found.keys() == expected.keys()
        for name, answer in expected.items():
            if found[name].shape[1] == ids.shape[1]:  # what stands at padding is nobody's answer
                shown = mask.bool() if answer.ndim == 2 else mask.bool()[..., None]
                answer = torch.where(shown, answer, 0)
            assert found[name] == pytest.approx(answer.numpy(), abs=1e-5)

    @pytest.mark.parametrize(
        ("family", "kind"),
        [("roberta", "tags"), ("distilbert", "spans"), ("electra", "embeddings"), ("xlm-roberta", "classes"),
         ("camembert", "classes")],
    )  # fmt: skip
    def test_every_family_is_exported_with_our_codes(self, tmp_path, texts, family, kind):
        """With inputs rounded per token, as torch rounds them; the file, unpacked again, holds codes and scales."""
        if kind == "spans":
            texts = tuple((a[0], b[0]) for a, b in itertools.pairwise(texts))
        model = save(tmp_path / "model", "roberta" if family in LIKE_ROBERTA else family, kind)
        if family in LIKE_ROBERTA:  # the same modules under other names
            config = json.loads((model / "config.json").read_text())
            config |= {"model_type": family, "architectures": [f"{LIKE_ROBERTA[family]}ForSequenceClassification"]}
            (model / "config.json").write_text(json.dumps(config))
        quantized = quantized_folder(model, texts, tmp_path / "q", ROWS)
        record = export_model(quantized, "litert", tmp_path / "out")
        assert_our_codes(quantized, tmp_path / "out")
        assert record.activations == "planned" and record.graph_difference < 1e-4 and record.kind == kind
        assert record.agreement.flipped == 0 and record.agreement.loss < 1e-3

    def test_padding_changes_nothing(self, exported):
        session = engine("litert").open_model(exported, 1)
        ids = np.array([[2, 7, 8, 3, 0, 0, 0], [2, 9, 10, 11, 12, 13, 3]])
        together = session.run({"input_ids": ids, "attention_mask": (ids > 0).astype(int)})["logits"]
        alone = session.run({"input_ids": ids[:1, :4], "attention_mask": np.ones((1, 4), int)})["logits"]
        assert np.array_equal(together[:1], alone)

    def test_padding_is_masked_where_an_app_keeps_one_length(self, exported):
        """Padded inside the file: its mask hides it, and ranges are of each token."""
        from ai_edge_litert.interpreter import Interpreter

        run = Interpreter(model_path=str(exported / "model.tflite"), num_threads=1).get_signature_runner()
        ids = np.zeros(run.get_input_details()["input_ids"]["shape"], np.int32)
        ids[0, :4] = [2, 7, 8, 3]
        padded = run(input_ids=ids, attention_mask=(ids > 0).astype(np.int32))["logits"]
        session = engine("litert").open_model(exported, 1)
        alone = session.run({"input_ids": ids[:, :4], "attention_mask": np.ones((1, 4), int)})["logits"]
        assert ids.shape[1] == 40 and np.abs(padded - alone).max() < 1e-5

    def test_a_damaged_model_never_reaches_the_engine(self, exported, tmp_path):
        """Bytes of the graph, each of them changed in turn, cost a line; LiteRT would end the process at some."""
        data = (exported / "model.tflite").read_bytes()
        random = np.random.default_rng(0)
        path = tmp_path / "model.tflite"
        opened = 0
        for position in (*random.integers(0, 24_000, 30), *random.integers(0, len(data), 5)):
            changed = bytearray(data)
            changed[position] ^= int(random.integers(1, 256))
            path.write_bytes(changed)
            try:
                session = engine("litert").open_model(tmp_path, 1)
            except (InputFileError, RuntimeError, ValueError):
                continue
            opened += 1
            session.run({"input_ids": np.array([[2, 7, 3]]), "attention_mask": np.ones((1, 3), int)})
        assert opened < 10

    @pytest.mark.parametrize(
        ("bits", "ranges", "found"),
        [
            (8, {"scheme": "tensor", "range": "minmax", "low": -1.0, "high": 1.0}, "8bit/tensor"),
            (16, {"scheme": "tensor", "range": "minmax", "low": -1.0, "high": 1.0}, "16bit/tensor"),
            (16, {"scheme": "token"}, "16bit/token"),
        ],
        ids=["W8A8", "W8A16", "16 bits per token"],
    )
    def test_inputs_planned_otherwise_are_refused(self, tmp_path, bits, ranges, found):
        traced = traceable(load_model(save(tmp_path / "model", "bert")))
        planned = PlannedActivation(modules=("m",), bits=bits, predicted_loss=0, std_error=0, **ranges)
        line = f"`engine` litert: rounds the inputs .* to 8 bits per token .* those of m are planned as {found}"
        with pytest.raises(UsageError, match=line):
            tflite.write(traced, (), tmp_path, "planned", {"m": planned})

    def test_predicted_bytes_are_written(self, classifier, exported):
        """Every form, within 2 % although the graph is a good part of this file."""
        _, allocation = load_quantized(classifier)
        target, profile = engine_target("litert"), allocation.profile
        items = (*profile.matrices, *profile.tables)
        parts = (*allocation.matrices, *allocation.tables)
        held = sum(weight_bytes(i, p.choice, profile.heads, target) for i, p in zip(items, parts, strict=True))
        nodes = sum(target.node_bytes(m, p.choice) for m, p in zip(profile.matrices, allocation.matrices, strict=True))
        others = other_stored_bytes(profile, target, profile.tables)
        assert held + nodes + others == pytest.approx((exported / "model.tflite").stat().st_size, rel=0.02)

    def test_float_files_are_of_the_same_graph(self, exported):
        contents = read_tflite(exported / "model.tflite")
        floats = in_float(contents)
        assert [o.operator for o in floats.operations] == [o.operator for o in contents.operations]
        assert not any(isinstance(t.value, Codes) for t in floats.tensors)


def test_patterns_of_a_recipe_find_each_layer_once(tmp_path, texts):
    """In our float32 file, which has a name for every tensor, as Google's quantizer demands."""
    model = save(tmp_path / "model", "bert", "classes")
    profile = profile_model(load_model(model))
    plan = given_allocation(profile, {m.module: choice("4bit/rows:each/rtn/symmetric") for m in profile.matrices})
    recipe = json.loads(export_plan(plan, config_tool("ai-edge-quantizer"), ".json").text)
    contents = read_tflite(export_float(model, "litert", tmp_path / "float") / "model.tflite")
    names = [tensor.name for tensor in contents.tensors]
    assert all(names) and len(set(names)) == len(names)
    assert len(recipe) == len(profile.matrices) + len(profile.tables)
    for entry in recipe:
        [found] = [
            operation
            for operation in contents.operations
            if operation.operator == entry["operation"]
            and re.search(entry["regex"], "".join(f"{names[index]};" for index in operation.outputs))
        ]
        weight = next(names[index] for index in found.inputs if names[index].endswith(".weight"))
        assert re.search(entry["regex"], weight.removesuffix(".weight") + ";")


@pytest.mark.parametrize(
    ("family", "kind", "reason"),
    [
        ("albert", "classes", "AlbertForSequenceClassification is not a plain BERT. Legal: bert, electra, distilbert, "
         "roberta"),
        ("mpnet", "spans", "is not a plain BERT"),
        ("bert", "vocabulary", "the head of BertForMaskedLM has no place in it"),
    ],
)  # fmt: skip
def test_what_has_no_graph_is_named(tmp_path, family, kind, reason):
    traced = traceable(load_model(save(tmp_path / "model", family, kind)))
    with pytest.raises(UsageError, match=f"`engine` litert: .*{reason}.*Use `engine` onnxruntime or openvino"):
        tflite.write(traced, (), tmp_path)


def test_from_scores_to_a_verified_file_on_the_command_line(tmp_path, cli, data_file, monkeypatch):
    """Inputs are predicted as the engine rounds them; the file is as large as planned, runs and is measured."""
    pytest.importorskip("ai_edge_litert")
    model = save(tmp_path / "model", "bert")
    scored = cli("sensitivity", "--model", model, "--data", data_file, "--method", "rtn", "--forms",
                 "signed,symmetric", "--groupings", "rows:each,columns:32", "--bits", "2,4,8", "--table-bits", "4,8",
                 "--activation-bits", "8", "--calibration-samples", 16, "--scoring-samples", 16, "--quiet",
                 "-o", tmp_path / "scores.json")  # fmt: skip
    assert scored.code == 0, scored.err
    optimize_quickly(monkeypatch)
    done = cli("optimize", "--model", model, "--data", data_file, "--engine", "litert", "--budget", "7bit",
               "--scores", tmp_path / "scores.json", "-o", tmp_path / "out", "--quiet")  # fmt: skip
    assert done.code == 0, done.err
    assert "uniform" in done.out
    _, plan = load_quantized(tmp_path / "out" / "quantized")
    assert {(a.scheme, a.bits) for a in plan.activations} == {("token", 8)}
    exported = tmp_path / "out" / "litert"
    assert plan.engine.total_bytes == pytest.approx((exported / "model.tflite").stat().st_size, rel=0.02)
    assert (exported / "tokenizer.json").is_file()
    ran = cli("run", exported, "--text", "w7 w8")
    assert ran.code == 0 and ran.out.strip(), ran.err
    reference_timed_as(exported, monkeypatch)
    measured = cli("evaluate", exported, "--data", data_file, "--reference", model)
    assert measured.code == 0 and "LiteRT" in measured.out, measured.err
