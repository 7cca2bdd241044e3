"""Depth as a choice: the shorter model is what its folder builds, its loss is measured, and the best depth is found."""

import copy
import itertools
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from families import save
from torch import nn

from qbert_opt.checkpoint.reader import load_quantized, open_packed
from qbert_opt.errors import InfeasibleError, InputFileError, UsageError
from qbert_opt.evaluation.evaluate import kl_divergence, outputs
from qbert_opt.models.batches import tokenize
from qbert_opt.models.depth import without_layers
from qbert_opt.models.layers import largest_module_list
from qbert_opt.models.loading import load_model
from qbert_opt.models.structure import profile_model
from qbert_opt.planning.depth import shortened_scores
from qbert_opt.planning.left_out import with_dropped
from qbert_opt.quantization.calibration import CalibrationPlan, calibration_texts
from qbert_opt.spec.allocation import read_allocation, write_allocation
from qbert_opt.spec.limits import Limits
from qbert_opt.spec.plan_scores import check_scores
from qbert_opt.training.teacher import Teacher
from qbert_opt.workflows.depth import best_depth, solve_with_drops
from qbert_opt.workflows.quantize import quantize_model
from qbert_opt.workflows.solve import solve_plans

DEPTH = 4


@pytest.fixture(scope="module")
def scores(deep_scores):
    return deep_scores


@pytest.fixture(scope="module")
def drops(deep_drops):
    return deep_drops


def cut_by_hand(model, kept):
    """The model with its list of layers replaced by some of them; the other path to the same answers."""
    cut = copy.deepcopy(model)
    owner, _, name = largest_module_list(model)[0].rpartition(".")[0].rpartition(".")
    blocks = getattr(cut.get_submodule(owner), name)
    setattr(cut.get_submodule(owner), name, nn.ModuleList([blocks[number] for number in kept]))
    cut.config.num_hidden_layers = len(kept)
    return cut.eval()


@pytest.mark.parametrize("family", ["bert", "distilbert", "mpnet", "deberta-v2", "mobilebert"])
def test_what_the_config_builds_answers_as_the_cut_model(family, tmp_path):
    loaded = load_model(save(tmp_path, family))
    shorter = without_layers(loaded, (0,))
    assert shorter.model.config.num_hidden_layers == 1 and loaded.model.config.num_hidden_layers == 2
    batch = tokenize(loaded.tokenizer, [("w1 w2 w3",), ("w9 w4",)], batch_size=2)[0]
    with torch.no_grad():
        expected = cut_by_hand(loaded.model, [1])(**batch.inputs).logits
        torch.testing.assert_close(shorter.model(**batch.inputs).logits, expected, atol=1e-6, rtol=0)
    assert shorter.sha256 != loaded.sha256 and without_layers(loaded, ()) is loaded


@pytest.mark.parametrize(
    ("family", "layers", "message"),
    [
        ("albert", (0,), r"it counts 3, and the model stores 1\."),
        ("modernbert", (0,), "cannot be left out, because layers are not alike"),
        ("bert", (2,), r"layers \[2\] left out of 2; give some of 0 to 1"),
        ("bert", (0, 1), r"layers \[0, 1\] left out of 2"),
    ],
)
def test_models_that_cannot_do_without(family, layers, message, tmp_path):
    loaded = load_model(save(tmp_path, family))
    with pytest.raises(UsageError, match=message):
        without_layers(loaded, layers)


def test_losses_are_those_of_the_cut_model(deep, drops, file_texts):
    """Every set of one and of two layers, with KL as the definition has it."""
    _, texts = calibration_texts(file_texts, CalibrationPlan(20, 40, 0))
    sets = [layers for size in (1, 2) for layers in itertools.combinations(range(DEPTH), size)]
    assert [item.dropped.layers for item in drops] == sets
    truth = outputs(deep, texts)
    for item in drops:
        kept = [number for number in range(DEPTH) if number not in item.dropped.layers]
        rows = kl_divergence(truth, outputs(replace(deep, model=cut_by_hand(deep.model, kept)), texts)).double()
        assert item.dropped.predicted_loss == pytest.approx(float(rows.mean()), rel=1e-5)
        assert item.dropped.std_error == pytest.approx(float(rows.std(correction=0)) / len(rows) ** 0.5, rel=1e-4)
        assert item.profile == profile_model(without_layers(deep, item.dropped.layers))


