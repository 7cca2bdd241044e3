"""Training losses: by hand, against second implementations, and by finite differences of the whole model."""

import math

import numpy as np
import pytest
import torch
from families import save

from qbert_opt.errors import InputFileError, UsageError
from qbert_opt.models.batches import TokenBatch, tokenize
from qbert_opt.models.loading import load_model
from qbert_opt.models.outputs import Outputs
from qbert_opt.models.targets import NONE, read_targets
from qbert_opt.runtime import plugins
from qbert_opt.training.objective import loaded_loss, needs_labels, objective, points_of
from qbert_opt.training.passes import Comparison, Pass
from qbert_opt.training.relative_error import relative_error
from qbert_opt.training.settings import RecoverySettings
from qbert_opt.training.student import Student
from qbert_opt.training.teacher import Teacher
from qbert_opt.workflows.recover import recover

from .conftest import codes_of, plan_of, texts_of

LOSSES = plugins.available("training_losses")
MASK = [[True, True, True], [True, True, False]]


def outputs_of(values):
    values = torch.as_tensor(values, dtype=torch.float32)
    return Outputs("classes", values, torch.arange(len(values)), len(values))


def seen(student, teacher=None, *, points=None, labels=None, depth=2, heads=2):
    """A comparison of given outputs, and of points as pairs of the student's and the teacher's tensors."""
    batch = TokenBatch({"attention_mask": torch.tensor(MASK).long()}, tuple(range(len(MASK))))
    made = [{point: pair[side] for point, pair in (points or {}).items()} for side in (0, 1)]
    return Comparison(
        Pass(outputs_of(student), made[0]), lambda: Pass(outputs_of(teacher), made[1]), batch, depth, (heads,) * depth,
        None if labels is None else torch.tensor(labels),
    )  # fmt: skip


def random_points(whats, depth=2, width=4):
    generator = torch.Generator().manual_seed(0)
    return {
        (what, block): tuple(torch.randn(2, 3, width, generator=generator) for _ in range(2))
        for what in whats
        for block in range(depth)
    }


def test_relative_error_by_hand():
    """Weighted squares over weighted squares; a token of weight 0 does not count."""
    wanted = torch.tensor([[[1.0, 1.0], [2.0, 0.0], [9.0, 9.0]]])
    made = torch.tensor([[[1.0, 0.0], [2.0, 2.0], [0.0, 0.0]]])
    assert float(relative_error(made, wanted, torch.tensor([1.0, 2.0, 0.0])[:, None])) == pytest.approx(9 / 10)


def test_logits_by_hand():
    """KL at temperature 2, times 4."""
    share = math.e / (math.e + 1)
    expected = 4 * (share * math.log(2 * share) + (1 - share) * math.log(2 * (1 - share)))
    found = loaded_loss("logits").loss(seen([[0.0, 0.0]], [[2.0, 0.0]]))
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_cross_entropy_by_hand():
    """Mean over labelled rows; without any it is 0, with a gradient of 0."""
    loss = loaded_loss("cross-entropy").loss
    assert float(loss(seen([[1.0, 0.0], [5.0, 5.0]], labels=[1, NONE]))) == pytest.approx(math.log(1 + math.e))
    assert float(loss(seen([[1.0, 0.0], [5.0, 5.0]], labels=[NONE, NONE]))) == 0


def test_dice_by_hand():
    """Two rows, two classes, the third unlabelled; the paper's square form with α = 0.01 and γ = 1."""
    p = 0.8
    values = [[math.log(p), math.log(1 - p)], [math.log(p), math.log(1 - p)], [9.0, 1.0]]
    found = float(loaded_loss("dice").loss(seen(values, labels=[0, 1, NONE])))
    weak = [(1 - q) ** 0.01 * q for q in (p, 1 - p)]
    classes = [(2 * w + 1) / (2 * w**2 + 1 + 1) for w in weak]  # each class is right once, predicted twice
    assert found == pytest.approx(1 - sum(classes) / 2, rel=1e-5)


