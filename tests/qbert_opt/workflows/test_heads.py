"""Attention heads as a choice: sets of heads are chosen on one half of the text and judged on the other half."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from hwmodels import load_device
from qbert_opt.checkpoint.reader import load_quantized, open_packed
from qbert_opt.costs.operations import model_graph
from qbert_opt.costs.phases import simulate_plan
from qbert_opt.costs.workload import Workload
from qbert_opt.errors import InfeasibleError, InputFileError, UsageError
from qbert_opt.evaluation.evaluate import evaluation_batches, kl_divergence, outputs
from qbert_opt.models.fewer_heads import attention_layers, head_means, replaced, without_heads
from qbert_opt.models.loading import load_model, tokenized
from qbert_opt.models.structure import profile_model
from qbert_opt.planning.head_scores import narrowed_scores
from qbert_opt.planning.left_out import with_dropped
from qbert_opt.planning.recipes import given_allocation
from qbert_opt.quantization.calibration import CalibrationPlan, calibration_texts
from qbert_opt.runtime import plugins
from qbert_opt.scoring.head_drops import Narrowed, cheapest_heads, head_drops, set_sizes
from qbert_opt.scoring.sensitivity import measure_sensitivity
from qbert_opt.spec.allocation import read_allocation, write_allocation
from qbert_opt.spec.choices import choice
from qbert_opt.spec.grids import grid
from qbert_opt.spec.limits import Limits
from qbert_opt.spec.plan_scores import check_scores
from qbert_opt.training.teacher import Teacher
from qbert_opt.workflows.export import export_model
from qbert_opt.workflows.heads import solve_with_fewer_heads
from qbert_opt.workflows.left_out import least_left_out
from qbert_opt.workflows.quantize import quantize_model
from qbert_opt.workflows.solve import solve_plans

PLAN = CalibrationPlan(20, 40, 0)
MOST = 5  # of eight heads


@pytest.fixture(scope="module")
def scores(tiny, file_texts):
    """Few choices and texts; `columns:32` does not divide an attention output that lacks heads."""
    choices = grid((2, 4, 8), ("rows:each", "columns:32"), "rtn")
    return measure_sensitivity(tiny, file_texts, choices, plan=PLAN, activation_choices=())


@pytest.fixture(scope="module")
def sets(tiny, file_texts):
    """Nested sets of up to five heads, on the text of the scores."""
    return head_drops(tiny, *calibration_texts(file_texts, PLAN), MOST)


def cost(item, factor):
    """The same set, with another loss."""
    loss = factor * item.dropped.predicted_loss
    return Narrowed(item.dropped.model_copy(update={"predicted_loss": loss}), item.profile)


def smaller_of(scores, sets):
    """What `least_left_out` is given."""
    return [(item.dropped, lambda item=item: narrowed_scores(scores, item.profile)) for item in sets]


def test_half_of_the_text_ranks_and_the_other_half_judges(tiny, file_texts, sets):
    """Each head alone on the first half, then sets on the second, with KL as the definition has it."""
    fit, scored = calibration_texts(file_texts, PLAN)
    layers = attention_layers(tiny)
    means = head_means(tiny, layers, tokenized(tiny, fit.texts, batch_size=16))
    ranking, judging = scored.take(range(20)), scored.take(range(20, 40))

    def losses(places, texts):
        with replaced(tiny, layers, {place: means[place] for place in places}):
            changed = outputs(tiny, texts)
        return kl_divergence(outputs(tiny, texts), changed).double()

    alone = {place: float(losses([place], ranking).mean()) for place in means}
    order = sorted(alone, key=alone.get)
    assert [item.dropped.count for item in sets] == list(set_sizes(MOST)) == [1, 2, 3, 4, 5]
    for item in sets:
        places = [(layer, head) for layer, heads in enumerate(item.dropped.heads) for head in heads]
        assert all(count >= 1 for count in item.dropped.kept)
        assert item.profile.block_heads == item.dropped.kept
        if item.dropped.count <= 3:  # no layer is left with its last head yet
            assert sorted(places) == sorted(order[: item.dropped.count])
        rows = losses(places, judging)
        assert item.dropped.predicted_loss == pytest.approx(float(rows.mean()), rel=1e-4)
        assert item.dropped.std_error == pytest.approx(float(rows.std(correction=0)) / len(rows) ** 0.5, rel=1e-3)
        assert item.profile == profile_model(without_heads(tiny, item.dropped))


def test_a_layer_keeps_its_last_head():
    """By hand, with two layers of two heads: the third cheapest is the last one of its layer."""
    alone = {(0, 0): 0.1, (0, 1): 0.3, (1, 0): 0.4, (1, 1): 0.2}
    assert cheapest_heads(alone, 2) == [(0, 0), (1, 1)]
    assert cheapest_heads(alone | {(1, 1): 0.35}, 2) == [(0, 0), (1, 1)]
    assert set_sizes(18) == (3, 5, 7, 9, 12, 14, 16, 18) and set_sizes(1) == (1,)


def test_scores_stay_with_their_matrices_and_what_does_not_divide_is_masked(scores, sets):
    """Only groups of 32 columns of an attention output that is narrower; everything else is as it was."""
    item = sets[-1]
    table = narrowed_scores(scores, item.profile)
    columns = [name.startswith("columns") for name in (c.grouping for c in table.grid())]
    for old, new, matrix in zip(scores.value, table.value, item.profile.matrices, strict=True):
        hidden = matrix.kind == "attention_output" and matrix.columns < 32
        assert new == tuple(None if hidden and masked else v for v, masked in zip(old, columns, strict=True))
        assert bool(table.masks.get(matrix.module)) == hidden
    assert table.profile == item.profile


def test_bytes_are_those_of_the_smaller_matrices(tiny, sets):
    """By hand, 4 bits and one scale and offset per row: 4 matrices a layer shrink, and their ranges with them."""
    for item in sets[::2]:
        plan = given_allocation(item.profile, {m.module: choice("4bit/rows:each/rtn") for m in item.profile.matrices})
        kept = [8 * count for count in item.dropped.kept]
        expected = sum(3 * (width * 32 // 2 + 4 * width) + 32 * width // 2 + 4 * 32 for width in kept)
        assert plan.encoder_bytes == expected + 2 * (64 * 32 // 2 + 4 * 64 + 32 * 64 // 2 + 4 * 32)


def test_a_device_has_less_to_do(tiny, sets):
    """Bytes, traffic, time and the products of each layer's attention, one for each head that it keeps."""
    item, device, workload = sets[-1], load_device("car-soc"), Workload(seq_len=16)
    plans = [
        given_allocation(profile, {m.module: choice("4bit/rows:each/rtn") for m in profile.matrices})
        for profile in (profile_model(tiny), item.profile)
    ]
    whole, fewer = (simulate_plan(plan, device, workload)[0] for plan in plans)
    assert fewer.dram_bytes < whole.dram_bytes and fewer.latency_s < whole.latency_s
    for plan, counts in zip(plans, ((4, 4), item.dropped.kept), strict=True):
        graph = model_graph(plan.profile, None, workload)
        for block, count in enumerate(counts):
            scores, context = (graph.nodes[f"block.{block}.{name}"]["op"] for name in ("scores", "context"))
            assert (scores.batch, scores.k) == (context.batch, context.n) == (count, 8)


