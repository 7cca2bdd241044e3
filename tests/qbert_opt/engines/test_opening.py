"""Engine files that cannot be opened or run: one line each, and Ctrl-C waits until native code has returned."""

import hashlib
import json
import re
import shutil
import signal

import pytest

from qbert_opt.engines.opening import open_session
from qbert_opt.engines.record import read_checks, read_record
from qbert_opt.engines.session import engine
from qbert_opt.errors import InputFileError, UsageError
from qbert_opt.models.structure import profile_model
from qbert_opt.planning.recipes import given_allocation
from qbert_opt.runtime import plugins
from qbert_opt.runtime.manifest import seal
from qbert_opt.runtime.native import native_code
from qbert_opt.serving.predictor import Predictor
from qbert_opt.spec.choices import choice
from qbert_opt.workflows.export import export_model
from qbert_opt.workflows.quantize import quantize_model

ANY_GRAPH = ("onnx", "openvino-ir")  # formats that hold every architecture
RUNNABLE = [
    name
    for name in plugins.available("engines")
    if getattr(plugins.load("engines", name), "FORMAT", None) in ANY_GRAPH
    and not plugins.load("engines", name).RULES.checked_on  # the same files as another engine's
]


@pytest.fixture(scope="module", params=[name for name in RUNNABLE if plugins.load("engines", name).usable()])
def exported(request, tiny, sentences, tmp_path_factory):
    """The tiny model at 8 bits, exported to an engine."""
    root = tmp_path_factory.mktemp(request.param)
    plan = given_allocation(
        profile := profile_model(tiny), {m.module: choice("8bit/columns:32/rtn") for m in profile.matrices}
    )
    quantized = quantize_model(tiny, plan, None, root / "q").folder
    export_model(quantized, request.param, root / "out", texts=sentences, tolerance=0.5)
    return root / "out"


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-8])


def _corrupt(path):
    path.write_bytes(b"\x00\xff" + path.read_bytes()[2:])


def _another_version(path):
    path.write_bytes(
        path.read_bytes().replace(b'version="11"', b'version="99"').replace(b"com.microsoft", b"com.nicrosoft")
    )


@pytest.mark.parametrize("spoil", [_truncate, _corrupt, _another_version, lambda path: path.write_bytes(b"")])
def test_kind_10_files_that_an_engine_cannot_open_are_one_line(exported, tmp_path, spoil):
    """Below the hashes: what the libraries raise names the folder and says what to do."""
    record, checks = read_record(exported), None
    for name in [n for n in record.files if n.endswith((".xml", ".bin", ".onnx", ".data"))]:
        copy = shutil.copytree(exported, tmp_path / name)
        spoil(copy / name)
        if (copy / name).read_bytes() == (exported / name).read_bytes():
            continue
        checks = read_checks(copy, record)
        try:
            open_session(engine(record.engine), copy, 1, record.activations).run(checks[0].inputs)
        except InputFileError as error:
            line = str(error)
            assert line.startswith(f"{copy}: {record.engine} cannot ") and "\n" not in line
            assert line.endswith("Export the model again with the engine that is installed here.")
        else:
            assert name.endswith((".bin", ".data")) or spoil is _another_version  # weights that changed, all there
    assert checks is not None


class _Failing:
    """An engine whose library runs out of memory, or is interrupted while it opens a file."""

    def __init__(self, act):
        self._act = act

    def open_model(self, folder, threads, activations):
        return self._act()


def test_kind_10_too_little_memory_in_an_engine_is_one_line(tmp_path):
    def act():
        raise RuntimeError("Exception from src/core.cpp:1:\nstd::bad_alloc")

    with pytest.raises(UsageError, match=r"not enough memory to open it in _Failing \(.*std::bad_alloc\). Free some"):
        open_session(_Failing(act), tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_kind_9_ctrl_c_waits_for_native_code(number):
    """The library returns first; KeyboardInterrupt follows."""
    before = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    returned = []
    try:
        with pytest.raises(KeyboardInterrupt), native_code():
            signal.raise_signal(number)
            returned.append(True)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert returned == [True]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_kind_9_ctrl_c_after_an_export_is_no_crash(exported):
    """OpenVINO leaves a signal stack that is too small for the registers that a signal saves."""
    open_session(engine(read_record(exported).engine), exported)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_kind_2_an_export_is_run_with_its_own_tokenizer(exported, tmp_path):
    """Its checks are token ids; a tokenizer that gives an id that the model has not is found when it is opened."""
    copy = shutil.copytree(exported, tmp_path / "copy")
    text = (copy / "tokenizer.json").read_text()
    spoiled = re.sub(r'("ids": \[\s*)2', r"\g<1>999", text)
    assert spoiled != text
    (copy / "tokenizer.json").write_text(spoiled)
    record = json.loads((copy / "engine.json").read_text())
    record["files"]["tokenizer.json"] = hashlib.sha256((copy / "tokenizer.json").read_bytes()).hexdigest()
    (copy / "engine.json").write_text(json.dumps(record | {"sha256": seal(record)}))
    with pytest.raises(
        InputFileError,
        match=r"its tokenizer adds the id 999 to every text, but the model's embedding table has 64 rows",
    ):
        Predictor(copy)


CONVERTERS = {"onnxruntime": "torch.onnx.export", "openvino": "openvino.frontend.FrontEnd.convert"}


@pytest.mark.parametrize("name", [name for name in CONVERTERS if plugins.load("engines", name).usable()])
def test_kind_10_what_a_converter_raises_is_one_line(name, tiny, sentences, tmp_path, monkeypatch):
    """Exporters' errors have no common family: the line says which converter, what, and that there are others."""
    plan = given_allocation(
        profile := profile_model(tiny), {m.module: choice("8bit/columns:32/rtn") for m in profile.matrices}
    )
    quantized = quantize_model(tiny, plan, None, tmp_path / "q").folder

    def fails(*args, **kwargs):
        raise RuntimeError("Exporting the operator 'aten::x' is not supported.\nSecond line.")

    monkeypatch.setattr(CONVERTERS[name], fails)
    line = r"(torch.onnx|OpenVINO) cannot convert this model: RuntimeError: Exporting the operator 'aten::x' .*engine"
    with pytest.raises(InputFileError, match=line) as stop:
        export_model(quantized, name, tmp_path / "out", texts=sentences)
    assert "Second" not in str(stop.value) and not (tmp_path / "out").exists()
