"""A bundle runs with numpy and onnxruntime alone, and its result becomes the device file of a local calibration."""

import ast
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hwmodels import load_device
from qbert_opt.device_profiling import board_result, bundle, calibrate, engine_bench, fitting, kernels
from qbert_opt.device_profiling.bench import Grid, Shape, Subject
from qbert_opt.device_profiling.board import machine
from qbert_opt.runtime.cpu_timing import Timing

onnxruntime = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

GRID = Grid((1, 16), (32, 64), 64 * 64)
POINTS = {"POOL": 2**18, "POINT_ROWS": (1, 16), "WIDTHS": (32, 64), "LENGTHS": (8, 16)}
SHAPES = tuple(Shape(f"s{h}", 1, h, 2, 2 * h, vocabulary=110, positions=32) for h in (32, 64, 96))
RUNNER = """
import runpy, sys
sys.path.insert(0, {site!r})
sys.argv = ["measure.py", *{arguments!r}]
sys.modules["torch"] = sys.modules["qbert_opt"] = sys.modules["onnx"] = None
runpy.run_path({script!r}, run_name="__main__")
"""


@pytest.fixture(scope="module", autouse=True)
def small():
    """Small grids, for the sake of time."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in POINTS.items():
            patch.setattr(kernels, name, value)
        patch.setattr(machine, "STEPS", tuple(2**14 * 2**step for step in range(8)))
        patch.setattr(engine_bench, "COARSE", GRID)
        patch.setattr(engine_bench, "SHAPES", SHAPES)
        patch.setattr(engine_bench, "LENGTHS", (8, 16))
        patch.setattr(engine_bench, "GROUP_SIZES", (16, 32))
        patch.setattr(engine_bench, "STORED", ((), ("8bit/rows:each/rtn", "2bit/columns:32/rtn")))
        yield


@pytest.fixture(scope="module")
def steps():
    return []


@pytest.fixture(scope="module")
def folder(tmp_path_factory, steps):
    return bundle.write_bundle(tmp_path_factory.mktemp("bundle") / "board", on_step=lambda *step: steps.append(step))


@pytest.fixture(scope="module")
def bare_site(tmp_path_factory):
    """A folder of packages with numpy and onnxruntime in it, and nothing else."""
    site = tmp_path_factory.mktemp("site")
    for name in ("numpy", "onnxruntime"):
        package = Path(importlib.util.find_spec(name).origin).parent
        for found in (package, package.parent / f"{name}.libs"):
            if found.exists():
                (site / found.name).symlink_to(found)
    return site


def run(folder, site, *arguments):
    """Run the bundle's script in an isolated Python without site-packages."""
    code = RUNNER.format(site=str(site), arguments=list(map(str, arguments)), script=str(folder / "measure.py"))
    command = [sys.executable, "-I", "-S", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def result(folder, bare_site, tmp_path_factory):
    path = tmp_path_factory.mktemp("result") / "result.json"
    done = run(folder, bare_site, "-o", path, "--rounds", 3)
    assert done.returncode == 0, done.stderr
    assert "calibrate --from-bundle" in done.stdout
    return path


def test_the_script_is_one_file_that_needs_numpy_and_onnxruntime_only(folder):
    tree = ast.parse((folder / "measure.py").read_text())
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in ([a.name for a in node.names] if isinstance(node, ast.Import) else [node.module])
    }
    assert imported - set(sys.stdlib_module_names) == {"numpy", "onnxruntime"}
    assert not any(isinstance(node, ast.ImportFrom) and node.level for node in ast.walk(tree))
    assert sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) < 3_000_000  # no weights in it


def test_progress_counts_kernels_and_whole_models_apart(folder, steps):
    """The time left of one kind says nothing about the other's."""
    calls = json.loads((folder / "manifest.json").read_text())["calls"]
    whole = [step for step in steps if step[2] == "whole models"]
    assert whole == [(number, len(whole), "whole models") for number in range(1, len(whole) + 1)]
    kernels = len(calls) - len(whole)
    assert whole and steps[:kernels] == [(number, kernels, "kernels") for number in range(1, kernels + 1)]


