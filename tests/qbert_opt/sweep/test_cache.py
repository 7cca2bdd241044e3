"""Results by key: made once, whole or not at all, also beside another sweep and after a kill."""

import errno
import os
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qbert_opt.errors import FullDiskError, InputFileError, UsageError
from qbert_opt.sweep import cache as cache_module
from qbert_opt.sweep.cache import BEGUN, Cache, Record
from qbert_opt.sweep.task import make_task

FIRST = make_task("score", "score a", {}, {"model": "1"}, {"model": "/a"}, "code")
word = st.sampled_from(("", "a", "b"))
parts = st.tuples(word, word, word, word)


def writing(text="result", record=None):
    """A step that writes one file."""

    def make(folder):
        (folder / "result").write_text(text)
        return record or Record(task=FIRST)

    return make


@settings(max_examples=30)
@given(parts, parts)
def test_a_key_is_of_step_inputs_options_and_code_and_of_nothing_else(one, two):
    """Two tasks share a key if and only if all of these agree; title and paths do not matter."""

    def task(step, option, before, code, where):
        earlier = make_task("e", "", {}, {"x": before}, {}, "")
        return make_task(step, where, {"e": earlier}, {"o": option}, {"p": where}, code)

    assert (task(*one, "here").key == task(*two, "there").key) == (one == two)


def test_a_result_is_made_once(tmp_path):
    """The second time it is found, with its record, and nothing else lies in the cache."""
    cache = Cache(tmp_path / "cache")
    assert cache.record(FIRST) is None
    record, here = cache.make(FIRST, (), writing())
    again, here_again = cache.make(FIRST, (), lambda folder: pytest.fail("made twice"))
    assert (here, here_again) == (True, False) and again == record == cache.record(FIRST)
    folder = cache.folder("score", FIRST.key)
    assert (folder / "result").read_text() == "result"
    assert sorted(path.name for path in folder.parent.iterdir()) == [FIRST.key]
    assert sorted(path.name for path in folder.iterdir()) == ["result", "task.json"]


def test_a_step_that_fails_leaves_no_result_and_is_tried_again(tmp_path):
    """Mistakes are not kept: the file may be repaired before the next run."""

    def failing(folder):
        (folder / "half").write_text("half")
        raise InputFileError("x: is damaged.")

    cache = Cache(tmp_path)
    with pytest.raises(InputFileError, match="is damaged"):
        cache.make(FIRST, (), failing)
    assert cache.record(FIRST) is None
    record, here = cache.make(FIRST, (), writing())
    assert here and record.lost_s == 0 and not (cache.folder("score", FIRST.key) / "half").exists()


def test_what_a_killed_attempt_left_is_used_and_its_loss_is_stated(tmp_path):
    """Progress stays, the rest goes; lost is the time after the last progress, up to the last sign of life."""
    cache = Cache(tmp_path)
    making = cache.folder("score", FIRST.key).with_name(f"{FIRST.key}.making")
    making.mkdir(parents=True)
    now = time.time()
    for name, changed in ((BEGUN, now - 10), ("scores.json.partial", now - 13), ("half", now - 40)):
        (making / name).write_text(f"{now - 60:.3f}" if name == BEGUN else name)
        os.utime(making / name, (changed, changed))

    def going_on(folder):
        assert sorted(path.name for path in folder.iterdir()) == [BEGUN, "scores.json.partial"]
        return Record(task=FIRST)

    record, _ = cache.make(FIRST, ("*.partial",), going_on)
    assert record.lost_s == pytest.approx(3, abs=0.01)


@pytest.mark.parametrize(("progress", "lost"), [(None, 50), (-55, 45), (-70, 50), (5, 50)])
def test_lost_time_counts_from_the_last_progress_of_that_attempt(tmp_path, progress, lost):
    """Progress of an earlier attempt does not count, nor does a file from the future."""
    now = time.time()
    (tmp_path / BEGUN).write_text(f"{now - 60:.3f}")
    os.utime(tmp_path / BEGUN, (now - 10, now - 10))
    if progress is not None:
        (tmp_path / "partial").write_text("x")
        os.utime(tmp_path / "partial", (now + progress, now + progress))
    assert cache_module._lost_s(tmp_path) == pytest.approx(lost, abs=0.01)


def test_two_sweeps_on_one_cache_make_a_result_once(tmp_path, monkeypatch):
    """The second waits for the first and finds what it made."""
    monkeypatch.setattr(cache_module, "WAIT_S", 0.01)
    cache, begun, go_on, found = Cache(tmp_path), threading.Event(), threading.Event(), []

    def slow(folder):
        begun.set()
        assert go_on.wait(10)
        return writing()(folder)

    first = threading.Thread(target=lambda: found.append(cache.make(FIRST, (), slow)[1]))
    first.start()
    assert begun.wait(10)
    second = threading.Thread(target=lambda: found.append(cache.make(FIRST, (), lambda folder: 1 / 0)[1]))
    second.start()
    go_on.set()
    first.join()
    second.join()
    assert found in ([True, False], [False, True])


@pytest.mark.parametrize("place", ["cache", "result"])
def test_a_full_disk_is_one_line_wherever_it_shows(tmp_path, monkeypatch, place):
    """Nothing is left under the final name."""
    full = OSError(errno.ENOSPC, "No space left on device")

    def fails(*arguments, **options):
        raise full

    cache = Cache(tmp_path)
    if place == "cache":
        monkeypatch.setattr(cache_module.Path, "mkdir", fails)
    with pytest.raises(FullDiskError, match=r"score/\w+: was not written: the disk is full\. Free some space"):
        cache.make(FIRST, (), fails)
    assert cache.record(FIRST) is None


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path):
    """A file where the folder should be."""
    (tmp_path / "score").write_text("")
    with pytest.raises(UsageError, match=r"score/\w+: cannot be written"):
        Cache(tmp_path).make(FIRST, (), writing())


def test_a_damaged_record_is_named(tmp_path):
    """It is not taken for a result."""
    cache = Cache(tmp_path)
    cache.make(FIRST, (), writing())
    (cache.folder("score", FIRST.key) / "task.json").write_text("{")
    with pytest.raises(InputFileError, match=r"task\.json"):
        cache.record(FIRST)