@pytest.mark.parametrize(("bits", "factor"), [(2.4, 1.0), (3.2, 0.001), (3.2, 0.05), (6.0, 1.0)])
def test_the_best_set_is_that_of_exhaustive_search(scores, sets, bits, factor):
    """What a bound skips could not have won; budgets that the whole model cannot keep take a set of heads."""
    limits = Limits(encoder_bytes=int(bits * scores.profile.encoder_elements / 8))
    table = scores.model_copy(update={"fold_value": ()})
    scaled = [cost(item, factor) for item in sets]
    totals = {}
    for count, of_set, more in [
        (0, table, 0.0),
        *((i.dropped.count, narrowed_scores(table, i.profile), i.dropped.predicted_loss) for i in scaled),
    ]:
        try:
            totals[count] = solve_plans(of_set, limits).plan.sum_of_scores + more
        except InfeasibleError:
            continue
    _, solved = least_left_out(table, smaller_of(table, scaled), lambda one: solve_plans(one, limits))
    best = min(totals, key=totals.get)
    plan = solved.plan
    assert (0 if plan.dropped_heads is None else plan.dropped_heads.count) == best
    assert plan.sum_of_scores == pytest.approx(totals[best], rel=1e-9) and plan.status == "optimal"
    assert plan.encoder_bytes <= limits.encoder_bytes
    assert best > 0 if bits < 2.8 or factor == 0.001 else bits < 6 or not best


