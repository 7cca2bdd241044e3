"""The whole path in one call: what it returns is what the single steps give, and what ships is what was measured."""

import json
import shutil
from pathlib import Path

import pytest
from families import save
from optimize_quickly import optimize_quickly

import qbert_opt as qb
from qbert_opt.engines.session import engine, rules_of
from qbert_opt.workflows import comparison, output_folder, proving
from qbert_opt.workflows.export import export_float
from qbert_opt.workflows.outcome import Outcome

SMALL = qb.CalibrationPlan(40, 40, 0)


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    """Two steps, one well below the likely loss and one at it: each is some fifty solved problems."""
    monkeypatch.setattr(proving, "STEPS", proving.STEPS[::8])
    optimize_quickly(monkeypatch)


@pytest.fixture(scope="module")
def optimized(tiny_folder, data_file, tmp_path_factory):
    """A tiny model at 5 bits per weight, planned for a device, exported and measured on the 40 texts that are left."""
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("optimize") / "out"
    with pytest.MonkeyPatch.context() as patch:
        optimize_quickly(patch)
        return qb.optimize(
            tiny_folder, data_file, folder, budget="5bit", device="rpi5", engine="onnxruntime", activations="float32",
            calibration=SMALL, method="rtn", seq_len=9,
        )  # fmt: skip


def test_the_folder_holds_every_step(optimized):
    """Every step has its file and nothing else is left; the plan keeps its budget."""
    scores = qb.read_scores(optimized.folder / "scores.json")
    plan = qb.read_allocation(optimized.folder / "allocation.json")
    assert plan == optimized.plan and plan.average_bits <= 5
    assert all(rules_of("onnxruntime").refusal(m.choice) is None for m in plan.matrices)
    assert plan == qb.read_allocation(optimized.quantized / "allocation.json")
    assert scores.profile == plan.profile
    assert optimized.exported.engine == "onnxruntime"
    assert (optimized.folder / "onnxruntime" / "onnx" / "model.onnx").is_file()
    assert optimized.predicted.latency_s == pytest.approx(plan.device.latency_s)
    written = json.loads((optimized.folder / "optimized.json").read_text())
    assert Outcome.model_validate(written) == optimized.outcome
    assert {str(path) for path in optimized.folder.iterdir()} == set(optimized.outcome.files)


def test_measured_is_what_the_exported_files_answer(optimized, tiny_folder, data_file, tmp_path):
    """The engine's answers to the texts that neither calibrated nor scored, evaluated by hand."""
    from qbert_opt.data.texts import split_disjoint
    from qbert_opt.serving.engine_model import serve

    check = split_disjoint(qb.read_texts(data_file), [40, 40, 40], seed=0)[2]
    float_model = qb.load_model(tiny_folder)
    served = serve(optimized.folder / "onnxruntime")
    again = qb.evaluate(served.loaded, check, qb.outputs(float_model, check))
    assert optimized.measured.loss.value == pytest.approx(again.loss.value, rel=1e-5)
    row = optimized.outcome.plan
    assert (row.flipped, row.num_texts) == (again.flipped, 40) and row.accuracy == again.accuracy
    assert row.drop.value == pytest.approx(optimized.outcome.original.accuracy.value - row.accuracy.value)
    assert row.engine_bytes == optimized.exported.exported_bytes and row.latency_s > 0
    original = optimized.outcome.original
    exported = export_float(tiny_folder, "onnxruntime", tmp_path / "float")
    assert original.engine_bytes == (exported / "onnx" / "model.onnx").stat().st_size
    assert original.latency_s > 0 and optimized.outcome.uniform.latency_s > 0
    lines = str(optimized).splitlines()
    assert f"{optimized.plan.total_bytes:,} bytes" in lines[0] and any("measured loss" in line for line in lines)


def test_uniform_8_bit_stands_beside_the_plan(optimized):
    """It has every matrix at 8 bits, breaks the budget of 5, and is therefore not advised."""
    assert optimized.outcome.uniform_choice.startswith("8bit/")
    assert optimized.outcome.uniform.stored_bytes > optimized.outcome.plan.stored_bytes
    assert not optimized.outcome.uniform_suffices


