"""The command line end to end: the README's line, and the full path on the tiny model."""

import json

import pytest

from qbert_opt.spec.allocation import Allocation, read_allocation
from qbert_opt.spec.scores import read_scores

LINE = ("solve", "--budget", "25MB", "--device", "car-soc.yaml")


def test_the_readmes_line_prints_what_was_promised(cli):
    """Plan, bytes, both totals, bits, losses, proof, limits, one more MB; and on the device all costs and the trust."""
    found = cli(*LINE)
    assert (found.code, found.err) == (0, "")
    for part in (
        "mpnet", "metric directional, method gptq", "snips/train", "commit ", "12 layers",
        "query", "att. out", "ffn in", "ffn out", "c128", "encoder matrices", "MB", "MiB", "bits per weight",
        "of scales and offsets", "whole model", "predicted loss", "squared output distance", "status",
        "optimal, proven gap",
        "best uniform", "x ours", "--budget", "<- binds", "car-soc: limits.weights", "one more MB",
        "latency", "bound by", "peak memory", "DRAM traffic", "GB/s", "energy", "unpacking", "costs", "saves",
        "trust", "have a source",
    ):  # fmt: skip
        assert part in found.out, part
    layers = [line.split()[0] for line in found.out.splitlines() if line.strip()[:2].strip().isdigit()]
    assert layers[:12] == [str(i) for i in range(1, 13)]


def test_json_is_the_allocation(cli, reference_plan, tmp_path):
    """`--json` prints what `-o` writes: the plan that the Python function makes."""
    printed = cli(*LINE, "--json", "-o", tmp_path / "a.json")
    assert printed.code == 0
    assert Allocation.model_validate_json(printed.out) == read_allocation(tmp_path / "a.json")
    document = json.loads(printed.out)
    assert [m["bytes"] for m in document["matrices"]] == [m.bytes for m in reference_plan.matrices]
    for field in (
        "schema", "status", "gap", "lower_bound", "loss_unit", "predicted_loss", "encoder_bytes", "total_bytes",
        "average_bits", "matrices", "tables", "activations", "device",
    ):  # fmt: skip
        assert field in document
    assert {"latency_s", "peak_memory_bytes", "dram_bytes", "energy_j", "confidence"} <= set(document["device"])


