"""The benchmarks: every script explains itself, every file is in its folder's README, every command leads somewhere."""

import re
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
BENCHMARKS = ROOT / "benchmarks"
IN_A_RIVALS_PYTHON = re.compile(r"^ *PYTHON -m benchmarks\.", re.MULTILINE)  # usage of what the contest runs
SCRIPTS = [
    path
    for path in sorted(BENCHMARKS.glob("*/*.py"))
    if "__main__" in path.read_text("utf-8") and not IN_A_RIVALS_PYTHON.search(path.read_text("utf-8"))
]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore")
def test_every_script_explains_itself(path, monkeypatch, capsys):
    """`python -m benchmarks.FOLDER.SCRIPT --help` prints the command as it is typed, and runs nothing."""
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(name, run_name="__main__")
    assert ended.value.code in (None, 0)
    assert f"python -m {name} " in capsys.readouterr().out


@pytest.mark.parametrize("folder", sorted(BENCHMARKS.glob("[a-z]*/")), ids=lambda folder: folder.name)
def test_every_file_is_in_the_readme(folder):
    """A folder's README names its scripts and result files, and no others; the first README names the folder."""
    files = {path.name for path in folder.glob("*.*")} - {"README.md"}
    if not files:  # what Python left of a folder that has moved
        return
    named = set(re.findall(r"`([\w.]+\.(?:py|jsonl?))[ `]", (folder / "README.md").read_text("utf-8")))
    assert files <= named
    assert f"[`{folder.name}/`]({folder.name}/README.md)" in (BENCHMARKS / "README.md").read_text("utf-8")


def test_commands_name_scripts():
    """Every `python -m benchmarks.…` that a reader is shown is a script, and no command names a script by its path."""
    texts = [ROOT / "Makefile", ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    texts += [*ROOT.glob("docs/**/*.md"), *BENCHMARKS.glob("**/*.md"), *BENCHMARKS.glob("*/*.py")]
    wrong = []
    for path in texts:
        text = path.read_text("utf-8")
        wrong += re.findall(r"python benchmarks/\S+", text)
        for name in re.findall(r"-m (benchmarks(?:\.\w+)+)", text):
            if "SCRIPT" not in name and not (ROOT / f"{name.replace('.', '/')}.py").exists():
                wrong.append(f"{path.relative_to(ROOT)}: {name}")
    assert not wrong
