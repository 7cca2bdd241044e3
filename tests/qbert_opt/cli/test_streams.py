"""Kind 9, what is printed: encodings, full and closed outputs, signals, names with markup and control characters."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qbert_opt.cli.progress import TimeLeft, left_text, progress
from qbert_opt.data.reference import reference_scores
from qbert_opt.reports.printing import TextTable, print_lines
from qbert_opt.runtime.plain_text import one_line, to_csv
from qbert_opt.spec.scores import write_scores


@pytest.fixture(scope="module")
def solve(gptq_scores, tmp_path_factory):
    """The real program's command line that solves for a tiny model."""
    scores = tmp_path_factory.mktemp("scores") / "scores.json"
    write_scores(gptq_scores, scores)
    return (sys.executable, "-m", "qbert_opt", "solve", "--scores", scores, "--budget", "4bit")


def start(*command, **options):
    """The real program, its output in pipes."""
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def test_ascii_output_is_readable(solve):
    """`±` and `×` are spelled; nothing crashes after the plan was written."""
    done = start(*solve, env=os.environ | {"PYTHONIOENCODING": "ascii"})
    out, err = done.communicate()
    assert done.returncode == 0, err
    assert "+-" in out and out.isascii()


def test_a_full_output_is_one_line(solve):
    """The plan could not be shown: exit code 2, no traceback."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(solve, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "No space left" in done.stderr


def test_a_reader_that_has_enough_is_no_mistake(solve):
    """`| head -1`: quiet, exit code 0."""
    with start(*solve) as done:
        done.stdout.close()
        assert done.stderr.read() == ""
    assert done.returncode == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("after", [0.15, 0.4, 0.8])
def test_a_signal_ends_a_run_in_one_line(number, code, after, tmp_path):
    """Whether modules are still being imported or the solver runs."""
    script = "import qbert_opt.cli.main as m, sys; print('up', flush=True); m.run()"
    arguments = ["pareto", "--device", "car-soc", "--resource", "latency", "-o", str(tmp_path / "f.csv"), "-q"]
    done = start(sys.executable, "-c", script, *arguments)
    assert done.stdout.readline() == "up\n"
    time.sleep(after)
    done.send_signal(number)
    _, err = done.communicate(timeout=60)
    assert done.returncode == code, err
    assert err.count("\n") == 1 and "nothing half-written" in err
    assert not (tmp_path / "f.csv").exists()


def test_an_interrupt_that_python_drops_comes_again(cli, monkeypatch):
    """What is raised in a finalizer is printed and forgotten by Python; the run would go on as if nothing had been."""
    import solvers

    class Finalized:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    def interrupted():
        Finalized()
        time.sleep(60)

    monkeypatch.setattr(solvers, "describe", interrupted)
    started = time.monotonic()
    answer = cli("solvers")
    assert answer.code == 130 and "interrupted" in answer.err
    assert time.monotonic() - started < 50


def test_what_a_library_makes_of_an_interrupt_is_still_one(cli, monkeypatch):
    """An import that turns Ctrl-C into an error of its own is not a bad input file."""
    import solvers
    from qbert_opt.errors import InputFileError

    def interrupted():
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise InputFileError("a file: cannot be read.") from None

    monkeypatch.setattr(solvers, "describe", interrupted)
    before = signal.getsignal(signal.SIGINT)
    found = cli("solvers")
    assert found.code == 130 and "interrupted" in found.err
    assert signal.getsignal(signal.SIGINT) is before


def test_names_are_text(cli, tmp_path):
    """Markup, escape sequences, line breaks and right-to-left marks in a model's name are shown, not obeyed."""
    name = "models/tiny[v2] [/bold] \x1b[31mred\n\u202egnp"
    table = reference_scores()
    table = table.model_copy(update={"profile": table.profile.model_copy(update={"name": name})})
    write_scores(table, tmp_path / "s.json")
    found = cli("solve", "--scores", tmp_path / "s.json", "--budget", "25MB", "--explain")
    assert found.code == 0, found.err
    assert "models/tiny[v2] [/bold] \\x1b[31mred\\n\\u202egnp (" in found.out
    assert "\x1b" not in found.out and "\u202e" not in found.out


def test_tables_show_names_as_they_are(capsys):
    """Cells and titles too."""
    table = TextTable("na[b]me", title="a [red]title[/red]")
    table.add_row(":smile: [bold]x[/bold] \x07")
    print_lines([table, "[/bold]"])
    out = capsys.readouterr().out
    assert "a [red]title[/red]" in out and ":smile: [bold]x[/bold] \\x07" in out and "[/bold]\n" in out