def test_dice_at_certainty_has_gradients():
    """A probability of exactly 1 or 0 gives finite gradients."""
    values = torch.tensor([[200.0, 0.0], [0.0, 200.0]], requires_grad=True)
    rows = Outputs("classes", values, torch.arange(2), 2)
    batch = TokenBatch({"attention_mask": torch.ones(2, 3).long()}, (0, 1))
    loaded_loss("dice").loss(
        Comparison(Pass(rows, {}), lambda: None, batch, 2, (2, 2), torch.tensor([0, 0]))
    ).backward()
    assert torch.isfinite(values.grad).all()


def test_hidden_states_by_a_second_implementation():
    """All blocks summed; the last alone; padding does not count."""
    points = random_points(["hidden"])
    errors = []
    for block in range(2):
        student, teacher = (tensor.numpy()[np.array(MASK)] for tensor in points["hidden", block])
        errors.append(((student - teacher) ** 2).sum() / (teacher**2).sum())
    given = seen([[0.0]], [[0.0]], points=points)
    assert float(loaded_loss("hidden").loss(given)) == pytest.approx(sum(errors), rel=1e-5)
    assert float(loaded_loss("last-hidden").loss(given)) == pytest.approx(errors[1], rel=1e-5)


def maps(left, right, heads=2):
    """Scores of each sample, head, query and key that are real, by loops: `{(b, h): [T, T]}`."""
    left, right, found = left.numpy(), right.numpy(), {}
    size = left.shape[-1] // heads
    for b, mask in enumerate(MASK):
        for h in range(heads):
            part = slice(h * size, (h + 1) * size)
            found[b, h] = (left[b][mask][:, part] @ right[b][mask][:, part].T) / math.sqrt(size)
    return found


def divergence(student, teacher):
    """Mean over heads and tokens of KL(teacher || student) of softmaxes."""
    rows = []
    for key, scores in teacher.items():
        p, q = (np.exp(s) / np.exp(s).sum(1, keepdims=True) for s in (scores, student[key]))
        rows += list((p * np.log(p / q)).sum(1))
    return np.mean(rows)


def test_attention_by_a_second_implementation():
    """Scores, maps and relations against loops over samples, heads and real tokens."""
    points = random_points(["query", "key", "value"])
    given = seen([[0.0]], [[0.0]], points=points)
    scores, kls = [], []
    for block in range(2):
        student, teacher = (maps(points["query", block][side], points["key", block][side]) for side in (0, 1))
        above = sum(((student[key] - teacher[key]) ** 2).sum() for key in teacher)
        scores.append(above / sum((teacher[key] ** 2).sum() for key in teacher))
        kls.append(divergence(student, teacher))
    assert float(loaded_loss("attention-scores").loss(given)) == pytest.approx(sum(scores), rel=1e-4)
    assert float(loaded_loss("attention-maps").loss(given)) == pytest.approx(sum(kls), rel=1e-4)
    relations = [
        divergence(*(maps(points[part, 1][side], points[part, 1][side]) for side in (0, 1)))
        for part in ("query", "key", "value")
    ]
    assert float(loaded_loss("relations").loss(given)) == pytest.approx(np.mean(relations), rel=1e-4)


@pytest.fixture(scope="module")
def pair(tiny, tiny_start, sentences):
    """A student and a teacher with one labelled batch."""
    plan, codes = tiny_start
    batches = tokenize(tiny.tokenizer, sentences.texts[:8], batch_size=8)
    labels = read_targets(tiny, sentences.take(range(8)), batches)
    return Student(tiny.model, plan, codes), Teacher(tiny, plan, batches, labels)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_against_finite_differences(pair, name):
    """A bias of the first block, which is not quantized, shifted in both directions: the loss of the whole model."""
    student, teacher = pair
    loss = objective(student, teacher, {name: 2.0})
    [bias] = [p for key, p in student.others.items() if "layer/0/attention/output/dense/bias" in key]
    student.zero_grad()
    loss(0).backward()
    direction = bias.grad / bias.grad.norm()
    ends, step = [], 0.05  # far above the fp16 rounding of the bias
    start = bias.detach().clone()
    with torch.no_grad():
        for sign in (1, -1):
            bias.copy_(start + sign * step * direction)
            ends.append(float(loss(0)))
        bias.copy_(start)
    assert float(bias.grad @ direction) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=0.05)


