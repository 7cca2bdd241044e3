"""What users do wrong, on the command line: one line, no traceback, the right exit code, nothing half-written."""

import errno
import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from qbert_opt.spec.allocation import write_allocation
from qbert_opt.spec.scores import write_scores

DEVICE = ("--device", "car-soc")


@pytest.fixture
def scores_file(tmp_path, rtn_scores):
    """Scores of the tiny model."""
    write_scores(rtn_scores, tmp_path / "scores.json")
    return tmp_path / "scores.json"


@pytest.fixture
def plan_file(tmp_path, gptq_plan):
    """A plan of the tiny model."""
    write_allocation(gptq_plan, tmp_path / "plan.json")
    return tmp_path / "plan.json"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--budget", "25"), 2, "--budget 25: found '25' without a unit"),
        (("--budget", "25Mb"), 2, "'Mb' does not say bit or byte"),
        (("--budget", "0MB"), 2, "must be more than 0"),
        (("--budget", "-1MB"), 2, "negative"),
        (("--budget", "abc"), 2, "Legal: bytes with a unit (25MB, 23.8MiB)"),
        (("--total-budget", "100Mb"), 2, "--total-budget 100Mb: "),
        (("--budget", "20MB"), 3, "binding limit encoder_bytes"),
        (("--total-budget", "20MB"), 3, "--total-budget"),
        (("--budget", "25MB", "--device", "toaster"), 2, "legal names are"),
        (("--budget", "25MB", "--device", "nowhere.yaml"), 2, "--device nowhere.yaml: found no such file"),
        (("--max-latency", "20", *DEVICE), 2, "--max-latency 20: found '20' without a unit"),
        (("--max-latency", "20MB", *DEVICE), 2, "whose unit is not one of time"),
        (("--max-latency", "1us", *DEVICE), 3, "--max-latency"),
        (("--max-latency", "20ms"), 2, "--max-latency: needs --device"),
        (("--max-memory", "1Gb", *DEVICE), 2, "--max-memory 1Gb: "),
        (("--max-energy", "1W", *DEVICE), 2, "--max-energy 1W: "),
        (("--max-bandwidth", "2GB", *DEVICE), 2, "--max-bandwidth 2GB: "),
        (("--max-bandwidth", "2GB/s", *DEVICE), 2, "needs --rate"),
        (("--max-bandwidth", "2GB/s", "--rate", "0", *DEVICE), 2, "--rate 0"),
        (("--budget", "25MB", "--rate", "0", *DEVICE), 2, "--rate 0"),
        ((), 2, "no limit given"),
        (("--budget", "25MB", "--bits", "0,2"), 2, "'0' is not a bit width"),
        (("--budget", "25MB", "--bits", "5"), 2, "none of these was scored"),
        (("--budget", "25MB", "--groupings", "tiles:4"), 2, "'tiles:4' is not a grouping"),
        (("--budget", "25MB", "--pin", "layer.0"), 2, "not of the form NAME=BITS"),
        (("--budget", "25MB", "--pin", "elsewhere=8"), 2, "no matrix of"),
        (("--budget", "25MB", "--solver", "oracle"), 2, "--solver oracle: unknown. Available: auto, cbc"),
        (("--budget", "25MB", "--time-limit", "60"), 2, "--time-limit 60: "),
        (("--budget", "25MB", "--time-limit", "0.000001s"), 2, "ended before any plan was found"),
        (("--budget", "25MB", "--recipe", "qbert-2/5"), 2, "legal: qbert-2/3, qbert-2/4, uniform:CHOICE"),
        (("--budget", "20MB", "--recipe", "qbert-2/3"), 3, "--recipe qbert-2/3: needs at least 21270528 bytes"),
        (("--budget", "25MB", "--scores", "nowhere.json"), 4, "nowhere.json: no such file"),
        (("--budget", "25MB", "--model", "nowhere/at/all"), 2, "needs --data"),
        (("--budget", "25MB", "--model", "nowhere/at/all", "--data", "snips/dev"), 4, "no such folder"),
        (("--budget", "25MB", "--scores", "a", "--model", "b"), 2, "give one of them"),
        (("--budget", "25MB", "-o", "nowhere/plan.json"), 2, "does not exist. Create it first"),
        (("--budget", "25MB", "--plot", "nowhere/plan.png"), 2, "does not exist. Create it first"),
        (("--budget", "25MB", "--plot", "plan.doc"), 2, "plan.doc"),
    ],
)
def test_solve(cli, arguments, code, message, tmp_path, monkeypatch):
    """Each mistake of `solve` in one line."""
    monkeypatch.chdir(tmp_path)
    found = cli("solve", *arguments)
    assert message in found.complaint
    assert found.code == code
    assert not list(tmp_path.iterdir())


