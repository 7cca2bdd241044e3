"""Scores that two processes share: choices of tables, answers to texts, and what each says when one fails."""

from functools import partial

import numpy as np
import pytest
import torch
import warm_process
from subwords import TEXTS, save
from torch.distributed import TCPStore

from qbert_opt.data.texts import LabeledTexts
from qbert_opt.errors import InputFileError, UsageError
from qbert_opt.models.loading import load_model
from qbert_opt.runtime.distributed import ALONE, Processes
from qbert_opt.scoring import table_scores
from qbert_opt.spec.scores import read_scores
from qbert_opt.workflows.trim_vocabulary import trim_vocabulary

WORDS = sorted({word for text in TEXTS for word in text.split()})
SENTENCES = [" ".join(WORDS[(3 * i + j * j) % len(WORDS)] for j in range(2 + i % 7)) + f" {i}" for i in range(44)]


def command(model, data, *options):
    return ["sensitivity", "--model", model, "--data", data, "--method", "rtn", "--bits", "2",
            "--calibration-samples", 9, *options, "-q", "-o"]  # fmt: skip


@pytest.fixture(scope="module")
def tiered(tmp_path_factory):
    """A folder of a BERT whose words are in three tiers, and texts for it."""
    root = tmp_path_factory.mktemp("tiers")
    texts = LabeledTexts("texts", tuple((text,) for text in TEXTS), None)
    trim_vocabulary(load_model(save(root / "whole", "WordPiece")), [texts], root / "out", min_count=0, tiers=(0.1, 0.3))
    (root / "texts.tsv").write_text("\n".join(["text", *SENTENCES]) + "\n")
    return root / "out", root / "texts.tsv"


@pytest.mark.parametrize("table_bits", ["2,4,8", "4"])
@pytest.mark.parametrize("pool", [0, 30])
def test_two_processes_score_tiers_as_one(pool, table_bits, cli, tmp_path, tiered):
    """Every number of the table, with and without a pool, also where a process has no choice to score."""
    words = command(*tiered, "--table-bits", table_bits, "--scoring-samples", 17, "--scoring-pool", pool)
    warm_process.in_two(tmp_path, [*words, tmp_path / "two.json"])
    done = cli(*words, tmp_path / "one.json")
    assert done.code == 0, done.err
    one, two = (read_scores(tmp_path / f"{name}.json") for name in ("one", "two"))
    assert len([name for name in one.tables.modules if "tier" in name]) == 3
    assert two.tables == one.tables
    np.testing.assert_allclose(np.array(two.value, float), np.array(one.value, float), rtol=1e-9)
    assert two.provenance.mean_confidence == pytest.approx(one.provenance.mean_confidence, rel=1e-6)
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["one.json", "two.json"]


def both(folder, words, prepare):
    """Run a command in two processes that find each other; returns what each said and its exit code."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    logs = [folder / f"rank-{rank}" for rank in range(2)]
    started = [warm_process.start(log, words, partial(prepare, rank, store.port)) for rank, log in enumerate(logs)]
    for process in started:
        process.join()
    return [(log.read_text(), process.exitcode) for log, process in zip(logs, started, strict=True)]


def second_fails(rank, port):
    """Let the second process fail at its first table."""
    warm_process._join(rank, port)
    if rank:
        table_scores.row_losses = refuse


def refuse(*_arguments):
    raise InputFileError("the table cannot be read.")


def test_one_that_fails_ends_both_with_one_line(tmp_path, tiny_folder, data_file):
    """The other one waits for it no longer; nothing is written but the progress, from which a run goes on."""
    words = [*command(tiny_folder, data_file, "--table-bits", "2,4", "--scoring-samples", 12), tmp_path / "two.json"]
    first, second = both(tmp_path, words, second_fails)
    assert [code for _, code in (first, second)] == [2, 4]
    assert second[0].startswith("qbert-opt: the table cannot be read.")
    assert first[0].startswith("qbert-opt: another process of this run has ended; its own message says why.")
    assert [said.count("\n") for said, _ in (first, second)] == [1, 1]
    assert not (tmp_path / "two.json").exists()
    for rank in range(2):
        (tmp_path / f"rank-{rank}").unlink()
    warm_process.in_two(tmp_path, words)
    assert [p.name for p in tmp_path.iterdir()] == ["two.json"]


def infinite(rank, port):
    """Let the model answer with infinite numbers to the four texts of the second batch, which one process runs."""
    from torch import nn

    warm_process._join(rank, port)
    usual = nn.Tanh.forward
    nn.Tanh.forward = lambda self, x: x / 0 if len(x) == 4 else usual(self, x)


def test_bad_answers_are_said_alike(tmp_path, tiny_folder, data_file):
    """Infinite answers that only one of the processes sees: both name the module."""
    words = command(tiny_folder, data_file, "--scoring-samples", 20)  # batches of 16 and 4 texts
    said = both(tmp_path, [*words, tmp_path / "two.json"], infinite)
    assert said[0] == said[1]
    assert "bert.pooler.activation gives NaN or infinite values on this text" in said[0][0] and said[0][1] == 4


def test_one_process_does_every_piece():
    """Without others nothing travels: the very arrays that the work gave."""
    pieces = [torch.full((2, 3), float(i)).numpy() for i in range(3)]
    assert all(a is b for a, b in zip(ALONE.each(range(3), pieces.__getitem__), pieces, strict=True))


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("[pair.cc:553] Connection closed by peer [127.0.0.1]:1234", UsageError),
        ("write: Broken pipe", UsageError),
        ("CUDA out of memory", RuntimeError),
    ],
)
def test_only_a_closed_connection_is_another_process_that_ended(monkeypatch, said, expected):
    """An error of this process keeps its own words."""
    from torch import distributed

    def fail(_tensor):
        raise RuntimeError(said)

    monkeypatch.setattr(distributed, "all_reduce", fail)
    with pytest.raises(expected) as caught:
        Processes(0, 2).sum(np.zeros(2))
    assert ("another process" in str(caught.value)) == (expected is UsageError)
