"""Engine rules: bytes by hand arithmetic and against written files, what is refused, who runs integers."""

import itertools
from pathlib import Path

import pytest

from qbert_opt.costs.engine_target import engine_target
from qbert_opt.costs.stored import other_stored_bytes, weight_bytes
from qbert_opt.engines.file_law import FileLaw
from qbert_opt.engines.session import engine, exporting_format, rules_of
from qbert_opt.errors import UsageError
from qbert_opt.formats.traced_model import traceable
from qbert_opt.models.structure import profile_model
from qbert_opt.planning.recipes import given_allocation
from qbert_opt.runtime import plugins
from qbert_opt.spec.choices import Choice, choice
from qbert_opt.spec.profiles import TableSpec
from qbert_opt.workflows.rerank import MatrixQuantizer, apply_plan, quantized_matrices

ORT, OPENVINO = rules_of("onnxruntime").file, rules_of("openvino").file
EXPORTED = ("onnxruntime", "openvino")
MIXED = (
    "2bit/columns:32/rtn", "3bit/columns:16/rtn", "4bit/columns:32/rtn/symmetric", "8bit/rows:each/rtn",
    "4bit/rows:4/rtn/zero-point", "5bit/rows:heads/rtn/signed", "2bit/rows:each/rtn", "8bit/columns:32/rtn/zero-point",
)  # fmt: skip