BROKEN = {
    "missing": ("activation_bits: 8\n", "", "activation_bits"),
    "negative": ("launch: 20 us", "launch: -20 us", "negative"),
    "unit-less": ("clock: 1 GHz", "clock: 1", "without a unit"),
    "wrong unit": ("size: 8 MiB", "size: 8 Mb", "Mb"),
    "unknown field": ("confidence: theoretical", "confidence: theoretical\nsmell: none", "smell"),
    "no YAML": ("schema:", "schema: [", ""),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_device_files(cli, tmp_path, car_soc, broken):
    """A wrong device file is named with line and field, exit code 4, whichever verb reads it."""
    from importlib import resources

    text = (resources.files("hwmodels") / "devices" / "car-soc.yaml").read_text()
    old, new, message = BROKEN[broken]
    assert old in text
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace(old, new, 1))
    for command in (("solve", "--budget", "25MB", "--device"), ("devices", "check")):
        found = cli(*command, path)
        assert found.code == 4
        assert f"{path.name}:" in found.complaint and message in found.complaint


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text\tlabel\nw1\tred\n\nw2\tblue\n", "line 3: is empty"),
        ("text\tlabel\nw1\tred\nw2\t\n", "line 3: column 'label' has no label"),
        ("text\tlabel\nw1\tred\nw2\tmauve\nw3\tred\n", "has label 'mauve'"),
        (
            "text\tlabel\nw1\tred\nw2\tblue\n",
            "2 distinct texts, but 40 (--calibration-samples) + 40 (--scoring-samples) are needed",
        ),
        ("words\tlabel\nw1\tred\n", "no text column among words, label"),
        ("", "data.tsv: is empty"),
    ],
)
def test_calibration_text(cli, tmp_path, tiny_folder, content, message):
    """Missing and unknown labels, empty lines, too little data: exit code 4."""
    path = tmp_path / "data.tsv"
    path.write_text(content)
    sizes = ("--calibration-samples", 1, "--scoring-samples", 2) if "mauve" in message else ()
    sizes = sizes or ("--calibration-samples", 40, "--scoring-samples", 40)
    found = cli("sensitivity", "--model", tiny_folder, "--data", path, *sizes, "-q", "-o", tmp_path / "s.json")
    assert found.code == 4
    assert message in found.complaint
    assert [p.name for p in tmp_path.iterdir()] == ["data.tsv"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--metric", "magic"), 2, "--metric magic: unknown. Available: differentiable, directional, fisher"),
        (("--method", "magic"), 2, "--method magic: unknown. Available: gptq, guided"),
        (("--memory-limit", "2"), 2, "--memory-limit 2: found '2' without a unit"),
        (("--metric", "qbert", "--scoring-samples", 5), 2, "5 samples cannot be split into 10 slices"),
        (("-o", "nowhere/s.json"), 2, "does not exist. Create it first"),
        (("--text-column", "body"), 2, "--text-column body: "),
        (("--split", "test"), 2, "--split"),
    ],
)
def test_sensitivity(cli, arguments, code, message, tmp_path, monkeypatch, tiny_folder, data_file):
    """Each mistake of `sensitivity` in one line."""
    monkeypatch.chdir(tmp_path)
    command = ("sensitivity", "--model", tiny_folder, "--data", data_file, "--calibration-samples", 20)
    found = cli(*command, "--scoring-samples", 20, "-q", *arguments)
    assert message in found.complaint
    assert found.code == code


