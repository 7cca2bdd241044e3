"""Files and folders are written whole or not at all, whatever happens while writing."""

import errno
import os
import stat
import tempfile

import pytest

from qbert_opt.errors import UsageError
from qbert_opt.runtime.files import atomic_file, atomic_folder, forget_written, write_text, written

ACCIDENTS = {
    "exception": (ValueError("ours"), ValueError, "ours"),
    "ctrl-c": (KeyboardInterrupt(), KeyboardInterrupt, None),
    "full disk": (
        OSError(errno.ENOSPC, "No space left on device"),
        UsageError,
        "was not written: the disk is full",
    ),
    "no rights": (OSError(errno.EACCES, "Permission denied"), UsageError, "cannot be written: Permission denied"),
}


@pytest.fixture(params=ACCIDENTS)
def accident(request):
    """What is raised while writing, what arrives, and its message."""
    return ACCIDENTS[request.param]


@pytest.mark.parametrize("old", [None, "old"])
def test_a_file_is_old_or_none_after_an_accident(tmp_path, accident, old):
    """The old file stays as it was, and nothing named .part is left."""
    error, kind, message = accident
    target = tmp_path / "plan.json"
    if old:
        target.write_text(old)
    with pytest.raises(kind, match=message), atomic_file(target) as part:
        part.write_text("half")
        raise error
    assert [p.name for p in tmp_path.iterdir()] == (["plan.json"] if old else [])
    assert not old or target.read_text() == old


@pytest.mark.parametrize("old", [False, True])
def test_a_folder_is_none_after_an_accident(tmp_path, accident, old):
    """An empty folder stays empty, a new one is not made, and nothing named .part is left."""
    error, kind, message = accident
    target = tmp_path / "out"
    if old:
        target.mkdir()
    with pytest.raises(kind, match=message), atomic_folder(target) as part:
        (part / "half").write_text("half")
        raise error
    assert [p.name for p in tmp_path.iterdir()] == (["out"] if old else [])
    assert not old or not list(target.iterdir())


@pytest.mark.parametrize("make", [atomic_file, atomic_folder])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_a_disk_that_refuses_the_first_byte(tmp_path, monkeypatch, make, number):
    """Not even the temporary name can be made: still one clear line."""

    def refuse(*_arguments, **_options):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    message = {errno.ENOSPC: "the disk is full", errno.EACCES: "cannot be written: Permission denied"}[number]
    with pytest.raises(UsageError, match=message), make(tmp_path / "x"):
        pass


@pytest.mark.parametrize("make", [atomic_file, atomic_folder])
def test_a_missing_parent_is_refused(tmp_path, make):
    """Folders are not made on the way: a typing error would make them."""
    message = r"its folder .*nowhere does not exist\. Create it first"
    with pytest.raises(UsageError, match=message), make(tmp_path / "nowhere" / "x"):
        pass


def test_a_full_folder_is_refused(tmp_path):
    """Neither a folder with something in it nor a file is replaced by a folder."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis").write_text("")
    (tmp_path / "file").write_text("")
    for name in ("full", "file"):
        message = rf"{name}: exists and is not an empty folder\. Give a new folder"
        with pytest.raises(UsageError, match=message), atomic_folder(tmp_path / name):
            pass
    assert (tmp_path / "full" / "thesis").exists()


def test_only_files_are_replaced(tmp_path):
    """A folder or a device in the place of the file stays what it is."""
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("folder", "pipe"):
        message = rf"{name}: is a folder or a device, which a file cannot replace"
        with pytest.raises(UsageError, match=message), atomic_file(tmp_path / name):
            pass
    assert (tmp_path / "folder").is_dir() and (tmp_path / "pipe").is_fifo()


def test_success_replaces_with_the_usual_rights(tmp_path):
    """What is written is readable as any other new file is, not only by its owner as temporary files are."""
    target = tmp_path / "a.json"
    target.write_text("old")
    write_text(target, "néw")
    assert target.read_text(encoding="utf-8") == "néw"
    with atomic_folder(tmp_path / "out") as part:
        (part / "x").write_text("x")
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain.txt").write_text("")
    for found, usual in (("a.json", "plain.txt"), ("out", "plain")):
        assert stat.S_IMODE((tmp_path / found).stat().st_mode) == stat.S_IMODE((tmp_path / usual).stat().st_mode)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "out", "plain", "plain.txt"]


def test_what_a_killed_process_left_of_a_file_goes_with_the_next_write(tmp_path):
    """The unfinished file of a dead process is removed, that of a living one is not, nor that of another output."""
    left, other = tmp_path / ".plan.json.abcdefgh.part", tmp_path / ".plan.json.b.abcdefgh.part"
    left.write_text("half")
    other.write_text("half")
    with atomic_file(tmp_path / "plan.json") as living:
        assert not left.exists()
        write_text(tmp_path / "plan.json", "second")
        living.write_text("first")
    assert (tmp_path / "plan.json").read_text() == "first"
    assert sorted(path.name for path in tmp_path.iterdir()) == [other.name, "plan.json"]


def test_progress_is_no_output(tmp_path):
    """Neither that of the first process of a run, nor those of further ones, which end in their number."""
    forget_written()
    names = ["s.json.partial", "s.json.partial.1", "s.json.partial.12", "s.json", "s.1", "partial.1"]
    for name in names:
        with atomic_file(tmp_path / name) as part:
            part.write_text("some")
    assert [path.name for path in written()] == names[3:]
    forget_written()
