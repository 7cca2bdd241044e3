"""The teacher's states on disk: what is chosen, what is read back, sizes, damage, and runs that are killed."""

import math

import pytest
import torch
from families import save

from qbert_opt.errors import InputFileError, UsageError
from qbert_opt.models.batches import tokenize
from qbert_opt.models.loading import load_model
from qbert_opt.training.objective import objective, points_of
from qbert_opt.training.passes import attention_scores
from qbert_opt.training.settings import RecoverySettings
from qbert_opt.training.student import Student
from qbert_opt.training.teacher import Teacher
from qbert_opt.training.teacher_cache import StoringTeacher
from qbert_opt.workflows.recover import STATE_SUFFIX, TEACHER_SUFFIX, recover

from .conftest import plan_of, texts_of

HIDDEN = [("hidden", 0), ("hidden", 1)]


@pytest.fixture(scope="module")
def batches(tiny, sentences):
    return tokenize(tiny.tokenizer, sentences.texts[:40], batch_size=8)


def storing(tiny, tiny_start, batches, folder, share=1.0, points=HIDDEN, **more):
    return StoringTeacher(tiny, tiny_start[0], batches, folder=folder, points=points, share=share, **more)


def test_the_whole_cache_is_the_teacher_in_fp16(tiny, tiny_start, batches, tmp_path):
    """Every real token and channel, rounded once; outputs as they are; padding is not known."""
    stored, plain = storing(tiny, tiny_start, batches, tmp_path / "cache"), Teacher(tiny, tiny_start[0], batches)
    modules = plain.modules_of(HIDDEN)
    for index, batch in enumerate(batches):
        found, expected = stored.answer(index, modules), plain.answer(index, modules)
        assert torch.equal(found.rows.values, expected.rows.values)
        for point in HIDDEN:
            real = batch.mask[..., None].float()
            assert torch.equal(found.points[point], expected.points[point].half().float() * real)
            assert torch.equal(found.known[point], real.expand_as(found.known[point]))
    stored.remove()
    assert not (tmp_path / "cache").exists()


def test_a_share_keeps_the_tokens_that_the_first_attends_to(tiny, tiny_start, batches, tmp_path):
    """By loops: ceil(√s T) tokens by attention from the first, it included; ceil(√s d) channels by energy."""
    share = 0.25
    stored = storing(tiny, tiny_start, batches[:1], tmp_path / "cache", share)
    found = stored.answer(0, stored.modules_of(HIDDEN))
    plain = Teacher(tiny, tiny_start[0], batches[:1])
    wanted = [*HIDDEN, *((what, block) for what in ("query", "key") for block in range(2))]
    made, batch = plain.answer(0, plain.modules_of(wanted)), batches[0]
    for row, ids in enumerate(batch.inputs["input_ids"].tolist()):
        length = int(batch.mask[row].sum())
        attention = sum(
            attention_scores(made, 4, b)[row, :, :length, :length].softmax(-1)[:, 0].mean(0) for b in (0, 1)
        )
        order = sorted((t for t in range(1, length) if ids[t] != 3), key=lambda t: -float(attention[t]))
        expected = {0, *order[: math.ceil(length / 2) - 1]}
        kept = {t for t in range(batch.mask.shape[1]) if found.known["hidden", 0][row, t].any()}
        assert kept == expected
    for point in HIDDEN:
        energy = made.points[point][batch.mask].square().sum(0)
        channels = set(energy.topk(16).indices.tolist())
        known = found.known[point]
        assert {c for c in range(32) if known[..., c].any()} == channels
        assert torch.equal(found.points[point], (made.points[point].half().float() * known))


def test_a_share_takes_about_its_share_of_the_bytes(tiny, tiny_start, batches, tmp_path):
    """States of 10 % beside all of them; headers, masks and outputs are counted apart."""
    sizes = {}
    for share in (1.0, 0.1):
        stored = storing(tiny, tiny_start, batches, tmp_path / f"{share}", share)
        for index in range(len(batches)):
            stored.answer(index, stored.modules_of(HIDDEN))
        whole = [path.stat().st_size for path in (tmp_path / f"{share}").iterdir()]
        known = sum(float(stored.answer(i, {}).known[point].sum()) for i in range(len(batches)) for point in HIDDEN)
        sizes[share] = (stored.num_bytes, known)
        assert sizes[share][0] == sum(whole) > 2 * known
    assert 0.1 <= sizes[0.1][1] / sizes[1.0][1] < 0.2  # ceilings: 11 of 32 channels, and texts of a few tokens
    assert sizes[0.1][0] < 0.5 * sizes[1.0][0]


def test_a_stored_batch_is_not_run_again(tiny, tiny_start, batches, tmp_path, monkeypatch):
    """Neither in this run nor in one that resumes."""
    stored = storing(tiny, tiny_start, batches, tmp_path / "cache")
    first = stored.answer(2, stored.modules_of(HIDDEN))
    again = storing(tiny, tiny_start, batches, tmp_path / "cache")
    monkeypatch.setattr(Teacher, "run", lambda *_: pytest.fail("the teacher ran"))
    for teacher in (stored, again):
        assert torch.equal(teacher.answer(2, {}).points["hidden", 1], first.points["hidden", 1])