@pytest.fixture
def other_model(tiny_folder, tmp_path):
    """Makes a copy of the tiny model with one tensor changed."""

    def make(value):
        folder = shutil.copytree(tiny_folder, tmp_path / "other")
        tensors = load_file(folder / "model.safetensors")
        tensors["classifier.bias"][0] = value
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    return make


def test_a_plan_of_another_model(cli, tmp_path, plan_file, data_file, other_model):
    """Scores and plans belong to their model."""
    found = cli("quantize", plan_file, "--model", other_model(0.5), "--data", data_file, "-q", "-o", tmp_path / "out")
    assert found.code == 4
    assert "its weights are not those the plan was made for" in found.complaint
    assert not (tmp_path / "out").exists()


def test_nan_in_weights(cli, tmp_path, data_file, other_model):
    """A model with NaN scores nothing."""
    found = cli("sensitivity", "--model", other_model(float("nan")), "--data", data_file, "-o", tmp_path / "s.json")
    assert found.code == 4
    assert "classifier.bias holds NaN or infinite values" in found.complaint


def test_folders_that_are_no_model(cli, tmp_path, data_file, plan_file):
    """Neither an empty folder nor a file is a model, for any verb."""
    (tmp_path / "empty").mkdir()
    for command in (
        ("sensitivity", "--data", data_file, "--model"),
        ("quantize", plan_file, "--data", data_file, "-o", tmp_path / "out", "--model"),
        ("evaluate", "--data", data_file),
        ("fine-tune", "--data", data_file, "-o", tmp_path / "out", "--encoder"),
    ):
        found = cli(*command, tmp_path / "empty")
        assert found.code == 4
        assert "is not a model folder" in found.complaint


def test_simulate(cli, tmp_path, plan_file, scores_file):
    """Wrong plans, devices and comparisons."""
    for arguments, code, message in (
        ((tmp_path / "nowhere.json", *DEVICE), 4, "no such file"),
        ((scores_file, *DEVICE), 4, "this version reads 'qbert-opt/allocation@2'"),
        ((plan_file, "--device", "toaster"), 2, "legal names are"),
        ((plan_file, *DEVICE, "--compare", "int1"), 2, "--compare int1: legal: fp32, fp16, int2"),
        ((plan_file, *DEVICE, "--rate", "0"), 2, "--rate 0"),
    ):
        found = cli("simulate", *arguments)
        assert message in found.complaint
        assert found.code == code


