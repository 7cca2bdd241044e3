"""The house: what may import what, how fast it starts, what is shipped, and that help and README keep up."""

import ast
import json
import os
import pkgutil
import re
import resource
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


def cpu_seconds(*arguments):
    """Processor time of a command in a process of its own."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", *arguments], capture_output=True, check=True, cwd=ROOT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def takes_less_than(limit_s, *arguments):
    """Whether one of three runs of a command does: caches and other work on the machine slow some of them down."""
    return any(cpu_seconds(*arguments) < limit_s for _ in range(3))


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


def test_help_is_instant_and_the_readmes_line_quick(tmp_path):
    """`--help` takes less than 2.5 times what the libraries that print it take, the README's line less than 15 times.

    On a fast machine these are 0.4 s and 2.5 s of processor time.
    """
    script = tmp_path / "qbert_opt_entry.py"
    script.write_text("from qbert_opt.cli.main import run\nrun()\n")
    (tmp_path / "typer_alone.py").write_text("import typer, typer.rich_utils, rich.markdown\n")
    environment = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(tmp_path)
    try:
        libraries_s = min(cpu_seconds("typer_alone") for _ in range(3))
        assert takes_less_than(2.5 * libraries_s, "qbert_opt_entry", "--help")
        assert takes_less_than(
            15 * libraries_s, "qbert_opt_entry", "solve", "--budget", "25MB", "--device", "car-soc.yaml"
        )
    finally:
        if environment is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = environment


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