def test_scores_follow_their_matrices(scores, drops):
    """Without layers 1 and 3 the second layer is the third of before, with its scores."""
    item = next(item for item in drops if item.dropped.layers == (0, 2))
    table = shortened_scores(scores, item)
    assert [m.module for m in table.profile.matrices] == [m.module for m in item.profile.matrices]
    for new, row, folds in zip(
        table.profile.matrices, table.value, np.array(table.fold_value).swapaxes(0, 1), strict=True
    ):
        old = re.sub(r"layer\.(\d)", lambda found: f"layer.{(1, 3)[int(found[1])]}", new.module)
        place = [m.module for m in scores.profile.matrices].index(old)
        assert row == scores.value[place]
        assert np.array_equal(folds, np.array(scores.fold_value)[:, place])


@pytest.mark.parametrize("bits", [1.6, 2.6, 5.0])
def test_the_best_depth_is_that_of_exhaustive_search(scores, drops, bits):
    """What is skipped by its bound could not have won; budgets that the whole model cannot keep take a shorter one."""
    limits = Limits(encoder_bytes=int(bits * scores.profile.encoder_elements / 8))
    scores = scores.model_copy(update={"fold_value": ()})  # sums only: no plan is solved again to judge it
    scaled = [
        item.__class__(
            item.dropped.model_copy(update={"predicted_loss": 0.05 * item.dropped.predicted_loss}), item.profile
        )
        for item in drops
    ]
    values = {}
    for item in (None, *scaled):
        table = scores if item is None else shortened_scores(scores, item)
        try:
            plan = solve_plans(table, limits).plan
        except InfeasibleError:
            continue
        values[() if item is None else item.dropped.layers] = plan.sum_of_scores + (
            0 if item is None else item.dropped.predicted_loss
        )
    table, solved = best_depth(scores, scaled, lambda table: solve_plans(table, limits))
    best = min(values, key=values.get)
    assert (() if solved.plan.dropped is None else solved.plan.dropped.layers) == best
    assert solved.plan.sum_of_scores == pytest.approx(values[best], rel=1e-9)
    assert solved.plan.profile == table.profile and solved.plan.status == "optimal"
    assert bits > 2 or len(best) == 2


def test_no_depth_within_the_limits(scores, drops):
    with pytest.raises(InfeasibleError):
        best_depth(scores, drops, lambda table: solve_plans(table, Limits(encoder_bytes=10)))


def test_scores_of_another_model_or_text_are_refused(tiny, deep, scores, file_texts):
    with pytest.raises(InputFileError, match="is not the model of the scores"):
        solve_with_drops(scores, tiny, file_texts, 1, solve_plans)
    with pytest.raises(InputFileError, match="is not the data the scores were made with"):
        solve_with_drops(scores, deep, file_texts.take(range(9)), 1, solve_plans)
    with pytest.raises(UsageError, match=r"`allow_drop` 4: .* has 4 layers; give 1 to 3\."):
        solve_with_drops(scores, deep, file_texts, 4, solve_plans)


@pytest.mark.parametrize(
    ("layers", "sources", "lengths"),
    [((1, 2), [0, 3], [3, 1]), ((3,), [0, 1, 2], [1, 1, 2]), ((0,), [1, 2, 3], [2, 1, 1]), ((), [0, 1, 2, 3], [1] * 4)],
)
def test_a_block_learns_what_comes_before_the_next_kept_layer(
    deep, scores, drops, file_texts, layers, sources, lengths
):
    """Stages cover the teacher's layers in order; attention is that of the layer that a block was made from."""
    item = next((item for item in drops if item.dropped.layers == layers), None)
    limits = Limits(encoder_bytes=scores.profile.encoder_elements)
    plan = solve_plans(scores if item is None else shortened_scores(scores, item), limits).plan
    plan = plan.model_copy(update={"dropped": None if item is None else item.dropped})
    teacher = Teacher(deep, plan, tokenize(deep.tokenizer, file_texts.texts[:8], batch_size=8))
    blocks = largest_module_list(deep.model)
    assert teacher.sources == sources and [len(stage) for stage in teacher.stages] == lengths
    assert [name for stage in teacher.stages for name in stage] == blocks
    last = len(sources) - 1
    points = [("hidden", 0), ("query", last)]
    own = teacher.own_modules(teacher.modules_of(points))
    assert own == {
        ("hidden", 0): blocks[lengths[0] - 1],
        ("query", last): f"{blocks[sources[last]]}.attention.self.query",
    }


