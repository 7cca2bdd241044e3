"""Finished work is not repeated, is never of another run, and is shared by processes; damaged lines are done again."""

import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest

from qbert_opt.runtime.distributed import Processes
from qbert_opt.runtime.resumable import Jobs, ProgressWarning

ROOT = Path(__file__).parents[3]
KEYS = [f"job {i}" for i in range(7)]


def squares(key):
    """A job whose result is no short decimal number."""
    number = int(key.split()[1])
    return [number / 3, *[np.pi * number] * (number % 3)]


def test_interrupted_jobs_are_not_repeated(tmp_path):
    """What was done before Ctrl-C comes from the file, bit by bit; the file goes when the run is complete."""
    done = []

    def job(key):
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append(key)
        return squares(key)

    with pytest.raises(KeyboardInterrupt):
        Jobs(tmp_path / "x.partial", "run").run(KEYS, job)
    again = []
    jobs = Jobs(tmp_path / "x.partial", "run")
    found = jobs.run(KEYS, lambda key: again.append(key) or squares(key))
    assert (done, again) == (KEYS[:4], KEYS[4:])
    assert found == {key: squares(key) for key in KEYS}
    with pytest.warns(ProgressWarning, match=r"x\.partial: 7 of its lines are damaged, of another run"):
        other = Jobs(tmp_path / "x.partial", "another run")
    assert not other.finished
    jobs.remove()
    assert not list(tmp_path.iterdir())


def whole_file(path):
    """A progress file with every job finished, and what it holds."""
    jobs = Jobs(path, "run")
    found = jobs.run(KEYS, squares)
    data = path.read_bytes()
    jobs.remove()
    return found, data


def test_each_line_says_of_which_run_it_is(tmp_path):
    """Lines of two runs in one file: each run takes its own, and one line says how many are not."""
    path = tmp_path / "x.partial"
    jobs = Jobs(path, "seed 1")
    jobs.add("job 0", [1.0])
    with path.open("a") as file:
        other = Jobs(tmp_path / "y.partial", "seed 2")
        other.add("job 1", [2.0])
        file.write((tmp_path / "y.partial").read_text())
    other.remove()
    with pytest.warns(ProgressWarning, match=r"x\.partial: 1 of its lines are damaged, of another run") as caught:
        again = Jobs(path, "seed 1")
    assert again.finished == {"job 0": [1.0]} and len(caught) == 1
    again.remove()


def test_a_flipped_bit_drops_its_line_only(tmp_path):
    """Any bit of any byte: no traceback, no other number; at most the lines on both sides of a line end are lost."""
    path = tmp_path / "x.partial"
    whole, data = whole_file(path)
    for position in range(len(data)):
        spoiled = bytearray(data)
        spoiled[position] ^= 1 << position % 8
        path.write_bytes(spoiled)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ProgressWarning)
            jobs = Jobs(path, "run")
        assert len(jobs.finished) >= len(KEYS) - 2
        assert jobs.finished.items() <= whole.items()
        jobs.remove()


@pytest.mark.parametrize("seed", range(20))
def test_mutated_progress_gives_no_wrong_number(tmp_path, seed):
    """Bytes removed, doubled, moved and replaced: what is taken is what was finished."""
    path = tmp_path / "x.partial"
    whole, data = whole_file(path)
    random = np.random.default_rng(seed)
    for _ in range(10):
        a, b, c = sorted(random.integers(0, len(data), 3))
        noise = random.integers(0, 256, 5, dtype=np.uint8).tobytes()
        mutants = (data[:a], data[a:], data[:a] + data[b:], data[:b] + data[a:], data[b:c] + data, data[:a] + noise)
        path.write_bytes(mutants[random.integers(len(mutants))])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ProgressWarning)
            jobs = Jobs(path, "run")
        assert jobs.finished.items() <= whole.items()
        jobs.remove()


ODD_FILES = {
    "cut off": b'["run", "job 0", [0.0',
    "not UTF-8": b"\xff\xfe\x00run\n",
    "older format": b'run\n["job 0", [0.0]]\n["job 1", [0.33',
    "nested": b"[" * 100_000,
    "no list": b'{"run": 1}\n3\nnull\n',
    "huge number": b"9" * 10_000,
    "no checksum": b'["run", "job 0", [0.0]]\n',
}