def test_mistakes_come_before_the_work(tiny_folder, data_file, tmp_path):
    """Nothing limits the plan, a folder that is taken, a device or an engine that does not exist."""
    with pytest.raises(qb.UsageError, match="no limit given"):
        qb.optimize(tiny_folder, data_file, tmp_path / "out")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("")
    with pytest.raises(qb.UsageError, match="exists and is not an empty folder"):
        qb.optimize(tiny_folder, data_file, tmp_path / "taken", budget="4bit")
    with pytest.raises(qb.UsageError, match="`budget` 25 MBit"):
        qb.optimize("no such model", data_file, tmp_path / "out", budget="25 MBit", limits=qb.Limits())
    with pytest.raises(qb.UsageError, match="unknown 'abacus'"):
        qb.optimize("no such model", data_file, tmp_path / "out", budget="4bit", engine="abacus")
    with pytest.raises(qb.UsageError, match="`activations`: is a setting of an engine"):
        qb.optimize("no such model", data_file, tmp_path / "out", budget="4bit", activations="planned")
    with pytest.raises(qb.UsageError, match="`activations` int4: legal: int8, int8-coarse, planned, float32"):
        qb.optimize(
            "no such model", data_file, tmp_path / "out", budget="4bit", engine="onnxruntime", activations="int4"
        )
    with pytest.raises(qb.DeviceError, match="no such file or device"):
        qb.optimize(tiny_folder, data_file, tmp_path / "out", budget="4bit", device="toaster")
    assert issubclass(qb.DeviceError, qb.QbertOptError) and not (tmp_path / "out").exists()


def test_a_goal_that_cannot_be_sought_is_refused_before_the_work(tiny_folder, data_file, tmp_path, cli):
    """Unknown, without a device, or without a limit on answers."""
    out = tmp_path / "out"
    with pytest.raises(qb.UsageError, match=r"`least` bops: legal: bytes, latency\."):
        qb.optimize("no such model", data_file, out, max_flips="5%", least="bops")
    with pytest.raises(qb.UsageError, match=r"`least` latency: needs `device`"):
        qb.optimize("no such model", data_file, out, max_flips="5%", least="latency")
    with pytest.raises(qb.UsageError, match=r"`least` latency: belongs to `max_flips` or `max_accuracy_drop`"):
        qb.optimize("no such model", data_file, out, budget="4bit", device="rpi5", least="latency")
    with pytest.raises(qb.UsageError, match=r"`metric` weight-error: its scores are no KL, so they predict no flips"):
        qb.optimize("no such model", data_file, out, max_flips="5%", metric="weight-error")
    found = cli(
        "optimize", "--model", tiny_folder, "--data", data_file, "--budget", "4bit", "--least", "bytes", "-o", out
    )
    assert found.code == 2 and "--least: belongs to --max-flips or --max-accuracy-drop" in found.complaint


def test_a_model_that_an_engine_cannot_hold_is_refused_before_it_is_scored(tiny, data_file, tmp_path):
    """A feed-forward layer as a convolution: one line that names it."""
    from copy import deepcopy
    from dataclasses import replace

    import torch

    model = deepcopy(tiny.model)

    class Pointwise(torch.nn.Conv1d):
        def forward(self, x):
            return super().forward(x.transpose(1, 2)).transpose(1, 2)

    model.get_submodule("bert.encoder.layer.1.intermediate").dense = Pointwise(32, 64, 1)
    with pytest.raises(qb.UsageError, match=r"`engine` openvino: bert\.encoder\.layer\.1.* is a convolution"):
        pytest.importorskip("qbert_opt.formats.quiet_openvino")
        qb.optimize(replace(tiny, model=model), data_file, tmp_path / "out", budget="4bit", engine="openvino")
    assert not (tmp_path / "out").exists()


def test_a_model_that_an_engine_cannot_convert_is_refused_before_it_is_scored(data_file, tmp_path):
    """DistilBERT's head has no place in llama.cpp's files, which only their writer knows."""
    pytest.importorskip("xllamacpp")
    model = save(tmp_path / "model", "distilbert", "classes")
    with pytest.raises(qb.UsageError, match=r"`engine` llama-cpp: the head of Distil.* has no place in it"):
        qb.optimize(model, data_file, tmp_path / "out", budget="4bit", engine="llama-cpp")
    assert not (tmp_path / "out").exists()


def test_more_tokens_than_the_model_reads_are_refused(tiny_folder, data_file, tmp_path):
    """The tiny model has 40 positions: 41 tokens are one line, before anything is scored."""
    with pytest.raises(qb.UsageError, match=r"`seq_len` 41: .* reads 40 tokens at most"):
        qb.optimize(tiny_folder, data_file, tmp_path / "out", budget="4bit", seq_len=41)
    assert not (tmp_path / "out").exists()