def test_a_full_disk(cli, tmp_path, tiny_folder, data_file, plan_file, monkeypatch):
    """Whatever is written, a full disk is one line, and only finished rows of scores may stay."""
    from pathlib import Path

    def full(*_arguments, **_options):
        raise OSError(errno.ENOSPC, "No space left on device")

    before = sorted(p.name for p in tmp_path.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        patch.setattr("qbert_opt.checkpoint.streamed_file.StreamedFile.write", full)
        for command in (
            ("solve", "--budget", "25MB", "-o", tmp_path / "plan2.json"),
            ("quantize", plan_file, "--model", tiny_folder, "--data", data_file, "-q", "-o", tmp_path / "out"),
        ):
            found = cli(*command)
            assert found.code == 2
            assert "was not written: the disk is full. Free some space" in found.complaint
    assert sorted(p.name for p in tmp_path.iterdir()) == before
    command = ("sensitivity", "--model", tiny_folder, "--data", data_file, "-q", "--calibration-samples", 20)
    with monkeypatch.context() as patch:
        real = Path.open
        patch.setattr(Path, "open", lambda path, mode="r", **rest: full() if mode == "a" else real(path, mode, **rest))
        found = cli(*command, "--scoring-samples", 20, "--method", "rtn", "-o", tmp_path / "s.json")
    assert found.code == 2
    assert "the disk is full" in found.complaint
    assert not (tmp_path / "s.json").exists()


def test_too_little_memory(cli, tmp_path, monkeypatch):
    """Memory that is refused anywhere is one line; reading a small file asks for no more than the file has."""
    from qbert_opt.runtime.input_files import read_bytes

    small = tmp_path / "small.json"
    small.write_bytes(b"{}")
    assert read_bytes(small, 2**50, "a document") == b"{}"  # a pebibyte at once would be refused

    def refused(*_arguments, **_options):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("qbert_opt.planning.planner.allocation_of", refused)
        patch.setattr("qbert_opt.workflows.solve.solve_plans", refused)
        answer = cli("solve", "--budget", "25MB")
    assert answer.code == 2
    assert "not enough memory" in answer.complaint


def test_a_full_disk_in_the_writer_of_an_engine(monkeypatch, tmp_path):
    """OpenVINO says `basic_ios::clear`; what is raised is the system's error with the file."""
    openvino = pytest.importorskip("qbert_opt.formats.quiet_openvino").ov
    from qbert_opt.device_profiling import engine_bench

    def full(*_arguments, **_options):
        raise RuntimeError("basic_ios::clear: iostream error")

    monkeypatch.setattr(openvino, "save_model", full)
    bench = engine_bench.EngineBench("openvino", "float32", engine_bench.container)
    with pytest.raises(OSError) as caught:
        bench.pointwise("elementwise", 1, 16)
    assert caught.value.errno == errno.ENOSPC


def test_ctrl_c(cli, tmp_path, monkeypatch):
    """Interrupted while writing: exit code 130, one line, no file."""
    from pathlib import Path

    def stop(*_arguments, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", stop)
    found = cli("solve", "--budget", "25MB", "-o", tmp_path / "plan.json")
    assert found.code == 130
    assert found.complaint == "qbert-opt: interrupted; nothing half-written is left."
    assert not list(tmp_path.iterdir())


def test_what_an_interrupted_verb_says_of_its_results_is_shown(cli, tmp_path, monkeypatch):
    """A note on the interrupt, such as a sweep's about its cache, ends the line."""
    from pathlib import Path

    def stop(*_args, **_more):
        interrupt = KeyboardInterrupt()
        interrupt.add_note("finished steps are kept")
        raise interrupt

    monkeypatch.setattr(Path, "write_text", stop)
    found = cli("solve", "--budget", "25MB", "-o", tmp_path / "plan.json")
    assert found.code == 130
    assert found.complaint == "qbert-opt: interrupted; nothing half-written is left; finished steps are kept."


def test_json_stays_json(cli, tmp_path, plan_file):
    """A refusal prints nothing on stdout, where a program may be reading."""
    found = cli("solve", "--budget", "1MB", "--json")
    assert found.out == "" and found.code == 3
    assert json.loads(cli("simulate", plan_file, *DEVICE, "--json").out)


def test_an_output_that_is_an_input_is_refused(cli, tmp_path, plan_file, data_file, tiny_folder):
    """By whatever name: the file itself, a symbolic or a hard link; and two outputs of one name."""
    plan, data = plan_file, tmp_path / "data.tsv"
    shutil.copy(data_file, data)
    (tmp_path / "soft.json").symlink_to(plan)
    (tmp_path / "hard.json").hardlink_to(plan)
    before = plan.read_bytes(), data.read_bytes()
    for output in (plan, tmp_path / "soft.json", tmp_path / "hard.json", tmp_path / "." / "plan.json"):
        found = cli("report", plan, "-o", output)
        assert found.code == 2
        assert "--output" in found.complaint and "is also an input, which would be lost" in found.complaint
    found = cli("sensitivity", "--model", tiny_folder, "--data", data, "-o", data)
    assert found.code == 2 and "is also an input" in found.complaint
    found = cli("solve", "-b", "25MB", "-o", tmp_path / "x.svg", "--plot", tmp_path / "x.svg")
    assert found.code == 2 and "--plot" in found.complaint and "is also where --output is written" in found.complaint
    assert (plan.read_bytes(), data.read_bytes()) == before
