"""Numbers that do not fit into fp16 are refused by name; odd matrices stay finite and close, whatever the method."""

import contextlib
import copy
import dataclasses
import math

import pytest
import torch

from qbert_opt.checkpoint.stored_tensors import restored, stored_parts
from qbert_opt.errors import InputFileError, UsageError
from qbert_opt.models.loading import load_model
from qbert_opt.quantization.calibration import CalibrationPlan
from qbert_opt.quantization.quantized_matrix import grouped
from qbert_opt.quantization.storable import FP16_MAX, check_storable, possible_layouts
from qbert_opt.runtime import plugins
from qbert_opt.scoring.sensitivity import measure_sensitivity
from qbert_opt.spec.choices import Choice, choice
from qbert_opt.spec.grids import grid
from qbert_opt.spec.tables import table_grid
from qbert_opt.workflows.quantize import quantize_model

QUERY = "bert.encoder.layer.0.attention.self.query"
WORDS = "bert.embeddings.word_embeddings"
MATRICES, TABLES = grid((2, 4), ("rows:1", "columns:16"), "rtn"), table_grid((4,), ("rows:each",))
SAMPLES = CalibrationPlan(20, 30, 0)


@pytest.fixture
def spoiled(tiny):
    """Give a copy of the tiny model with one value of one tensor changed."""

    def make(name, value):
        model = copy.deepcopy(tiny.model)
        with torch.no_grad():
            model.get_parameter(name).view(-1)[-1] = value
        return dataclasses.replace(tiny, model=model)

    return make


def test_fp16_s_limit():
    """The largest finite number of fp16, and what rounds to it."""
    assert torch.tensor(FP16_MAX).half().item() == FP16_MAX == torch.finfo(torch.float16).max
    assert math.isinf(torch.tensor(FP16_MAX + 16).half().item())


@pytest.mark.parametrize("value", [-1e5, -3e38])
@pytest.mark.parametrize("name", [f"{WORDS}.weight", f"{QUERY}.weight", f"{QUERY}.bias", "classifier.weight"])
def test_what_fp16_cannot_hold_is_refused_before_anything_is_scored(spoiled, file_texts, name, value):
    """A row of a table that no text reads, a matrix, a bias, the head: named, with value and limit."""
    loaded = spoiled(name, value)
    with pytest.raises(InputFileError, match=rf"{name}: holds a value of magnitude \S+; .*fp16.* limit (of|is) 65504"):
        measure_sensitivity(loaded, file_texts, MATRICES, plan=SAMPLES)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_refused(spoiled, file_texts, value):
    """Also in a model that never was on disk."""
    with pytest.raises(InputFileError, match=r"classifier\.bias: holds NaN or infinite values"):
        measure_sensitivity(spoiled("classifier.bias", value), file_texts, MATRICES, plan=SAMPLES)