def test_an_engine_that_is_not_installed_says_how_to_install_it(tiny_folder, data_file, tmp_path, monkeypatch):
    """One line, before the model is read."""
    from qbert_opt.engines.backends import onnxruntime

    monkeypatch.setattr(onnxruntime, "usable", lambda: False)
    with pytest.raises(qb.UsageError, match=r"not installed\. Install it with: pip install 'qbert-opt\[onnxruntime\]'"):
        qb.optimize("no such model", data_file, tmp_path / "out", max_flips="1%", engine="onnxruntime")


def test_too_few_texts_for_the_proof(tiny_folder, data_file, tmp_path):
    """60 texts are left of 120; 1 % at 95 % takes 299. Nothing was scored."""
    with pytest.raises(qb.InputFileError, match=r"60 texts are held out; `max_flips` 1% at 95 % .* at least 299"):
        qb.optimize(tiny_folder, data_file, tmp_path / "out", max_flips="1%")
    if engine("onnxruntime").usable():  # 60 prove 5 % once, but not for planned inputs and the engine's own rounding
        with pytest.raises(qb.InputFileError, match=r"`max_flips` 5% at 97\.5 % confidence for each .* at least 72"):
            qb.optimize(tiny_folder, data_file, tmp_path / "out", max_flips="5%", engine="onnxruntime")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_an_interrupted_run_goes_on(cli, tiny_folder, data_file, tmp_path, monkeypatch):
    """Ctrl-C while plans are checked: scores are used again, nothing half-written is left, the result is the same."""
    out, ship = tmp_path / "out", proving.ship
    arguments = ("optimize", "--model", tiny_folder, "--data", data_file, "--max-flips", "40%", "--method", "rtn")

    def interrupt(setup, plan, folder, progress):
        if folder.name == "2":
            raise KeyboardInterrupt
        return ship(setup, plan, folder, progress)

    with monkeypatch.context() as patch:
        patch.setattr(proving, "ship", interrupt)
        stopped = cli(*arguments, "-o", out, "-q")
    assert stopped.code == 130 and "finished work is kept" in stopped.err, stopped.err
    assert (out / "tried" / "plans" / "1" / "quantized" / "allocation.json").is_file()
    with monkeypatch.context() as patch:
        patch.setattr(output_folder, "score_model", None)  # would fail
        found = cli(*arguments, "-o", out, "-q")
    assert found.code == 0 and "the scores are of an earlier, interrupted run" in found.out, found.err
    whole = cli(*arguments, "-o", tmp_path / "whole", "-q", "--json")
    first, again = json.loads((out / "optimized.json").read_text()), json.loads(whole.out)
    assert first["plan"] == again["plan"] and first["tried"] == again["tried"]
    taken = cli(*arguments, "-o", out, "-q")
    assert taken.code == 2 and "holds a finished run" in taken.complaint


@pytest.mark.slow
def test_the_command_line_ends_with_a_verdict(cli, tiny_folder, data_file, tmp_path):
    """Both limits hold, the table has its three rows, and every file that is named is there."""
    pytest.importorskip("onnxruntime")
    found = cli(
        "optimize", "--model", tiny_folder, "--data", data_file, "--engine", "onnxruntime", "--budget", "6bit",
        "--max-flips", "50%", "--max-accuracy-drop", "40%", "--method", "rtn", "-o", tmp_path / "out", "-q",
    )  # fmt: skip
    assert found.code == 0, found.err
    assert [
        word for word in ("float32", "uniform 8-bit", "this plan", "verdict  holds: ") if word not in found.out
    ] == []
    outcome = Outcome.model_validate_json((tmp_path / "out" / "optimized.json").read_text())
    assert all(proof.holds for proof in outcome.plan.proofs) and len(outcome.plan.proofs) == 2
    plan = qb.read_allocation(tmp_path / "out" / "allocation.json")
    assert plan.average_bits <= 6 and any("--budget" in limit for limit in outcome.limits)
    assert all(Path(name).exists() for name in outcome.files)
    page = (tmp_path / "out" / "report.html").read_text()
    assert f"report   {tmp_path / 'out' / 'report.html'}" in found.out
    measured = f"measured {100 * outcome.plan.flips.value:.2f} [{100 * outcome.plan.flips.low:.2f}, "
    assert measured in page and f"in {outcome.engine}" in page and "best plan" in page


