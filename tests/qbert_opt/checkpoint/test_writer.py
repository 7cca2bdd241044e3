"""The writer takes whoever's codes, one matrix at a time, in the plan's order; what training changed goes with them."""

import itertools

import pytest
import torch
from safetensors.torch import load_file

from qbert_opt.checkpoint.reader import load_quantized, open_packed
from qbert_opt.checkpoint.record import Training, read_record
from qbert_opt.checkpoint.streamed_file import StreamedFile
from qbert_opt.checkpoint.writer import write_checkpoint
from qbert_opt.errors import InputFileError, UsageError
from qbert_opt.quantization.calibration import quantized_matrices
from qbert_opt.quantization.quantized_matrix import StoredMatrix
from qbert_opt.workflows.quantize import plan_quantizer

TRAINING = Training(method="distil", data="train", data_sha256="0" * 64, num_texts=40, steps=10, seed=0)


@pytest.fixture(scope="module")
def matrices(tiny, gptq_plan, file_texts):
    """Every matrix and table of the plan."""
    return tuple(quantized_matrices(plan_quantizer(tiny, gptq_plan, file_texts), gptq_plan))


def test_codes_of_any_origin_are_written(tiny, gptq_plan, matrices, tmp_path):
    """Codes made up here come back as they are: the writer computes none of its own."""
    random = torch.Generator().manual_seed(0)
    made_up = []
    for module, quantized in matrices:
        codes = torch.randint(0, 2**quantized.layout.bits, quantized.codes.shape, generator=random, dtype=torch.uint8)
        made_up.append((module, type(quantized)(quantized.layout, codes, quantized.scale, quantized.offset)))
    write_checkpoint(tiny, gptq_plan, made_up, tmp_path / "out")
    model = load_quantized(tmp_path / "out")[0].model
    for module, quantized in made_up:
        assert torch.equal(model.get_parameter(f"{module}.weight"), quantized.dequantize())


def test_a_matrix_is_taken_when_the_one_before_it_is_on_disk(tiny, gptq_plan, matrices, tmp_path, monkeypatch):
    """Streaming: when the generator is asked for matrix k, the k matrices before it are written."""
    written, write = set(), StreamedFile.write
    monkeypatch.setattr(
        StreamedFile, "write", lambda file, name, tensor: (written.add(name), write(file, name, tensor))[1]
    )

    def source():
        for index, item in enumerate(matrices):
            assert {name.removesuffix(".scale") for name in written if name.endswith(".scale")} == {
                module for module, _ in matrices[:index]
            }
            yield item

    write_checkpoint(tiny, gptq_plan, source(), tmp_path / "out")


def _replaced(matrices, index, **fields):
    changed = type(matrices[index].quantized)(
        **{
            name: fields.get(name, getattr(matrices[index].quantized, name))
            for name in ("layout", "codes", "scale", "offset", "codebook")
        }
    )
    return (*matrices[:index], StoredMatrix(matrices[index].module, changed), *matrices[index + 1 :])


