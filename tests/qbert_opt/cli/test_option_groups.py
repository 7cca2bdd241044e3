"""Groups of options: typer sees the fields, the verb gets the group."""

from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from qbert_opt.cli.option_groups import flattened


@dataclass(frozen=True)
class Size:
    """Two options."""

    width: Annotated[int, typer.Option("--width", help="Columns.")] = 3
    names: Annotated[list[str] | None, typer.Option("--name", help="Repeatable.")] = None


def verb(*, title: Annotated[str, typer.Option("--title")] = "none", size: Size, out: Annotated[str, typer.Option()]):
    """A group between two options, the last of which must be given."""
    typer.echo(f"{title} {size} {out}")


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        (["--out", "f"], "none Size(width=3, names=None) f"),
        (
            ["--width", "5", "--name", "a", "--name", "b", "--out", "f", "--title", "t"],
            "t Size(width=5, names=['a', 'b']) f",
        ),
    ],
)
def test_the_verb_gets_its_group(arguments, printed):
    app = typer.Typer()
    app.command()(flattened(verb))
    assert CliRunner().invoke(app, arguments).output.strip() == printed


def test_the_options_keep_their_order():
    import inspect

    assert list(inspect.signature(flattened(verb)).parameters) == ["title", "width", "names", "out"]


def test_a_verb_without_groups_is_itself():
    def plain(count: int = 1) -> None:
        """Do nothing."""

    assert flattened(plain) is plain