def test_without_labels_agreement_stands_for_accuracy(cli, tiny_folder, data_file, tmp_path):
    """The limit on accuracy is one on changed answers, and that is said."""
    bare = tmp_path / "bare.tsv"
    bare.write_text("".join(line.split("\t")[0] + "\n" for line in data_file.read_text().splitlines()))
    found = cli(
        "optimize", "--model", tiny_folder, "--data", bare, "--max-accuracy-drop", "40pt", "--method", "rtn",
        "-o", tmp_path / "out", "-q",
    )  # fmt: skip
    assert found.code == 0, found.err
    assert "agreement with the float model drops by" in found.out and "the text has no labels" in found.out


def test_limits_that_cannot_be_proven_are_infeasible(cli, tiny_folder, data_file, tmp_path):
    """At 2 bits a random model changes many answers: exit code 3, and what was measured; scores are kept."""
    found = cli(
        "optimize", "--model", tiny_folder, "--data", data_file, "--budget", "2.6bit", "--max-flips", "6%",
        "--method", "rtn", "-o", tmp_path / "out", "-q",
    )  # fmt: skip
    assert found.code == 3 and "no plan is proven to meet every limit" in found.complaint
    assert "--max-flips 6 %: measured" in found.complaint
    assert (tmp_path / "out" / "scores.json").is_file()
    shutil.rmtree(tmp_path / "out")


@pytest.mark.parametrize("kind", ["tags", "spans", "vocabulary"])
def test_other_kinds_of_answers_have_flips_per_text(kind, tmp_path, sentences):
    """A text flips if any of its words, masks, or its start or end changes; accuracy limits are for classifiers."""
    from families import save

    folder = save(tmp_path / "model", "bert", kind)
    texts = [(text[0], text[0] + " w1") if kind == "spans" else text for text in sentences.texts]
    texts = qb.LabeledTexts("texts", tuple(texts), None)
    found = qb.optimize(folder, texts, tmp_path / "out", max_flips="60%", method="rtn", calibration=SMALL)
    row = found.outcome.plan
    assert row.proofs[0].holds and row.num_texts == 40 and row.flips.value == row.flipped / 40
    assert row.flipped <= found.measured.flipped and row.drop is None
    with pytest.raises(qb.UsageError, match=r"`max_accuracy_drop`: holds for classifiers of texts.*`max_flips`"):
        qb.optimize(folder, texts, tmp_path / "other", max_accuracy_drop="5pt")


def test_embeddings_have_no_answers_that_could_flip(tmp_path, sentences):
    """One line that names what has; a budget works, and its loss is a distance."""
    from families import save

    folder = save(tmp_path / "model", "bert", "embeddings")
    texts = qb.LabeledTexts("texts", sentences.texts, None)
    with pytest.raises(qb.UsageError, match=r"answers with embeddings, of which none can flip\. Supported: classes"):
        qb.optimize(folder, texts, tmp_path / "out", max_flips="5%")
    found = qb.optimize(folder, texts, tmp_path / "out", budget="4bit", method="rtn", calibration=SMALL)
    assert found.outcome.plan.flips is None and found.outcome.plan.kl.value > 0


@pytest.mark.slow
def test_planned_inputs_that_fail_the_check_leave_rounding_to_the_engine(tiny_folder, data_file, tmp_path, monkeypatch):
    """Both ways share the confidence: each bound holds at 97.5 %, both together at 95 %."""
    pytest.importorskip("onnxruntime")
    prove, confidences = comparison.prove_smallest, []

    def fail_planned(setup, route, relation, quality, folder, progress):
        confidences.append(quality.confidence)
        if route.inputs:
            raise qb.InfeasibleError("12 answers change. Allow more.")
        return prove(setup, route, relation, quality, folder, progress)

    monkeypatch.setattr(comparison, "prove_smallest", fail_planned)
    found = qb.optimize(
        tiny_folder, data_file, tmp_path / "out", max_flips="60%", method="rtn", calibration=SMALL, engine="onnxruntime"
    )
    assert confidences == pytest.approx([0.975, 0.975]) and found.exported.activations == "int8"
    assert found.outcome.plan.proofs[0].confidence == pytest.approx(0.975) and not found.plan.activations
    assert any("because with planned 8-bit inputs 12 answers change" in note for note in found.outcome.notes)
