"""The student: answers as the folder does before training, of every family; shared matrices once; rounded inputs."""

import pytest
import torch
from families import FAMILIES
from torch import nn

from qbert_opt.checkpoint.reader import load_quantized
from qbert_opt.checkpoint.writer import write_checkpoint
from qbert_opt.models.batches import tokenize
from qbert_opt.models.loading import LoadedModel, weights_sha256
from qbert_opt.models.modules import from_module
from qbert_opt.models.outputs import answers, collect
from qbert_opt.spec.planned import PlannedActivation
from qbert_opt.training.blocks import block_names
from qbert_opt.training.student import Student

from .conftest import codes_of, plan_of, texts_of


def answers_of(loaded, model, data):
    batches = tokenize(loaded.tokenizer, data.texts, batch_size=8, kind=loaded.head.kind)
    return collect(loaded.head, model, batches).values


@pytest.mark.parametrize(
    ("family", "kind"), [*((family, "classes") for family in FAMILIES), ("bert", "vocabulary"), ("modernbert", "tags")]
)
def test_the_first_answers_are_the_folders(family, kind, family_start, tmp_path):
    """Bit for bit, of every family; what would be written is what was."""
    loaded, plan, codes, data = family_start(family, kind)
    write_checkpoint(loaded, plan, codes, tmp_path / "out")
    folder, _ = load_quantized(tmp_path / "out")
    student = Student(loaded.model, plan, codes)
    assert torch.equal(answers_of(loaded, student, data), answers_of(loaded, folder.model, data))
    assert torch.equal(answers_of(loaded, student.plain(), data), answers_of(loaded, folder.model, data))
    for (module, before), (again, after) in zip(codes, student.stored(plan), strict=True):
        assert module == again and torch.equal(before.dequantize(), after.dequantize())


def test_a_shared_matrix_is_trained_once(family_start):
    """ALBERT runs one layer three times: one latent weight, whose gradient is the sum over the three."""
    loaded, plan, codes, data = family_start("albert")
    student = Student(loaded.model, plan, codes)
    assert len(student.matrices) == len(plan.matrices) == 6
    [batch] = tokenize(loaded.tokenizer, data.texts[:8], batch_size=8)
    answers(loaded.head, student, batch).values.square().sum().backward()
    module = plan.matrices[0].module
    gradient = next(iter(student.matrices.values())).latent.grad
    reference = student.plain()
    weight = reference.get_parameter(f"{module}.weight").requires_grad_(True)
    answers(loaded.head, reference, batch).values.square().sum().backward()
    torch.testing.assert_close(gradient.reshape(weight.shape), weight.grad)  # no weight is clamped at the start


def test_a_tied_table_is_one_table(family_start):
    """A head that predicts words shares the table that reads them; trained or not, both see the same weights."""
    loaded, plan, codes, data = family_start("bert", "vocabulary")
    student = Student(loaded.model, plan, codes, tables=True)
    tables = [table.module for table in plan.tables]
    assert len(student.matrices) == len(plan.matrices) + len(tables)
    before = answers_of(loaded, student, data)
    assert torch.equal(before, answers_of(loaded, Student(loaded.model, plan, codes), data))
    words = student.matrices["/" + tables[0].replace(".", "/")]
    with torch.no_grad():
        words.latent *= 1.5
    after = answers_of(loaded, student, data)
    assert torch.equal(after, answers_of(loaded, student.plain(), data)) and not torch.equal(after, before)


class Convolutions(nn.Module):
    """Two blocks that each convolve over positions."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(20, 8)
        self.blocks = nn.ModuleList(nn.Conv1d(8, 8, 3, padding="same") for _ in range(2))
        self.head = nn.Linear(8, 3)

    def forward(self, ids, attention_mask):
        states = self.table(ids).transpose(1, 2)
        for block in self.blocks:
            states = states + torch.tanh(block(states))
        return self.head(states.mean(2))


def test_convolutions_are_trained_as_matrices(tmp_path):
    """The latent weight is the convolution's matrix; the folder answers as the student."""
    torch.manual_seed(0)
    inputs = [{"ids": torch.randint(0, 20, (20, 6))}]
    loaded, data = from_module(Convolutions(), inputs, lambda module, given: module(**given))
    plan = plan_of(loaded, data)
    codes = codes_of(loaded, plan)
    student = Student(loaded.model, plan, codes)
    with torch.no_grad():
        for matrix in student.matrices.values():
            matrix.latent += 0.05 * torch.randn(matrix.latent.shape)
    write_checkpoint(loaded, plan, student.stored(plan), tmp_path / "out", trained=student.stored_others())
    folder, _ = load_quantized(tmp_path / "out", into=loaded)
    batches = tokenize(loaded.tokenizer, data.texts, batch_size=8)
    found = [collect(loaded.head, model, batches).values for model in (student, folder.model)]
    assert torch.equal(*found)
    answers(loaded.head, student, batches[0]).values.sum().backward()
    assert all(matrix.latent.grad.abs().sum() > 0 for matrix in student.matrices.values())


@pytest.mark.parametrize("scheme", ["token", "tensor"])
def test_planned_inputs_are_rounded_as_in_the_folder(scheme, tiny, tiny_start, sentences, tmp_path):
    """A plan with 8-bit inputs: the student answers as its folder, which answers otherwise than without."""
    plan, codes = tiny_start
    ends = {"low": -2.0, "high": 2.5, "range": "minmax"} if scheme == "tensor" else {}
    inputs = tuple(
        PlannedActivation(modules=(m.module,), bits=8, scheme=scheme, predicted_loss=0.0, std_error=0.0, **ends)
        for m in plan.matrices
    )
    rounded = plan.model_copy(update={"activations": inputs})
    write_checkpoint(tiny, rounded, codes, tmp_path / "out")
    folder, _ = load_quantized(tmp_path / "out")
    student = Student(tiny.model, rounded, codes)
    found = answers_of(tiny, student, sentences)
    assert torch.equal(found, answers_of(tiny, folder.model, sentences))
    assert not torch.equal(found, answers_of(tiny, Student(tiny.model, plan, codes), sentences))


def test_what_is_learned_in_a_block_is_the_blocks_own(tiny, tiny_start):
    """Every parameter but the head's and the embeddings' belongs to one block; all together are the whole."""
    plan, codes = tiny_start
    student = Student(tiny.model, plan, codes)
    blocks = block_names(tiny.model, plan)
    assert blocks == ["bert.encoder.layer.0", "bert.encoder.layer.1"]
    sets = [{id(p) for p in (*part.weights, *part.ranges)} for part in (student.learned(f"{b}.") for b in blocks)]
    whole = student.learned()
    assert not sets[0] & sets[1]
    assert {id(p) for p in student.parameters()} == {id(p) for p in (*whole.weights, *whole.ranges)}
    assert len(sets[0]) == 6 * 3 + 10  # six matrices of latent weights, scales, offsets; six biases, two LayerNorms


def test_tensors_that_were_trained_before_are_the_start(tiny, tiny_start, sentences):
    """A folder's own biases go on, not the float model's."""
    plan, codes = tiny_start
    bias = tiny.model.classifier.bias + 1.0
    student = Student(tiny.model, plan, codes, others={"classifier.bias": bias})
    plain = answers_of(tiny, Student(tiny.model, plan, codes), sentences)
    torch.testing.assert_close(answers_of(tiny, student, sentences), plain + 1.0, atol=2e-3, rtol=0)
    assert weights_sha256(tiny.model) == tiny.sha256  # the float model is not touched
    assert isinstance(tiny, LoadedModel) and texts_of("classes").labels is None
