"""What a verb writes is checked before it works: files where files are written, new folders where folders are."""

import pytest
import typer

from qbert_opt.cli.app import app
from qbert_opt.cli.outputs import FOLDER_OPTIONS, NEW_FOLDERS, OUTPUTS, RESUMED_FOLDERS

FOLDERS = (*NEW_FOLDERS, *RESUMED_FOLDERS)
COMMANDS = typer.main.get_command(app).commands
WRITERS = [
    (verb, parameter)
    for verb, command in COMMANDS.items()
    if not hasattr(command, "commands")
    for parameter in command.params
    if parameter.name in OUTPUTS
]


BESIDE = {("pareto", "plans"): ("--allow-drop", "1")}
"""What an output belongs to, without which it is refused by another name."""


def line_of(verb, parameter, target):
    """A command line whose inputs do not exist: whatever reads them first would say so."""
    line = [verb, *BESIDE.get((verb, parameter.name), ())]
    for other in COMMANDS[verb].params:
        if other.required and other is not parameter:
            line += ["missing"] if other.param_type_name == "argument" else [max(other.opts, key=len), "missing"]
    return [*line, max(parameter.opts, key=len), str(target)]


def writes_folder(verb, parameter):
    return parameter.name in FOLDER_OPTIONS or (verb in FOLDERS and parameter.name in ("out", "output"))


def test_the_walk_finds_every_writer():
    """Help texts say folder exactly where a folder is written, and every option that says "write" is walked."""
    folders = {(verb, parameter.name) for verb, parameter in WRITERS if "folder" in (parameter.help or "").lower()}
    assert folders == {(verb, parameter.name) for verb, parameter in WRITERS if writes_folder(verb, parameter)}
    assert {verb for verb, _ in folders} == {*NEW_FOLDERS, *RESUMED_FOLDERS, "calibrate", "pareto"}
    said = {
        (verb, parameter.name)
        for verb, command in COMMANDS.items()
        for parameter in command.params
        if "write" in (getattr(parameter, "help", None) or "").lower() and "-o" in parameter.opts
    }
    assert said <= {(verb, parameter.name) for verb, parameter in WRITERS}
    assert len(WRITERS) >= 15


REFUSED = [
    (verb, parameter, there)
    for verb, parameter in WRITERS
    for there in ("a file", "a folder", "a name that ends like a folder")
    if (there == "a file") == writes_folder(verb, parameter)
    or (there == "a folder" and (verb in NEW_FOLDERS or parameter.name in FOLDER_OPTIONS))
]


@pytest.mark.parametrize(("verb", "parameter", "there"), REFUSED, ids=lambda part: getattr(part, "name", part))
def test_the_wrong_kind_is_refused_before_any_work(cli, tmp_path, monkeypatch, verb, parameter, there):
    """The inputs do not exist, so nothing was read before."""
    monkeypatch.chdir(tmp_path)
    target = tmp_path / ("out" if verb in FOLDERS else "out.svg")
    if there == "a file":
        target.write_text("precious")
    elif there == "a folder":
        target.mkdir()
        (target / "precious").write_text("precious")
    found = cli(*line_of(verb, parameter, f"{target}/" if "ends" in there else target))
    refusals = (f"{target}: is a folder or a device", f"{target}: exists and is not an empty", f"{target}: is a file;")
    assert found.code == 2 and any(line in found.complaint for line in refusals), found.complaint
    assert "Give a" in found.complaint
    assert there != "a file" or target.read_text() == "precious"
    assert not list(tmp_path.glob(".*"))
