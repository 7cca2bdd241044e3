"""Every option that names a plug-in refuses an unknown name with its flag, before the verb reads anything."""

import pytest
import typer

from qbert_opt.cli.app import app
from qbert_opt.cli.plugin_options import KINDS, LISTS, kind_of

NAMED = [
    (verb, option)
    for verb, command in typer.main.get_command(app).commands.items()
    for option in getattr(command, "params", ())
    if kind_of(verb, option.name)
]


def test_options_are_found():
    """Every kind of the table is an option of some verb, and verbs that take engines are there."""
    assert {option.name for _, option in NAMED} == set(KINDS)
    assert {verb for verb, option in NAMED if option.name == "engine"} == {
        "calibrate", "evaluate", "export", "optimize", "run", "simulate", "solve",
    }  # fmt: skip


@pytest.mark.parametrize(("verb", "option"), NAMED, ids=lambda value: getattr(value, "name", value))
def test_unknown_plugins_name_their_option(cli, verb, option):
    """Other options that must be given name files that do not exist: they are not read."""
    command = typer.main.get_command(app).commands[verb]
    line = [verb]
    for other in command.params:
        if other.required and other is not option:
            line += [max(other.opts, key=len), "nowhere"] if other.opts[0].startswith("-") else ["nowhere"]
            kind = kind_of(verb, other.name)
            line[-1] = {"engines": "onnxruntime", "configs": "nncf"}.get(kind, line[-1])
    line += {("recover", "losses"): ["--steps", "distill"]}.get((verb, option.name), [])
    if verb == "solve" and option.name in ("metric", "method"):
        line += ["--model", "nowhere", "--data", "nowhere"]
    flag = max(option.opts, key=len)
    found = cli(*line, flag, "magic:2" if option.name in LISTS else "magic")
    assert found.code == 2 and f"{flag} magic: unknown. Available: " in found.complaint
    found = cli(*line, flag, "")
    assert found.code == 2 and f"{flag} ''" in found.complaint
    if option.name in LISTS:
        assert "of the list is empty" in cli(*line, flag, "magic,").complaint
        assert (
            f"{flag} magic: unknown"
            in cli(*line, flag, "all,magic" if option.name == "portable" else "magic").complaint
        )


def test_names_that_are_known_are_taken(cli):
    """Words beside names, and llama.cpp with its dot."""
    for line in ("solve --budget 1B --solver auto", "export-config nowhere --to llama.cpp -o c"):
        assert "unknown" not in cli(*line.split()).complaint
