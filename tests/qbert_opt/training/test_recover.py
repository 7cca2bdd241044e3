"""`recover`: from a plan or a folder to a folder of the same bytes that answers as the last training step did."""

import json
import os
import signal

import pytest
import torch
import warm_process

from qbert_opt.checkpoint.reader import load_quantized, open_packed, read_matrices
from qbert_opt.checkpoint.record import read_record
from qbert_opt.cli.verbs.recover import TrainingOptions
from qbert_opt.data.texts import LabeledTexts
from qbert_opt.errors import InputFileError, QbertOptWarning, UsageError
from qbert_opt.evaluation.evaluate import evaluate, outputs
from qbert_opt.serving.measuring import measure_folder
from qbert_opt.spec.allocation import write_allocation
from qbert_opt.training.run_state import read_state
from qbert_opt.training.settings import RecoverySettings
from qbert_opt.workflows.quantize import quantize_model
from qbert_opt.workflows.recover import STATE_SUFFIX, recover
from qbert_opt.workflows.training_text import split_texts

QUICK = RecoverySettings(
    steps=("blocks", "distill"),
    epochs={"blocks": 6, "distill": 3},
    rates={"blocks": (1e-3, 5e-4), "distill": (1e-3, 25e-5)},
    batch_size=8,
)
SHORT = RecoverySettings(steps=("blocks",), epochs={"blocks": 1}, batch_size=8)


@pytest.fixture(scope="module")
def start(tiny, gptq_plan, file_texts, tmp_path_factory):
    """A quantized folder of the tiny model."""
    folder = tmp_path_factory.mktemp("start") / "out"
    quantize_model(tiny, gptq_plan, file_texts, folder)
    return folder


@pytest.fixture(scope="module")
def recovered(tiny, start, file_texts, tmp_path_factory):
    """That folder trained, with the student after each phase."""
    output, students = tmp_path_factory.mktemp("recovered") / "out", []
    found = recover(
        tiny, start, [file_texts], output, settings=QUICK,
        phase_over=lambda record, student: students.append((record, outputs(student, file_texts))),
    )  # fmt: skip
    return output, found, students


def test_the_folder_has_the_planned_bytes_and_other_codes(recovered, start, gptq_plan, tiny, file_texts):
    """Bytes do not change; codes and answers do, for the better on text that trained nothing."""
    output, found, _ = recovered
    assert (found.written.encoder_bytes, found.written.tensor_bytes) == (gptq_plan.encoder_bytes, gptq_plan.total_bytes)
    assert (output / "model.safetensors").stat().st_size >= gptq_plan.total_bytes
    pairs = zip(read_matrices(output, gptq_plan), read_matrices(start, gptq_plan), strict=True)
    changed = [not torch.equal(a.quantized.codes, b.quantized.codes) for a, b in pairs]
    assert any(changed[: len(gptq_plan.matrices)]) and not any(changed[len(gptq_plan.matrices) :])  # tables stay
    assert found.best_loss < found.start_loss and found.stopped is None
    assert found.num_texts + found.num_held == len(set(file_texts.texts)) == 120


def test_the_reopened_folder_answers_as_the_last_step(recovered, file_texts):
    """Bit for bit through the file, packed modules included to the last bits of a float."""
    output, _, students = recovered
    _, last = students[-1]
    loaded, _ = load_quantized(output)
    assert torch.equal(outputs(loaded, file_texts), last)
    torch.testing.assert_close(outputs(open_packed(output), file_texts), last)


def test_the_record_says_what_trained_it(recovered, file_texts):
    """Method, text, steps, seed; the tensors that are no longer the model's."""
    output, found, _ = recovered
    record = read_record(output)
    assert record.training.method == (
        "blocks, distill (plain block errors; losses logits + last-hidden) from the float model"
    )
    assert (record.training.data, record.training.num_texts) == (file_texts.name, 105)
    assert record.training.steps == sum(phase.updates for phase in found.phases) == 14 * (6 + 6 + 3)
    assert "classifier.bias" in record.trained
    assert record.read_back.num_texts == 15
    assert [phase.phase for phase in found.phases] == ["blocks 1/2", "blocks 2/2", "distill"]
    assert not output.with_name(output.name + STATE_SUFFIX).exists()


