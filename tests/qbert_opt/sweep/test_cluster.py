"""Dask: which schedulers and workers are accepted, and what the death of a worker costs."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qbert_opt.errors import UsageError
from qbert_opt.sweep import cluster
from qbert_opt.sweep.cluster import Workers, check_address, check_workers, connected, run_tasks
from qbert_opt.sweep.task import Task, make_task
from qbert_opt.sweep.work import Result, code, perform

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    "address", ["tcp://127.0.0.1:8786", "tcp://localhost:1", "tcp://[::1]:8786", "tls://far.org:1"]
)
def test_schedulers_here_or_over_tls_are_legal(address):
    """Nobody else can send code to them."""
    check_address(address)


@pytest.mark.parametrize("address", ["tcp://far.org:8786", "tcp://10.0.0.7:8786", "tcp://0.0.0.0:1"])
def test_a_remote_scheduler_without_tls_is_refused(address):
    """Its messages can run code; the line says what to give instead."""
    with pytest.raises(UsageError, match=r"a remote scheduler needs TLS.* Give tls://"):
        check_address(address)


@pytest.mark.parametrize(
    "address", ["far.org:8786", "ucx://far.org:1", "tls://", "tls://far.org", "tls://far.org:x", ""]
)
def test_what_is_no_address_is_refused(address):
    """Scheme, host and port are needed."""
    with pytest.raises(UsageError, match=r"legal: tls://HOST:PORT"):
        check_address(address)


def test_a_scheduler_that_does_not_answer_is_one_line(cli, sweep_file, tmp_path, monkeypatch):
    """Exit code 2, and what to do."""
    monkeypatch.setattr(cluster, "CONNECT_S", 0.3)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    done = cli("sweep", sweep_file(), "-o", tmp_path / "out", "--scheduler", address, "--quiet")
    assert done.code == 2 and f"--scheduler {address}: cannot be reached within" in done.err
    assert "Start one with 'dask scheduler'" in done.err and len(done.err.splitlines()) == 1


def test_a_certificate_that_is_not_there_is_named():
    """Before a connection is tried."""
    with (
        pytest.raises(UsageError, match="`tls_ca` nowhere: no such file"),
        connected(Workers(scheduler="tls://127.0.0.1:1", tls={"tls_ca": "nowhere", "tls_cert": None, "tls_key": None})),
    ):
        pass


def test_tls_without_certificates_is_one_line():
    """Dask would say that it got no `ssl.SSLContext`."""
    with (
        pytest.raises(UsageError, match="TLS needs `tls_ca`, `tls_cert` and `tls_key`"),
        connected(Workers(scheduler="tls://127.0.0.1:1")),
    ):
        pass


class Answering:
    """A client whose workers answer with what they are given."""

    def __init__(self, answer):
        self.answer = answer

    def run(self, function, mark, on_error):
        assert on_error == "return"
        found = self.answer(function, mark)
        return {"tls://far:1": function(mark), "tls://far:2": found}


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (
            lambda function, mark: ("0.0.1 release", Path(mark).read_text()),
            "far:2: runs qbert-opt 0.0.1 release; ",
        ),
        (lambda function, mark: (code(), ""), "far:2: does not see .*Give a `cache` on a disk that all workers share"),
        (lambda function, mark: ModuleNotFoundError("qbert_opt"), "far:2: qbert-opt does not answer there"),
        (lambda function, mark: function(mark), None),
    ],
)
def test_workers_must_run_the_same_code_and_see_the_cache(tmp_path, answer, said):
    """Another version would keep other results under the same key; nothing is left in the cache by the check."""
    if said is None:
        check_workers(Answering(answer), tmp_path)
    else:
        with pytest.raises(UsageError, match=said):
            check_workers(Answering(answer), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_worker_of_another_version_that_joins_later_does_nothing(tmp_path):
    """The task carries the version that it is for."""
    task = make_task("score", "score a", {}, {}, {}, "0.0.1 release")
    result = Result.model_validate_json(perform(task.model_dump_json(), str(tmp_path), 1))
    assert result.status == "failed" and "this worker runs qbert-opt" in result.reason and not list(tmp_path.iterdir())


def test_a_scheduler_that_goes_away_ends_in_one_line(tmp_path):
    """What is finished stays; the same command goes on."""

    class Gone:
        key, status = "score-k", "cancelled"

    with pytest.raises(
        UsageError, match=r"`scheduler`: connection lost\. Finished steps are kept: run the same command again"
    ):
        cluster._result(Gone(), make_task("score", "", {}, {}, {}, code()))


def finished_or_waiting(task_json, cache, threads, *before):
    """The step `score` ends at once, `solve` when somebody writes the file `go` in the cache."""
    task = Task.model_validate_json(task_json)
    with (Path(cache) / task.step).open("a", encoding="utf-8") as calls:
        calls.write("called\n")
    while task.step == "solve" and not (Path(cache) / "go").exists():
        time.sleep(0.02)
    return Result(key=task.key, step=task.step, status="made").model_dump_json()


def test_a_scheduler_that_restarts_goes_on_with_what_is_left(tmp_path, monkeypatch, capfd):
    """A real one: when it goes, one line and nothing of Dask's; what is finished is not done again by the next."""
    import dask
    from distributed import LocalCluster

    monkeypatch.setattr(cluster, "perform", finished_or_waiting)
    score = make_task("score", "", {}, {}, {}, code())
    solve = make_task("solve", "", {"score": score}, {}, {}, code())

    def scheduler(port):
        return LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, protocol="tcp://", scheduler_port=port,
            host="127.0.0.1", dashboard_address=cluster.PRIVATE, worker_dashboard_address=cluster.PRIVATE,
        )  # fmt: skip

    finished = {}
    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}), scheduler(0) as first:

        def until_solve(done, total, title):
            if done == 1:  # the score has ended
                finished[score.key] = Result(key=score.key, step="score", status="made")
                first.sync(first.scheduler.close)

        address = first.scheduler_address
        with (
            connected(Workers(scheduler=address)) as client,
            pytest.raises(UsageError, match=r"`scheduler`: connection lost\. Finished steps are kept"),
        ):
            assert not logging.getLogger("distributed.client").isEnabledFor(logging.ERROR)
            run_tasks(client, [score, solve], {}, tmp_path, 1, until_solve)
        (tmp_path / "go").touch()
    with scheduler(int(address.rsplit(":", 1)[1])) as again, connected(Workers(scheduler=address)) as client:
        assert again.scheduler_address == address
        results = run_tasks(client, [score, solve], finished, tmp_path, 1, lambda *a: None)
    assert {result.status for result in results.values()} == {"made"} and len(results) == 2
    assert (tmp_path / "score").read_text() == "called\n"
    assert capfd.readouterr().err == ""


