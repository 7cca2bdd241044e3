"""Kind 1: no cost is predicted for lengths that the model has no positions for."""

import pytest

from qbert_opt.spec.allocation import write_allocation
from qbert_opt.spec.scores import write_scores


@pytest.mark.parametrize(
    "line",
    [
        "simulate plan.json -d car-soc --seq-len 41", "simulate plan.json -d car-soc --lengths 16:1,41:1",
        "report plan.json -d car-soc --seq-len 41 -o r.html", "pareto -s scores.json -d car-soc --seq-len 41",
        "solve -s scores.json -b 4bit -d car-soc --seq-len 41",
    ],
)  # fmt: skip
def test_more_tokens_than_positions_are_refused(cli, gptq_plan, gptq_scores, tmp_path, monkeypatch, line):
    """The tiny model has 40 positions; by default it is priced at these."""
    monkeypatch.chdir(tmp_path)
    write_allocation(gptq_plan, tmp_path / "plan.json")
    write_scores(gptq_scores, tmp_path / "scores.json")
    found = cli(*line.split())
    assert found.code == 2 and "--seq-len 41: " in found.complaint
    assert "has positions for 40 tokens at most" in found.complaint


def test_by_default_no_more_than_the_model_reads(cli, gptq_plan, tmp_path):
    write_allocation(gptq_plan, tmp_path / "plan.json")
    default = cli("simulate", tmp_path / "plan.json", "-d", "car-soc", "--json")
    assert default.out == cli("simulate", tmp_path / "plan.json", "-d", "car-soc", "--seq-len", "40", "--json").out