def test_the_stated_loss_contains_the_measured_cost_with_its_error(scores, sets):
    """Sums as they are, errors as independent ones."""
    item = sets[2]
    plan = solve_plans(
        narrowed_scores(scores, item.profile), Limits(encoder_bytes=scores.profile.encoder_elements // 3)
    ).plan
    stated = with_dropped(plan, item.dropped)
    assert stated.predicted_loss - plan.predicted_loss == pytest.approx(item.dropped.predicted_loss)
    assert stated.sum_of_scores - plan.sum_of_scores == pytest.approx(item.dropped.predicted_loss)
    assert stated.predicted_std_error == pytest.approx(np.hypot(plan.predicted_std_error, item.dropped.std_error))
    assert all(
        new.predicted_loss - old.predicted_loss == pytest.approx(item.dropped.predicted_loss)
        for new, old in zip(stated.uniform, plan.uniform, strict=True)
    )


@pytest.fixture(scope="module")
def plan(scores, sets):
    """A plan without five heads."""
    item = sets[-1]
    limits = Limits(encoder_bytes=scores.profile.encoder_elements // 2)
    return with_dropped(solve_plans(narrowed_scores(scores, item.profile), limits).plan, item.dropped)


@pytest.fixture(scope="module")
def folder(tiny, plan, file_texts, tmp_path_factory):
    """That plan's quantized model."""
    return quantize_model(tiny, plan, file_texts, tmp_path_factory.mktemp("heads") / "out").folder


def test_the_folder_answers_as_the_smaller_model_in_memory(tiny, plan, folder, file_texts):
    """Codes in the smaller float model, whose other tensors are halves; and packed, without unpacking."""
    opened, read = load_quantized(folder)
    assert read == plan
    smaller = without_heads(tiny, plan.dropped_heads).model
    state = {name: tensor.half().float() for name, tensor in smaller.state_dict().items()}
    state |= {name: tensor for name, tensor in opened.model.state_dict().items() if name.endswith("weight")}
    smaller.load_state_dict(state)
    expected = outputs(replace(opened, model=smaller), file_texts)
    assert torch.equal(outputs(opened, file_texts), expected)
    torch.testing.assert_close(outputs(open_packed(folder), file_texts), expected, atol=1e-5, rtol=0)
    assert (folder / "model.safetensors").stat().st_size < plan.total_bytes + 20_000
    for kind, width in (("query", 0), ("attention_output", 1)):
        for matrix in (m for m in plan.matrices if m.kind == kind):
            shape = opened.model.get_submodule(matrix.module).weight.shape
            assert shape[width] == 8 * plan.dropped_heads.kept[matrix.block]


@pytest.mark.parametrize("name", [n for n in ("openvino", "onnxruntime") if plugins.load("engines", n).usable()])
def test_engines_that_trace_the_model_run_it(folder, tmp_path, name):
    record = export_model(folder, name, tmp_path / "out", activations="float32")
    assert record.graph_difference < 2e-4 and record.agreement.flipped == 0


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("export {folder} --engine litert -o {out} -q", "layers with fewer attention heads than others"),
        ("integer {folder} --data {data} -o {out} -q", "fewer attention heads than others have no integer form"),
        (
            "export-config {folder}/allocation.json --to nncf -o {out}.json",
            "the plan leaves attention heads out of it",
        ),
    ],
    ids=lambda text: text.split()[0],
)
def test_what_holds_one_number_of_heads_refuses_in_a_line(cli, folder, data_file, tmp_path, command, message):
    found = cli(*command.format(folder=folder, out=tmp_path / "out", data=data_file).split())
    assert found.code == 2 and message in found.complaint