def test_one_line_escapes_what_a_terminal_would_obey():
    """Controls, formats and separators; letters of any script and signs stay."""
    assert one_line("a\tb\r\n\x9b1m\u2028\u2066\u200b") == "a\\tb\\r\\n\\x9b1m\\u2028\\u2066\\u200b"
    assert one_line("Größe ± 模型 λ") == "Größe ± 模型 λ"


def test_csv_text_is_never_a_formula():
    """Text that a spreadsheet would compute gets an apostrophe; negative numbers stay numbers."""
    text = to_csv(["=name", "x"], [["=1+1", -0.5], ["+a", 1], ["-b", 2], ["@c", 3], ["\td", 4], ["plain", 5]])
    assert text.splitlines() == ["'=name,x", "'=1+1,-0.5", "'+a,1", "'-b,2", "'@c,3", "'\td,4", "plain,5"]


def test_the_time_left_follows_the_recent_pace():
    """55 quick steps and slow ones after them: the estimate is that of the slow ones."""
    clock, now = TimeLeft(), 0.0
    for done in range(56):
        now += 0.1
        clock.estimate(now, done, 100)
    for done in range(56, 76):
        now += 10.0
        left = clock.estimate(now, done, 100)
    assert left == pytest.approx(250, rel=0.2)  # 25 steps of 10 s, where the mean pace says 67 s
    assert clock.estimate(now + 1, 100, 100) is None and left_text(None, 100, 100) == "finishing"
    assert clock.estimate(now + 2, 1, 100) is None  # another part of the work
    assert left_text(None, 1, 100) == "" and left_text(7140, 1, 2) == "about 2.0 h left"


def test_ctrl_c_says_how_to_resume(tmp_path):
    """The file that keeps finished work is named, if there is one."""
    kept = tmp_path / "s.json.partial"
    for exists in (False, True):
        if exists:
            kept.write_text("x")
        with pytest.raises(KeyboardInterrupt) as stop, progress("scores", quiet=True, resume=kept):
            raise KeyboardInterrupt
        assert ("the same command resumes from there" in " ".join(getattr(stop.value, "__notes__", ()))) == exists


def test_the_json_of_a_frontier_has_both_figures(cli):
    """Prediction and sum, side by side."""
    points = json.loads(cli("pareto", "--points", "5", "--json").out)["points"]
    assert all(point["predicted_loss"] >= 0.9 * point["sum_of_scores"] for point in points)
    assert points[5]["predicted_std_error"] > 0


def test_ctrl_c_before_the_first_import_of_a_verb():
    """Whatever takes time is imported after Ctrl-C is listened to."""
    code = """
import sys
before = set(sys.modules)
sys.path[:0] = [ROOT]
import qbert_opt.cli.main
slow = {"typing", "pathlib", "threading", "inspect", "typer", "numpy"} - before
assert not slow & set(sys.modules), slow & set(sys.modules)
"""
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code.replace("ROOT", repr(str(root)))], check=False)
    assert done.returncode == 0


@pytest.mark.parametrize("call", ["the plot", "the html"])
def test_a_later_output_that_fails_names_those_that_are_written(cli, tmp_path, monkeypatch, call):
    """`-o` was written and `--plot` fails: both are named as what they are; a report alone names itself only."""
    monkeypatch.chdir(tmp_path)
    if call == "the plot":
        monkeypatch.setattr("matplotlib.figure.Figure.savefig", full_disk)
        done = cli("solve", "--budget", "25MB", "-o", "plan.json", "--plot", "plan.png")
        said = "plan.png: was not written: the disk is full. Free some space and run again. Written before that, and "
        assert done.complaint == f"qbert-opt: {said}complete: plan.json."
        assert json.loads((tmp_path / "plan.json").read_text())["schema"].startswith("qbert-opt/allocation")
    else:
        assert cli("solve", "--budget", "25MB", "-o", "plan.json").code == 0
        monkeypatch.setattr(Path, "write_text", full_disk)
        done = cli("report", "plan.json", "-o", "r.html")
        assert done.complaint == "qbert-opt: r.html: was not written: the disk is full. Free some space and run again."
    assert done.code == 2 and not list(tmp_path.glob(".*"))


def full_disk(*_arguments, **_options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
