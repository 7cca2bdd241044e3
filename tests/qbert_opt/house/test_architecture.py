"""The house: what may import what, how fast it starts, what is shipped, and that help and README keep up."""

import ast
import json
import pkgutil
import re
import shutil
import subprocess
import sys
import zipfile
from importlib import resources
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

ROOT = Path(__file__).parents[3]
HEAVY = ("torch", "transformers", "matplotlib", "pandas")


def in_fresh_python(code):
    """Run code in a new interpreter; returns what it prints."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout


CALLS = """
import sys
calls = 0
def count(_frame, event, _argument):
    global calls
    calls += event == "call"
sys.argv = {arguments!r}
sys.setprofile(count)
try:
    {code}
except SystemExit as stop:
    assert not stop.code, stop.code
finally:
    sys.setprofile(None)
    print("\\n", calls, sep="")
"""


def calls_of(code, *arguments):
    """How many Python functions a new interpreter calls to run code: its work, the same on busy and idle machines."""
    return int(in_fresh_python(CALLS.format(code=code, arguments=["qbert-opt", *arguments])).splitlines()[-1])


LOADED = "import json, sys; print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"


@pytest.mark.parametrize("leaf", ["hwmodels", "solvers"])
def test_leaves_know_neither_torch_nor_each_other(leaf):
    """Every module of a leaf imports without torch, transformers, the domain or the other leaf."""
    code = f"""
import importlib, pkgutil, {leaf}
for info in pkgutil.walk_packages({leaf}.__path__, "{leaf}."):
    importlib.import_module(info.name)
{LOADED}"""
    loaded = set(json.loads(in_fresh_python(code).splitlines()[-1]))
    assert leaf in loaded
    assert not loaded & {"torch", "transformers", "qbert_opt", "hwmodels", "solvers"} - {leaf}


def test_planning_from_python_imports_no_torch():
    """Neither the package nor a plan from a table of scores with a device loads torch, transformers or pandas."""
    code = f"""
import qbert_opt as qb
device = qb.load_device("car-soc")
plan = qb.allocate(qb.reference_scores(), qb.Limits(encoder_bytes=25_000_000), device=device)
qb.simulate_allocation(plan, device, qb.Workload())
{LOADED}"""
    loaded = set(json.loads(in_fresh_python(code).splitlines()[-1]))
    assert not loaded & set(HEAVY)


@pytest.mark.parametrize(
    "arguments",
    [("--help",), ("solve", "--help"), ("solve", "--budget", "25MB", "--device", "car-soc.yaml"), ("metrics",)],
)
def test_the_command_line_loads_torch_only_where_needed(arguments):
    """Help, plans from scores and lists of plug-ins load no torch."""
    code = f"""
import sys
from qbert_opt.cli import main
sys.argv = ["qbert-opt", *{arguments!r}]
try:
    main.run()
