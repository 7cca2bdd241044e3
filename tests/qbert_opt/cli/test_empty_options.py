"""An empty text, as of a shell's variable that is not set, is refused with its option before a verb does any work."""

import pytest
import typer

from qbert_opt.cli.app import app
from qbert_opt.cli.plugin_options import kind_of

COMMANDS = typer.main.get_command(app).commands
PLUGINS = {"engines": "onnxruntime", "configs": "nncf"}


def is_text(option):
    return "str" in str(getattr(getattr(option, "type_descriptor", None), "annotation", ""))


TEXTS = [(verb, o) for verb, command in COMMANDS.items() for o in getattr(command, "params", ()) if is_text(o)]


def flag_of(option):
    return max(option.opts, key=len)


@pytest.mark.parametrize(("verb", "option"), TEXTS, ids=lambda value: getattr(value, "name", value))
def test_an_empty_text_names_its_option(cli, verb, option):
    line = [verb]
    for other in COMMANDS[verb].params:
        value = "" if other is option else PLUGINS.get(kind_of(verb, other.name), "x")
        if other.required or other is option:
            line += [flag_of(other), value] if other.opts[0].startswith("-") else [value]
    found = cli(*line)
    assert found.code == 2 and flag_of(option) in found.complaint


def test_there_are_many_and_they_say_what_to_do(cli):
    assert len(TEXTS) > 150
    assert cli("pareto", "--allow-drop", 1, "--plans", "").complaint.endswith(
        "--plans '': is empty. Give a value, or leave --plans out."
    )
    assert cli("pareto", "--plot", "x.svg", "--compare", "a=b", "--compare", "").complaint.endswith(
        "--compare '': is empty. Give a value, or leave --compare out."
    )
    assert cli("quantize", "", "-m", "x", "-o", "y").complaint.endswith("plan '': is empty. Give a value.")
