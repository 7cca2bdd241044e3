"""The tiny model's data file, scores and plans, made once; and the command line, run in this process."""

import functools
import os
import sys
from dataclasses import dataclass

import pytest
import typer

os.environ.setdefault("OMP_NUM_THREADS", "1")  # these tensors are too small to share between cores


@dataclass(frozen=True)
class Finished:
    """How a command ended: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The one line that a refused command prints; fails on a traceback, a second line or output on stdout."""
        lines = self.err.splitlines()
        assert len(lines) == 1 and lines[0].startswith("qbert-opt: "), self.err
        assert self.out == ""
        return lines[0]


command_of = functools.cache(typer.main.get_command)  # building all verbs takes a tenth of a second


@pytest.fixture
def cli(monkeypatch, capsys):
    """Run `qbert-opt ARGUMENTS` through the installed entry point, whose verbs are built once for all tests."""
    monkeypatch.setattr("typer.main.get_command", command_of)

    def run(*arguments):
        from qbert_opt.cli import main

        monkeypatch.setattr(sys, "argv", ["qbert-opt", *map(str, arguments)])
        capsys.readouterr()
        try:
            main.run()
            code = 0
        except SystemExit as stop:
            code = 0 if stop.code is None else stop.code
        found = capsys.readouterr()
        return Finished(code, found.out, found.err)

    return run


@pytest.fixture(scope="session")
def data_file(tmp_path_factory, sentences):
    """The sentences as a tab-separated file with a header."""
    path = tmp_path_factory.mktemp("data") / "sentences.tsv"
    rows = [f"{text[0]}\t{label}" for text, label in zip(sentences.texts, sentences.labels, strict=True)]
    path.write_text("\n".join(["text\tlabel", *rows]) + "\n")
    return path


@pytest.fixture(scope="session")
def file_texts(data_file):
    """The sentences as the command line reads them."""
    from qbert_opt.data.texts import read_texts

    return read_texts(data_file)


def _scores(tiny, texts, method):
    from qbert_opt.quantization.calibration import CalibrationPlan
    from qbert_opt.scoring.sensitivity import measure_sensitivity
    from qbert_opt.spec.grids import default_grid

    return measure_sensitivity(tiny, texts, default_grid(method), plan=CalibrationPlan(40, 40, 0))


@pytest.fixture(scope="session")
def rtn_scores(tiny, file_texts):
    """Directional scores of plain rounding."""
    return _scores(tiny, file_texts, "rtn")


@pytest.fixture(scope="session")
def gptq_scores(tiny, file_texts):
    """Directional scores of compensated rounding."""
    return _scores(tiny, file_texts, "gptq")


@pytest.fixture(scope="session")
def gptq_plan(gptq_scores):
    """A proven plan of the tiny model at 4 bits per weight."""
    from qbert_opt.planning.planner import allocate
    from qbert_opt.spec.limits import Limits

    return allocate(gptq_scores, Limits(encoder_bytes=gptq_scores.profile.encoder_elements // 2))


@pytest.fixture(scope="session")
def car_soc():
    """The device of the README's line."""
    from hwmodels import load_device

    return load_device("car-soc")


@pytest.fixture(scope="session")
def reference():
    """The bundled table of scores."""
    from qbert_opt.data.reference import reference_scores

    return reference_scores()


@pytest.fixture(scope="session")
def reference_sums(reference):
    """The bundled table without its folds: its plans skip the 16 more programs that cross-fitting solves for each."""
    return reference.model_copy(update={"fold_value": ()})


@pytest.fixture(scope="session")
def three_layers(reference_sums):
    """The first three layers of the bundled table, without folds."""
    matrices = [m for m in reference_sums.profile.matrices if m.block < 3]
    profile = reference_sums.profile.model_copy(update={"num_blocks": 3, "matrices": tuple(matrices)})
    assert reference_sums.profile.matrices[: len(matrices)] == profile.matrices
    names = ("value", "std_error", "weight_error", "samples")
    rows = {name: getattr(reference_sums, name)[: len(matrices)] for name in names}
    omega = tuple(layer for layer in reference_sums.block_sensitivity if layer.block < 3)
    return reference_sums.model_copy(update={"profile": profile, "block_sensitivity": omega, **rows})


@pytest.fixture(scope="session")
def reference_frontier(reference):
    """The bundled table's loss against bytes: all plans on the convex hull, and 40 budgets between them."""
    from qbert_opt.planning.frontier import trade_off
    from qbert_opt.planning.program import PlanningTask
    from qbert_opt.spec.limits import Limits

    return trade_off(PlanningTask(reference, Limits()), ("bytes",), points=40)


@pytest.fixture(scope="session")
def reference_plan(reference, car_soc):
    """What the README's line makes."""
    from qbert_opt.planning.planner import allocate
    from qbert_opt.spec.limits import Limits

    return allocate(reference, Limits(encoder_bytes=25_000_000), device=car_soc)