def test_a_plan_is_quantized_first(tiny, gptq_plan, start, file_texts, tmp_path):
    """The same result from the plan as from the folder that its quantizer wrote; labels play no part."""
    settings = RecoverySettings(steps=("ranges",), epochs={"ranges": 1}, batch_size=8)
    unlabelled = LabeledTexts("more", (("w1 w2 w3",), ("w4 w5",)), None)
    for source, output in ((gptq_plan, "a"), (start, "b")):
        recover(tiny, source, [file_texts, unlabelled], tmp_path / output, settings=settings)
    answers = [outputs(load_quantized(tmp_path / name)[0], file_texts) for name in "ab"]
    assert torch.equal(*answers)


def test_training_goes_on_from_a_trained_folder(tiny, recovered, file_texts, tmp_path):
    """What is not quantized is taken from the folder too: before training it answers as the folder."""
    output, found, _ = recovered
    again = recover(tiny, output, [file_texts], tmp_path / "again", settings=SHORT)
    assert again.start_loss == pytest.approx(found.best_loss, rel=1e-6)
    assert again.best_loss <= again.start_loss


def test_python_and_command_line_agree(cli, tiny_folder, start, data_file, recovered, tmp_path):
    """The verb prints phases, the measured loss, that the prediction is void, and the bytes."""
    found = cli(
        "recover", start, "--model", tiny_folder, "--data", data_file, "-o", tmp_path / "out", "--steps", "blocks",
        "--epochs", "1", "--batch-size", 8, "--block-error", "sensitivity", "--seed", 3,
    )  # fmt: skip
    assert found.code == 0, found.err
    for words in ("blocks 1/2", "measured loss", "before training", "void", "trained          on 105 texts", "planned"):
        assert words in found.out
    assert "training: " in found.err
    assert read_record(tmp_path / "out").training.seed == 3


def test_the_command_line_trains_by_default_as_python_does():
    """Without options: the same steps, losses and numbers."""
    assert TrainingOptions().settings() == RecoverySettings()


def test_rates_are_given_by_step():
    """Other steps keep their own; a recipe's are replaced where they are given."""
    assert TrainingOptions(rates="blocks:6e-4:3e-4").settings().rates == {"blocks": (6e-4, 3e-4)}
    given = TrainingOptions(steps="ranges,distill", rates="distill: 1e-3:0, ranges:0:1e-4").settings()
    assert given.rates == {"distill": (1e-3, 0.0), "ranges": (0.0, 1e-4)}
    assert TrainingOptions(recipe="xtc", rates="distill:1e-3:2e-3").settings().rates == {"distill": (1e-3, 2e-3)}
    assert TrainingOptions(recipe="xtc").settings().rates == {"distill": (5e-5, 5e-5)}


def test_what_it_was_trained_on_is_no_measure(cli, tiny_folder, recovered, data_file, tmp_path):
    """`evaluate` on training text warns, and a trained folder has no prediction beside what is measured."""
    output, _, _ = recovered
    found = cli("evaluate", output, "--data", data_file, "--reference", tiny_folder)
    assert found.code == 0 and "was trained on this text" in found.err
    other = tmp_path / "other.tsv"
    other.write_text("text\nw1 w2\nw3\n")
    found = cli("evaluate", output, "--data", other, "--reference", tiny_folder)
    assert (found.code, found.err) == (0, "")
    [row] = [line for line in found.out.splitlines() if line.startswith(str(output)[:20]) and "[" in line][-1:]
    assert row.split("]")[1].split()[0] == "-"


def test_an_export_of_what_was_trained_says_so_too(cli, tiny_folder, recovered, file_texts, tmp_path):
    """The plan in the exported folder is that before training: neither `evaluate` nor `report` shows its prediction."""
    output, _, _ = recovered
    exported, page = tmp_path / "exported", tmp_path / "report.html"
    assert cli("export", output, "--engine", "onnxruntime", "-o", exported).code == 0
    with pytest.warns(QbertOptWarning, match="was trained on this text"):
        *_, row = measure_folder(str(exported), file_texts, reference=str(tiny_folder))
    assert row.plan is not None and row.predicted_loss is None
    assert cli("report", exported, "-o", page).code == 0
    assert "predicted loss is void" in page.read_text(encoding="utf-8")