except SystemExit as stop:
    assert not stop.code, stop.code
{LOADED}"""
    loaded = set(json.loads(in_fresh_python(code).splitlines()[-1]))
    assert not loaded & set(HEAVY)


def test_help_is_instant_and_the_readmes_line_quick():
    """`--help` calls less than 3 times the functions that the libraries printing it call, the README's line 12 times.

    On a fast machine these take 0.4 s and 2.5 s.
    """
    run = "from qbert_opt.cli.main import run; run()"
    libraries = calls_of("import typer, typer.rich_utils, rich.markdown")
    assert calls_of(run, "--help") < 3 * libraries
    assert calls_of(run, "solve", "--budget", "25MB", "--device", "car-soc.yaml") < 12 * libraries


def commands():
    """Every verb and sub-verb as (words, command)."""
    from qbert_opt.cli.app import app

    def walk(group, words):
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                yield from walk(command, [*words, name])
            else:
                yield [*words, name], command

    return list(walk(typer.main.get_command(app), []))


@pytest.mark.parametrize("words", [" ".join(words) for words, _ in commands()])
def test_every_verb_has_help_with_an_example(words):
    """Help says what the verb does and shows a line that calls it."""
    from qbert_opt.cli.app import app

    found = CliRunner().invoke(app, [*words.split(), "--help"], env={"COLUMNS": "200"})
    assert found.exit_code == 0
    assert f"qbert-opt {words}" in found.output.split("Options")[0].split("Usage:")[1].split("\n", 1)[1]
    for option in next(command for w, command in commands() if " ".join(w) == words).params:
        assert option.name in ("epochs", "learning_rate", "batch_size") or option.help, f"{words}: {option.name}"


def test_verbs_only_parse_and_print():
    """What takes more than 80 lines is work, which belongs to a room that Python can reach."""
    for path in (ROOT / "qbert_opt" / "cli").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 80, f"{path.name}: {node.name}"


def test_every_verb_is_a_file_and_in_the_docs():
    """Verbs are found by their files; the command reference shows each, the README the way from model to engine."""
    from qbert_opt.cli import verbs

    files = {info.name.replace("_", "-") for info in pkgutil.iter_modules(verbs.__path__)}
    assert files == {words[0] for words, _ in commands()}
    reference = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert not [name for name in files if f"## qbert-opt {name}" not in reference]
    assert not [
        name
        for name in ("sensitivity", "solve", "quantize", "evaluate", "export", "pareto")
        if f"qbert-opt {name}" not in readme
    ]
    assert len(readme.splitlines()) < 100, "the README fits two screens; the rest belongs in docs/"


def test_every_public_name_exists():
    """What `import qbert_opt` promises can be loaded."""
    import qbert_opt

    assert all(callable(getattr(qbert_opt, name)) for name in qbert_opt.__all__)
    tree = ast.parse((ROOT / "qbert_opt" / "__init__.py").read_text())
    [typed] = [node for node in tree.body if isinstance(node, ast.If) and isinstance(node.test, ast.Name)]
    seen = {
        alias.asname: (f"{'.' * node.level}{node.module}", alias.name) for node in typed.body for alias in node.names
    }
    assert seen == qbert_opt._HOMES, "what type checkers see is not what is loaded"
    assert set(dir(qbert_opt)) == set(qbert_opt.__all__)
    with pytest.raises(AttributeError, match=r"no attribute 'nothing'"):
        qbert_opt.nothing  # noqa: B018


def test_plugins_are_found_by_name():
    """A file in a folder is a plug-in; what begins with an underscore is not."""
    from qbert_opt.errors import UsageError
    from qbert_opt.runtime import plugins

    for folder, least in (("metrics", {"directional", "qbert"}), ("quantizers", {"gptq", "rtn"})):
        names = plugins.available(folder)
        assert least <= set(names)
        assert all(
            hasattr(plugins.load(folder, name), "score" if folder == "metrics" else "quantize") for name in names
        )
    with pytest.raises(UsageError, match=r"quantizers: unknown '_matrix'. Available: gptq, guided, kmeans"):
        plugins.load("quantizers", "_matrix")


def test_the_wheel_holds_the_three_packages_and_their_data(tmp_path):
    """Built from what is under version control, it has three import packages, the bundled data, and no tests."""
    pytest.importorskip("setuptools", minversion="77")
    files = subprocess.run(
        ["git", "ls-files"], capture_output=True, text=True, cwd=ROOT, check=False
    ).stdout.splitlines()
    if not files:
        pytest.skip("no checkout")
    for name in {*files, "README.md"}:
        if (ROOT / name).is_file():
            (tmp_path / "src" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, tmp_path / "src" / name)
    build = ("-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index", "-w", tmp_path, ".")
    subprocess.run([sys.executable, *build], cwd=tmp_path / "src", check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {n.split("/")[0] for n in names if ".dist-info/" not in n} == {"qbert_opt", "hwmodels", "solvers"}
    for part in ("data/bundled",):
        bundled = [f for f in (resources.files("qbert_opt") / part).rglob("*") if f.is_file()]
        assert {f"qbert_opt/{f.relative_to(resources.files('qbert_opt'))}" for f in bundled} <= set(names)
    assert {"qbert_opt/py.typed", "hwmodels/py.typed", "solvers/py.typed", "hwmodels/devices/car-soc.yaml"} <= set(
        names
    )


def test_errors_below_the_command_line_name_parameters():
    """A raise outside `cli/` names Python parameters in backquotes; the command line turns each into a real flag."""
    from qbert_opt.cli import flags

    legal = {flag for _, command in commands() for option in command.params for flag in option.opts}
    named, flags_below = set(), []
    for path in sorted((ROOT / "qbert_opt").rglob("*.py")):
        if "cli" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Raise) or node.exc is None:
                continue
            for part in ast.walk(node.exc):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    named |= set(re.findall(r"`([a-z][a-z_]*)`", part.value))
                    flags_below += [f"{path.name}: {part.value}"] * bool(re.search(r"(?<![\w-])--[a-z]", part.value))
    assert len(named) > 30 and not [
        text for text in flags_below if "evaluate --reference" not in text and "--per-op" not in text
    ]
    assert not [name for name in sorted(named) if flags.in_flags(f"`{name}`") not in legal]
