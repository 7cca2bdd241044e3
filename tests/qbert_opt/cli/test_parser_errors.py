"""What the option parser refuses is one line of ours: the option, what was found, what is legal, exit code 2."""

import pytest
import typer

from qbert_opt.cli.app import app

COMMANDS = typer.main.get_command(app).commands
BOUNDED = [
    (verb, option)
    for verb, command in COMMANDS.items()
    for option in getattr(command, "params", ())
    if getattr(option, "min", None) is not None or getattr(getattr(option, "type", None), "min", None) is not None
]


def required(verb, option):
    """The options and arguments that a verb needs besides one, with any value."""
    line = []
    for other in COMMANDS[verb].params:
        if other.required and other is not option:
            line += [max(other.opts, key=len), "x"] if other.opts[0].startswith("-") else ["x"]
    return line


@pytest.mark.parametrize(("verb", "option"), BOUNDED, ids=lambda value: getattr(value, "name", value))
def test_every_number_out_of_range_is_one_line(cli, verb, option):
    """Too small, and no number at all, for every option of every verb that has a least value."""
    least = getattr(option, "min", None)
    least = option.type.min if least is None else least
    flag, line = max(option.opts, key=len), required(verb, option)
    for given in (f"{flag}=-7", f"{flag} -7"):
        found = cli(verb, *line, *given.split())
        assert found.code == 2 and f"{flag} -7: is too small. Give {least:g} " in found.complaint
    found = cli(verb, *line, flag, "seven")
    assert found.code == 2 and f"{flag} seven: is not a " in found.complaint and f"Give {least:g} " in found.complaint


def test_there_are_many(cli):
    assert len(BOUNDED) > 40


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("calibrate --rounds 200", "--rounds 200: is too large. Give 3 to 100."),
        ("calibrate --seconds nan", "--seconds nan: is not a number. Give 1 or more."),
        ("solve --top-k 2.5", "--top-k 2.5: is not a whole number. Give 1 or more."),
        ("solve --budget 25MB --max-loss x --least bytes", "--max-loss x: is not a number. Give one."),
        ("pareto --points 100000000", "--points 100000000: is too large. Give 2 to 10000."),
        (
            "sensitivity -m m --data d --seed 99999999999999999999",
            "--seed 99999999999999999999: is too large. Give 0 to 9223372036854775807.",
        ),
        ("solve --budget 25MB -d car-soc --batch-size 9999999999", "--batch-size 9999999999: is too large"),
        ("solve --nosuch 3", "No such option: --nosuch. See 'qbert-opt solve --help'."),
        ("export", "Missing argument 'folder'. See 'qbert-opt export --help'."),
        ("devices show", "See 'qbert-opt devices show --help'."),
        ("nosuch", "No such command 'nosuch'. See 'qbert-opt --help'."),
        ("solve --top-k", "See 'qbert-opt solve --help'."),
        ("solve --budget 25MB --device car-soc --rate inf", "--rate inf: must be more than 0 and less than 1e+09"),
        ("devices show magic", "qbert-opt: magic: found no such file or device"),
        (
            "import-config x --from nncf -s reference --rest 9bit/rows:1/rtn",
            "--rest: choice '9bit/rows:1/rtn': bits 9: '9' is not a bit width. Legal: 1, 2",
        ),
        (
            "import-config x --from nncf -s reference --rest 4bit/tiles:1/rtn",
            "--rest: choice '4bit/tiles:1/rtn': grouping tiles:1: 'tiles:1' is not a grouping. Legal: rows:N",
        ),
        ("import-config x --from nncf -s reference --rest 4bit", "--rest: choice '4bit': not of the form BITSbit/"),
        ("solve --budget 4bit -m x --measure tidl", "--measure tidl: can be planned for only"),
        ("solve --budget 4bit -m x --measure torch", "--measure torch: runs every plan as floats"),
        ("solve --budget 4bit -d car-soc --nonlinearity softmax=9", "--nonlinearity softmax=9: legal: poly, shift, "),
        (
            "pareto --devices car-soc --allow-drop 1 --points 5",
            "--points: belongs to a family of sizes; --devices makes one plan for each. Remove it, or give one",
        ),
        ("pareto --devices magic", "--devices magic: found no such file or device"),
    ],
)
def test_other_refusals(cli, line, said):
    found = cli(*line.split())
    assert found.code == 2 and said in found.complaint


def test_a_group_without_a_verb_prints_its_help(cli):
    found = cli("devices")
    assert found.code == 2 and "schema" in found.out + found.err
