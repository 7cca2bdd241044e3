"""Paged models compute what they compute in memory, bit for bit, and give memory back."""

import errno
import json
import logging
import os
import re
from contextlib import nullcontext
from pathlib import Path

import decoders
import numpy as np
import pytest
import torch
from families import WORDS, save, tiny_model
from safetensors.torch import load_file, save_file

from qbert_opt.checkpoint.reader import load_quantized
from qbert_opt.checkpoint.writer import write_checkpoint
from qbert_opt.curvature.capture import captured
from qbert_opt.data.texts import LabeledTexts
from qbert_opt.errors import FullDiskError, InputFileError, UsageError
from qbert_opt.models import pages as pages_module
from qbert_opt.models.architectures import unfilled_model
from qbert_opt.models.layers import is_matrix
from qbert_opt.models.loading import is_finite, load_model
from qbert_opt.models.pages import Paging
from qbert_opt.models.paging import pages_of, spilled
from qbert_opt.models.torch_device import on_device
from qbert_opt.models.tracing import unfrozen
from qbert_opt.planning.planner import allocate
from qbert_opt.quantization.calibration import CalibrationPlan, MatrixQuantizer, quantized_matrices
from qbert_opt.runtime.memory_budget import available_bytes
from qbert_opt.runtime.scratch import Scratch, release
from qbert_opt.scoring.sensitivity import measure_sensitivity
from qbert_opt.spec.activations import activation_grid
from qbert_opt.spec.grids import grid
from qbert_opt.spec.limits import Limits
from qbert_opt.workflows.quantize import quantize_model

CHOICES = grid((2,), ("columns:16",), "gptq")
TABLES = grid((2,), ("rows:each",), "rtn")
TEXTS = LabeledTexts("words", tuple((" ".join(WORDS[5 + i : 8 + i + i % 5]),) for i in range(24)), None)
LIMIT_BYTES = 1 << 28


@pytest.fixture(autouse=True)
def nothing_is_small(monkeypatch):
    """Tiny models have only small tensors: here all of them go to disk."""
    monkeypatch.setattr(pages_module, "SMALL_BYTES", 0)
    monkeypatch.setattr("qbert_opt.checkpoint.reader.ROWS_AT_A_TIME", 10)
    monkeypatch.setattr("qbert_opt.quantization.calibration.TABLE_ROWS", 10)


def scores_of(loaded, **settings):
    """Scores of a model, with its tables."""
    return measure_sensitivity(
        loaded, TEXTS, CHOICES, plan=CalibrationPlan(2, 4, 0), table_choices=TABLES,
        memory_limit_bytes=LIMIT_BYTES, **settings,
    )  # fmt: skip


@pytest.mark.parametrize("family", ["albert", "deberta-v2"])
def test_scores_are_those_in_memory(tmp_path, family):
    """The same operations on the same numbers: every score, table score and statistic is equal bit for bit."""
    folder = save(tmp_path / "model", family)
    ordinary, paged = load_model(folder), load_model(folder, paging=Paging(tmp_path, True))
    assert paged.sha256 == ordinary.sha256
    pages = pages_of(paged.model)
    assert all(pages.owns(p) for p in paged.model.parameters())
    assert pages_of(ordinary.model) is None
    settings = {"activation_choices": activation_grid((8,)), "with_curvature": True} if family == "albert" else {}
    assert scores_of(paged, **settings) == scores_of(ordinary, **settings)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]  # scratch files have no names


@pytest.mark.parametrize(("family", "depth"), [("llama with tied tables", "num_hidden_layers"), ("gpt2", "n_layer")])
def test_decoders_are_those_in_memory(tmp_path, family, depth):
    """Grouped queries, tied tables, transposed matrices: scores with the cache's, folders and what is read back."""
    folder = decoders.save(tmp_path / "model", family, **{depth: 1})
    texts, found = decoders.sentences(16), []
    for paging in (None, Paging(tmp_path, True)):
        loaded = load_model(folder, paging=paging)
        scores = measure_sensitivity(loaded, texts, CHOICES, plan=CalibrationPlan(2, 3, 0), table_choices=TABLES)
        out = tmp_path / ("ordinary" if paging is None else "paged")
        written = quantize_model(loaded, allocate(scores, Limits()), texts, out)
        opened, _ = load_quantized(out, paging=paging)
        assert [pages_of(each.model) is None for each in (loaded, opened)] == [paging is None] * 2
        found.append((scores, (out / "model.safetensors").read_bytes(), written.read_back, opened.sha256))
    assert found[0] == found[1]
    assert (found[0][0].cache is not None) == (family != "gpt2")  # its keys and values come from one matrix


@pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
)
def test_weights_lent_block_by_block(tmp_path, device):
    """Computed with copies of one block at a time on a device: equal on the CPU, close on a GPU; all go home again."""
    folder = save(tmp_path / "model", "albert with two groups")
    ordinary, paged = load_model(folder), load_model(folder, paging=Paging(tmp_path, True))
    pages = pages_of(paged.model)
    with on_device(paged, device), pages.lent(paged.model, torch.device(device)) if device == "cpu" else nullcontext():
        found, expected = scores_of(paged), scores_of(ordinary)
    if device == "cpu":
        assert found == expected
    else:
        np.testing.assert_allclose(found.values(), expected.values(), rtol=1e-3)
    assert all(pages.owns(parameter) for parameter in paged.model.parameters())


def test_one_block_at_a_time_is_lent(tmp_path):
    """Copies of weights never take more than the largest block, on the way there and back."""
    loaded = load_model(save(tmp_path / "model", "bert"), paging=Paging(tmp_path, True))
    pages, blocks = pages_of(loaded.model), list(loaded.model.bert.encoder.layer)
    largest, seen = max(sum(p.nbytes for p in block.parameters()) for block in blocks), []

    def note(*_):
        copies = {p.untyped_storage().data_ptr(): p.nbytes for p in loaded.model.parameters() if not pages.owns(p)}
        seen.append(sum(size for address, size in copies.items() if address in pages._lent))

    with pages.lent(loaded.model, torch.device("cpu")):
        handles = [block.register_forward_pre_hook(note) for block in blocks]
        scores_of(loaded)
        for handle in handles:
            handle.remove()
        note()
    assert max(seen) == largest and seen[-1] == 0 and len(seen) > len(blocks)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_memory_of_a_gpu_does_not_grow_with_the_weights(tmp_path):
    """Six more blocks take the activations of a few short texts more, and none of their weights."""
    peaks, choices = [], grid((4,), ("rows:each",), "rtn")
    shape = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64}
    for depth in (2, 8):
        folder = decoders.save(tmp_path / f"model{depth}", "llama", num_hidden_layers=depth, **shape)
        paged = load_model(folder, paging=Paging(tmp_path, True))
        block = sum(p.nbytes for p in paged.model.model.layers[0].parameters())
        torch.cuda.reset_peak_memory_stats()
        with on_device(paged, "cuda"):
            measure_sensitivity(paged, decoders.sentences(8), choices, plan=CalibrationPlan(2, 4, 0))
        peaks.append(torch.cuda.max_memory_allocated())
    assert peaks[1] - peaks[0] < 6 * block / 2


def test_inputs_and_gradients_of_matrices_lie_on_disk(tmp_path):
    """All of a batch's, so that memory does not grow with the number of blocks."""
    model = load_model(save(tmp_path / "model", "bert"), paging=Paging(tmp_path, True)).model
    pages = pages_of(model)
    names = [name for name, module in model.bert.encoder.named_modules(prefix="bert.encoder") if is_matrix(module)]
    with captured(model, names) as seen, spilled(model), unfrozen(model):
        logits = model(input_ids=torch.tensor([[2, 7, 8, 3]])).logits
        calls = [call for name in names for call in seen[name]]
        gradients = torch.autograd.grad(logits.sum(), [call.edge for call in calls])
        on_disk = [pages.batch.holds(tensor.data_ptr()) for tensor in (*gradients, *(call.inputs for call in calls))]
    assert len(on_disk) == 24 and all(on_disk)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_are_converted_as_in_memory(tmp_path, dtype):
    """Weights of any floating type, under the names of a wrapper and of old files, become the same float32."""
    folder = save(tmp_path / "model", "bert")
    state = load_file(folder / "model.safetensors")
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}  # as files of 2018 have them
    named = {f"_orig_mod.{re.sub('|'.join(old), lambda m: old[m[0]], name)}": t.to(dtype) for name, t in state.items()}
    save_file(named, folder / "model.safetensors")
    ordinary, paged = load_model(folder), load_model(folder, paging=Paging(tmp_path, True))
    assert paged.sha256 == ordinary.sha256
    assert {p.dtype for p in paged.model.parameters()} == {torch.float32}