def test_damaged_and_foreign_files_are_refused(tiny, tiny_start, batches, tmp_path):
    """One line: which file, and what to remove."""
    folder = tmp_path / "cache"
    storing(tiny, tiny_start, batches, folder, fingerprint="a").answer(0, {})
    with pytest.raises(InputFileError, match=r"000000.safetensors: is damaged or of another run. Remove .*cache"):
        storing(tiny, tiny_start, batches, folder, fingerprint="b").answer(0, {})
    [file] = folder.iterdir()
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    for broken in (bytes(content), bytes(content[:50]), b""):
        file.write_bytes(broken)
        with pytest.raises(InputFileError, match=r"000000.safetensors: .* Remove .*cache to compute it again") as error:
            storing(tiny, tiny_start, batches, folder, fingerprint="a").answer(0, {})
        assert "\n" not in str(error.value)


def test_files_of_others_are_left_alone(tiny, tiny_start, batches, tmp_path):
    """The folder goes with its own files only."""
    folder = tmp_path / "cache"
    stored = storing(tiny, tiny_start, batches, folder)
    stored.answer(0, {})
    (folder / "notes.txt").write_text("mine")
    stored.remove()
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


def test_what_cannot_be_cut_is_refused(tiny, tiny_start, batches, tmp_path):
    """A part of queries is no attention; a model without a query layer has no tokens to choose by."""
    queries = points_of({"attention-maps": 1.0}, 2)
    with pytest.raises(
        UsageError, match=r"`teacher_cache`: 10% keeps a part of hidden states, and a loss reads the query"
    ):
        storing(tiny, tiny_start, batches, tmp_path / "cache", 0.1, queries)
    whole = storing(tiny, tiny_start, batches, tmp_path / "cache", 1.0, queries)
    student = Student(tiny.model, *tiny_start)
    in_memory = Teacher(tiny, tiny_start[0], batches)
    for losses in ({"attention-maps": 1.0}, {"attention-scores": 1.0}):
        found, expected = (float(objective(student, t, losses)(0).detach()) for t in (whole, in_memory))
        assert found == pytest.approx(expected, rel=2e-2)  # queries in fp16
    loaded = load_model(save(tmp_path / "model", "modernbert", "classes"))
    data = texts_of("classes")
    fused = tokenize(loaded.tokenizer, data.texts, batch_size=8)
    with pytest.raises(UsageError, match=r"no query layer of its own"):
        StoringTeacher(loaded, plan_of(loaded, data), fused, folder=tmp_path / "x", points=HIDDEN, share=0.5)
    assert not (tmp_path / "x").exists()
    for share in (0.0, 1.5, math.nan):
        with pytest.raises(UsageError, match=r"`teacher_cache` .*: give a share above 0 and up to 100%"):
            RecoverySettings(teacher_cache=share)


def test_a_killed_run_with_a_cache_ends_as_if_it_had_not_been(tiny, tiny_start, file_texts, tmp_path):
    """The same folder bit for bit; the cache is gone at the end, and its size is reported."""
    settings = RecoverySettings(
        steps=("distill",), epochs={"distill": 2}, rates={"distill": (2e-3, 1e-3)}, batch_size=8, teacher_cache=0.1,
        losses={"logits": 1.0, "hidden": 1.0},
    )  # fmt: skip

    class Killed(BaseException):
        pass

    def kill(done, total, what):
        if done > 0.3 * total:
            raise Killed

    with pytest.raises(Killed):
        recover(tiny, tiny_start[0], [file_texts], tmp_path / "a", settings=settings, progress=kill)
    assert list((tmp_path / f"a{TEACHER_SUFFIX}").iterdir())
    runs = [recover(tiny, tiny_start[0], [file_texts], tmp_path / name, settings=settings) for name in "ab"]
    assert not (tmp_path / f"a{TEACHER_SUFFIX}").exists()
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1] and runs[0].teacher_bytes == runs[1].teacher_bytes > 0
    assert runs[0].best_loss < runs[0].start_loss


def test_a_refused_run_makes_no_cache(tiny, tiny_start, file_texts, tmp_path):
    """A state file that cannot be used is refused before the folder of the cache is made."""
    settings = RecoverySettings(steps=("distill",), epochs={"distill": 1}, batch_size=8, teacher_cache=0.1)
    (tmp_path / f"a{STATE_SUFFIX}").write_bytes(b"damaged")
    with pytest.raises(InputFileError, match=r"is not a training state"):
        recover(tiny, tiny_start[0], [file_texts], tmp_path / "a", settings=settings)
    assert not (tmp_path / f"a{TEACHER_SUFFIX}").exists()
