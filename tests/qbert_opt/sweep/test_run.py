"""Whole sweeps of the tiny model: what they write is what the verbs write, and nothing is computed twice."""

import csv
import errno
import json
import re
import shutil
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from decoders import save, sentences

from qbert_opt.errors import FullDiskError, InputFileError, UsageError
from qbert_opt.runtime.manifest import file_hashes
from qbert_opt.sweep import run as run_module
from qbert_opt.sweep.cluster import Workers
from qbert_opt.sweep.graph import combinations, distinct
from qbert_opt.sweep.reader import read_sweep
from qbert_opt.sweep.run import sweep

SAMPLES = ("--calibration-samples", 16, "--scoring-samples", 16)
GRID = ("--method", "rtn", "--bits", "2,8", "--groupings", "rows:1,columns:32")


@pytest.fixture
def here(dask_client, monkeypatch):
    """The command line's local cluster is the one in this process."""

    @contextmanager
    def connected(workers):
        yield dask_client

    monkeypatch.setattr(run_module, "connected", connected)


def made_by(out):
    """The result folder of each step of a sweep of one row."""
    return {step.name: next(step.iterdir()) for step in (out / "artifacts").iterdir()}


def test_every_step_writes_what_its_verb_writes(cli, here, sweep_file, tmp_path, tiny_folder, data_file):
    """Byte for byte."""
    done = cli("sweep", sweep_file(until="measure", test_data=str(data_file)), "-o", tmp_path / "out", "--quiet")
    assert done.code == 0, done.err
    assert "1 rows: 1 done; 4 steps, 0 of them in the cache" in done.out and "sweep.html" in done.out
    made = made_by(tmp_path / "out")
    data, model = ("--data", data_file), ("--model", tiny_folder)
    scores, plan, folder = tmp_path / "scores.json", tmp_path / "plan.json", tmp_path / "quantized"
    for words in (
        ("sensitivity", *model, *data, *GRID, *SAMPLES, "-o", scores),
        ("solve", "--scores", scores, "--device", "car-soc", "--budget", "4bit", "-o", plan),
        ("quantize", plan, *model, *data, "-o", folder),
    ):
        assert cli(*words).code == 0
    assert scores.read_bytes() == (made["score"] / "scores.json").read_bytes()
    assert plan.read_bytes() == (made["solve"] / "allocation.json").read_bytes()
    assert file_hashes(folder, "") == file_hashes(made["quantize"] / "quantized", "")
    alone = cli("evaluate", made["quantize"] / "quantized", *data, "--reference", tiny_folder, "--json")
    assert alone.out == (made["measure"] / "measured.json").read_text()


@pytest.mark.slow
def test_an_export_and_a_training_are_those_of_their_verbs(cli, here, sweep_file, tmp_path, tiny_folder, data_file):
    """The same files; only the config's note of where it was read differs."""
    target = {"device": "rpi5", "engine": "onnxruntime"}
    recover = {"data": str(data_file), "seed": 3}
    path = sweep_file(until="export", devices=[target], recover=recover)
    assert cli("sweep", path, "-o", tmp_path / "out", "--quiet").code == 0
    made = made_by(tmp_path / "out")
    trained, exported = tmp_path / "trained", tmp_path / "exported"
    data, model = ("--data", data_file), ("--model", tiny_folder)
    quantized = made["quantize"] / "quantized"
    assert cli("recover", quantized, *model, *data, "--seed", 3, "-o", trained).code == 0
    assert cli("export", made["recover"] / "quantized", "--engine", "onnxruntime", "-o", exported).code == 0
    for ours, theirs in ((made["recover"] / "quantized", trained), (made["export"] / "exported", exported)):
        one, two = file_hashes(ours, ""), file_hashes(theirs, "")
        assert one.keys() == two.keys() and len(one) > 4
        differ = {name for name in one if one[name] != two[name]}
        assert differ <= {"config.json", "engine.json", "qbert.json"}
    with (tmp_path / "out" / "sweep.csv").open() as file:
        [row] = csv.DictReader(file)
    assert row["predicted_loss"] == "" and int(row["exported_bytes"]) > 0  # training makes the prediction void


