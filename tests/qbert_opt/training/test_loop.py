"""The loop: what moves and what does not, interrupted and resumed as uninterrupted, the best state kept."""

import math
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from torch import nn

from qbert_opt.errors import InputFileError, UsageError
from qbert_opt.models.batches import tokenize
from qbert_opt.models.outputs import collect
from qbert_opt.runtime import plugins
from qbert_opt.runtime.distributed import Processes
from qbert_opt.training.attention import deployed_attention, training_attention
from qbert_opt.training.block_errors import plain, sensitivity
from qbert_opt.training.loop import Held, TrainingRun
from qbert_opt.training.objective import objective
from qbert_opt.training.relative_error import relative_error
from qbert_opt.training.run_state import read_state
from qbert_opt.training.schedule import epochs_for
from qbert_opt.training.settings import RecoverySettings
from qbert_opt.training.steps import distill
from qbert_opt.training.student import Student
from qbert_opt.training.teacher import Teacher
from qbert_opt.training.updates import batches_of, ends_pass, num_updates, set_gradients

FAST = {"blocks": (2e-3, 2e-3), "distill": (1e-3, 1e-3), "ranges": (0.0, 1e-3)}


class Killed(BaseException):
    """Ends a run as kill -9 does: nothing in the code catches it."""


def run_of(loaded, start, data, *, steps=("blocks", "distill"), epochs=1.0, **more):
    """A run on the last 100 texts, judged on the others."""
    plan, codes = start
    batches = tokenize(loaded.tokenizer, data.texts[20:], batch_size=8, kind=loaded.head.kind)
    held = tokenize(loaded.tokenizer, data.texts[:20], batch_size=8, kind=loaded.head.kind)
    settings = RecoverySettings(
        steps=steps,
        epochs=dict.fromkeys(steps, epochs),
        rates={step: FAST[step] for step in steps if step in FAST},
        batch_size=8,
        block_error=more.pop("error", "plain"),
    )
    return TrainingRun(
        Student(loaded.model, plan, codes), Teacher(loaded, plan, batches),
        Held(held, collect(loaded.head, loaded.model, held)), settings, seconds_between_writes=0.0, **more,
    )  # fmt: skip


def learned(run):
    return {name: tensor.clone() for name, tensor in run._student.state_dict().items()}


@pytest.mark.parametrize("error", plugins.available("block_errors"))
def test_training_brings_the_answers_back(tiny, tiny_start, sentences, error):
    """Two bits lose much less after some passes of blocks and end-to-end, measured on text that trained nothing."""
    run = run_of(tiny, tiny_start, sentences, epochs=6, error=error)
    run.go()
    progress = run.state.progress
    assert run.stopped is None and progress.finished_steps == ["blocks", "distill"]
    assert progress.best_loss < 0.6 * progress.start_loss
    assert run._held.loss(run._student, run._teacher) == progress.best_loss
    assert [record.phase for record in progress.finished] == ["blocks 1/2", "blocks 2/2", "distill"]


ALL_STEPS = ("ranges", "blocks", "distill")


@pytest.fixture(scope="module")
def few(sentences):
    """Five batches to train on."""
    return sentences.take(range(60))


@pytest.fixture(scope="module")
def whole(tiny, tiny_start, few):
    """A run that nothing interrupted."""
    run = run_of(tiny, tiny_start, few, steps=ALL_STEPS, epochs=1.5)
    run.go()
    return run


@pytest.mark.parametrize("cut", [0.02, 0.3, 0.45, 0.7, 0.97])
def test_a_killed_run_ends_as_if_it_had_not_been(whole, tiny, tiny_start, few, tmp_path, cut):
    """Killed anywhere and started again: the same tensors, bit for bit, and the same losses."""

    def kill(done, total, what):
        if done > cut * total:
            raise Killed

    file = tmp_path / "run.safetensors"
    settings = {"steps": ALL_STEPS, "epochs": 1.5, "file": file}
    with pytest.raises(Killed):
        run_of(tiny, tiny_start, few, tell=kill, **settings).go()
    again = run_of(tiny, tiny_start, few, **settings)
    assert cut < 0.1 or again.state.progress.updates or again.state.progress.finished
    again.go()
    assert all(torch.equal(tensor, learned(again)[name]) for name, tensor in learned(whole).items())
    for one, other in zip(whole.state.progress.finished, again.state.progress.finished, strict=True):
        assert (one.phase, one.held_loss, one.kept) == (other.phase, other.held_loss, other.kept)