REFUSED = {
    "none at all": (lambda m: (), r"matrices: expected \S*query, found the end\."),
    "one missing": (lambda m: m[:3] + m[4:], r"matrices: expected \S+, found \S+\. Give the plan's matrices, then"),
    "two swapped": (lambda m: (m[1], m[0], *m[2:]), r"matrices: expected \S*query, found \S*key"),
    "one too many": (lambda m: (*m, m[0]), r"matrices: \S*query comes after the plan's last"),
    "tables missing": (lambda m: m[:12], r"matrices: expected \S*embeddings\S*, found the end"),
    "another layout": (lambda m: _replaced(m, 0, layout=m[-1].quantized.layout), r"matrices: \S*query is 32 x 32 in"),
    "another shape": (lambda m: _replaced(m, 0, codes=m[0].quantized.codes[:8]), r"matrices: \S*query is 8 x 32 in"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_matrices_that_are_not_the_plan_s_are_refused(tiny, gptq_plan, matrices, tmp_path, case):
    """One line that names the matrix that was expected; nothing is left on disk."""
    change, message = REFUSED[case]
    with pytest.raises(UsageError, match=message):
        write_checkpoint(tiny, gptq_plan, change(matrices), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_trained_tensors_replace_the_model_s(tiny, gptq_plan, matrices, tmp_path):
    """Other tensors stay the model's; both ways of opening give the trained ones; the record names them."""
    names = [n for n, _ in tiny.model.named_parameters() if "LayerNorm" in n or n.startswith("classifier")][-4:]
    trained = {name: tiny.model.get_parameter(name).detach() * 1.5 + 0.25 for name in names}
    before = {name: tiny.model.get_parameter(name).detach().clone() for name in names}
    write_checkpoint(tiny, gptq_plan, matrices, tmp_path / "out", trained=trained, training=TRAINING)
    for opened in (load_quantized(tmp_path / "out")[0], open_packed(tmp_path / "out")):
        own = dict(opened.model.named_parameters())
        for name, parameter in tiny.model.named_parameters():
            if name in own and not name.endswith(tuple(f"{module}.weight" for module, _ in matrices)):
                assert torch.equal(own[name], trained.get(name, parameter).detach().half().float()), name
    record = read_record(tmp_path / "out")
    assert record.trained == tuple(sorted(names)) and record.training == TRAINING
    assert all(torch.equal(tiny.model.get_parameter(name), tensor) for name, tensor in before.items())


def test_without_training_the_record_says_so(tiny, gptq_plan, matrices, tmp_path):
    """Nothing trained: no tensors, no training."""
    write_checkpoint(tiny, gptq_plan, matrices, tmp_path / "out")
    record = read_record(tmp_path / "out")
    assert record.trained == () and record.training is None


TRAINED = {
    "unknown": ("nonsense", (3,), UsageError, r"trained: nonsense is no parameter of the model"),
    "a matrix": (
        "bert.encoder.layer.0.attention.self.query.weight",
        (32, 32),
        UsageError,
        r"trained: \S*query\.weight comes with `matrices`",
    ),
    "another shape": ("classifier.bias", (1, 1), UsageError, r"trained: classifier\.bias has shape \(1, 1\); the mod"),
}


@pytest.mark.parametrize("case", TRAINED)
def test_trained_tensors_that_do_not_fit_are_refused(tiny, gptq_plan, matrices, tmp_path, case):
    """Names and shapes are the model's, and matrices are not handed over twice."""
    name, shape, error, message = TRAINED[case]
    with pytest.raises(error, match=message):
        write_checkpoint(tiny, gptq_plan, matrices, tmp_path / "out", trained={name: torch.zeros(shape)})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [1e6, float("nan"), float("inf")])
def test_trained_values_that_fp16_does_not_hold_are_refused(tiny, gptq_plan, matrices, tmp_path, value):
    """Stored in fp16: beyond its range a tensor would come back infinite."""
    trained = {"classifier.bias": torch.full_like(tiny.model.classifier.bias, value)}
    with pytest.raises(InputFileError, match=r"classifier\.bias"):
        write_checkpoint(tiny, gptq_plan, matrices, tmp_path / "out", trained=trained)
    assert not list(tmp_path.iterdir())


def test_what_the_source_raises_leaves_nothing(tiny, gptq_plan, matrices, tmp_path):
    """A training that fails half way leaves no folder."""

    def failing():
        yield from itertools.islice(matrices, 5)
        raise RuntimeError("diverged")

    with pytest.raises(RuntimeError, match="diverged"):
        write_checkpoint(tiny, gptq_plan, failing(), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_single_element_of_any_stride_is_written(tmp_path):
    """The scale of a matrix with one range may be a view of a pair, which torch calls contiguous with stride 2."""
    scale = torch.tensor([[0.5, -1.0]], dtype=torch.float16)[:, 0]
    assert scale.is_contiguous() and scale.stride() == (2,)
    path = tmp_path / "one.safetensors"
    with StreamedFile(path, {"scale": ((1,), torch.float16)}, {}) as file:
        file.write("scale", scale)
    assert load_file(path)["scale"].tolist() == [0.5]