def test_tokens_per_second_bind_the_plans_of_a_decoder(cli, here, sweep_file, tmp_path):
    """Of a tiny Llama: a faster plan has fewer bits and loses more, and a speed that none reaches is a row."""
    save(tmp_path / "llama", "llama", hidden_size=256, intermediate_size=512, head_dim=64, max_position_embeddings=64)
    (tmp_path / "texts.tsv").write_text("text\n" + "\n".join(text for (text,) in sentences(40).texts) + "\n")
    common = {"models": ["llama"], "data": "texts.tsv", "devices": ["rpi5"], "bits": "2,4,8", "groupings": "columns:32"}
    assert cli("sweep", sweep_file(**common, budgets=["8.5bit"]), "-o", tmp_path / "free", "--quiet").code == 0
    [free] = rows_of(tmp_path / "free")
    reached = float(free["tokens_per_s"])
    asked = [{"min_tokens_per_s": factor * reached} for factor in (1.02, 1e6)]
    done = cli("sweep", sweep_file(**common, budgets=asked), "-o", tmp_path / "out", "--cache",
               tmp_path / "free" / "artifacts", "--quiet")  # fmt: skip
    assert done.code == 0, done.err
    fast, impossible = rows_of(tmp_path / "out")
    assert float(fast["tokens_per_s"]) >= 1.02 * reached and int(fast["encoder_bytes"]) < int(free["encoder_bytes"])
    assert float(fast["predicted_loss"]) > float(free["predicted_loss"])
    assert impossible["status"] == "infeasible" and "tokens" in impossible["reason"]


def rows_of(out):
    """The rows of a sweep's table."""
    with (out / "sweep.csv").open() as file:
        return list(csv.DictReader(file))


def test_what_is_finished_is_not_done_again(dask_client, quick_steps, sweep_file, tmp_path):
    """Same file: no worker is needed; another budget: one new plan from the same scores; the tables are replaced."""
    first = sweep(sweep_file(), tmp_path / "out", client=dask_client)
    assert (first.num_tasks, first.num_found, first.num_run) == (2, 0, 2) and first.cpu_s > 0
    again = sweep(sweep_file(), tmp_path / "out", client=object())
    assert (again.num_tasks, again.num_found, again.cpu_s) == (2, 2, 0)
    assert [asdict(row) | {"cpu_s": 0} for row in first.rows] == [asdict(row) for row in again.rows]
    more = sweep(sweep_file(budgets=["4bit", "5bit"]), tmp_path / "out", client=dask_client)
    assert (more.num_tasks, more.num_found) == (3, 2) and len(more.rows) == 2
    elsewhere = sweep(sweep_file(), tmp_path / "other", cache=tmp_path / "out" / "artifacts", client=object())
    assert elsewhere.num_found == 2 and not (tmp_path / "other" / "artifacts").exists()


def test_a_changed_model_is_done_again_and_a_moved_one_is_not(
    dask_client, quick_steps, sweep_file, tmp_path, tiny_folder
):
    """Keys are of content: of two models one is changed, the other renamed."""
    folders = [tmp_path / "a", tmp_path / "b"]
    for number, folder in enumerate(folders):
        shutil.copytree(tiny_folder, folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"note": number}))
    assert sweep(sweep_file(models=["a", "b"]), tmp_path / "out", client=dask_client).num_found == 0
    config = json.loads((folders[0] / "config.json").read_text())
    (folders[0] / "config.json").write_text(json.dumps(config | {"note": 7}))
    folders[1].rename(tmp_path / "c")
    found = sweep(sweep_file(models=["a", "c"]), tmp_path / "out", client=dask_client)
    assert (found.num_tasks, found.num_found) == (4, 2)


def test_a_model_that_cannot_be_read_is_a_row(cli, here, sweep_file, shared_cache, tmp_path, tiny_folder):
    """The others are done; the exit code is 4, and the line says how many failed and why."""
    broken = tmp_path / "broken"
    shutil.copytree(tiny_folder, broken)
    (broken / "model.safetensors").write_bytes(b"no weights")
    models = [{"folder": str(tiny_folder), "name": "tiny"}, "broken", "missing"]
    done = cli("sweep", sweep_file(models=models), "-o", tmp_path / "out", "--cache", shared_cache, "--quiet")
    assert done.code == 4
    [line] = [line for line in done.err.splitlines() if line.startswith("qbert-opt:")]
    assert "2 of 3 rows failed; the first, broken at step score: " in line and "model.safetensors" in line
    assert "Written before that, and complete: " in line and "sweep.csv" in line
    with (tmp_path / "out" / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["model"], row["status"], row["step"]) for row in rows] == [
        ("tiny", "done", "solve"), ("broken", "failed", "score"), ("missing", "failed", "read"),
    ]  # fmt: skip
    assert "missing: no such folder" in rows[2]["reason"]
    assert "car-soc, broken, budget 4bit: failed at score" in done.out