def test_the_state_file_holds_no_code(tiny, tiny_start, sentences, tmp_path):
    """Safetensors with JSON; what is damaged or none of ours is refused in one line."""
    file = tmp_path / "run.safetensors"
    run_of(tiny, tiny_start, sentences, steps=("ranges",), file=file).go()
    with safe_open(file, framework="pt") as opened:
        assert set(opened.metadata()) == {"run"}
    state = read_state(file)
    assert state.progress.finished_steps == ["ranges"]
    content = file.read_bytes()
    for broken in (content[:-100], b"", b"x" * 200, content.replace(b'"run"', b'"ran"')):
        file.write_bytes(broken)
        with pytest.raises(InputFileError, match=r"is not a training state: .*Remove it") as refused:
            read_state(file)
        assert "\n" not in str(refused.value)


def test_the_same_seed_gives_the_same_result(tiny, tiny_start, sentences):
    """Twice the same run: the same tensors."""
    found = []
    for _ in range(2):
        run = run_of(tiny, tiny_start, sentences, error="sensitivity")
        run.go()
        found.append(learned(run))
    assert all(torch.equal(tensor, found[1][name]) for name, tensor in found[0].items())


def test_what_is_frozen_does_not_move(tiny, tiny_start, sentences):
    """Ranges alone leave weights and biases; block 1 leaves block 2, head and embeddings; the teacher never moves."""
    before = {name: tensor.clone() for name, tensor in tiny.model.state_dict().items()}
    run = run_of(tiny, tiny_start, sentences, steps=("ranges",))
    start = learned(run)
    moved = []
    run._phase_over = lambda record: None
    run._judge = lambda phase: moved.append(learned(run)) or 0.0
    run.go()
    names = {name for name, tensor in start.items() if not torch.equal(tensor, moved[-1][name])}
    assert names and all(".ranges." in name for name in names)

    run = run_of(tiny, tiny_start, sentences, steps=("blocks",))
    states = [learned(run)]
    run._judge = lambda phase: states.append(learned(run)) or 0.0
    run.go()
    names = {name for name, tensor in states[0].items() if not torch.equal(tensor, states[1][name])}
    assert names and all("layer/0/" in name for name in names)
    assert all(torch.equal(tensor, tiny.model.state_dict()[name]) for name, tensor in before.items())


def test_nan_stops_with_the_update_and_keeps_the_best(tiny, tiny_start, sentences, monkeypatch):
    """A loss that is no number in update 3 of the second block: said, and the state after the first block is left."""
    run = run_of(tiny, tiny_start, sentences, steps=("blocks",))
    calls = []

    def spoiled(found, wanted, weights):
        calls.append(1)
        return relative_error(found, wanted, weights) * (math.nan if len(calls) == 13 + 3 else 1.0)

    monkeypatch.setattr("qbert_opt.training.steps.blocks.relative_error", spoiled)
    run.go()
    assert run.stopped == "loss is nan in update 3 of blocks 2/2; the best state is kept"
    assert run._held.loss(run._student, run._teacher) == run.state.progress.best_loss < run.state.progress.start_loss
    assert [record.phase for record in run.state.progress.finished] == ["blocks 1/2"]


def test_ctrl_c_keeps_the_best(tiny, tiny_start, sentences):
    """Stopped in the middle of a phase: what lost least on held-back text is left, the state at Ctrl-C included."""

    def interrupt(done, total, what):
        if done > 0.8 * total:
            raise KeyboardInterrupt

    run = run_of(tiny, tiny_start, sentences, epochs=3, tell=interrupt)
    run.go()
    assert run.stopped is not None and run.stopped.startswith("stopped by Ctrl-C")
    assert run._held.loss(run._student, run._teacher) == run.state.progress.best_loss < run.state.progress.start_loss


def test_what_is_worse_is_not_kept(tiny, tiny_start, sentences, monkeypatch):
    """A step that loses more on held-back text: the start is left, and the record says so."""
    losses = iter([1.0, 2.0])
    monkeypatch.setattr(Held, "loss", lambda *_: next(losses))
    run = run_of(tiny, tiny_start, sentences, steps=("distill",))
    start = learned(run)
    run.go()
    assert run.state.progress.best_phase == "start" and not run.state.progress.finished[0].kept
    assert all(torch.equal(tensor, start[name]) for name, tensor in learned(run).items())


def test_an_earlier_pass_may_be_what_is_kept(tiny, tiny_start, sentences, monkeypatch):
    """Better after the first of two passes than after the second: that state is left, and the record has its loss."""
    losses = iter([1.0, 0.5, 2.0])
    monkeypatch.setattr(Held, "loss", lambda *_: next(losses))
    run = run_of(tiny, tiny_start, sentences, steps=("distill",), epochs=2)
    run.go()
    [record] = run.state.progress.finished
    assert (record.kept, record.held_loss, run.state.progress.best_loss) == (True, 0.5, 0.5)