def test_from_bundle_to_device_file(cli, result, tmp_path):
    """The file loads, runs every stored width, and is of the board, not of this machine's session."""
    out = tmp_path / "board.yaml"
    found = cli("calibrate", "--from-bundle", result, "-o", out)
    assert found.code == 0, found.err
    device = load_device(str(out))
    assert device.id == "board" and device.engines == ("onnxruntime",)
    assert f"onnxruntime {onnxruntime.__version__}, activations int8" in device.name
    assert ("NOT calibrated" in found.out) == (device.confidence != "calibrated")
    mixed = Subject(SHAPES[1], 12, ("3bit/columns:16/rtn", "2bit/rows:1/rtn", "8bit/columns:32/rtn"))
    assert 1e-5 < fitting.simulated(device, mixed, 32).latency_s < 0.1


def test_the_fit_is_that_of_a_local_calibration(folder, tmp_path):
    """The same readings give the same description, whether they come from a result or from calls made here."""
    bench = engine_bench.EngineBench("onnxruntime", "int8", engine_bench.container)
    keys = list(calibrate.all_calls(bench))
    draw = np.random.default_rng(0)
    readings = {key: tuple((draw.uniform(1e-4, 1e-3) * draw.uniform(0.98, 1.02, 5)).tolist()) for key in keys}
    here = machine.this_machine()
    path = write_result(tmp_path / "r.json", [readings[key] for key in bundle.call_makers(bench)], here)
    local = calibrate.assemble(
        bench, {key: Timing(one) for key, one in readings.items()}, elapsed_s=9.0, stolen=0.1, device_id="board"
    )
    assert board_result.calibration_from(path).measurements == local.measurements


def test_the_models_are_those_that_a_local_calibration_times(folder, bare_site, result):
    """Node for node the same graph, with weights of the same shapes; and all of them were run."""
    bench = engine_bench.EngineBench("onnxruntime", "int8", engine_bench.container)
    manifest = json.loads((folder / "manifest.json").read_text())
    keys = list(bundle.call_makers(bench))
    assert len(keys) == len(manifest["calls"]) == len(json.loads(result.read_text())["readings_s"])
    number = keys.index(("product", "w4-columns16", 16, 32, 64))
    call = manifest["calls"][number]
    stripped = onnx.load(folder / "models" / call["model"], load_external_data=False)
    form = next(form for form in bench.formats if form.kernel == "w4-columns16")
    from qbert_opt.engines.backends.onnxruntime import product_proto

    whole = product_proto(bench._weight(form, 32, 64), "int8")
    assert [(n.op_type, len(n.input)) for n in stripped.graph.node] == [
        (n.op_type, len(n.input)) for n in whole.graph.node
    ]
    shapes = [[tuple(t.dims) for t in model.graph.initializer] for model in (stripped, whole)]
    assert shapes[0] == shapes[1]
    assert call["inputs"] == {"x": {"type": "float32", "shape": [16, 32]}}