def test_a_file_that_changes_is_noticed(tmp_path):
    """Weights written in place would be mixed with those that were hashed; a removed file is still the mapped one."""
    folder = save(tmp_path / "model", "bert")
    loaded = load_model(folder, paging=Paging(tmp_path, True))
    expected, path = loaded.head.read(loaded.model, loaded.example()), folder / "model.safetensors"
    path.rename(tmp_path / "aside")
    assert torch.equal(loaded.head.read(loaded.model, loaded.example()), expected)
    (tmp_path / "aside").rename(path)
    with path.open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\0\0\0\0")
    with pytest.raises(InputFileError, match="was changed while it was in use"):
        loaded.head.read(loaded.model, loaded.example())


def test_one_pass_whatever_the_memory(tmp_path, monkeypatch):
    """In memory, a small limit costs a pass for each group of matrices; on disk one pass has all, in linear time."""
    folder = save(tmp_path / "model", "bert")
    passes = {}
    monkeypatch.setattr("qbert_opt.runtime.memory_budget.MemoryShares.factors", 1 << 17)
    monkeypatch.setattr("qbert_opt.runtime.memory_budget.MemoryShares.statistics", 1 << 14)
    for name, paging in (("ordinary", None), ("paged", Paging(tmp_path, True))):
        loaded = load_model(folder, paging=paging)
        blocks = loaded.model.bert.encoder.layer
        runs = []
        blocks[0].register_forward_hook(lambda *_, runs=runs: runs.append(1))
        measure_sensitivity(loaded, TEXTS, CHOICES, plan=CalibrationPlan(8, 8, 0), memory_limit_bytes=LIMIT_BYTES)
        passes[name] = len(runs)
    assert passes["paged"] <= 8 < passes["ordinary"]


def test_a_run_that_was_interrupted_goes_on_in_memory(tmp_path):
    """The progress file of a paged run is that of any run: nothing is scored twice, and the table is the same."""
    folder = save(tmp_path / "model", "bert")

    def stop(done, _count, _step):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scores_of(load_model(folder, paging=Paging(tmp_path, True)), checkpoint=tmp_path / "p", progress=stop)
    done = []
    ordinary = load_model(folder)
    resumed = scores_of(ordinary, checkpoint=tmp_path / "p", progress=lambda n, *_: done.append(n))
    assert min(done[1:]) >= 5
    assert resumed == scores_of(ordinary)