def test_the_teacher_shows_the_heads_that_the_student_has(tiny, plan, file_texts):
    """In the first layer both read the same, so kept heads have the same queries; all heads' are wider."""
    teacher = Teacher(tiny, plan, evaluation_batches(tiny, file_texts.take(range(8))))
    points = [("query", 0), ("value", 1), ("hidden", 1)]
    modules = teacher.modules_of(points)
    made = teacher.run(0, modules).points
    own = Teacher(
        replace(without_heads(tiny, plan.dropped_heads)),
        plan.model_copy(update={"dropped_heads": None}),
        teacher.batches,
    )
    smaller = own.run(0, modules).points
    torch.testing.assert_close(made["query", 0], smaller["query", 0], atol=1e-5, rtol=0)
    assert teacher.heads == plan.dropped_heads.kept
    assert made["value", 1].shape[-1] == 8 * plan.dropped_heads.kept[1] and made["hidden", 1].shape[-1] == 32


def test_other_models_texts_and_numbers_are_refused(tiny, scores, file_texts, plan, tmp_path):
    other = replace(tiny, sha256="0" * 64)
    with pytest.raises(InputFileError, match="is not the model of the scores"):
        solve_with_fewer_heads(scores, other, file_texts, 1, solve_plans)
    with pytest.raises(InputFileError, match="is not the data the scores were made with"):
        solve_with_fewer_heads(scores, tiny, file_texts.take(range(9)), 1, solve_plans)
    for most in (0, 7):
        with pytest.raises(UsageError, match=rf"`allow_drop_heads` {most}: .* has 8 attention heads .* 1 to 6"):
            solve_with_fewer_heads(scores, tiny, file_texts, most, solve_plans)
    with pytest.raises(UsageError, match="3 scoring and 5 calibration texts; it needs at least 4 and 1"):
        head_drops(tiny, file_texts.take(range(5)), file_texts.take(range(3)), 1)
    with pytest.raises(InputFileError, match=r"leaves out 5 attention heads .* are smaller than those of the scores"):
        check_scores(plan, scores)
    foreign = load_model(tiny.folder)
    with torch.no_grad():
        foreign.model.classifier.bias += 1
    with pytest.raises(InputFileError, match="its weights are not the planned ones"):
        quantize_model(replace(foreign, sha256="1" * 64), plan, file_texts, tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": [[0], [1]]}, "dropped_heads: kept is"),
        ({"heads": [[2, 1], [0, 1, 2]]}, "dropped_heads: heads of a layer are"),
        ({"heads": [[0, 4], [0, 1, 2]]}, "dropped_heads: heads of a layer are"),
        ({"num_heads": 5}, "dropped_heads: num_heads is 5; legal here: 4"),
        ({"num_heads": 0}, "dropped_heads.num_heads: Input should be greater than 0, found 0"),
        ({"means": [[0.0] * 8]}, "dropped_heads: means is 1; legal here: 5"),
        ({"means": [[0.0]] * 5}, "dropped_heads: .*: width is"),
        ({"predicted_loss": 0.0}, "sum_of_scores is"),
        ({"std_error": -1.0}, r"dropped_heads\.std_error: Input should be greater than or equal to 0, found -1\.0"),
    ],
    ids=str,
)
def test_a_plan_that_contradicts_itself_about_its_heads_is_refused(plan, tmp_path, change, message):
    path = tmp_path / "plan.json"
    write_allocation(plan, path)
    assert read_allocation(path) == plan
    document = json.loads(path.read_text())
    document["dropped_heads"] |= change
    path.write_text(json.dumps(document))
    with pytest.raises(InputFileError, match=message):
        read_allocation(path)