def write_result(path, readings, here, **more):
    bench = engine_bench.EngineBench("onnxruntime", "int8", engine_bench.container)
    document = {
        "schema": "qbert-opt/board-result@1", "bundle": bundle.bundle_hash(list(bundle.call_makers(bench)), "int8"),
        "precision": "int8", "engine_label": f"onnxruntime {onnxruntime.__version__}", "date": "2026-01-01",
        "system": "Linux aarch64, Python 3.11", "elapsed_s": 9.0, "stolen": 0.1,
        "machine": {
            "name": here.name, "memory_bytes": here.memory_bytes,
            "caches": [{"level": c.level, "size_bytes": c.size_bytes} for c in here.caches],
        },
        "readings_s": [list(one) for one in readings],
    }  # fmt: skip
    path.write_text(json.dumps(document | more))
    return path


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"schema": "qbert-opt/board-result@9"}, "schema is 'qbert-opt/board-result@9'"),
        ({"bundle": "0" * 64}, "bundle: was measured with a bundle of another version"),
        ({"precision": "int3"}, "precision: found 'int3'; legal are int8"),
        ({"precision": "float32"}, "bundle of another version"),
        ({"readings_s": [[1e-3] * 3]}, "readings_s: found 1 calls; the bundle has"),
        ({"readings_s": [[1e-3, 1e-3]]}, "readings_s.0: Tuple should have at least 3 items"),
        ({"readings_s": [[1e-3, 0.0, 1e-3]]}, "readings_s.0.1: Input should be greater than 0, found 0.0"),
        ({"readings_s": [[1e-3, -1.0, 1e-3]]}, "readings_s.0.1"),
        ({"readings_s": [[1e-3, 1e9, 1e-3]]}, "readings_s.0.1"),
        ({"readings_s": [[1e-3, "1", 1e-3]]}, "readings_s.0.1"),
        ({"stolen": 2.0}, "stolen"),
        ({"engine_label": "evil\n"}, "engine_label"),
        ({"machine": {"name": "x", "caches": [], "memory_bytes": 1}}, "machine.memory_bytes"),
        ({"more": 1}, "more: Extra inputs are not permitted"),
    ],
)
def test_a_wrong_result_is_one_line(cli, result, tmp_path, wrong, says):
    path = tmp_path / "r.json"
    path.write_text(json.dumps(json.loads(result.read_text()) | wrong))
    found = cli("calibrate", "--from-bundle", path, "-o", tmp_path / "b.yaml")
    assert found.code == 4 and says in found.complaint
    assert not (tmp_path / "b.yaml").exists()


@pytest.mark.parametrize("text", ["", "[]", "{", '{"schema": NaN}', "\xff"])
def test_a_broken_result_is_one_line(cli, tmp_path, text):
    path = tmp_path / "r.json"
    path.write_bytes(text.encode("latin-1"))
    assert cli("calibrate", "--from-bundle", path, "-o", tmp_path / "b.yaml").code == 4


def test_a_model_that_changed_on_the_way_stops_the_script_in_one_line(folder, bare_site, tmp_path):
    import shutil

    copied = tmp_path / "copied"
    shutil.copytree(folder, copied)
    name = sorted(json.loads((copied / "manifest.json").read_text())["models"])[0]
    model = copied / "models" / name
    model.write_bytes(model.read_bytes()[:-1])
    done = run(copied, bare_site, "-o", tmp_path / "r.json")
    assert done.returncode == 1 and done.stderr.splitlines() == [
        f"measure.py: models/{name}: has changed since the bundle was written. Copy the bundle again."
    ]
    assert not (tmp_path / "r.json").exists()


def test_without_onnxruntime_the_script_says_how_to_install_it(folder, tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    numpy = Path(importlib.util.find_spec("numpy").origin).parent
    for found in (numpy, numpy.parent / "numpy.libs"):
        if found.exists():
            (site / found.name).symlink_to(found)
    done = run(folder, site, "-o", tmp_path / "r.json")
    assert done.returncode == 1 and "pip install onnxruntime" in done.stderr and len(done.stderr.splitlines()) == 1


def test_wrong_options_of_a_bundle_are_one_line(cli, tmp_path):
    assert (
        "--precision int3: not supported by onnxruntime"
        in cli("calibrate", "--bundle", tmp_path / "b", "--precision", "int3").complaint
    )
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    assert "is not an empty folder" in cli("calibrate", "--bundle", tmp_path / "full", "-q").complaint
    assert "does not exist" in cli("calibrate", "--bundle", tmp_path / "no" / "b", "-q").complaint
    assert "no such file" in cli("calibrate", "--from-bundle", tmp_path / "r.json", "-o", tmp_path / "b.yaml").complaint
    assert [left.name for left in tmp_path.iterdir()] == ["full"]