def test_the_command_line(cli, caplog, tmp_path, data_file, tiny_folder):
    """Scores, the quantized folder and the figures of `evaluate` are equal, and one line says that a model is paged."""
    few = ("--groupings", "columns:16", "--calibration-samples", 8, "--scoring-samples", 8)
    found = {}
    for how in ("--paged", "--no-paged"):
        scores, plan, out = tmp_path / f"{how}.json", tmp_path / "plan.json", tmp_path / f"{how}-out"
        caplog.clear()
        run = cli("sensitivity", "--model", tiny_folder, "--data", data_file, "--bits", "2", *few, how, "-q", "-o",
                  scores)  # fmt: skip
        assert run.code == 0, run.err
        assert ["paged from disk" in line for line in caplog.messages] == [True] * (how == "--paged")
        if not plan.exists():
            assert cli("solve", "--scores", scores, "--budget", "5bit", "-o", plan).code == 0
        caplog.clear()
        run = cli("quantize", plan, "--model", tiny_folder, "--data", data_file, how, "-q", "-o", out)
        assert run.code == 0, run.err
        assert ["paged from disk" in line for line in caplog.messages] == [True] * (how == "--paged")
        run = cli("evaluate", out, "--data", data_file, "--reference", tiny_folder, how, "--json")
        assert run.code == 0, run.err
        record = json.loads((out / "config.json").read_text())["quantization_config"]
        figures = json.loads(run.out)
        figures.pop("points"), figures.pop("what", None)
        found[how] = scores.read_text(), (out / "model.safetensors").read_bytes(), record["read_back"], figures
    assert found["--paged"] == found["--no-paged"]
    refused = cli("evaluate", tiny_folder, "--data", data_file, "--scratch", tmp_path / "absent")
    assert refused.code == 2 and f"--scratch {tmp_path / 'absent'}: is not a folder" in refused.complaint
    refused = cli("sensitivity", "--model", tiny_folder, "--data", data_file, "--metric", "measured", "--paged", "-o",
                  tmp_path / "no.json")  # fmt: skip
    assert refused.code == 2 and "--metric measured: changes weights" in refused.err
    refused = cli("quantize", plan, "--model", tiny_folder, "--data", data_file, "--paged", "--sequential", "-o",
                  tmp_path / "no")  # fmt: skip
    assert refused.code == 2 and "--sequential: changes the weights" in refused.err


def test_paged_where_it_does_not_fit(tmp_path, monkeypatch, caplog):
    """By default a model is paged if its float32 weights exceed the available memory, and a line says so."""
    folder = save(tmp_path / "model", "bert")
    elements = sum(p.numel() for p in tiny_model("bert").parameters())
    for available, paged in ((4 * elements - 1, True), (4 * elements, False)):
        monkeypatch.setattr(pages_module, "available_bytes", lambda available=available: available)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            loaded = load_model(folder, paging=Paging(tmp_path))
        assert (pages_of(loaded.model) is not None) == paged
        assert [("that are available" in line) for line in caplog.messages] == [True] * paged


def test_the_memory_that_is_available(tmp_path, monkeypatch):
    """The least of what the machine and the control group have left, with what the system can drop."""
    assert 2**24 < available_bytes() < 2**50
    monkeypatch.setattr("qbert_opt.runtime.memory_budget.MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr("qbert_opt.runtime.memory_budget.GROUP", tmp_path)
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:   5000 kB\n")
    (tmp_path / "memory.current").write_text("4000000\n")
    (tmp_path / "memory.stat").write_text("anon 7\ninactive_file 1000000\n")
    for limit, found in (("max", 5000 * 1024), ("5000000", 2_000_000), ("90000000", 5000 * 1024)):
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        assert available_bytes() == found


def resident_bytes(tensor):
    """Resident memory of the mapping that a tensor lies in, by the system's table."""
    address, found = tensor.data_ptr(), -1
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if (place := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line)) is not None:
            inside = int(place[1], 16) <= address < int(place[2], 16)
        elif inside and line.startswith("Rss:"):
            found = int(line.split()[1]) * 1024
    return found


def test_memory_is_given_back(tmp_path):
    """A held tensor takes memory only between a use and the next release, and its values stay."""
    tensor = torch.arange(1 << 20, dtype=torch.float32)
    held = Scratch(tmp_path).hold(tensor)  # stays valid without the object that made it
    assert resident_bytes(held) == 0
    assert torch.equal(held, tensor)
    assert resident_bytes(held) >= tensor.nbytes
    release()
    assert resident_bytes(held) == 0
    held += 1
    release()
    assert torch.equal(held, tensor + 1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(24.0).view(2, 3, 4).transpose(0, 2),
        torch.ones(3, 1).expand(3, 5),
        torch.arange(30.0).view(5, 6)[1:4, 2:],
        torch.tensor(7),
        torch.empty(0, 3),
        torch.ones(4, dtype=torch.bfloat16),
        torch.ones(4, dtype=torch.bool),
    ],
)
def test_tensors_keep_their_layout(tmp_path, tensor):
    """Values, shape and strides return: a product of another layout may be summed in another order."""
    scratch = Scratch(tmp_path)
    for _ in range(2):
        for back in (scratch.hold(tensor), scratch.read(scratch.keep(tensor))):
            assert torch.equal(back, tensor)
            assert (back.stride(), back.dtype) == (tensor.stride(), tensor.dtype)
            assert tensor.numel() < 2 or back.data_ptr() % 64 == 0
        scratch.reset()