def test_end_to_end_training_begins_in_the_middle_of_the_cells(tiny, tiny_start, sentences, monkeypatch):
    """Latent weights a hair from other codes, as block-wise training leaves many: a tiny rate changes no code."""
    monkeypatch.setitem(FAST, "distill", (1e-6, 1e-6))
    run = run_of(tiny, tiny_start, sentences, steps=("distill",))
    student = run._student
    matrices = [student.get_submodule(f"matrices.{key}") for key in student.matrices]
    codes = [matrix.stored().codes for matrix in matrices]
    with torch.no_grad():
        for matrix in matrices:
            middle, scale = matrix().reshape(matrix.latent.shape), matrix.ranges["scale"]
            matrix.latent.copy_(middle + (0.5 - 1e-6) * scale * (middle - matrix.latent).sign())
    assert all(torch.equal(matrix.stored().codes, before) for matrix, before in zip(matrices, codes, strict=True))
    ends = []
    monkeypatch.setattr(run, "_judge", lambda phase: ends.append([matrix.stored().codes for matrix in matrices]) or 0.0)
    run.go()
    assert all(torch.equal(one, other) for one, other in zip(ends[-1], codes, strict=True))


def test_float_weights_are_not_centred(tiny, tiny_start, sentences):
    """From nearest codes, as papers' recipes start, latent weights are the float weights and begin there."""
    run = run_of(tiny, tiny_start, sentences, steps=("distill",))
    for start, moves in (("nearest", False), ("codes", True)):
        settings = RecoverySettings(steps=("distill",), start=start)
        before = learned(run)
        [phase] = distill.phases(run._student, run._teacher, distill.RATES, settings)
        phase.begin()
        moved = {name for name, tensor in learned(run).items() if not torch.equal(tensor, before[name])}
        assert bool(moved) == moves and all(name.endswith(".latent") for name in moved)


def test_tokens_that_no_answer_reads_hardly_count(tiny, tiny_start, sentences):
    """BERT's head reads the first token: in the last block it carries the weight, others the floor, padding none."""
    run = run_of(tiny, tiny_start, sentences)
    weights = sensitivity.token_weights(run._teacher)
    masks = [batch.mask for batch in run._teacher.batches]
    total = sum(float(weight.sum()) for weight in weights[-1])
    assert total == pytest.approx(sum(int(mask.sum()) for mask in masks), rel=1e-3)
    for weight, mask in zip(weights[-1], masks, strict=True):
        torch.testing.assert_close(weight[:, 1:], 0.1 * mask[:, 1:].float())
    assert all(bool((weight[mask] > 0.1).all()) for weight, mask in zip(weights[0], masks, strict=True))
    assert [w.tolist() for w in plain.token_weights(run._teacher)[1]] == [m.float().tolist() for m in masks]


def test_token_weights_are_the_squared_gradients(tiny, tiny_start, sentences):
    """Against the gradient of the answers by the block's output, found by finite differences of the model's rest."""
    run = run_of(tiny, tiny_start, sentences)
    batch = run._teacher.batches[3].select([True] + [False] * 7)
    teacher = Teacher(tiny, tiny_start[0], [batch])
    [[first], [last]] = sensitivity.token_weights(teacher)
    from qbert_opt.curvature.columns import output_factors

    values = collect(tiny.head, tiny.model, [batch]).values
    import numpy as np

    signs = torch.from_numpy(np.random.default_rng(0).choice([-1.0, 1.0], (1, 2, 1))).float()
    direction = (output_factors(values, 2.0) @ signs)[0, :, 0]
    energies = torch.zeros(batch.mask.shape[1])
    step = 1e-2
    for token in range(batch.mask.shape[1]):
        for channel in range(0, 32):
            ends = []
            for sign in (1, -1):

                def shift(module, args, output, sign=sign, token=token, channel=channel):
                    moved = (output[0] if isinstance(output, tuple) else output).clone()
                    moved[0, token, channel] += sign * step
                    return (moved, *output[1:]) if isinstance(output, tuple) else moved

                handle = tiny.model.bert.encoder.layer[0].register_forward_hook(shift)
                ends.append(float(collect(tiny.head, tiny.model, [batch]).values[0].double() @ direction.double()))
                handle.remove()
            energies[token] += ((ends[0] - ends[1]) / (2 * step)) ** 2
    mask = batch.mask[0]
    expected = (0.1 + 0.9 * energies / energies[mask].mean()) * mask
    torch.testing.assert_close(first[0], expected, rtol=2e-2, atol=2e-2)
    assert float(last[0, 1:].max()) == pytest.approx(0.1)