def test_from_a_budget_below_every_whole_plan_to_a_trained_folder(
    cli, caplog, deep_folder, data_file, file_texts, tmp_path
):
    """solve, quantize, evaluate, recover and export of a model with fewer layers, whose folder is an ordinary one."""
    plan, start, out = (tmp_path / name for name in ("plan.json", "start", "out"))
    text = ("--model", deep_folder, "--data", data_file)
    found = cli(
        "solve", *text, "--method", "rtn", "--calibration-samples", 20, "--scoring-samples", 40, "--budget", "1.9bit",
        "--allow-drop", 1, "-o", plan, "-q",
    )  # fmt: skip
    assert found.code == 0, found.err
    assert re.search(r"left out +layer [1-4] of 4: measured loss", found.out)
    planned = read_allocation(plan)
    count = planned.profile.num_blocks
    assert planned.dropped.num_layers - len(planned.dropped.layers) == count < DEPTH
    assert planned.encoder_bytes <= 1.9 / 8 * profile_model(load_model(deep_folder)).encoder_elements
    for command in (
        ("quantize", plan, "--model", deep_folder, "-o", start, "-q", "--paged"),
        ("recover", start, *text, "--steps", "blocks,distill", "--epochs", 3, "--rates",
         "blocks:4e-3:1e-3,distill:4e-3:1e-3", "--batch-size", 8, "--losses", "logits,hidden,attention-scores",
         "--block-error", "sensitivity", "-o", out, "-q"),
    ):  # fmt: skip
        found = cli(*command)
        assert found.code == 0, found.err
    assert sum("the plan drops layers; what is left is quantized in memory" in line for line in caplog.messages) == 1
    before, after = map(
        float, re.search(r"measured loss +([\d.]+) before training, ([\d.]+) after", found.out).groups()
    )
    assert after < 0.9 * before
    assert json.loads((out / "config.json").read_text())["num_hidden_layers"] == count
    opened, _ = load_quantized(out)
    assert len(largest_module_list(opened.model)) == count
    torch.testing.assert_close(outputs(open_packed(out), file_texts), outputs(opened, file_texts), atol=1e-5, rtol=0)
    assert cli("evaluate", start, "--data", data_file, "--reference", deep_folder).code == 0
    assert (
        quantize_model(load_model(deep_folder), planned, None, tmp_path / "again").tensor_bytes == planned.total_bytes
    )


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("", "--allow-drop: needs --model and --data"),
        ("-m m --data d --top-k 3", "Remove --top-k."),
        ("-m m --data d --max-loss 0.1 --least bytes", "Remove --max-loss."),
        ("-m m --data d --pin layer.0=8", "layers are renumbered if one is left out. Remove --pin layer.0"),
    ],
)
def test_what_allow_drop_does_not_go_with(cli, more, message):
    found = cli("solve", "-b", "2bit", "--allow-drop", 1, *more.split())
    assert found.code == 2 and message in found.complaint


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("layers", [2, 0], "dropped: layers are"),
        ("layers", [0, 4], "dropped: layers are"),
        ("layers", [0], "num_layers is 4; legal here: 3"),
        ("predicted_loss", 0.0, "sum_of_scores is"),
        ("std_error", -1.0, r"dropped\.std_error: Input should be greater than or equal to 0, found -1\.0"),
    ],
)
def test_a_plan_that_contradicts_itself_about_its_depth_is_refused(scores, drops, tmp_path, field, value, message):
    item = next(item for item in drops if item.dropped.layers == (0, 2))
    plan = solve_plans(shortened_scores(scores, item), Limits(encoder_bytes=scores.profile.encoder_elements // 4)).plan
    write_allocation(with_dropped(plan, item.dropped), tmp_path / "plan.json")
    assert read_allocation(tmp_path / "plan.json").dropped == item.dropped
    with pytest.raises(InputFileError, match=r"leaves out 2 layers .*, so its matrices are not those of the scores"):
        check_scores(read_allocation(tmp_path / "plan.json"), scores)
    document = json.loads((tmp_path / "plan.json").read_text())
    document["dropped"][field] = value
    (tmp_path / "plan.json").write_text(json.dumps(document))
    with pytest.raises(InputFileError, match=message):
        read_allocation(tmp_path / "plan.json")
