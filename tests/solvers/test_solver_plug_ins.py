"""Solvers of other packages: loaded by entry point, same contract, errors in one line."""

import math

import numpy as np
import pytest

from solvers import ChoiceProblem, SolverError, SolverMethod, Status, available, describe, solve
from solvers.registry import method

CODE = '''
"""A package that somebody else wrote."""
from solvers import Outcome


class Stubborn:
    """Tries every plan by itself."""

    about = "Tries one plan after another, for the tests."

    def usable(self):
        return True

    def label(self):
        return "stubborn 1.0"

    def run(self, program, limits):
        import itertools
        import numpy as np

        starts = [*program.starts.tolist(), len(program.group)]
        plans = map(np.array, itertools.product(*(range(a, b) for a, b in zip(starts, starts[1:]))))
        fitting = [plan for plan in plans if program.fits(plan)]
        if not fitting:
            return Outcome(None, float("inf"), finished=True)
        best = min(fitting, key=lambda plan: (program.cost[plan].sum(), program.tie[plan].sum()))
        return Outcome(best, float(program.cost[best].sum()), finished=True)


class Liar(Stubborn):
    def run(self, program, limits):
        return Outcome(program.starts * 0, 0.0, finished=True)


METHOD, LIAR, NOTHING = Stubborn(), Liar(), 3
'''


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Return a function that installs a distribution with these entry points, beside its code, on sys.path."""

    def install(points, name="somebody-elses"):
        folder = tmp_path / f"{name.replace('-', '_')}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        lines = "".join(f"{point} = {value}\n" for point, value in points.items())
        (folder / "entry_points.txt").write_text(f"[qbert_opt.solvers]\n{lines}")
        (tmp_path / "somebody_elses_solver.py").write_text(CODE)
        monkeypatch.syspath_prepend(str(tmp_path))

    return install


def test_every_solver_here_is_a_solver_method():
    for name in available():
        loaded = method(name)
        assert isinstance(loaded, SolverMethod) and loaded.about.endswith(".")
        assert not loaded.usable() or loaded.label().startswith(name)


def test_another_packages_solver_is_listed_and_solves(installed, ladder):
    installed({"stubborn": "somebody_elses_solver:METHOD"})
    assert "stubborn" in available()
    assert describe()["stubborn"] == ("Tries one plan after another, for the tests.", True)
    solution = solve(ladder, "stubborn")
    assert (solution.choice, solution.status, solution.solver) == ((2, 0), Status.OPTIMAL, "stubborn 1.0")


def test_another_packages_solver_keeps_the_contract(installed):
    """Against exhaustive search, with absurd values too: the proof does not depend on the method's arithmetic."""
    installed({"stubborn": "somebody_elses_solver:METHOD"})
    rng = np.random.default_rng(8)
    for number in range(40):
        value = rng.normal(size=(3, 3)) * 10.0 ** rng.choice([0, 0, 12, -200], (3, 3))
        usage = rng.integers(1, 9, (3, 3)).astype(float)
        problem = ChoiceProblem(
            tuple("abc"), tuple("xyz"), value, {"r": usage}, {"r": 9.0}, ties=(("a", "b"),) if number % 2 else ()
        )
        mine, oracle = solve(problem, "stubborn"), solve(problem, "exhaustive")
        assert mine.status is oracle.status
        if oracle.choice is not None:
            worth = math.fsum(abs(value[range(3), list(mine.choice)]))
            assert mine.value - oracle.value <= 1e-6 * worth


def test_one_name_from_two_packages_is_refused_with_both(installed):
    installed({"dp": "somebody_elses_solver:METHOD"})
    message = r"'dp': names both solvers\.methods\.dp:METHOD and somebody_elses_solver:METHOD of somebody-elses"
    for ask in (available, describe, lambda: method("auto")):
        with pytest.raises(SolverError, match=message):
            ask()


def test_a_broken_entry_point_is_an_error_when_it_is_used(installed, ladder):
    installed({"gone": "no_such_module:METHOD", "nothing": "somebody_elses_solver:NOTHING"})
    assert {"gone", "nothing"} <= set(available())
    assert describe()["gone"][1] is False and solve(ladder).value == 5.0
    with pytest.raises(SolverError, match=r"'gone': no_such_module:METHOD of somebody-elses cannot be loaded\. Module"):
        solve(ladder, "gone")
    with pytest.raises(
        SolverError, match=r"'nothing': .*NOTHING of somebody-elses is a int, which lacks about, usable"
    ):
        solve(ladder, "nothing")


def test_columns_that_are_not_a_plan_are_an_error(installed, ladder):
    installed({"liar": "somebody_elses_solver:LIAR"})
    with pytest.raises(SolverError, match="returned columns that are not a plan"):
        solve(ladder, "liar")