@pytest.mark.parametrize(
    ("law", "name", "bits", "codes", "ranges"),
    [  # 64 rows x 128 inputs
        (OPENVINO, "4bit/rows:each/rtn", 4, 64 * 64, 64 * (2 + 2)),  # a scale and an offset per row
        (OPENVINO, "3bit/rows:1/rtn/symmetric", 4, 64 * 64, 64 * 2),  # 3 bits widened, one range repeated for each row
        (OPENVINO, "2bit/columns:32/rtn", 2, 64 * 32, 64 * 4 * (2 + 2)),
        (OPENVINO, "4bit/columns:32/rtn/zero-point", 4, 64 * 64, 64 * 4 * 2 + 64 * 4 // 2),
        (ORT, "4bit/rows:each/rtn", 4, 64 * 64, 64 * (2 + 2)),  # scales are spread over blocks at load
        (ORT, "4bit/columns:64/rtn", 4, 64 * 64, 64 * 2 * (2 + 2 + 2)),  # offsets store the scales again
        (ORT, "2bit/columns:16/rtn/symmetric", 4, 64 * 64, 64 * 8 * 2),  # no 2-bit block of 16: 4 bits
        (ORT, "4bit/columns:32/rtn/zero-point", 4, 64 * 64, 64 * 4 * 2 + 64 * 2),
        (ORT, "4bit/rows:each/rtn/zero-point", 4, 64 * 64, 64 * 2 + 64),  # one block of 128: half a byte, rounded up
    ],
)
def test_bytes_of_a_matrix_by_hand(law, name, bits, codes, ranges):
    """Codes in the engine's widths, ranges as often as it stores them."""
    part = law.matrix(choice(name), 64, 128, heads=4)
    assert (part.bits, part.code_bytes, part.range_bytes) == (bits, codes, ranges)


def test_bytes_with_a_static_input_range_by_hand():
    """Zero points of rows are int8 beside packed codes, and a float offset at 8 bits."""
    four, eight = choice("4bit/rows:each/rtn/zero-point"), choice("8bit/rows:each/rtn/zero-point")
    for law in (ORT, OPENVINO):
        assert law.matrix(four, 64, 128, heads=4, static_input=True).bytes == 64 * 64 + 64 * (2 + 1)
        assert law.matrix(eight, 64, 128, heads=4, static_input=True).bytes == 64 * 128 + 64 * (2 + 4)


def test_bytes_of_a_table_by_hand():
    """Packed codes, a scale and an offset per range; an offset that follows from a zero point is float32."""
    for law in (ORT, OPENVINO):
        assert law.table(choice("3bit/rows:each/rtn"), 100, 64).bytes == 100 * 32 + 100 * 4
        assert law.table(choice("4bit/columns:32/rtn/symmetric"), 100, 64).bytes == 100 * 32 + 200 * 6
        # eight times a scale of float16 is one too
        assert law.table(choice("4bit/columns:32/rtn/signed"), 100, 64).bytes == 100 * 32 + 200 * 4


def test_a_law_without_containers_is_the_packed_price():
    """The default law stores what the quantized folder stores, row groups repeated per row."""
    for name in ("3bit/columns:32/rtn", "4bit/rows:each/rtn", "2bit/columns:64/rtn/symmetric"):
        assert FileLaw().matrix(choice(name), 64, 128, heads=4).bytes == choice(name).bytes(64, 128, heads=4)


@pytest.fixture(scope="module")
def distinct(tmp_path_factory):
    """A small BERT whose tensors are all different, so that none is stored once for two."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    from qbert_opt.models.loading import load_model

    folder = tmp_path_factory.mktemp("distinct") / "model"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{i}" for i in range(60))]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=40, num_labels=3,
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter).mul_(0.3).half().float())
    model.save_pretrained(folder)
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    return load_model(folder)


@pytest.mark.parametrize("name", EXPORTED)
def test_predicted_bytes_are_those_of_the_written_file(name, distinct, tmp_path):
    """Within 2 % even where the graph is most of the file; weights follow exactly, the graph by its measured law."""
    profile = profile_model(distinct)
    names = itertools.cycle(MIXED)
    plan = given_allocation(profile, {m.module: choice(next(names)) for m in profile.matrices})
    quantizer = MatrixQuantizer(distinct, profile, "rtn", None)
    traced = traceable(apply_plan(distinct, plan, quantizer))
    exporting_format(name).write(traced, list(quantized_matrices(quantizer, plan)), tmp_path)
    written = sum(file.stat().st_size for file in Path(tmp_path).rglob("*") if file.is_file())
    target = engine_target(name)
    nodes = sum(target.node_bytes(m, p.choice) for m, p in zip(profile.matrices, plan.matrices, strict=True))
    matrices = sum(
        weight_bytes(m, p.choice, profile.heads, target) for m, p in zip(profile.matrices, plan.matrices, strict=True)
    )
    predicted = matrices + nodes + other_stored_bytes(profile, target)
    assert predicted == pytest.approx(written, rel=0.02)


def test_every_rule_has_its_source():
    """Sources and speeds say where they come from; what nobody measured says so."""
    root = Path(__file__).parents[3]
    for name in plugins.available("engines"):
        rules = rules_of(name)
        assert rules.sources, name
        for speed in rules.speeds:
            assert speed.source.startswith(("measured: benchmarks/", "assumed: "))
            assert speed.measured == (speed.times_float32 is not None)
            if speed.measured:
                assert (root / speed.source.removeprefix("measured: ").split()[0]).is_file()


def test_refusals_say_what_is_held():
    """Widths, shapes, static ranges and tables, each by its rule."""
    ort, qnn, tidl = rules_of("onnxruntime"), rules_of("qnn"), rules_of("tidl")
    rows, groups = Choice(4, "rows:each", "rtn"), Choice(4, "columns:32", "rtn")
    assert ort.refusal(rows, (64, 120)) == "120 inputs; it needs a multiple of 16"
    assert ort.refusal(rows, (64, 120), static_input=True) is None
    assert "one range per output row" in ort.refusal(groups, (64, 128), static_input=True)
    small = Choice(4, "rows:each", "rtn", "symmetric")
    assert qnn.refusal(small, (32, 64)) == "32 outputs at 4 bits; it needs at least 33"
    assert qnn.refusal(small, (33, 64)) is None
    assert qnn.refusal(Choice(4, "columns:128", "rtn", "symmetric")).endswith("it supports groups of 32, 64 inputs")
    assert qnn.refusal(Choice(8, "columns:32", "rtn", "symmetric")).endswith("it supports 2, 4 there")
    assert tidl.refusal(Choice(8, "rows:4", "rtn", "symmetric")) is None and tidl.refusal(small) is not None
    assert ort.table_refusal(Choice(2, "rows:each", "mse"), 30) is not None
    assert tidl.table_refusal(Choice(4, "rows:each", "mse"), 32) == "a table of 4 bits; it supports 8"


def test_who_multiplies_in_integers():
    """By kind of product and by group size; what an engine does not say runs in floats."""
    group = choice("8bit/columns:16/rtn")
    assert engine_target("onnxruntime").arithmetic(group) is None
    assert engine_target("openvino").arithmetic(group) == "fp32"
    assert engine_target("openvino").arithmetic(None) == "fp32"  # attention
    assert engine_target("tidl").arithmetic(None) is None
    assert engine_target("torch").arithmetic(choice("8bit/rows:each/rtn")) == "fp32"
    assert engine_target("onnxruntime").arithmetic(choice("8bit/rows:each/rtn"), 16) == "fp32"


@pytest.mark.parametrize("name", ["qnn", "tidl"])
def test_engines_without_a_runtime_are_planned_for_only(name):
    """They have rules; what would run them says what to do instead."""
    if name == "tidl":
        with pytest.raises(UsageError, match=r"`engine` tidl: can be planned for only.*export-config"):
            engine(name)
    else:
        assert "in place of a Qualcomm NPU" in engine(name).label()
    table = TableSpec(module="t", rows=8, columns=32, reads_per_token=1)
    assert weight_bytes(table, choice("8bit/rows:each/rtn"), 4, engine_target(name)) == 8 * 32 + 8 * 4