@pytest.mark.parametrize("value", [-1e5, -7e4])
def test_quantize_refuses_what_no_text_reads(tiny_folder, gptq_plan, file_texts, tmp_path, value):
    """A plan of a model whose table has a weight beyond fp16 in its last row; nothing is written."""
    model = load_model(tiny_folder)
    with torch.no_grad():
        model.model.get_parameter(f"{WORDS}.weight").view(-1)[-1] = value
    with pytest.raises(InputFileError, match=rf"{WORDS}\.weight: holds a value of magnitude"):
        quantize_model(model, gptq_plan, file_texts, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_from_the_command_line(cli, tiny_folder, data_file, gptq_plan, tmp_path):
    """One line and exit code 4, where there was a traceback from `sensitivity` and a folder of NaN from `quantize`."""
    loaded = load_model(tiny_folder)
    with torch.no_grad():
        loaded.model.get_parameter(f"{WORDS}.weight").view(-1)[-1] = -1e5
    loaded.model.save_pretrained(tmp_path / "m")
    loaded.tokenizer.save_pretrained(tmp_path / "m")
    found = cli("sensitivity", "--model", tmp_path / "m", "--data", data_file, "-q", "-o", tmp_path / "s.json",
                "--calibration-samples", 20, "--scoring-samples", 20)  # fmt: skip
    assert found.code == 4 and f"{WORDS}.weight: holds a value of magnitude 100000" in found.complaint


ALLOWED = {  # a value and what is stored of its range: the limit is on scale and offset, not on the weight
    "offset at the limit": ("2bit/rows:1/rtn", FP16_MAX, True),
    "offset beyond": ("2bit/rows:1/rtn", -FP16_MAX - 16, False),
    "zero point: a third of the range": ("2bit/rows:1/rtn/zero-point", -1e5, True),
    "zero point beyond": ("2bit/rows:1/rtn/zero-point", -2e5, False),
    "symmetric 2 bits: the largest weight": ("2bit/rows:1/rtn/symmetric", 7e4, False),
    "symmetric 4 bits: a seventh": ("4bit/rows:1/rtn/symmetric", 4e5, True),
    "codebook": ("2bit/rows:1/kmeans/codebook", 7e4, False),
}


@pytest.mark.parametrize("case", ALLOWED)
def test_the_limit_is_on_what_is_stored(spoiled, tiny, case):
    """By hand: scale = range / (2^bits - 1), or largest / (2^(bits-1) - 1) around zero; offset = least weight."""
    name, value, fits = ALLOWED[case]
    asked = choice(name)
    layouts = {QUERY: [asked.layout(32, 32, heads=4)]}
    loaded = spoiled(f"{QUERY}.weight", value)
    if not fits:
        with pytest.raises(InputFileError, match=rf"{asked.bits} bits, form {asked.form}"):
            check_storable(loaded.model, layouts)
        return
    check_storable(loaded.model, layouts)
    method = plugins.load("quantizers", asked.method)
    [found] = method.quantize(loaded.model.get_parameter(f"{QUERY}.weight").detach(), layouts[QUERY])
    assert torch.isfinite(found.dequantize()).all()


def test_possible_layouts_are_those_of_every_choice(gptq_scores):
    """Choices that do not divide are left out; tables that nobody scores have their one choice."""
    profile = gptq_scores.profile
    found = possible_layouts(profile, [choice("4bit/rows:1/gptq"), choice("4bit/columns:64/gptq")])
    assert {len(found[m.module]) for m in profile.matrices if m.columns == 32} == {1}
    assert {len(found[m.module]) for m in profile.matrices if m.columns == 64} == {2}
    assert all([layout.bits for layout in found[t.module]] == [8] for t in profile.tables)
    found = possible_layouts(profile, [choice("4bit/rows:1/gptq")], TABLES)
    assert all([layout.bits for layout in found[t.module]] == [4] for t in profile.tables)


def normal(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


ODD = {
    "zeros": torch.zeros(8, 32),
    "constant": torch.full((8, 32), -0.37),
    "constant rows": torch.arange(8.0)[:, None].expand(8, 32).clone() * 0.1,
    "below fp16's steps": normal(8, 32) * 1e-8,
    "far below": normal(8, 32) * 1e-30,
    "one row": normal(1, 32),
    "one column": normal(8, 1),
    "one weight": normal(1, 1),
    "near the limit": normal(8, 32).sign() * 6e4,
    "one outlier": torch.where(torch.arange(256).view(8, 32) == 5, torch.tensor(6.5e4), normal(8, 32) * 0.02),
    "far from zero": 1000 + normal(8, 32) * 1e-4,
}


@pytest.mark.parametrize("method", plugins.available("quantizers"))
@pytest.mark.parametrize("odd", ODD)
def test_odd_matrices_stay_finite_and_within_their_range(method, odd):
    """Every form and width, with inputs that say everything, nothing, or one direction; what is stored comes back."""
    weight, plugin = ODD[odd], plugins.load("quantizers", method)
    rows, columns = weight.shape
    grams = (torch.eye(columns), torch.zeros(columns, columns), torch.ones(columns, columns))
    layouts = []
    for form in plugin.FORMS:
        for bits in (2, 4, 8):
            for grouping in ("rows:1", "rows:each", f"columns:{columns}"):
                with contextlib.suppress(UsageError):  # a codebook with as many entries as weights
                    layouts.append(Choice(bits, grouping, method, form).layout(rows, columns, heads=1))
    checked = 0
    for gram in grams if plugin.NEEDS_GRAM else (None,):
        for layout, found in zip(layouts, plugin.quantize(weight, layouts, gram), strict=True):
            values = found.dequantize()
            assert torch.isfinite(values).all()
            assert torch.equal(restored(layout, rows, columns, stored_parts(found)).dequantize(), values)
            largest = grouped(weight, layout).abs().amax(1)
            error = grouped(values - weight, layout).abs().amax(1)
            middle = 2 ** (layout.bits - 1)  # signed ranges reach one more level below zero than above
            reach = middle / (middle - 1) if layout.form == "signed" else 1
            assert (error <= (1 + reach) * largest + 2**layout.bits * 2.0**-24).all()
            checked += 1
    assert checked or method == "kmeans"  # which has codebooks only