def test_models_whose_layers_repeat_are_told_so(family_start):
    """ALBERT runs one layer three times: no chain of blocks, one line; end to end it trains."""
    loaded, plan, codes, data = family_start("albert")

    batches = tokenize(loaded.tokenizer, data.texts, batch_size=8)
    teacher = Teacher(loaded, plan, batches)
    held = Held(batches[:2], collect(loaded.head, loaded.model, batches[:2]))
    student = Student(loaded.model, plan, codes)
    with pytest.raises(UsageError, match=r"runs 3 times in a pass. Use ranges and distill"):
        TrainingRun(student, teacher, held, RecoverySettings(steps=("blocks",), epochs={"blocks": 1})).go()
    settings = RecoverySettings(steps=("distill",), epochs={"distill": 4}, rates={"distill": FAST["distill"]})
    run = TrainingRun(student, teacher, held, settings)
    run.go()
    assert run.state.progress.best_loss < run.state.progress.start_loss


def test_an_update_of_two_batches_is_their_mean(tiny, tiny_start, sentences):
    """Gradients of two batches of four are those of the eight at once, where the loss is a mean over texts."""
    plan, codes = tiny_start
    found = []
    for size, indices in ((4, [0, 1]), (8, [0])):
        batches = tokenize(tiny.tokenizer, sentences.texts[:8], batch_size=size)
        student = Student(tiny.model, plan, codes)
        loss = objective(student, Teacher(tiny, plan, batches), {"logits": 1.0})
        mean = set_gradients(loss, indices, list(student.parameters()), Processes())
        found.append((mean, [p.grad for p in student.parameters() if p.grad is not None]))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    for one, other in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_updates_walk_over_the_text():
    """Each pass has every batch once; an update of several batches goes on into the next pass."""
    for per_update in (1, 2, 3):
        taken = [index for update in range(15) for index in batches_of(update, per_update, 5, 7)]
        for start in range(0, len(taken) - 4, 5):
            assert sorted(taken[start : start + 5]) == [0, 1, 2, 3, 4]
    assert [ends_pass(update, 2, 5) for update in range(5)] == [False, False, True, False, True]
    assert [num_updates(2, 5, per_update) for per_update in (1, 2, 3, 100)] == [10, 5, 3, 1]


def test_minutes_become_passes(tiny, tiny_start, sentences, monkeypatch):
    """Half the time for each step, by the measured time of a pass; the student is left as it was."""
    run = run_of(tiny, tiny_start, sentences)
    start = learned(run)
    clock = iter([10.0, 10.0, 15.0])  # five batches take five seconds, so the thirteen take thirteen
    monkeypatch.setattr("qbert_opt.training.schedule.time", SimpleNamespace(monotonic=lambda: next(clock)))
    found = epochs_for(2.6, run._student, run._teacher, RecoverySettings(steps=("blocks", "distill")))
    assert found == {"blocks": 6.0, "distill": 5.0}  # 78 s each; a pass end to end takes the teacher's time too
    assert all(torch.equal(tensor, start[name]) for name, tensor in learned(run).items())


def test_a_full_disk_is_one_line(tiny, tiny_start, sentences, tmp_path, monkeypatch):
    """The state cannot be written: which file, and why."""
    import errno

    def full(*_args, **_more):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("qbert_opt.training.run_state.save_file", full)
    run = run_of(tiny, tiny_start, sentences, steps=("ranges",), file=tmp_path / "run.safetensors")
    with pytest.raises(UsageError, match=r"run.safetensors: was not written: the disk is full"):
        run.go()
    assert list(tmp_path.iterdir()) == []


def test_training_attends_plainly_and_is_measured_as_deployed(tiny, sentences):
    """Short texts: attention is unfused inside, fused again where something is measured, and after."""
    batches = tokenize(tiny.tokenizer, sentences.texts, batch_size=8)

    def fused() -> bool:
        query = torch.ones(1, 1, 2, 4, requires_grad=True)
        return "ScaledDotProduct" in nn.functional.scaled_dot_product_attention(query, query, query).grad_fn.name()

    outside = collect(tiny.head, tiny.model, batches).values
    with training_attention(batches):
        assert not fused()
        with deployed_attention():
            assert fused()
            assert torch.equal(collect(tiny.head, tiny.model, batches).values, outside)
        assert not fused()
    assert fused()
