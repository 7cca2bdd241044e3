"""Kind 10: list options with doubles, empty names and digits that are none: one line, or each entry once."""

import pytest

from qbert_opt.errors import UsageError
from qbert_opt.spec.choices import choice
from qbert_opt.spec.forms import parse_bits, parse_forms
from qbert_opt.spec.groupings import parse_groupings


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("pareto --resource bytes,bytes", "--resource bytes,bytes: bytes is named twice"),
        ("pareto --resource bytes,", "--resource 'bytes,': name 2 of the list is empty"),
        ("pareto --devices car-soc,car-soc", "--devices car-soc,car-soc: car-soc is named twice"),
        ("pareto --devices car-soc,,rpi5", "name 2 of the list is empty"),
        ("pareto --plot p.png --compare a=reference --compare a=reference", "a is the name of another curve already"),
        ("recover p -m m --data d --data d -o o", "--data d: is given twice"),
        ("recover p -m m --data d -o o --steps blocks,blocks", "--steps blocks,blocks: blocks is named twice"),
        ("recover p -m m --data d -o o --epochs 2,3", "--epochs 2,3: blocks has 2 already"),
        ("recover p -m m --data d -o o --epochs blocks:1,blocks:2", "blocks has 1 already"),
        ("recover p -m m --data d -o o --epochs ranges:1", "--epochs ranges:1: ranges is not in --steps"),
        ("recover p -m m --data d -o o --rates 1e-3", "--rates 1e-3: '1e-3' is not of the form STEP:WEIGHTS:RANGES"),
        ("recover p -m m --data d -o o --rates blocks:1:1,blocks:1:1", "blocks is named twice"),
        ("recover p -m m --data d -o o --rates ranges:0:1e-4", "ranges is not among the steps blocks"),
        ("recover p -m m --data d -o o --rates blocks:nan:1", "--rates blocks:nan:1: give two numbers"),
        ("solve -b 25MB --pin query=4 --pin query=8", "--pin query=8: query is pinned to 4 bits already"),
        ("solve -b 25MB --pin query=²", "--pin query=²: not of the form"),
        ("solve -b 25MB --bits ²", "'²' is not a bit width"),
        ("solve -b 25MB --groupings rows:²", "'rows:²' is not a grouping"),
        ("evaluate f --data snips/dev --text-column text --text-column text", "--text-column text: is given twice"),
    ],
)
def test_a_name_that_is_given_twice_is_refused(cli, line, message):
    found = cli(*line.split())
    assert found.code == 2 and message in found.complaint


def test_a_comparison_that_is_named_twice_is_refused(cli, gptq_plan, tmp_path):
    from qbert_opt.spec.allocation import write_allocation

    write_allocation(gptq_plan, tmp_path / "plan.json")
    found = cli("simulate", tmp_path / "plan.json", "-d", "car-soc", "--compare", "int8,int8")
    assert found.code == 2 and "--compare int8,int8: int8 is named twice" in found.complaint
    found = cli("simulate", tmp_path / "plan.json", "-d", "car-soc", "--lengths", "²:1")
    assert found.code == 2 and "not of the form TOKENS:OFTEN" in found.complaint


def test_equal_values_are_one():
    """Widths, groupings and forms are sets."""
    assert parse_bits("2,2,08,8") == (2, 8)
    assert parse_groupings("rows:1,rows:01,rows:heads,rows:heads") == ("rows:1", "rows:heads")
    assert parse_forms("offset,offset") == ("offset",)


@pytest.mark.parametrize("name", ["2bit/rows:1,rows:2/gptq", "²bit/rows:1/gptq", "2bit/rows:" + "9" * 5000 + "/gptq"])
def test_a_choice_is_one_choice(name):
    """Not the first of several, and no number that Python does not read."""
    with pytest.raises(UsageError):
        choice(name)
