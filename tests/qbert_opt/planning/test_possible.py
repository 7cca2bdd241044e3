"""Limits that nothing keeps are refused from shapes alone, and only these."""

import re

import pytest
from plain_bert import bert

from qbert_opt.errors import InfeasibleError, UsageError
from qbert_opt.models.loading import load_model
from qbert_opt.models.structure import profile_model
from qbert_opt.planning.constraints import PlanConstraints
from qbert_opt.planning.planner import allocate
from qbert_opt.planning.possible import check_possible, unscored
from qbert_opt.spec.grids import default_grid
from qbert_opt.spec.limits import Limits


def smallest(table):
    """Bytes of the smallest choice of every matrix."""
    heads = table.profile.heads
    grid = [c for c in table.grid() if c.bits == 2]
    return sum(
        min(c.bytes(m.rows, m.columns, heads=heads) for c in grid if c.name not in table.masks.get(m.module, {}))
        for m in table.profile.matrices
    )


def test_the_unscored_table_has_the_choices_of_the_scored_one(gptq_scores):
    """Same columns, and the same ones masked."""
    table = unscored(gptq_scores.profile, default_grid("gptq"))
    assert table.choices == gptq_scores.choices
    assert [[v is None for v in row] for row in table.value] == [[v is None for v in row] for row in gptq_scores.value]


def test_the_least_bytes_are_possible_and_one_less_is_not(gptq_scores):
    """The nearest feasible value is the sum of the smallest choices, by hand."""
    table, least = unscored(gptq_scores.profile, default_grid("gptq")), smallest(gptq_scores)
    check_possible(table, Limits(encoder_bytes=least))
    with pytest.raises(InfeasibleError, match=rf"nearest feasible {least / 1e3:.4g}.*binding limit encoder_bytes"):
        check_possible(table, Limits(encoder_bytes=least - 1))


@pytest.mark.parametrize("field", ["encoder_bytes", "total_bytes", "latency_s", "energy_j", "dram_bytes"])
def test_it_refuses_exactly_what_solving_refuses(gptq_scores, car_soc, field):
    """At shares of what a free plan takes, from nothing to all of it."""
    table = unscored(gptq_scores.profile, default_grid("gptq"))
    free = allocate(gptq_scores.model_copy(update={"fold_value": ()}), Limits(), device=car_soc)
    used = {"encoder_bytes": free.encoder_bytes, "total_bytes": free.total_bytes, "latency_s": free.device.latency_s}
    used |= {"energy_j": free.device.energy_j, "dram_bytes": free.device.dram_bytes}
    refusals = []
    for share in (1e-3, 0.2, 0.5, 0.8, 0.95, 1.0):
        limits = Limits(**{field: type(used[field])(share * used[field]) or 1})
        found = []
        for attempt in (
            lambda limits=limits: check_possible(table, limits, device=car_soc),
            lambda limits=limits: allocate(gptq_scores, limits, device=car_soc),
        ):
            try:
                attempt()
                found.append(None)
            except InfeasibleError as error:
                found.append(str(error))
        assert found[0] == found[1]
        refusals.append(found[0])
    assert refusals[0] is not None and refusals[-1] is None


@pytest.mark.parametrize(
    ("limit", "what"),
    [
        (("--budget", "1bit"), "--budget = .* is below the floor: nearest feasible .*; binding limit encoder_bytes"),
        (("--total-budget", "100B"), "--total-budget = "),
        (("--device", "car-soc", "--max-latency", "1ns"), "--max-latency = .* is below the floor: nearest feasible"),
    ],
)
def test_optimize_refuses_before_it_scores(cli, monkeypatch, tiny_folder, data_file, tmp_path, limit, what):
    """Exit code 3 and one line, and nothing is written."""
    monkeypatch.setattr("qbert_opt.workflows.output_folder.score_model", None)
    said = cli("optimize", "--model", tiny_folder, "--data", data_file, *limit, "-o", tmp_path / "out", "-q")
    assert said.code == 3
    assert re.search(what, said.complaint)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("engine", "multiple"), [("llama-cpp", 32), ("onnxruntime", 16)])
def test_optimize_refuses_a_width_that_no_block_divides_before_it_scores(
    cli, monkeypatch, data_file, tmp_path, engine, multiple
):
    """Exit code 2, and the engines that hold it; nothing is written."""
    pytest.importorskip({"llama-cpp": "xllamacpp"}.get(engine, engine))
    monkeypatch.setattr("qbert_opt.workflows.output_folder.score_model", None)
    model = bert(tmp_path / "model", width=40)
    options = ("--engine", engine, "--max-flips", "10%", "-o", tmp_path / "out")
    said = cli("optimize", "--model", model, "--data", data_file, *options)
    assert said.code == 2
    assert said.complaint == (
        f"qbert-opt: --engine {engine}: bert.encoder.layer.0.attention.self.query has 40 inputs; it needs a multiple "
        f"of {multiple}, however it is stored. Engines that support it: litert, openvino, qnn."
    )
    assert not (tmp_path / "out").exists()
    table = unscored(profile_model(load_model(model)), default_grid("gptq"))
    portable = PlanConstraints(portable=("openvino", engine))
    with pytest.raises(UsageError, match=rf"40 inputs; it needs a multiple of {multiple} in {engine}, however"):
        check_possible(table, Limits(), constraints=portable)


def test_sensitivity_refuses_the_budget_of_stability_before_it_scores(
    cli, monkeypatch, tiny_folder, data_file, tmp_path
):
    """With `--stability` only: without it there is no plan."""
    monkeypatch.setattr("qbert_opt.scoring.sensitivity.measure_sensitivity", None)
    files = ("--model", tiny_folder, "--data", data_file, "-o", tmp_path / "s.json", "-q")
    said = cli("sensitivity", *files, "--stability", 2, "--budget", "1bit")
    assert said.code == 3 and "nearest feasible" in said.complaint
