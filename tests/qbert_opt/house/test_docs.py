"""The documentation: generated pages are what the code says, links lead somewhere, commands and options exist."""

import functools
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

ROOT = Path(__file__).parents[3]
WRITTEN = ["README.md", "CONTRIBUTING.md"]
TEXTS = [ROOT / name for name in WRITTEN] + sorted((ROOT / "docs").glob("*.md"))
TEXTS += sorted((ROOT / "docs" / "concepts").glob("*.md")) + sorted((ROOT / "benchmarks").glob("**/README.md"))


def generator():
    """The script that writes the pages, as a module."""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_pages_are_up_to_date():
    """What `make docs` would write is what is there."""
    stale = [
        name
        for name, text in generator().pages().items()
        if not (ROOT / "docs" / name).exists() or (ROOT / "docs" / name).read_text(encoding="utf-8") != text
    ]
    assert not stale, f"run `make docs`: {', '.join(stale)}"


def test_a_figure_without_a_result_file_is_refused():
    """The results page is strict: a name that no file in benchmarks/ has is an error, not an empty cell."""
    import jinja2

    template = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=True).from_string("{{ results.demo.x }}")
    with pytest.raises(jinja2.UndefinedError):
        template.render(results={})
    source = (ROOT / "docs" / "templates" / "how-good-is-it.md").read_text(encoding="utf-8")
    prose = re.sub(r"\{[{%].*?[}%]\}", "", source, flags=re.DOTALL)
    for level in ("95 %", "10 %", "15 %"):
        prose = prose.replace(level, "")
    figures = re.findall(r"(?<![\w.])\d+\.\d+|\d+ ?%(?!\])", prose)
    assert not figures, f"written by hand: {figures}"


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_paths_lead_somewhere(path):
    """Relative links, and `Where:` paths of concept pages, exist."""
    text = path.read_text(encoding="utf-8")
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text)]
    missing = [link for link in links if link and "://" not in link and not (path.parent / link).exists()]
    where = re.findall(r"`((?:qbert_opt|solvers|hwmodels|tests|docs|benchmarks)/[\w./-]*)`", text)
    missing += [name for name in where if "NAME" not in name and not (ROOT / name).exists()]
    assert not missing


@functools.cache
def verbs():
    """Every verb's options by its words; building all verbs takes a tenth of a second."""
    from qbert_opt.cli.app import app

    def walk(group, words):
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                yield from walk(command, f"{words} {name}".strip())
            else:
                options = {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | {"--help"}
                yield f"{words} {name}".strip(), options

    return dict(walk(typer.main.get_command(app), ""))


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_in_the_text_exist(path):
    """Every `qbert-opt VERB --option` that a reader is shown can be called so."""
    known = verbs()
    wrong = []
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    for call in re.findall(r"qbert-opt +([a-z][^`'\n|&;]*)", text):
        words = call.split()
        verb = next((" ".join(words[:n]) for n in (2, 1) if " ".join(words[:n]) in known), None)
        if verb is None:
            if any(name.split()[0] == words[0] for name in known):  # a group of verbs, named as such
                continue
            wrong.append(f"qbert-opt {call}")
            continue
        wrong += [f"{verb} {o}" for o in re.findall(r"(?<!\S)--[a-z-]+", call) if o not in known[verb]]
    assert not wrong


@pytest.mark.parametrize(("typed", "word"), [("qbert-opt sol", "solve"), ("qbert-opt solve --bud", "--budget")])
def test_the_shell_completes(typed, word):
    """Completion offers verbs and options, and its script can be printed."""
    environment = os.environ | {
        "_QBERT_OPT_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1),
    }  # fmt: skip
    code = "import sys; sys.argv = ['qbert-opt']; from qbert_opt.cli.app import app; app(prog_name='qbert-opt')"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=ROOT, check=False
    )
    assert word in found.stdout.split()


def test_the_readmes_picture_is_small_and_its_command_draws_it(cli, tmp_path, monkeypatch):
    """The command that the README states draws the curve that it shows."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = ROOT / "docs" / "frontier.svg"
    assert "docs/frontier.svg" in re.findall(r"!\[[^]]+\]\(([^)]+)\)", text) and shown.stat().st_size < 200_000
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    solve = re.search(r"^qbert-opt (solve .*-o allocation.json)", text, re.MULTILINE)[1]
    draw = re.search(r"`qbert-opt (pareto [^`]*docs/frontier.svg)`", text)[1]
    for command in (solve, draw):
        assert cli(*command.split()).code == 0
    drawn = (tmp_path / "docs" / "frontier.svg").read_text(encoding="utf-8")

    def curve(svg):  # the steps of the line itself; fonts and versions of the renderer may differ
        return re.findall(r"[A-Z]|-?[0-9.]+", max(re.findall(r'<path d="([^"]+)"', svg), key=len))

    # A proof ends at a gap of 1e-6, so that another processor's rounding may pick another of two equally good plans.
    pairs = list(zip(curve(drawn), curve(shown.read_text(encoding="utf-8")), strict=True))
    other = [(float(here), float(there)) for here, there in pairs if here != there]
    assert len(other) <= len(pairs) // 200
    assert all(abs(here - there) < 0.2 for here, there in other)  # points, of a picture that is 518 wide