@pytest.mark.parametrize(
    ("without", "message"),
    [
        ("dropped_heads", "dropped_heads: is missing, and the layers keep .* of 4"),
        ("block_heads", "kept is .*; legal here"),
    ],
)
def test_a_plan_without_one_half_of_its_heads_says_which(plan, tmp_path, without, message):
    path = tmp_path / "plan.json"
    write_allocation(plan, path)
    document = json.loads(path.read_text())
    del (document if without == "dropped_heads" else document["profile"])[without]
    path.write_text(json.dumps(document))
    with pytest.raises(InputFileError, match=message):
        read_allocation(path)


def test_from_a_budget_below_every_whole_plan_to_a_trained_folder(cli, tiny_folder, data_file, tmp_path):
    """solve, quantize, evaluate, simulate and recover of a model with fewer heads; losses of attention included."""
    plan, start, out = (tmp_path / name for name in ("plan.json", "start", "out"))
    text = ("--model", tiny_folder, "--data", data_file)
    few = ("--method", "rtn", "--calibration-samples", 20, "--scoring-samples", 40)
    found = cli("solve", *text, *few, "--budget", "1.9bit", "--allow-drop-heads", 4, "-o", plan, "-q")
    assert found.code == 0, found.err
    assert re.search(r"left out +[1-4] of 8 attention heads: measured loss [\d.e-]+ ± ", found.out)
    planned = read_allocation(plan)
    assert planned.encoder_bytes <= 1.9 / 8 * 16384
    for command in (
        ("quantize", plan, "--model", tiny_folder, "-o", start, "-q"),
        ("simulate", plan, "--device", "car-soc"),
        ("recover", start, *text, "--steps", "blocks,distill", "--epochs", 3, "--rates",
         "blocks:4e-3:1e-3,distill:4e-3:1e-3", "--batch-size", 8,
         "--losses", "logits,hidden,attention-scores,attention-maps,relations", "-o", out, "-q"),
    ):  # fmt: skip
        found = cli(*command)
        assert found.code == 0, found.err
    before, after = map(
        float, re.search(r"measured loss +([\d.]+) before training, ([\d.]+) after", found.out).groups()
    )
    assert after < 0.9 * before
    assert load_quantized(out)[1].profile.block_heads == planned.dropped_heads.kept
    assert cli("evaluate", out, "--data", data_file, "--reference", tiny_folder).code == 0


def test_heads_that_cost_more_than_their_bytes_buy_are_kept(cli, tiny_folder, data_file, tmp_path):
    """One line says what was measured, and the plan is the one without the option."""
    text = ("--model", tiny_folder, "--data", data_file)
    few = ("--method", "rtn", "--calibration-samples", 20, "--scoring-samples", 40, "--budget", "7bit", "-q")
    found = cli("solve", *text, *few, "--allow-drop-heads", 2, "-o", tmp_path / "with.json")
    assert found.code == 0, found.err
    assert re.search(r"attention heads  all kept: .*\(1 of 8 cost [\d.e-]+ ± .*, 2 of 8 cost", found.out)
    assert cli("solve", *text, *few, "-o", tmp_path / "without.json").code == 0
    assert read_allocation(tmp_path / "with.json").matrices == read_allocation(tmp_path / "without.json").matrices


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("", "--allow-drop-heads: needs --model and --data, to measure the model without its heads."),
        ("-m m --data d --allow-drop 1", "Remove --allow-drop."),
        ("-m m --data d --top-k 3", "over several sets of heads. Remove --top-k."),
        ("-m m --data d --engine litert", "--allow-drop-heads: litert needs the same number of heads in every layer."),
        ("-m m --data d --portable all", "needs the same number of heads in every layer."),
    ],
)
def test_what_allow_drop_heads_does_not_go_with(cli, more, message):
    found = cli("solve", "-b", "2bit", "--allow-drop-heads", 1, *more.split())
    assert found.code == 2 and message in found.complaint


def test_models_are_refused_before_they_are_scored(cli, tiny_folder, data_file):
    """Too many heads: no progress is shown, and one line says how many there are."""
    found = cli("solve", "-b", "2bit", "--allow-drop-heads", 7, "--model", tiny_folder, "--data", data_file)
    assert found.code == 2 and "8 attention heads in 2 layers" in found.complaint
