"""Scoring runs: shared work, bounded memory, and unsuitable models and texts."""

import copy
import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import warm_process
from families import tiny_model, tokenizer
from torch import nn

from qbert_opt.data.texts import LabeledTexts
from qbert_opt.errors import InputFileError, UsageError
from qbert_opt.models.batches import TokenBatch, tokenize
from qbert_opt.models.loading import LoadedModel
from qbert_opt.models.outputs import Outputs
from qbert_opt.models.torch_device import pick_device
from qbert_opt.quantization.calibration import CalibrationPlan
from qbert_opt.runtime.memory_budget import MemoryShares, PeakMemory, saved_bytes
from qbert_opt.scoring.readiness import check_samples, training_text_warnings
from qbert_opt.scoring.sensitivity import measure_sensitivity
from qbert_opt.spec.grids import grid
from qbert_opt.spec.scores import read_scores

PLAN = CalibrationPlan(20, 30, 0)
CHOICES = grid((2, 4), ("rows:1", "columns:16"), "rtn")


def test_two_processes_give_the_scores_of_one(cli, tmp_path, tiny_folder, data_file):
    """Two processes as torchrun starts them, with shared draws and shared matrices, give the same table."""
    command = [
        "sensitivity", "--model", tiny_folder, "--data", data_file, "--metric", "trace", "--method", "rtn",
        "--bits", "2", "--calibration-samples", 9, "--scoring-samples", 12, "-q", "-o",
    ]  # fmt: skip
    said = warm_process.in_two(tmp_path, [*command, tmp_path / "two.json"])
    assert said.count("two.json: 12 matrices") == 1
    assert "in each of 2 processes" in said
    assert cli(*command, tmp_path / "one.json").code == 0
    one, two = (read_scores(tmp_path / f"{name}.json") for name in ("one", "two"))
    np.testing.assert_allclose(two.values(), one.values(), rtol=1e-5)
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["one.json", "two.json"]


def test_two_processes_page_the_same_model(tmp_path, tiny, tiny_folder, file_texts, data_file):
    """Each process of torchrun pages for itself; together they give the scores of one that does not."""
    command = ["sensitivity", "--model", tiny_folder, "--data", data_file, "--method", "gptq", "--bits", "2",
               "--groupings", "columns:16", "--table-bits", "none", "--calibration-samples", 8, "--scoring-samples", 8,
               "--paged", "-q", "-o"]  # fmt: skip
    said = warm_process.in_two(tmp_path, [*command, tmp_path / "two.json"])
    assert said.count("two.json: 12 matrices") == 1
    one = measure_sensitivity(tiny, file_texts, grid((2,), ("columns:16",), "gptq"), plan=CalibrationPlan(8, 8, 0))
    two = read_scores(tmp_path / "two.json")
    assert two.value == one.value and two.std_error == one.std_error
    assert [p.name for p in tmp_path.iterdir()] == ["two.json"]


