"""Texts from files: the same content whatever the format, and a clear refusal of what would mislead."""

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qbert_opt.data.texts import LabeledTexts, bundled_datasets, read_texts, split_disjoint
from qbert_opt.errors import InputFileError, QbertOptError, UsageError

TEXTS = ["turn the light on", 'say "hi", twice', "naïve café", "12"]
LABELS = ["on", "say", "0", "1"]
FRAME = pd.DataFrame({"text": TEXTS, "label": LABELS})
WRITERS = {
    "tsv": lambda frame, path: path.write_text(
        "\n".join("\t".join(row) for row in [frame.columns, *frame.itertuples(index=False)]) + "\n", encoding="utf-8"
    ),
    "csv": lambda frame, path: frame.to_csv(path, index=False),
    "jsonl": lambda frame, path: frame.to_json(path, orient="records", lines=True),
    "json": lambda frame, path: frame.to_json(path, orient="records"),
    "parquet": lambda frame, path: frame.to_parquet(path),
}


@pytest.mark.parametrize("ending", WRITERS)
def test_every_format_holds_the_same(ending, tmp_path):
    """The format of a file changes neither texts nor labels nor the hash."""
    path = tmp_path / f"data.{ending}"
    WRITERS[ending](FRAME, path)
    found = read_texts(path)
    assert found == LabeledTexts(str(path), tuple((t,) for t in TEXTS), tuple(LABELS))
    assert found.sha256 == LabeledTexts("other", found.texts, found.labels).sha256


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_numbers_are_labels_too(ending, tmp_path):
    """Integer labels of typed formats read as they are written in text formats."""
    path = tmp_path / f"data.{ending}"
    WRITERS[ending](FRAME.assign(label=[0, 1, 2, 1]), path)
    assert read_texts(path).labels == ("0", "1", "2", "1")


def test_the_hash_sees_texts_labels_and_their_borders():
    """Another text, label, order or border between texts is another hash."""
    data = LabeledTexts("x", (("a", "b"), ("c",)), ("1", "2"))
    others = [
        LabeledTexts("x", (("ab",), ("c",)), ("1", "2")),
        LabeledTexts("x", (("a", "b"), ("c",)), ("1", "3")),
        LabeledTexts("x", (("a", "b"), ("c",)), None),
        data.take([1, 0]),
        data.take([0]),
    ]
    assert len({d.sha256 for d in [data, *others]}) == 6


def test_pairs_and_named_columns(tmp_path):
    """Pairs are found by their usual names before single texts; named columns win over both."""
    path = tmp_path / "data.csv"
    pd.DataFrame({"question": ["q"], "sentence": ["s"], "class": ["c"], "other": ["o"]}).to_csv(path, index=False)
    assert read_texts(path) == LabeledTexts(str(path), (("q", "s"),), ("c",))
    asked = read_texts(path, text_columns=["other"], label_column="question")
    assert asked == LabeledTexts(str(path), (("o",),), ("q",))


def test_no_label_column_is_no_labels(tmp_path):
    """Calibration needs none."""
    path = tmp_path / "data.csv"
    path.write_text("text,length\nhello,5\n")
    assert read_texts(path).labels is None


def test_quotes_in_tsv_are_text(tmp_path):
    """Tab-separated files of the field do not quote; csv files do."""
    path = tmp_path / "data.tsv"
    path.write_text('text\tlabel\n"open quote\tx\nnext line\ty\n')
    assert read_texts(path).texts == (('"open quote',), ("next line",))


def test_folders_of_splits(tmp_path):
    """DIR/test.csv, DIR/data/test-*.parquet; without --split a folder of one file is that file."""
    (tmp_path / "data").mkdir()
    WRITERS["parquet"](FRAME, tmp_path / "data" / "train-00000-of-00001.parquet")
    assert len(read_texts(tmp_path)) == 4
    WRITERS["csv"](FRAME[:2], tmp_path / "test.csv")
    assert len(read_texts(tmp_path, split="train")) == 4
    assert len(read_texts(tmp_path, split="test")) == 2
    with pytest.raises(UsageError, match=r"holds test, train. Say which with `split`"):
        read_texts(tmp_path)
    with pytest.raises(UsageError, match=r"`split` dev: .* holds test, train"):
        read_texts(tmp_path, split="dev")
    WRITERS["parquet"](FRAME, tmp_path / "data" / "train-00001-of-00002.parquet")
    with pytest.raises(InputFileError, match=r"is one of 1 shards, and the folder has 2 files"):
        read_texts(tmp_path, split="train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputFileError, match=r"no .tsv, .csv, .* file in this folder"):
        read_texts(tmp_path / "empty")


def test_bundled_data():
    """SNIPS ships with the package: labelled, by name; its public dev and test parts share one sentence, no more."""
    assert bundled_datasets() == ("snips/dev", "snips/test", "snips/train")
    parts = [read_texts(name) for name in bundled_datasets()]
    assert [len(part) for part in parts] == [700, 700, 13084]
    assert all(part.labels and len(set(part.labels)) == 7 for part in parts)
    assert len(set(parts[0].texts) & set(parts[1].texts)) == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", "text\tlabel\nhello\tx\n\nbye\ty\n", r"a.tsv: line 3: is empty"),
        ("a.tsv", "text\tlabel\nhello\tx\n  \ty\n", r"line 3: column 'text' is empty. Every row needs a text"),
        ("a.csv", "text,label\nhello,x\nbye,\n", r"a.csv: line 3: column 'label' has no label. Label every row"),
        ("a.tsv", "text\tlabel\nhello\tx\nbye\n", r"line 3: has 1 field; the header has 2 \(text, label\)"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text": "b"}\n', r"line 2: column 'label' has no label"),
        ("a.csv", "words,label\nhello,x\n", r"no text column among words, label. Name it with `text_columns`"),
        (
            "a.txt",
            "hello\n",
            r"a.txt: unknown ending '.txt'. Legal: .tsv, .csv, .jsonl, .ndjson, .json, .parquet, .arrow",
        ),
        ("a.csv", "", r"a.csv: is empty"),
        ("a.csv", "text,label\n", r"a.csv: holds no rows"),
        ("a.csv", "text,label\na,b,c,d\ne,f\n,,,,,,\n", r"line 2: has 4 fields; .* \(2 of 3 rows are wrong"),
        ("a.csv", b"text,label\n\xff\xfe,x\n", r"a.csv: line 2: byte 0xff is not UTF-8"),
        ("a.jsonl", '{"text": "a"\n', r"a.jsonl: line 1: Invalid JSON: "),
        ("a.json", "3", r"a.json: cannot be read as json: "),
        ("a.parquet", "no parquet", r"a.parquet: cannot be read as parquet: "),
    ],
)
def test_bad_files(tmp_path, name, content, message):
    """One line: which file, which row or column, what to do."""
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputFileError, match=message) as caught:
        read_texts(path)
    assert "\n" not in str(caught.value)