def test_plots_are_written(cli, tmp_path):
    """`--plot` draws the plan to a picture."""
    found = cli("solve", "--budget", "2.5bit", "--plot", tmp_path / "plan.png")
    assert found.code == 0
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in tmp_path.iterdir()] == ["plan.png"]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Where the full path leaves its files."""
    return tmp_path_factory.mktemp("path")


@pytest.mark.parametrize(
    ("metric", "method"), [("directional", "gptq"), ("directional", "rtn"), ("qbert", "rtn"), ("qbert", "gptq")]
)
def test_the_full_path(cli, workspace, tiny_folder, data_file, metric, method):
    """Sensitivity, solve, simulate, quantize, evaluate: every step takes what the one before wrote."""
    scores, plan, out = (workspace / f"{metric}-{method}{end}" for end in (".json", "-plan.json", ""))
    model = ("--model", tiny_folder, "--data", data_file)
    samples = ("--calibration-samples", 40, "--scoring-samples", 40)
    found = cli("sensitivity", *model, *samples, "--metric", metric, "--method", method, "-o", scores)
    assert found.code == 0, found.err
    assert f"{scores}: 12 matrices × 28 choices" in found.out
    assert not scores.with_suffix(".json.partial").exists()
    table = read_scores(scores)
    assert (table.metric, table.method, len(table.block_sensitivity)) == (metric, method, 2 if metric == "qbert" else 0)

    found = cli("solve", "--scores", scores, "--budget", "4bit", "--device", "car-soc", "-o", plan, "--seq-len", 16)
    assert found.code == 0, found.err
    assert f"wrote {plan}" in found.out
    allocation = read_allocation(plan)
    assert allocation.status == "optimal" and allocation.average_bits <= 4
    assert allocation.device.seq_len == 16

    found = cli("simulate", plan, "--device", "car-soc", "--seq-len", 16, "--compare", "fp32, int8")
    assert found.code == 0, found.err
    assert "this plan" in found.out and "int8" in found.out
    found = cli("simulate", plan, "--device", "car-soc", "--seq-len", 16, "--json")
    assert json.loads(found.out)["latency_s"] == allocation.device.latency_s

    found = cli("quantize", plan, *model, "-o", out)
    assert found.code == 0, found.err
    assert f"encoder matrices {allocation.encoder_bytes:,} bytes (planned {allocation.encoder_bytes:,})" in found.out
    assert f"all tensors {allocation.total_bytes:,} bytes (planned {allocation.total_bytes:,})" in found.out

    found = cli("evaluate", out, "--data", data_file, "--reference", tiny_folder, "--json")
    assert found.code == 0, found.err
    measured = json.loads(found.out)
    assert measured["num_samples"] == 120
    assert 0 < measured["kl"]["low"] <= measured["kl"]["value"] <= measured["kl"]["high"]
    drop = measured["drop"]["value"]
    assert drop == pytest.approx((measured["lost"] - measured["won"]) / 120)
    found = cli("evaluate", out, "--data", data_file, "--reference", tiny_folder)
    assert f"drop of accuracy against the reference, in points [95 %, paired by text]: {100 * drop:.2f} [" in found.out
    predicted = f" {allocation.predicted_loss:.3g} " in found.out
    assert predicted == (metric == "directional"), "only nats of KL stand beside measured KL"
    assert "…" not in found.out


def test_recipes_from_the_command_line(cli, workspace, tiny_folder, data_file):
    """Q-BERT's rule needs Q-BERT's scores with 128 row groups, which 32 rows cannot have: said, not guessed."""
    scores = workspace / "qbert-rtn.json"
    if not scores.exists():  # the full path's, where that test ran before this one
        samples = ("--calibration-samples", 40, "--scoring-samples", 40, "--metric", "qbert", "--method", "rtn")
        assert cli("sensitivity", "--model", tiny_folder, "--data", data_file, *samples, "-o", scores).code == 0
    found = cli("solve", "--scores", scores, "--budget", "4bit", "--recipe", "qbert-2/3")
    assert found.code == 2 and "128 does not divide 32 output rows" in found.complaint
    found = cli("solve", "--scores", scores, "--recipe", "uniform:4bit/columns:32/rtn", "--budget", "8bit")
    assert found.code == 0 and "unproven" in found.out


def test_the_first_steps_in_one(cli, tiny_folder, data_file):
    """`solve --model --data` scores first."""
    samples = ("--calibration-samples", 40, "--scoring-samples", 40, "--method", "rtn")
    found = cli("solve", "--model", tiny_folder, "--data", data_file, "--budget", "4bit", *samples, "--json")
    assert found.code == 0, found.err
    plan = Allocation.model_validate_json(found.out)
    assert (plan.method, plan.provenance.num_scored, plan.profile.name) == ("rtn", 40, str(tiny_folder))


@pytest.mark.parametrize("metric", ["directional", "qbert"])
@pytest.mark.parametrize("finished", [1, 7, 12])
def test_an_interrupted_run_goes_on(cli, workspace, tmp_path, tiny_folder, data_file, monkeypatch, metric, finished):
    """Ctrl-C after some matrices leaves them in the .partial file; the next run scores only the others, equally."""
    from qbert_opt.runtime import plugins

    command = (
        "sensitivity", "--model", tiny_folder, "--data", data_file, "--metric", metric, "--method", "rtn",
        "--bits", "2,4", "--calibration-samples", 20, "--scoring-samples", 20, "--quiet", "-o",
    )  # fmt: skip
    plugin = plugins.load("metrics", metric)
    original, seen = plugin.score, []

    def interrupted(task, pending):
        for count, row in enumerate(original(task, pending)):
            if count == finished:
                raise KeyboardInterrupt
            yield row
        raise KeyboardInterrupt

    def counted(task, pending):
        seen.append(len(pending))
        yield from original(task, pending)

    monkeypatch.setattr("qbert_opt.scoring.sensitivity.code_commit", lambda: "here")
    with monkeypatch.context() as patch:
        patch.setattr(plugin, "score", interrupted)
        stopped = cli(*command, tmp_path / "a.json")
    assert stopped.code == 130
    assert stopped.complaint == (
        "qbert-opt: interrupted; nothing half-written is left; finished work is kept in "
        f"{tmp_path / 'a.json.partial'}: the same command resumes from there."
    )
    assert [p.name for p in tmp_path.iterdir()] == ["a.json.partial"]
    with monkeypatch.context() as patch:
        patch.setattr(plugin, "score", counted)
        assert cli(*command, tmp_path / "a.json").code == 0
    assert sum(seen) == 12 - finished
    whole = workspace / f"{metric}-whole.json"
    if not whole.exists():  # once for every place of the interruption
        assert cli(*command, whole).code == 0
    assert read_scores(tmp_path / "a.json") == read_scores(whole)
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_partial_file_of_another_run_is_not_used(cli, tmp_path, tiny_folder, data_file):
    """Scores of other choices, data or code never get into a table; a line cut in the middle is scored again."""
    (tmp_path / "a.json.partial").write_text("another run\n[0, [1.0], [1.0], [1.0]]\n[1, [1.")
    command = ("sensitivity", "--model", tiny_folder, "--data", data_file, "--method", "rtn", "--bits", "2")
    found = cli(*command, "--calibration-samples", 9, "--scoring-samples", 9, "-q", "-o", tmp_path / "a.json")
    assert found.code == 0, found.err
    assert (
        found.err.startswith("qbert-opt: warning: ") and "a.json.partial: 3 of its lines are damaged, of" in found.err
    )
    assert read_scores(tmp_path / "a.json").value[0][0] != 1.0