@pytest.mark.parametrize("name", [name for name in LOSSES if not needs_labels({name: 1.0})])
def test_the_teacher_itself_loses_nothing(tiny, tiny_start, pair, name):
    """Distillation losses are 0 between equal passes and above 0 for a rounded model."""
    student, teacher = pair
    modules = teacher.modules_of(points_of({name: 1.0}, 2))
    same = teacher.answer(0, modules)
    perfect = Comparison(same, lambda: same, teacher.batches[0], 2, teacher.heads)
    assert float(loaded_loss(name).loss(perfect)) == pytest.approx(0, abs=1e-6)
    assert float(objective(student, teacher, {name: 1.0})(0).detach()) > 1e-3


@pytest.mark.parametrize("names", [("cross-entropy",), ("dice", "hidden"), ("attention-maps", "relations")])
def test_training_on_a_loss_lowers_it(tiny, tiny_start, file_texts, names, tmp_path):
    """Through `recover`: the last epoch's loss is below the first's, and the record names the losses."""
    told = []
    settings = RecoverySettings(
        steps=("distill",), epochs={"distill": 8}, rates={"distill": (2e-3, 1e-3)}, batch_size=8,
        losses=dict.fromkeys(names, 1.0),
    )  # fmt: skip
    found = recover(
        tiny,
        tiny_start[0],
        [file_texts.take(range(48))],
        tmp_path / "out",
        settings=settings,
        progress=lambda *say: told.append(say),
    )
    losses = [float(what.rsplit(" ", 1)[1]) for _, _, what in told if "loss" in what]
    assert losses[-1] < losses[10]
    assert f"losses {' + '.join(names)}" in (found.written.folder / "config.json").read_text()


def test_missing_and_unknown_labels_are_one_line(tiny, tiny_start, file_texts, tmp_path):
    """No label column; a label that the head does not know; a head without classes."""
    settings = RecoverySettings(steps=("distill",), losses={"cross-entropy": 1.0})
    plain = texts_of("classes")
    with pytest.raises(InputFileError, match=r"sentences: has no labels, and loss cross-entropy needs them"):
        recover(tiny, tiny_start[0], [plain], tmp_path / "out", settings=settings)
    wrong = file_texts.__class__("wrong", file_texts.texts, ("purple",) * len(file_texts))
    with pytest.raises(InputFileError, match=r"wrong.*purple"):
        recover(tiny, tiny_start[0], [wrong], tmp_path / "out", settings=settings)
    same = file_texts.__class__("same", file_texts.texts, (file_texts.labels[0],) * len(file_texts))
    with pytest.raises(InputFileError, match=r"same: every label is '.*', and loss cross-entropy would teach"):
        recover(tiny, tiny_start[0], [same], tmp_path / "out", settings=settings)


def test_a_layer_that_is_three_is_refused(tmp_path):
    """ModernBERT computes query, key and value in one layer: attention losses say so, others train."""
    loaded = load_model(save(tmp_path / "model", "modernbert", "classes"))
    data = texts_of("classes")
    plan = plan_of(loaded, data)
    teacher = Teacher(loaded, plan, tokenize(loaded.tokenizer, data.texts, batch_size=8))
    student = Student(loaded.model, plan, codes_of(loaded, plan))
    with pytest.raises(UsageError, match=r"`losses`: .* has no query layer of its own"):
        objective(student, teacher, {"attention-maps": 1.0})
    assert float(objective(student, teacher, {"hidden": 1.0})(0).detach()) > 0


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ({}, r"`losses`: none given. Available: attention-maps"),
        ({"magic": 1.0}, r"`losses` magic: unknown"),
        ({"logits": 0.0}, r"`losses` logits:0: give a number above 0"),
        ({"logits": math.nan}, r"`losses` logits:nan"),
    ],
)
def test_losses_are_checked(losses, message):
    """Each wrong value is named."""
    with pytest.raises(UsageError, match=message):
        RecoverySettings(losses=losses)