def test_missing_files_and_columns(tmp_path):
    """A file that is not there names the bundled data; a column that is not there names those that are."""
    with pytest.raises(InputFileError, match=r"nowhere.tsv: no such file. .*snips/dev, snips/test, snips/train"):
        read_texts(tmp_path / "nowhere.tsv")
    path = tmp_path / "a.csv"
    WRITERS["csv"](FRAME, path)
    with pytest.raises(UsageError, match=r"`text_columns` body: .* has columns text, label"):
        read_texts(path, text_columns=["body"])
    with pytest.raises(UsageError, match=r"`label_column` intent: .* has columns text, label"):
        read_texts(path, label_column="intent")
    with pytest.raises(UsageError, match=r"`split` test: .* is no folder of splits"):
        read_texts(path, split="test")
    with pytest.raises(UsageError, match=r"`text_columns`: 3 columns given; a model reads one text or a pair"):
        read_texts(path, text_columns=["text", "label", "other"])


@given(
    texts=st.lists(st.sampled_from("abcdefghij"), min_size=1, max_size=30),
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    seed=st.integers(0, 99),
)
def test_splits_are_disjoint_and_deterministic(texts, sizes, seed):
    """Samples of the sizes asked for, no text in two of them, the same at every call; or too little data is said."""
    data = LabeledTexts("d", tuple((t,) for t in texts), tuple(texts))
    distinct = len(set(texts))
    if distinct < sum(sizes):
        with pytest.raises(InputFileError, match=rf"d: {distinct} distinct texts, but .* are needed"):
            split_disjoint(data, sizes, seed=seed)
        return
    parts = split_disjoint(data, sizes, seed=seed)
    assert [len(part) for part in parts] == sizes
    drawn = [text for part in parts for text in part.texts]
    assert len(set(drawn)) == len(drawn)
    assert all(part.labels == tuple(text for (text,) in part.texts) for part in parts)
    assert parts == split_disjoint(data, sizes, seed=seed)


def test_the_seed_decides_the_draw():
    """Two seeds draw differently."""
    data = LabeledTexts("d", tuple((str(i),) for i in range(50)), None)
    draws = {split_disjoint(data, [10], seed=seed)[0].texts for seed in range(5)}
    assert len(draws) == 5


def test_refusals_have_exit_codes():
    """Files are 4, options are 2."""
    assert InputFileError.exit_code == 4
    assert UsageError.exit_code == QbertOptError.exit_code == 2


@pytest.mark.parametrize(
    ("texts", "labels", "message"),
    [
        (("a b", "c d"), None, r"x: `texts` 0 is 'a b'\. Give a tuple of one string, or of two for a pair\."),
        ((("a",), (None,)), None, r"`texts` 1 is \(None,\)"),
        ((("a", "b", "c"),), None, r"`texts` 0 is \('a', 'b', 'c'\)"),
        (((),), None, r"`texts` 0 is \(\)"),
        ((("a",), ("b",)), ("0",), r"x: 1 labels for 2 texts\. Give one for each\."),
        ((("a",), ("b",)), ("0", "1", "1"), r"3 labels for 2 texts"),
        ((("a",), ("b",)), (0, 1), r"label 0 is 0\. Give a string, also for a number\."),
    ],
)
def test_texts_and_labels_that_do_not_belong_together_are_refused(texts, labels, message):
    """Two texts with one label had an accuracy of 1 and a macro F1 of 1.333."""
    with pytest.raises(UsageError, match=message):
        LabeledTexts("x", texts, labels)