def test_what_a_device_cannot_hold_is_a_row_with_the_nearest_feasible(
    cli, here, sweep_file, shared_cache, tmp_path, data_file
):
    """It is an answer, kept like others; later steps are not tried. Exit code 3 where no row has a plan."""
    path = sweep_file(budgets=["0.5bit"], until="measure", test_data=str(data_file))
    for number in range(2):
        done = cli("sweep", path, "-o", tmp_path / "out", "--cache", shared_cache, "--json", "--quiet")
        assert done.code == 3 and "no row has a plan; the first, tiny: no plan meets every limit" in done.err
        [row] = json.loads(done.out)["rows"]
        assert (row["status"], row["step"]) == ("infeasible", "solve") and "nearest feasible" in row["reason"]
        counts = json.loads(done.out)
        assert number == 0 or (counts["num_tasks"], counts["num_found"], counts["num_run"]) == (4, 4, 0)
    both = cli(
        "sweep", sweep_file(budgets=["0.5bit", "4bit"]), "-o", tmp_path / "out", "--cache", shared_cache, "--quiet"
    )
    assert both.code == 0, both.err


def test_the_tables_agree(dask_client, quick_steps, sweep_file, tmp_path, tiny_folder):
    """Parquet, CSV and the rows in Python; names are text, in HTML and in a spreadsheet."""
    models = [{"folder": str(tiny_folder), "name": "=1+<b>x</b>"}, "missing"]
    found = sweep(sweep_file(models=models), tmp_path / "out", client=dask_client)
    expected = [asdict(row) for row in found.rows]
    assert pq.read_table(tmp_path / "out" / "sweep.parquet").to_pylist() == expected
    with (tmp_path / "out" / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["model"] for row in rows] == ["'=1+<b>x</b>", "missing"]
    assert float(rows[0]["predicted_loss"]) == expected[0]["predicted_loss"] and rows[0]["chosen"] == "True"
    assert rows[1]["predicted_loss"] == "" and rows[1]["reason"] == expected[1]["reason"]
    from qbert_opt.reports.sweep import write_page

    page = write_page(found).read_text()
    assert "<b>x</b>" not in page and "=1+&lt;b&gt;x&lt;/b&gt;" in page and "://" not in page


def test_the_example_of_the_docs_runs_and_every_key_is_described(
    dask_client, quick_steps, tmp_path, tiny_folder, data_file
):
    """With the tiny model under the names of the example; its steps up to the plans."""
    page = (Path(__file__).parents[3] / "docs" / "sweep.md").read_text(encoding="utf-8")
    example = re.search(r"```yaml\n(.*?)```", page, re.DOTALL)[1]
    for name in ("intents", "slots"):
        shutil.copytree(tiny_folder, tmp_path / "models" / name)
    (tmp_path / "slots").mkdir()
    for name in ("dev", "test"):
        shutil.copy(data_file, tmp_path / "slots" / f"{name}.tsv")
    (tmp_path / "sweep.yaml").write_text(example)
    content = read_sweep(tmp_path / "sweep.yaml")
    assert content.until == "measure"
    found = sweep(content.model_copy(update={"until": "solve"}), tmp_path / "out", client=dask_client)
    assert {row.status for row in found.rows} == {"done"}
    scores = {folder.name for folder in (tmp_path / "out" / "artifacts" / "score").iterdir()}
    assert f": {len(found.rows)} rows from {len(scores)} score tables" in page
    table = page.split("| key |")[1].split("\n\n")[0]
    described = {
        key for line in table.splitlines() for key in re.findall(r"`(\w+)`", line.split("|")[1] if "|" in line else "")
    }
    assert described == set(type(content).model_fields)


def test_tasks_are_shared_and_in_order(sweep_file, data_file):
    """2 devices × 3 budgets share one score; every task comes after those that it reads."""
    path = sweep_file(devices=["car-soc", "rpi5"], budgets=["3bit", "4bit", "5bit"], until="quantize")
    rows = combinations(read_sweep(path))
    tasks = distinct(rows)
    assert len(rows) == 6 and [task.step for task in tasks] == ["score"] + ["solve"] * 6 + ["quantize"] * 6
    places = {task.key: place for place, task in enumerate(tasks)}
    assert all(places[key] < places[task.key] for task in tasks for key in task.inputs.values())


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"budgets": ["3bit"]}, ["score"]),
        ({"devices": ["rpi5"]}, ["score"]),
        ({"devices": [{"device": "rpi5", "engine": "openvino"}]}, ["score"]),
        ({"seed": 1}, []),
        ({"bits": "2,4"}, []),
        ({"methods": ["gptq"]}, []),
        ({"metrics": ["fisher"]}, []),
        ({"scoring_samples": 17}, []),
        ({"max_tokens": 20}, []),
        ({"seq_len": 20}, ["score"]),
        ({"until": "export"}, ["score", "solve", "quantize"]),
    ],
)
def test_what_a_result_depends_on_is_in_its_key(sweep_file, change, same):
    """Another value of an option is another key, from the first step that reads it."""

    def keys(path):
        return {task.key: task.step for task in distinct(combinations(read_sweep(path)))}

    one, two = keys(sweep_file(until="quantize")), keys(sweep_file(**{"until": "quantize"} | change))
    assert [one[key] for key in one if key in two] == same