@pytest.mark.parametrize("odd", ODD_FILES)
def test_odd_progress_files_are_done_again(tmp_path, odd):
    """One warning, nothing taken, and the run completes."""
    path = tmp_path / "x.partial"
    path.write_bytes(ODD_FILES[odd])
    with pytest.warns(ProgressWarning, match=r"that work is done again") as caught:
        jobs = Jobs(path, "run")
    assert len(caught) == 1 and jobs.finished == {}
    assert jobs.run(KEYS, squares) == {key: squares(key) for key in KEYS}
    jobs.remove()
    assert not list(tmp_path.iterdir())


def test_a_second_run_with_the_same_output_is_refused(tmp_path):
    """While one process works with a progress file, another one is told whose it is; afterwards it may."""
    code = """
import sys
from qbert_opt.errors import UsageError
from qbert_opt.runtime.resumable import Jobs
try:
    Jobs(sys.argv[1], "another seed").remove()
except UsageError as error:
    print(error)
"""
    path = tmp_path / "x.partial"
    jobs = Jobs(path, "run")
    jobs.add("job 0", [1.0])
    before = path.read_bytes()
    second = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(second, capture_output=True, text=True, check=True, cwd=ROOT)
    assert f"x.partial: is being written by another run (process {os.getpid()} on" in done.stdout
    assert path.read_bytes() == before
    jobs.remove()
    done = subprocess.run(second, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "" and not list(tmp_path.iterdir())


class Threads(Processes):
    """Processes as threads of this one: sums meet at a barrier."""

    def __init__(self, rank, count, shared):
        super().__init__(rank, count)
        object.__setattr__(self, "shared", shared)

    def sum(self, array):
        slots, barrier = self.shared
        slots[self.rank] = np.array(array, dtype=np.float64)
        barrier.wait(10)
        total = sum(slots[rank] for rank in range(self.count))
        barrier.wait(10)
        return total


def together(count, work):
    """Run work(processes) in `count` threads; returns what each gave."""
    shared, found, errors = ({}, threading.Barrier(count)), [None] * count, []

    def one(rank):
        try:
            found[rank] = work(Threads(rank, count, shared))
        except Exception as error:
            errors.append(error)
            shared[1].abort()

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors
    return found


@pytest.mark.parametrize("count", [2, 3, 9])
def test_jobs_are_shared(tmp_path, count):
    """Each job is done once, by one process; every process gets all results, bit by bit; no file stays."""
    done = []

    def work(processes):
        jobs = Jobs(tmp_path / "x.partial", "run", processes)
        found = jobs.run(KEYS, lambda key: done.append(key) or squares(key))
        jobs.remove()
        return found

    assert together(count, work) == [{key: squares(key) for key in KEYS}] * count
    assert sorted(done) == sorted(KEYS)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 3), (3, 2)])
def test_a_run_goes_on_with_another_number_of_processes(tmp_path, before, after):
    """Files of all processes are read; what they hold is not done again."""

    def stop(processes):
        jobs = Jobs(tmp_path / "x.partial", "run", processes)
        for key in jobs.pending(KEYS)[:-1]:
            jobs.add(key, squares(key))

    together(before, stop)
    known, done = len(KEYS) - before, []

    def go_on(processes):
        jobs = Jobs(tmp_path / "x.partial", "run", processes)
        found = jobs.run(KEYS, lambda key: done.append(key) or squares(key))
        jobs.remove()
        return found

    assert together(after, go_on) == [{key: squares(key) for key in KEYS}] * after
    assert len(done) == len(KEYS) - known
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("costs", [[1.0], [5.0, 1, 1, 1, 1, 1], [3.0, 3, 2, 2, 2]])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_shares_are_disjoint_complete_and_balanced(costs, count):
    """Every piece has one owner; no load is above the fair share by more than the dearest piece."""
    shares = [Processes(rank, count).share(costs) for rank in range(count)]
    assert sorted(i for share in shares for i in share) == list(range(len(costs)))
    assert max(sum(costs[i] for i in share) for share in shares) <= sum(costs) / count + max(costs)
