"""One plan, the same codes in every engine's file: each file is unpacked again and compared bit for bit."""

import itertools

import numpy as np
import pytest
from plain_bert import bert
from unpacked_codes import engine_codes

from qbert_opt.checkpoint.reader import load_quantized, read_matrices
from qbert_opt.costs.portable import PORTABLE_FORMS, plan_target
from qbert_opt.data.texts import LabeledTexts
from qbert_opt.engines.session import engine
from qbert_opt.errors import UsageError
from qbert_opt.formats.affine import affine
from qbert_opt.models.loading import load_model
from qbert_opt.models.structure import profile_model
from qbert_opt.planning.recipes import given_allocation
from qbert_opt.spec.choices import choice
from qbert_opt.workflows.export import export_model
from qbert_opt.workflows.quantize import quantize_model

ENGINES = ("openvino", "onnxruntime", "litert", "llama-cpp")
MATRICES = (
    "2bit/rows:each/rtn/signed", "4bit/columns:32/rtn/symmetric", "8bit/rows:each/rtn/symmetric",
    "4bit/rows:each/rtn/symmetric",
)  # fmt: skip
TABLES = ("8bit/rows:each/rtn/symmetric", "4bit/rows:each/rtn/symmetric")


@pytest.fixture(scope="module")
def quantized(tmp_path_factory, sentences):
    """Every portable width; each choice is one that all four engines hold in the same codes."""
    folder = tmp_path_factory.mktemp("codes")
    loaded = load_model(bert(folder / "model"))
    profile, names, tables = profile_model(loaded), itertools.cycle(MATRICES), itertools.cycle(TABLES)
    chosen = {m.module: choice(next(names)) for m in profile.matrices}
    chosen |= {t.module: choice(next(tables)) for t in profile.tables}
    target = plan_target(None, ENGINES)
    assert all(target.refusal(item, chosen[item.module]) is None for item in (*profile.matrices, *profile.tables))
    data = LabeledTexts("texts", sentences.texts[:16], None)
    return quantize_model(loaded, given_allocation(profile, chosen), data, folder / "out").folder


@pytest.fixture(scope="module", params=ENGINES)
def exported(request, quantized, tmp_path_factory):
    """An export to each engine that is installed."""
    try:
        engine(request.param)
    except UsageError as missing:
        pytest.skip(str(missing))
    output = tmp_path_factory.mktemp("exported") / request.param
    export_model(quantized, request.param, output, activations="int8", tolerance=1.0)
    return output


def test_every_file_holds_the_same_codes(quantized, exported):
    """All matrices and tables of the plan, in integers and scales."""
    same, others = engine_codes.compared(quantized, exported)
    assert others == []
    assert len(same) == len(set(same)) == 15


def test_another_code_or_scale_is_seen(quantized, exported):
    """One code of a matrix moved by one, and one scale by its last bit: neither is in the file."""
    found = engine_codes.READERS[exported.name](exported)
    _, plan = load_quantized(quantized)
    for item in itertools.islice(read_matrices(quantized, plan), 4):
        matrix = affine(item.module, item.quantized)
        assert engine_codes.kept(found, matrix)
        matrix.codes[-1, -1] ^= 1
        assert not engine_codes.kept(found, matrix), item.module
        matrix.codes[-1, -1] ^= 1
        matrix.scale[-1, -1] = np.nextafter(matrix.scale[-1, -1], np.float16(np.inf))
        assert not engine_codes.kept(found, matrix), item.module


def test_packed_integers_by_hand():
    """The lowest bits first."""
    assert engine_codes.unpacked(np.array([[0b11_10_01_00]], np.uint8), 2).tolist() == [[0, 1, 2, 3]]
    assert engine_codes.unpacked(np.array([[0x2F]], np.uint8), 4).tolist() == [[15, 2]]
    codes, scale = engine_codes.turned(np.array([[-2, 1, 0, 1]], np.int16), np.array([[-0.5, 0.25]]))
    assert codes.tolist() == [[2, -1, 0, 1]] and scale.tolist() == [[0.5, 0.25]]
    assert set(PORTABLE_FORMS) == {2, 4, 8}