def test_the_code_is_in_every_key(sweep_file, monkeypatch):
    """What another version made is not taken for ours."""
    keys = []
    for version in ("1", "2"):
        monkeypatch.setattr("qbert_opt.sweep.graph.code", lambda version=version: version)
        keys.append({task.key for task in distinct(combinations(read_sweep(sweep_file())))})
    assert not keys[0] & keys[1]


def test_a_full_disk_ends_the_sweep_in_one_line(dask_client, quick_steps, sweep_file, tmp_path, monkeypatch):
    """Every further step would fail too; what is finished stays."""

    def full(work, folder):
        raise OSError(errno.ENOSPC, "No space left on device")

    path = sweep_file(budgets=["3bit", "4bit"])
    with monkeypatch.context() as patch:
        patch.setattr("qbert_opt.sweep.steps.solve.make", full)
        with pytest.raises(FullDiskError, match=r"solve/\w+: was not written: the disk is full"):
            sweep(path, tmp_path / "out", client=dask_client)
    assert len(list((tmp_path / "out" / "artifacts" / "score").glob("*/task.json"))) == 1
    assert {row.status for row in sweep(path, tmp_path / "out", client=dask_client).rows} == {"done"}


def test_a_bug_in_one_step_is_a_row_too(dask_client, quick_steps, sweep_file, tmp_path, monkeypatch):
    """It does not end the other models; the row says what was raised."""
    monkeypatch.setattr("qbert_opt.sweep.steps.solve.make", lambda work, folder: 1 / 0)
    found = sweep(sweep_file(), tmp_path / "out", client=dask_client)
    assert [(row.status, row.reason) for row in found.rows] == [("failed", "ZeroDivisionError: division by zero")]


@pytest.mark.parametrize("what", ["device", "data", "model"])
def test_an_input_that_changes_meanwhile_is_refused(
    dask_client, sweep_file, shared_cache, tmp_path, tiny_folder, data_file, what
):
    """A result is never kept under the key of something else."""
    from qbert_opt.sweep.cluster import run_tasks

    shutil.copytree(tiny_folder, tmp_path / "model")
    shutil.copy(data_file, tmp_path / "text.tsv")
    device = tmp_path / "mine.yaml"
    device.write_text("schema: qbert-opt/device@1\nid: mine\ninherit: car-soc\n")
    path = sweep_file(models=["model"], data="text.tsv", devices=["mine.yaml"])
    if what != "device":  # another model and text than those that are kept already
        (tmp_path / "model" / "note.txt").write_text(what)
    tasks = distinct(combinations(read_sweep(path)))
    if what == "device":
        device.write_text("schema: qbert-opt/device@1\nid: mine\ninherit: rpi5\n")
    elif what == "data":
        (tmp_path / "text.tsv").write_text(data_file.read_text() + "w1 w2 w3\tred\n")
    else:
        (tmp_path / "model" / "config.json").write_text((tmp_path / "model" / "config.json").read_text() + "\n")
    results = run_tasks(dask_client, tasks, {}, shared_cache, 1, lambda *a: None)
    assert "changed while the sweep was running" in results[tasks[-1].key].reason


def test_an_output_that_is_a_file_is_refused(sweep_file, tmp_path):
    """Before any work."""
    (tmp_path / "out").write_text("")
    with pytest.raises(InputFileError, match="is a file"):
        sweep(sweep_file(), tmp_path / "out", client=object())


def test_without_dask_one_line_says_how_to_install_it(cli, sweep_file, tmp_path, monkeypatch):
    """Before the file is read, and with exit code 2."""
    monkeypatch.setitem(__import__("sys").modules, "distributed", None)
    done = cli("sweep", sweep_file(), "-o", tmp_path / "out")
    assert done.code == 2 and "needs Dask, which is not installed" in done.complaint
    assert 'Install it: pip install "qbert-opt[sweep]".' in done.complaint


def test_workers_are_numbers_above_zero():
    """A worker has at least one thread."""
    with pytest.raises(UsageError, match="`threads` 0: must be at least 1"):
        Workers(threads=0)
    assert Workers(count=3).local_count == 3 and Path("/").exists()
