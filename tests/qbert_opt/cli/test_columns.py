"""Every verb that reads text reads the columns and the split that it is told, wherever it reads the text."""

import pytest
import typer

from qbert_opt.cli.app import app

BEGIN = ("--method", "rtn", "--calibration-samples", 20, "--scoring-samples", 20)
TEXT_FILES = {"data", "held_out", "test_data", "verify"}  # options that name texts


@pytest.fixture(scope="module")
def odd_file(sentences, tmp_path_factory):
    """The texts under names that nobody guesses."""
    path = tmp_path_factory.mktemp("odd") / "odd.tsv"
    rows = zip(sentences.texts, sentences.labels, strict=True)
    path.write_text("body\tmood\n" + "".join(f"{text[0]}\t{label}\n" for text, label in rows))
    return path


def test_verbs_with_texts_take_their_columns():
    """A verb with an option that names texts has --text-column and --split; its texts cannot be read without."""
    for name, verb in typer.main.get_command(app).commands.items():
        options = {option.name for option in getattr(verb, "params", ())}
        if options & TEXT_FILES:
            assert {"text_column", "split"} <= options, name


@pytest.mark.parametrize(
    "more",
    [
        ("--allow-drop", 1),
        ("--allow-drop-heads", 1),
        ("--until", "1000%"),
        ("--refine", 1),
        ("--verify", "DATA"),
    ],
)
def test_solve_reads_the_columns_wherever_it_reads_text(cli, tiny_folder, odd_file, more):
    """Scores, layers and heads left out, local search and verification."""
    line = ("solve", "--model", tiny_folder, "--data", odd_file, *BEGIN, "--budget", "5bit", "-q")
    line += tuple(odd_file if word == "DATA" else word for word in more)
    assert "no text column among body, mood" in cli(*line).complaint
    done = cli(*line, "--text-column", "body", "--label-column", "mood")
    assert done.code == 0, done.err


def test_held_out_text_is_read_from_the_same_columns(cli, tiny_folder, odd_file, tmp_path):
    line = ("sensitivity", "--model", tiny_folder, "--data", odd_file, *BEGIN, "--bits", 4, "--held-out", odd_file)
    done = cli(*line, "--text-column", "body", "-q", "-o", tmp_path / "scores.json")
    assert done.code == 0, done.err