def die_before_the_40th_state_has_its_name():
    """`kill -9` in the second block, when the state's new file is written and not yet renamed."""
    from qbert_opt.training import loop, run_state

    loop.TrainingRun.__init__.__kwdefaults__["seconds_between_writes"] = 0.0
    save, written = run_state.save_file, []

    def dying(tensors, path, **more):
        save(tensors, path, **more)
        written.append(path)
        if len(written) == 40:
            os.kill(os.getpid(), signal.SIGKILL)

    run_state.save_file = dying


def test_killed_for_good_and_started_again(cli, tiny_folder, start, data_file, tmp_path):
    """`kill -9` in the middle of training, the same command again: the very folder of an uninterrupted run."""
    command = ["recover", start, "--model", tiny_folder, "--data", data_file, "--steps", "blocks", "--epochs", "2",
               "--batch-size", "8", "-q", "-o"]  # fmt: skip
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    state = killed.with_name(killed.name + STATE_SUFFIX)
    child = warm_process.start(tmp_path / "log", [*command, killed], die_before_the_40th_state_has_its_name)
    child.join()
    assert child.exitcode == -signal.SIGKILL, (tmp_path / "log").read_text()
    assert read_state(state).progress.updates == 39 - 28 - 1 and not killed.exists()
    for folder in (killed, whole):
        found = cli(*command, folder)
        assert found.code == 0, found.err
    weights = [(folder / "model.safetensors").read_bytes() for folder in (killed, whole)]
    assert weights[0] == weights[1]
    assert {path.name for path in tmp_path.iterdir()} == {"killed", "whole", "log"}


def refused(kind, message, *arguments, **more):
    """The call is refused in one line that matches."""
    with pytest.raises(kind, match=message) as error:
        recover(*arguments, **more)
    assert "\n" not in str(error.value)


def test_bad_input_is_one_line(tiny, gptq_plan, start, file_texts, tmp_path):
    """Before any work: minutes, texts, plans of others, folders that are none, outputs that exist."""
    out = tmp_path / "out"
    refused(UsageError, r"`minutes` 0: give a number above 0", tiny, start, [file_texts], out, minutes=0)
    refused(UsageError, r"`minutes` nan", tiny, start, [file_texts], out, minutes=float("nan"))
    refused(UsageError, r"together with `epochs`", tiny, start, [file_texts], out, minutes=1, settings=QUICK)
    refused(UsageError, r"`data`: no texts", tiny, start, [], out)
    single = LabeledTexts("one", (("w1",), ("w1",)), None)
    refused(InputFileError, r"one: 1 distinct text", tiny, start, [single], out)
    refused(InputFileError, r"is not a quantized folder", tiny, tmp_path, [file_texts], out)
    refused(
        InputFileError,
        r"is not the data the scores were made with",
        tiny,
        gptq_plan,
        [single.take([0]), file_texts.take(range(9))],
        out,
    )
    other = gptq_plan.model_copy(update={"profile": gptq_plan.profile.model_copy(update={"sha256": "0" * 64})})
    refused(InputFileError, r"its weights are not those the plan was made for", tiny, other, [file_texts], out)
    refused(UsageError, r"exists and is not an empty folder", tiny, start, [file_texts], start)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"steps": ("blocks", "magic")}, r"`steps` magic: unknown. Available: blocks, distill, ranges"),
        ({"steps": ()}, r"`steps`: none given"),
        ({"steps": ("blocks", "blocks")}, r"each may be named once"),
        ({"epochs": {"blocks": 0.0}}, r"`epochs` blocks:0: give a number above 0"),
        ({"epochs": {"blocks": float("inf")}}, r"`epochs` blocks:inf"),
        ({"rates": {"blocks": (-1e-3, 1e-3)}}, r"`rates` blocks:-0.001:0.001: give two numbers of at least 0"),
        ({"rates": {"blocks": (0.0, 0.0)}}, r"not both 0"),
        (
            {"steps": ("ranges",), "rates": {"ranges": (1e-3, 1e-4)}},
            r"`rates`: 0.001 and 0.0001 for ranges, which trains",
        ),
        ({"steps": ("ranges",), "rates": {"ranges": (1e-3, 0.0)}}, r"ranges alone; give 0 and a number above 0"),
        ({"block_error": "odd"}, r"`block_error` odd: unknown. Available: plain, sensitivity"),
        ({"batch_size": 0}, r"`batch_size` 0: give 1 or more"),
        ({"losses": {"hidden": 1.0}}, r"`losses`: of steps ranges and distill, .* Add one: blocks,distill"),
        ({"teacher_cache": 0.1}, r"`teacher_cache`: of steps ranges and distill, .* Add one: blocks,distill"),
        ({"tables": True}, r"`tables`: are trained in step distill, .* Add it: blocks,distill"),
    ],
)
def test_settings_are_checked(more, message):
    """Each wrong value is named."""
    with pytest.raises(UsageError, match=message):
        RecoverySettings(**more)