def test_a_task_that_kills_its_workers_is_given_up(tmp_path):
    """Its row says what most often does that."""

    class KilledWorker(Exception):
        pass

    class Killed:
        key, status = "score-k", "error"

        def exception(self):
            return KilledWorker("score-k")

    result = cluster._result(Killed(), make_task("score", "", {}, {}, {}, code()))
    assert result.status == "failed" and "needs more memory than a worker may have" in result.reason


def test_steps_after_a_failed_one_are_not_tried(dask_client, tmp_path):
    """They carry its reason and its step."""
    first = make_task("score", "score a", {}, {"model": "x"}, {"model": str(tmp_path / "none")}, code())
    second = make_task("solve", "solve a", {"score": first}, {}, {"device": None}, code())
    results = run_tasks(dask_client, [first, second], {}, tmp_path, 1, lambda *a: None)
    assert [(results[t.key].status, results[t.key].step) for t in (first, second)] == [("failed", "score")] * 2
    assert "none: no such folder" in results[second.key].reason


@pytest.mark.slow
def test_a_worker_that_is_killed_costs_only_what_it_had_not_kept(sweep_file, tmp_path, data_file):
    """SIGKILL while it scores, with all of its memory: the sweep goes on by itself and states what was lost."""
    path = sweep_file(bits="2,3,4,8", scoring_samples=40, calibration_samples=40, budgets=["4bit"])
    out = tmp_path / "out"
    words = ("-m", "qbert_opt", "sweep", path, "-o", out, "--workers", "1", "--json", "--quiet")
    process = subprocess.Popen([sys.executable, *map(str, words)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        begun = None
        while begun is None or begun.stat().st_mtime < float(begun.read_text()) + 0.4:  # it has shown life since
            assert process.poll() is None
            begun = next((out / "artifacts" / "score").glob("*.making/.begun"), None)
            time.sleep(0.02)
        lock = begun.parent.with_name(f".{begun.parent.stem}.lock")
        os.kill(int(lock.read_text().split()[1]), signal.SIGKILL)
        printed, _ = process.communicate()
    finally:
        process.kill()
    assert process.returncode == 0
    found = json.loads(printed)
    assert [row["status"] for row in found["rows"]] == ["done"] and found["num_found"] == 0
    [record] = [json.loads(file.read_text()) for file in (out / "artifacts" / "score").glob("*/task.json")]
    assert found["lost_s"] == record["lost_s"] > 0
    assert not list(out.glob("artifacts/*/*.making"))
