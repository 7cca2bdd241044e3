"""Plug-ins of other packages: found by entry point, checked against their Protocol, refused by name."""

import ast
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from qbert_opt.configs.tool import ConfigTool
from qbert_opt.data.reader import Reader
from qbert_opt.device_profiling.bench import BenchModule
from qbert_opt.engines.session import Engine, RuledEngine
from qbert_opt.errors import UsageError
from qbert_opt.formats.format import Format
from qbert_opt.integer.emitter import Emitter
from qbert_opt.integer.nonlinearity import Nonlinearity
from qbert_opt.quantization.quantizer import Quantizer, quantizer
from qbert_opt.runtime import plugins
from qbert_opt.scoring.task import Metric
from qbert_opt.training.passes import TrainingLoss
from qbert_opt.training.phases import BlockError, Step
from qbert_opt.training.student import TrainingQuantizer

HALVING = '''"""Round to nearest, then halve every scale: a poor quantizer, but one of another package."""

from qbert_opt.quantization.methods import rtn

NEEDS_GRAM = False
GRADIENT_SHARE = 0.0
FORMS = ("offset",)


def quantize(weight, layouts, gram=None):
    return rtn.quantize(weight / 2, layouts, gram)
'''


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a package with modules and entry points, as a wheel would; returns a function."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def installed(name, modules, points):
        (tmp_path / name).mkdir()
        for module, source in {"__init__": "", **modules}.items():
            (tmp_path / name / f"{module}.py").write_text(source)
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        groups = "".join(f"[qbert_opt.{kind}]\n{point}\n" for kind, point in points)
        (info / "entry_points.txt").write_text(groups)
        for cached in [key for key in sys.modules if key.split(".")[0] == name]:
            del sys.modules[cached]
        plugins.forget_installed()

    yield installed
    plugins.forget_installed()


def test_another_package_adds_a_quantizer(install, cli):
    """It is listed, satisfies its Protocol, and rounds as its own code says."""
    from qbert_opt.quantization.calibration import method_grid, quantize_rows

    install("example_halving", {"halving": HALVING}, [("quantizers", "halving = example_halving.halving")])
    assert "halving" in plugins.available("quantizers")
    assert quantizer("halving").FORMS == ("offset",)
    [choice] = method_grid("halving", bits=(8,), groupings=("rows:each",))
    weight = torch.from_numpy(np.random.default_rng(0).normal(size=(4, 32)).astype(np.float32))
    [quantized] = quantize_rows(weight, [choice])
    assert torch.allclose(quantized.dequantize(), weight / 2, atol=0.01)
    listed = cli("choices")
    assert listed.code == 0 and "halving" in listed.out and "installed by example_halving" in listed.out


def test_two_packages_with_one_name_are_refused_by_both_names(install):
    """Also a package that takes the name of a bundled plug-in."""
    install("first_package", {"halving": HALVING}, [("quantizers", "halving = first_package.halving")])
    install("second_package", {"halving": HALVING}, [("quantizers", "halving = second_package.halving")])
    with pytest.raises(UsageError, match=r"'halving' is defined by (first|second)_package and (first|second)_package"):
        plugins.load("quantizers", "halving")
    install("third_package", {"gptq": HALVING}, [("quantizers", "gptq = third_package.gptq")])
    with pytest.raises(UsageError, match=r"'gptq' is defined by third_package and qbert-opt. Uninstall one"):
        plugins.load("quantizers", "gptq")
    assert plugins.load("quantizers", "rtn").FORMS  # others are not concerned


def test_a_broken_package_is_one_line_when_it_is_asked_for(install):
    """Not when plug-ins are listed."""
    install(
        "broken_package",
        {"crash": "raise RuntimeError('no licence')", "empty": "NEEDS_GRAM = False"},
        [("quantizers", "crash = broken_package.crash\nempty = broken_package.empty")],
    )
    assert {"crash", "empty"} <= set(plugins.available("quantizers")) and plugins.summaries("quantizers")["crash"]
    with pytest.raises(UsageError, match=r"'crash' of broken_package cannot be imported.*RuntimeError: no licence"):
        quantizer("crash")
    with pytest.raises(UsageError, match=r"'empty' does not define FORMS, GRADIENT_SHARE, quantize"):
        quantizer("empty")


@pytest.mark.parametrize(
    ("kind", "protocol"),
    [
        ("quantizers", Quantizer),
        ("metrics", Metric),
        ("engines", RuledEngine),
        ("formats", Format),
        ("benches", BenchModule),
        ("configs", ConfigTool),
        ("readers", Reader),
        ("training_quantizers", TrainingQuantizer),
        ("training_steps", Step),
        ("block_errors", BlockError),
        ("training_losses", TrainingLoss),
        ("nonlinearities", Nonlinearity),
        ("emitters", Emitter),
    ],
)
def test_bundled_plugins_satisfy_their_protocol(kind, protocol):
    """Every file of the folder, by the same check that other packages' plug-ins pass."""
    names = plugins.available(kind)
    assert names and set(plugins.summaries(kind)) == set(names)
    for name in names:
        plugin = plugins.load_as(kind, name, protocol)
        assert plugins.summaries(kind)[name]
        if kind == "engines" and not plugin.RULES.planning_only:
            plugins.load_as(kind, name, Engine)


def test_every_kind_has_a_protocol():
    """No call takes a plug-in without checking that it is what its kind requires."""
    covered = {kind for mark in test_bundled_plugins_satisfy_their_protocol.pytestmark for kind, _ in mark.args[1]}
    assert covered == set(plugins.FOLDERS)
    package = Path(plugins.__file__).parents[1]
    unchecked = [
        path.name
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "plugins.load"
    ]
    assert not unchecked


LINES = '''"""A text on each line of a `.lines` file."""

def reads(path):
    return path.suffix == ".lines"


def read(path, *, split, label_column):
    return [(line,) for line in path.read_text().splitlines()], None
'''


def test_another_package_adds_a_reader(install, tmp_path):
    """Its layout is read like a bundled one; one that lacks a member is named when a path is opened."""
    from qbert_opt.data.texts import read_texts

    install("example_lines", {"lines": LINES}, [("readers", "lines = example_lines.lines")])
    (tmp_path / "a.lines").write_text("one\ntwo\n")
    assert read_texts(tmp_path / "a.lines").texts == (("one",), ("two",))
    install("lacking", {"mute": "def reads(path):\n    return False\n"}, [("readers", "mute = lacking.mute")])
    with pytest.raises(UsageError, match=r"readers: plug-in 'mute' does not define read\."):
        read_texts(tmp_path / "none.mute")


def test_a_broken_device_package_is_one_line(install, cli):
    """Devices belong to a leaf with errors of its own; the command line knows them."""
    install("broken_devices", {}, [("devices", "board = broken_devices:missing.yaml")])
    for arguments in (("devices", "list"), ("devices", "show", "board"), ("solve", "--budget", "25MB", "-d", "board")):
        stopped = cli(*arguments)
        assert stopped.code in (2, 4) and "broken_devices" in stopped.complaint, arguments