@pytest.mark.parametrize("shape", [(3, 5), (2**17 + 1, 3), (0, 4)])
def test_tensors_that_are_filled_later(tmp_path, shape):
    """Zeros of every size, each in room of its own, also across the parts in which the room is taken."""
    scratch = Scratch(tmp_path)
    before = scratch.hold(torch.ones(7))
    made, after = scratch.empty(torch.Size(shape)), scratch.hold(torch.ones(9))
    assert made.shape == shape and not made.any()
    made.fill_(2)
    assert all((each == 1).all() for each in (before, after)) and (made == 2).all()


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    """The line names the folder, and what to do."""

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    scratch = Scratch(tmp_path)
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(FullDiskError, match=re.escape(f"`scratch` {tmp_path}: the disk is full")):
        scratch.hold(torch.ones(3))
    with pytest.raises(UsageError, match="cannot be written"):
        Scratch(tmp_path / "absent")


def test_finite_without_a_copy():
    """The ends of the values tell, for every place and kind of a wrong one."""
    assert is_finite(torch.empty(0, 2)) and is_finite(torch.ones(2, 3))
    for wrong in (float("nan"), float("inf"), -float("inf")):
        for place in range(3):
            values = torch.ones(3)
            values[place] = wrong
            assert not is_finite(values)


def test_a_model_without_weights_has_its_buffers():
    """Parameters are to be assigned, tied ones stay one; buffers are those of the ordinary model."""
    config = tiny_model("bert", "vocabulary").config
    config.architectures = ["BertForMaskedLM"]
    unfilled = unfilled_model(config, "tiny")
    assert all(parameter.is_meta for parameter in unfilled.parameters())
    assert unfilled.get_output_embeddings().weight is unfilled.get_input_embeddings().weight
    ordinary = dict(tiny_model("bert", "vocabulary").named_buffers())
    assert ordinary and all(torch.equal(buffer, ordinary[name]) for name, buffer in unfilled.named_buffers())
    assert not next(torch.nn.Linear(2, 2).parameters()).is_meta


@pytest.mark.parametrize(("kind", "tiers"), [("vocabulary", None), ("classes", [40, 24])])
def test_quantized_folders_are_opened_alike(tmp_path, kind, tiers):
    """Weights, hash and ties of a quantized folder are the same, also with tied weights or a table in tiers."""
    folder = save(tmp_path / "model", "bert", kind)
    if tiers is not None:
        config = json.loads((folder / "config.json").read_text()) | {"table_tiers": tiers}
        (folder / "config.json").write_text(json.dumps(config))
    loaded = load_model(folder, paging=Paging(tmp_path, True))
    choices = grid((4,), ("columns:16",), "rtn")
    scores = measure_sensitivity(loaded, TEXTS, choices, metric="weight-error", plan=CalibrationPlan(4, 4, 0))
    plan = allocate(scores, Limits())
    matrices = quantized_matrices(MatrixQuantizer(loaded, plan.profile, "rtn", None), plan)
    write_checkpoint(loaded, plan, matrices, tmp_path / "out")
    ordinary, _ = load_quantized(tmp_path / "out")
    paged, _ = load_quantized(tmp_path / "out", paging=Paging(tmp_path, True))
    assert paged.sha256 == ordinary.sha256
    assert [n for n, _ in paged.model.named_parameters()] == [n for n, _ in ordinary.model.named_parameters()]
    example = ordinary.example()
    assert torch.equal(paged.head.read(paged.model, example), ordinary.head.read(ordinary.model, example))
