"""Kind 10: names that the file system refuses are one line, before the work."""

import os

import pytest

from qbert_opt.errors import UsageError
from qbert_opt.runtime.files import check_folder, write_text

LONG = "x" * 300
WRITING = [
    "solve -b 25MB -o {}.json", "solve -b 25MB --plot {}.png", "pareto -o {}.json", "pareto --plot {}.png",
    "simulate p -d car-soc --roofline {}.png", "simulate p -d car-soc --timeline {}.png", "report p -o {}.html",
    "export-config p --to nncf -o {}.json", "import-config c --from nncf -s reference -o {}.json",
    "calibrate -o {}.yaml",
    "sensitivity -m m --data d -o {}.json", "diagnose -m m --data d -o {}.json", "diagnose -m m --data d --plot {}.png",
    "quantize p -m m -o {}", "export f --engine openvino -o {}", "recover p -m m --data d -o {}",
    "fine-tune --encoder e --data d -o {}", "optimize -m m --data d -b 4bit -o {}",
    "trim-vocabulary -m m --data d -o {}",
]  # fmt: skip


@pytest.mark.parametrize("line", WRITING)
@pytest.mark.parametrize("name", [LONG, "/".join(["y" * 200] * 30), "nowhere/there"], ids=["name", "path", "folder"])
def test_an_output_that_cannot_be_written_is_refused_first(cli, line, name):
    """None of the inputs exists: nothing was read or made."""
    found = cli(*line.format(name).split())
    assert found.code == 2 and len(found.complaint) < 400
    assert "File name too long" in found.complaint or "does not exist. Create it first" in found.complaint


@pytest.mark.parametrize(
    "line",
    [
        "evaluate {} --data d", "run {} --text t", "recover {} -m m --data d -o o",
        "export {} --engine openvino -o o -q",
        "solve -b 25MB -d {}", "solve -b 3bit -s {}", "report {} -o r.html", "sensitivity -m {} --data d",
        "simulate {} -d car-soc", "import-config {}.json --from nncf -s reference",
    ],
)  # fmt: skip
def test_an_input_of_such_a_name_is_one_line(cli, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = cli(*line.format("/".join(["y" * 200] * 30)).split())
    assert found.code in (2, 4) and "Traceback" not in found.err and found.complaint


def test_the_temporary_name_counts(tmp_path):
    """A file is written beside its place first, under a longer name."""
    most = os.pathconf(tmp_path, "PC_NAME_MAX") - len("..12345678.part")
    write_text(tmp_path / ("x" * most), "whole")
    with pytest.raises(UsageError, match=rf"the name has {most + 1} bytes; at most {most} can be written here"):
        check_folder(tmp_path / ("x" * (most + 1)))
    with pytest.raises(UsageError, match=r"the name has 24\d bytes"):
        check_folder(tmp_path / ("ü" * 121))


def test_a_folder_that_may_not_be_written_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    with pytest.raises(UsageError, match="is not writable"):
        check_folder(tmp_path / "x")