def test_peak_memory_is_measured_and_reported(cli, tmp_path, tiny_folder, data_file):
    """A run reports its peak memory, and whether it met the limit."""
    peak = PeakMemory()
    block = torch.ones(100 * 2**20 // 4)  # above the 32 MiB that malloc may serve from pages that are already resident
    assert 90 * 2**20 < peak.bytes < 140 * 2**20
    del block
    options = ("--method", "rtn", "--bits", "2", "--calibration-samples", 9, "--scoring-samples", 9, "-q")
    run = cli("sensitivity", "--model", tiny_folder, "--data", data_file, *options, "-o", tmp_path / "s.json")
    assert run.code == 0, run.err
    assert "MiB above the model, within --memory-limit 2,048 MiB" in run.out


def test_the_graphs_memory_is_counted_once_and_without_weights():
    """Y = tanh(x W): the input and the output of tanh are kept, the weight is the model's."""
    layer = nn.Linear(100, 50, bias=False)
    x = torch.ones(10, 100)
    assert saved_bytes(layer, lambda: layer(x).tanh()) == 4 * (10 * 100 + 10 * 50)


def test_shares_fit_together():
    """Everything that is live at the same time stays below the limit."""
    shares = MemoryShares(1 << 30)
    during_pass = shares.factors + shares.graph + shares.statistics
    after_pass = shares.factors + shares.rounding + shares.jacobians + shares.statistics
    assert max(during_pass, after_pass) <= shares.limit


@pytest.mark.parametrize(
    ("name", "what"), [("fpga", "Legal: auto, cpu"), ("cuda:99", "Legal: auto"), ("meta", "neither")]
)
def test_unknown_torch_devices(name, what):
    """One line that lists the available devices."""
    with pytest.raises(UsageError, match=rf"`torch_device` {name}: .*{what}"):
        pick_device(name)


# models that are not fit to be scored


@pytest.fixture
def changed(tiny):
    """A copy of the tiny model that a test may modify."""
    return dataclasses.replace(tiny, model=copy.deepcopy(tiny.model))


def scores(loaded, sentences, metric="directional", choices=CHOICES):
    return measure_sensitivity(loaded, sentences, choices, metric=metric, plan=PLAN)


def test_training_mode_is_refused(changed, sentences):
    """Dropout would make scores random; the message names the module."""
    changed.model.bert.encoder.layer[1].attention.train()
    with pytest.raises(UsageError, match=r"bert.encoder.layer.1.attention is in training mode.*model.eval\(\) first"):
        scores(changed, sentences)


def test_dropout_in_evaluation_mode_is_refused(changed, sentences):
    """Dropout that eval() does not switch off is detected by running twice."""
    changed.model.bert.encoder.layer[0].output.register_forward_hook(
        lambda _module, _args, output: nn.functional.dropout(output, 0.1, training=True)
    )
    with pytest.raises(UsageError, match=r"two runs over the same text differ by up to .*dropout or noise"):
        scores(changed, sentences)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_refused(changed, sentences, dtype):
    """A half-precision model in memory is rejected; the message names the weight and the fix."""
    changed.model.to(dtype)
    with pytest.raises(UsageError, match=rf"is {str(dtype)[6:]}; .*Call model.float\(\) first"):
        scores(changed, sentences)


def test_half_precision_on_disk_is_loaded_in_float32(changed, sentences, tmp_path):
    """A folder of fp16 weights is scored like the same weights in float32."""
    from qbert_opt.models.loading import load_model

    changed.model.half().save_pretrained(tmp_path / "half")
    changed.tokenizer.save_pretrained(tmp_path / "half")
    result = scores(load_model(tmp_path / "half"), sentences)
    expected = scores(dataclasses.replace(changed, model=changed.model.float().eval()), sentences)
    np.testing.assert_allclose(result.values(), expected.values(), rtol=1e-6)


@pytest.mark.parametrize("metric", ["directional", "fisher", "trace", "top-eigenvalue", "gauss-newton-eigenvalue"])
def test_a_layer_without_gradient_scores_zero_and_is_named(changed, sentences, metric):
    """A layer whose output is never read scores zero, with a warning by name; the others are scored."""
    layer = changed.model.bert.encoder.layer[0]
    layer.output.register_forward_pre_hook(lambda _module, args: (torch.zeros_like(args[0]), args[1]))
    table = scores(changed, sentences, metric, CHOICES[:1])
    still = [".0.intermediate" in m.module or ".0.output" in m.module for m in table.profile.matrices]
    assert sum(still) == 2
    np.testing.assert_array_equal(table.values()[still], 0)
    assert (table.values()[[not s for s in still]] > 0).all()
    named = [warning for warning in table.warnings if "gets no gradient" in warning]
    assert [name.split(":")[0] for name in named] == [
        "bert.encoder.layer.0.intermediate.dense", "bert.encoder.layer.0.output.dense"
    ]  # fmt: skip


def test_one_pass_gives_scores_and_curvature(tiny, sentences):
    """Trace and top eigenvalue of every matrix are those of the dedicated metrics, up to rounding."""
    table = measure_sensitivity(tiny, sentences, CHOICES, plan=PLAN, with_curvature=True)
    for name in ("trace", "eigenvalue"):
        alone = scores(tiny, sentences, f"gauss-newton-{name}").curvature
        beside = [c for c in table.curvature if c.quantity == alone[0].quantity]
        assert [c.module for c in beside] == [c.module for c in alone] == [m.module for m in table.profile.matrices]
        np.testing.assert_allclose([c.value for c in beside], [c.value for c in alone], rtol=1e-3)
        np.testing.assert_allclose([c.std_error for c in beside], [c.std_error for c in alone], rtol=1e-2)
    drawn = scores(tiny, sentences)
    assert not drawn.curvature
    np.testing.assert_allclose(np.log(drawn.values() / table.values()), 0, atol=1)  # one column drawn of most texts
    with pytest.raises(UsageError, match=r"`curvature`: metric weight-error has no factors to take it from"):
        measure_sensitivity(tiny, sentences, CHOICES, metric="weight-error", plan=PLAN, with_curvature=True)


def test_infinite_weights_are_refused_by_name(changed, sentences):
    """The module is named before anything is scored."""
    with torch.no_grad():
        changed.model.bert.encoder.layer[1].intermediate.dense.weight.mul_(1e38).mul_(100)
    with pytest.raises(InputFileError, match=r"layer.1.intermediate.dense.weight: holds NaN or infinite values"):
        scores(changed, sentences)


def test_groupings_that_divide_nothing_are_rejected_with_the_divisors(tiny, sentences):
    """A matrix that no choice divides has no legal choice: the message names it and the divisors."""
    with pytest.raises(UsageError, match=r"self.query: no choice is left: .*7 does not divide 32 .*Divisors: 1, 2, 4"):
        scores(tiny, sentences, choices=grid((2,), ("rows:7",), "rtn"))


# texts that are not fit


def test_a_choice_is_scored_once(tiny, sentences):
    with pytest.raises(UsageError, match=rf"choices: {CHOICES[0].name} is named twice\. Give each once\."):
        measure_sensitivity(tiny, sentences, [*CHOICES, CHOICES[0]], plan=PLAN)


def test_one_token_is_enough(tiny, sentences):
    """A sample of a single real token has finite scores."""
    batch = TokenBatch(
        {"input_ids": torch.tensor([[2, 0, 0], [2, 5, 3]]), "attention_mask": torch.tensor([[1, 0, 0], [1, 1, 1]])},
        (0, 1),
    )
    from qbert_opt.curvature.factors import factor_pass
    from qbert_opt.scoring.metrics.directional import both_losses

    module = "bert.encoder.layer.0.output.dense"
    samples = factor_pass(tiny.model, [batch], [module])[module]
    assert [len(sample.inputs) for sample in samples] == [1, 3]
    [losses] = both_losses(samples, torch.ones(1, 32, 64))
    assert torch.isfinite(losses).all() and (losses > 0).all()


def test_a_sample_of_padding_is_refused():
    """There is nothing to score: the message names the sample."""
    mask = torch.tensor([[1, 1], [0, 0]])
    with pytest.raises(InputFileError, match=r"my texts: sample 8 consists of padding only"):
        check_samples([TokenBatch({"input_ids": mask, "attention_mask": mask}, (3, 7))], "my texts")


def test_overlap_of_scoring_and_calibration_text_is_a_warning(tiny, sentences):
    """Texts that differ in spelling but not in tokens get a warning with their number."""
    spaced = LabeledTexts("spaced", tuple((t[0].replace(" ", "  "),) for t in sentences.texts[:25]), None)
    both = LabeledTexts("both", sentences.texts[:25] + spaced.texts, None)
    table = measure_sensitivity(tiny, both, CHOICES, plan=CalibrationPlan(25, 25, 0))
    fit, scored = (
        {tuple(i) for b in tokenize(tiny.tokenizer, part, batch_size=1) for i in b.inputs["input_ids"].tolist()}
        for part in (sentences.texts[:25], spaced.texts)
    )
    assert fit == scored
    [warning] = table.warnings
    assert 0 < int(warning.split()[0]) <= 25 and "have the same tokens as calibration texts" in warning
    assert not measure_sensitivity(tiny, sentences, CHOICES, plan=PLAN).warnings


def answers(doubt, seed, count=300):
    """Return two-class outputs with a mean doubt of about `doubt`."""
    generator = np.random.default_rng(seed)
    p = np.clip(generator.gamma(0.5, doubt / 0.5, count), 1e-6, 0.5)
    values = torch.from_numpy(np.stack([np.log(1 - p), np.log(p)], 1))
    return Outputs("classes", values, torch.arange(count), count)


def test_training_text_is_a_warning():
    """Half the doubt of held-out text is significant; equal doubt gives no warning in nearly all of 200 pairs."""
    names = ("train", "validation")
    [warning] = training_text_warnings(answers(0.02, 0), answers(0.05, 1), names)
    assert "more confident on train" in warning and "than on validation" in warning
    assert training_text_warnings(answers(0.05, 0), answers(0.02, 1), names) == []
    false = [training_text_warnings(answers(0.05, 2 * i), answers(0.05, 2 * i + 1), names) for i in range(200)]
    assert sum(map(len, false)) <= 6


def test_held_out_text_is_compared(cli, tmp_path, tiny_folder, data_file):
    """Compared with itself no text looks like training text; a missing file is a bad input file."""
    options = ("--method", "rtn", "--bits", "2", "--calibration-samples", 9, "--scoring-samples", 9, "-q")
    start = ("sensitivity", "--model", tiny_folder, "--data", data_file, *options, "-o", tmp_path / "s.json")
    run = cli(*start, "--held-out", data_file)
    assert run.code == 0 and "more confident" not in run.err
    assert cli(*start, "--held-out", tmp_path / "nowhere.tsv").code == 4


def test_warnings_are_printed(cli, tmp_path, tiny_folder, sentences):
    """On stderr, one line each."""
    path = Path(tmp_path / "both.tsv")
    path.write_text("text\n" + "\n".join(f"{t[0]}\n{t[0].replace(' ', '  ')}" for t in sentences.texts[:20]) + "\n")
    options = ("--method", "rtn", "--bits", "2", "--calibration-samples", 20, "--scoring-samples", 20, "-q")
    run = cli("sensitivity", "--model", tiny_folder, "--data", path, *options, "-o", tmp_path / "s.json")
    assert run.code == 0
    assert run.err.startswith("warning: ") and run.err.count("\n") == 1
    assert json.loads((tmp_path / "s.json").read_text())["warnings"][0] in run.err


def test_threads_that_share_a_model_get_the_scores_of_one(tiny, sentences):
    """Hooks of one thread ignore the calls of another, which runs the same model with other texts."""
    plans = [dataclasses.replace(PLAN, seed=seed) for seed in range(3)]
    alone = [measure_sensitivity(tiny, sentences, CHOICES, plan=plan).value for plan in plans]
    with ThreadPoolExecutor(3) as pool:
        tables = list(pool.map(lambda plan: measure_sensitivity(tiny, sentences, CHOICES, plan=plan).value, plans * 2))
    assert tables == alone * 2


@pytest.mark.parametrize("count", [0, 1])
def test_one_text_has_no_standard_error(tiny, sentences, count):
    """It used to be called an infinite activation."""
    with pytest.raises(UsageError, match=rf"`num_scored` {count}: a standard error needs at least 2 texts"):
        measure_sensitivity(tiny, sentences, CHOICES, plan=CalibrationPlan(9, count, 0))


@pytest.mark.parametrize("name", ["num_calibration", "num_scored", "seed"])
@pytest.mark.parametrize("number", [-1, 12.0, True, "12", None])
def test_a_calibration_plan_has_whole_numbers(name, number):
    with pytest.raises(UsageError, match=f"`{name}`: .* is not a whole number from 0 to "):
        dataclasses.replace(PLAN, **{name: number})
    assert dataclasses.replace(PLAN, **{name: np.int64(7)}) == dataclasses.replace(PLAN, **{name: 7})


@pytest.mark.parametrize("limit", [0, -1])
def test_no_memory_is_no_limit(tiny, sentences, limit):
    with pytest.raises(UsageError, match=f"`memory_limit_bytes` {limit}: must be positive"):
        measure_sensitivity(tiny, sentences, CHOICES, plan=PLAN, memory_limit_bytes=limit)


@pytest.mark.parametrize("kind", ["classes", "embeddings"])
def test_only_scores_of_a_softmax_speak_of_its_temperature(kind, sentences):
    """What the scores contain is said of the model at hand: embeddings have no softmax, and no common factor."""
    loaded = LoadedModel("tiny", tiny_model("bert", kind), tokenizer(), "0" * 64)
    texts = dataclasses.replace(sentences, labels=None)
    table = measure_sensitivity(loaded, texts, CHOICES, plan=PLAN)
    assert table.contains.startswith("second-order loss of quantizing one matrix at a time")
    assert ("temperature 2" in table.contains) == (table.scale is not None) == (kind == "classes")
