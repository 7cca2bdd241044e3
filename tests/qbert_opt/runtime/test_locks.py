"""One writer for each output, whatever becomes of the process that holds the lock."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from qbert_opt.errors import QbertOptWarning, UsageError
from qbert_opt.runtime import locks
from qbert_opt.runtime.files import atomic_folder

ROOT = Path(__file__).parents[3]
HOLDING = """
import signal, sys, time
from qbert_opt.runtime import locks
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a run in the background would ignore
with locks.sole_writer(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of `out`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(tmp_path / "out")], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_another_process_is_refused_with_the_holder_s_name(tmp_path, holder):
    """Whoever writes a file or a folder of that name."""
    with pytest.raises(UsageError, match=rf"out: is being written by another run \(process {holder.pid} on \S+\)\."):
        locks.acquire(tmp_path / "out")
    with pytest.raises(UsageError, match=r"out: is being written by another run"), atomic_folder(tmp_path / "out"):
        raise AssertionError("unreachable")
    assert [path.name for path in tmp_path.iterdir()] == [".out.lock"]
    with locks.sole_writer(tmp_path / "other"):
        pass


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_dead_holder_holds_nobody_up(tmp_path, holder, number):
    """The lock file of a killed process may still be there: the system dropped its lock."""
    holder.send_signal(number)
    holder.wait()
    with atomic_folder(tmp_path / "out") as part:
        assert locks.lock_file(tmp_path / "out").read_text().startswith(f"process {os.getpid()} on ")
        (part / "x").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_twice_in_one_process(tmp_path):
    """A folder has one writer in a process too; progress may be taken up again after an error."""
    again = locks.sole_writer(tmp_path / "out")
    with locks.sole_writer(tmp_path / "out"), pytest.raises(UsageError, match=r"\(this process\)"), again:
        raise AssertionError("unreachable")
    locks.acquire(tmp_path / "x")
    locks.acquire(tmp_path / "x")
    assert locks.held() == (tmp_path / "x",)
    locks.release(tmp_path / "x")
    locks.release(tmp_path / "x")
    assert locks.held() == () and not list(tmp_path.iterdir())


def test_a_lock_follows_no_link(tmp_path):
    """A link in place of the lock file would have somebody else's file emptied."""
    precious = tmp_path / "precious"
    precious.write_text("precious")
    locks.lock_file(tmp_path / "out").symlink_to(precious)
    with pytest.raises(UsageError, match=r"out: cannot be written"):
        locks.acquire(tmp_path / "out")
    assert precious.read_text() == "precious"


def test_folders_of_similar_names_keep_their_unfinished_parts(tmp_path):
    """What is left of `out` is removed by the next run; what somebody writes as `out.b` is not."""
    left = tmp_path / ".out.abcdefgh.part"
    left.mkdir()
    with atomic_folder(tmp_path / "out.b") as part, atomic_folder(tmp_path / "out") as other:
        assert part.is_dir() and other.is_dir() and not left.exists()


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch):
    """The work goes on, with a warning; nothing is left."""

    def unsupported(*_arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "lockf", unsupported)
    with pytest.warns(QbertOptWarning, match=r"out: cannot be locked \(No locks available\)\. Start no second run"):
        locks.acquire(tmp_path / "out")
    locks.release(tmp_path / "out")