def test_the_command_line_refuses_in_one_line(cli, tiny_folder, start, data_file, gptq_plan, tmp_path):
    """Exit codes 2 and 4, one line each."""
    begin = ("recover", start, "--model", tiny_folder, "--data", data_file, "-o", tmp_path / "out")
    found = cli(*begin, "--minutes", "0")
    assert (found.code, "--minutes 0: give a number above 0" in found.complaint) == (2, True)
    found = cli(*begin, "--epochs", "many")
    assert (found.code, "--epochs many: 'many' is not a number" in found.complaint) == (2, True)
    found = cli(*begin, "--steps", "blocks,magic")
    assert (found.code, "--steps magic: unknown" in found.complaint) == (2, True)
    write_allocation(gptq_plan, tmp_path / "plan.json")
    empty = tmp_path / "empty.tsv"
    empty.write_text("text\n")
    found = cli("recover", tmp_path / "plan.json", "--model", tiny_folder, "--data", empty, "-o", tmp_path / "out")
    assert (found.code, "holds no rows" in found.complaint) == (4, True)
    found = cli(
        "recover", tmp_path / "nothing.json", "--model", tiny_folder, "--data", data_file, "-o", tmp_path / "out"
    )
    assert (found.code, "no such file" in found.complaint) == (4, True)


def test_the_state_of_another_run_is_refused(tiny, start, file_texts, tmp_path):
    """Other settings, same output: which file, and what to do."""
    out = tmp_path / "out"

    class Killed(BaseException):
        pass

    def kill(done, total, what):
        if done > total / 2:
            raise Killed

    with pytest.raises(Killed):
        recover(tiny, start, [file_texts], out, settings=SHORT, progress=kill)
    state = tmp_path / f"out{STATE_SUFFIX}"
    assert state.exists()
    other = RecoverySettings(seed=1, batch_size=8)
    refused(
        UsageError,
        r"belongs to a run with another plan, text, number of threads or settings",
        tiny,
        start,
        [file_texts],
        out,
        settings=other,
    )
    state.write_bytes(state.read_bytes()[:1000])
    refused(InputFileError, r"is not a training state", tiny, start, [file_texts], out, settings=SHORT)


def test_minutes_are_kept_about_and_can_be_repeated(tiny, start, file_texts, tmp_path):
    """A run by minutes says its passes; a run with those gives the same folder."""
    by_minutes = recover(
        tiny, start, [file_texts], tmp_path / "a", minutes=0.02, settings=RecoverySettings(batch_size=8)
    )
    settings = RecoverySettings(batch_size=8, epochs=by_minutes.epochs)
    recover(tiny, start, [file_texts], tmp_path / "b", settings=settings)
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()
    assert evaluate(load_quantized(tmp_path / "a")[0], file_texts).accuracy is not None
    assert json.loads((tmp_path / "a/config.json").read_text())["quantization_config"]["training"]["seed"] == 0


@pytest.mark.parametrize(("held_back", "held"), [(None, 5), (1, 1), (12, 12), (39, 39)])
def test_as_many_texts_are_held_out_as_were_named(held_back, held):
    """Of 40 texts; without a number an eighth."""
    texts = LabeledTexts("forty", tuple((f"w{i}",) for i in range(40)), None)
    held_texts, rest = split_texts([texts], RecoverySettings(held_back=held_back))
    assert (len(held_texts), len(rest)) == (held, 40 - held)
    assert set(held_texts.texts) | set(rest.texts) == set(texts.texts)


@pytest.mark.parametrize("held_back", [40, 60])
def test_a_text_is_left_to_train_on(held_back):
    texts = LabeledTexts("forty", tuple((f"w{i}",) for i in range(40)), None)
    with pytest.raises(UsageError, match=rf"`held_back` {held_back}: forty has 40 distinct .* Legal: 1 to 39\."):
        split_texts([texts], RecoverySettings(held_back=held_back))
