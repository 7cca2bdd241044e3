"""Kind 5: conveniences of parsers. A row is read as it stands in the file, or the file is refused with its line."""

import csv
import gzip
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qbert_opt.data.cells import words
from qbert_opt.data.texts import read_texts
from qbert_opt.errors import InputFileError, UsageError


def packed(data):
    """Gzip without a time stamp, so that test names are the same in every process."""
    return gzip.compress(data, mtime=0)


HEADER = "text\tlabel\n"


@pytest.fixture
def written(tmp_path):
    """Write a file; gives its path."""

    def write(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def texts_of(path, **options):
    return [text for (text,) in read_texts(path, **options).texts]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        # a row one field longer than the header: pandas would make the first field an index
        ("trail.tsv", HEADER + "a film\t1\t\nb film\t0\t\n", r"line 2: has 3 fields; the header has 2 .*2 of 2 rows"),
        ("comma.csv", "text,label\nwell, a film,1\nwell, b film,0\n", r"line 2: has 3 fields.* quote a field"),
        ("nohead.tsv", "sentence\na film\t1\n", r"line 2: has 2 fields; the header has 1 \(sentence\)"),
        ("idx.tsv", HEADER + "0\ta film\t1\n1\tb film\t0\n", r"line 2: has 3 fields; the header has 2"),
        ("some.csv", "text,label\nfine,1\nwell, a film,1\nfine,0\n", r"line 3: has 3 fields; the header has 2"),
        ("short.tsv", HEADER + "a film\t1\n1\n", r"line 3: has 1 field; the header has 2"),
        ("quoted.tsv", HEADER + '"two\nlines"\t1\n', r"line 2: has 1 field"),
        # quotes
        ("open.csv", 'text,label\na,1\n"b,0\nc,1\n', r"line 3: cannot be read as csv: unexpected end of data"),
        ("inside.csv", 'text,label\n"a" b,1\n', r"line 2: cannot be read as csv: ',' expected after"),
        # line ends and what is no text
        ("cr.tsv", HEADER + "a\rb\t1\n", r"line 2: holds a carriage return in the middle"),
        ("cr.csv", "text,label\na\rb,1\n", r"line 2: cannot be read as csv: new-line character"),
        ("nul.tsv", HEADER + "a\tx\nb\x00\ty\n", r"line 3: holds a NUL byte"),
        ("latin.tsv", HEADER.encode() + b"a\tx\ncaf\xe9\ty\n", r"line 3: byte 0xe9 is not UTF-8"),
        ("wide.tsv", (HEADER + "a\tx\n").encode("utf-16"), r"is UTF-16 text. Save it as UTF-8"),
        ("packed.tsv", packed(HEADER.encode()), r"is compressed by gzip. Name it packed.tsv.gz"),
        ("cut.tsv.gz", packed(HEADER.encode() * 99)[:-9], r"cannot be unpacked: the file ends too early"),
        ("no.tsv.gz", "text\n", r"cannot be unpacked"),
        ("lfs.tsv", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n", r"is a Git LFS pointer"),
        ("lfs.parquet", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n", r"is a Git LFS pointer"),
        # headers
        ("twice.tsv", "text\ttext\tlabel\na\tb\t1\n", r"line 1: column 'text' occurs 2 times"),
        ("blank.tsv", "text \t label\na\t1\n", r"no text column among 'text ', ' label'"),
        ("semi.csv", "text;label\na;1\n", r"no text column among text;label.* in which semicolons separate names"),
        ("tab.csv", "text\tlabel\na\t1\n", r"in which tabs separate names"),
        ("comment.tsv", "# made by hand\n" + HEADER + "a\t1\n", r"line 2: has 2 fields; the header has 1"),
        ("empty.tsv", "\n" + HEADER, r"line 1: is empty; the first line names the columns"),
        # nothing to read
        ("nbsp.tsv", HEADER + "a\t1\n\u00a0\t1\n", r"line 3: column 'text' is empty"),
        ("zero.tsv", HEADER + "\u200b\t1\n\ufeff\t0\n", r"line 2: column 'text' is empty \(2 of 2 rows"),
        # JSON
        ("twice.jsonl", '{"text": "a", "text": "b"}\n', r"line 1: key 'text' occurs twice"),
        ("list.jsonl", '[{"text": "a"}]\n', r"line 1: is a list, not an object. Give one object a line"),
        ("texts.jsonl", '"a film"\n', r"line 1: is a text, not an object"),
        ("bad.jsonl", '{"text": "a"}\n\n{"text": \n{"text": \n', r"line 3: Invalid JSON.*\(2 of 3 rows"),
        ("nan.jsonl", '{"text": NaN}\n', r"line 1: NaN is not a JSON number"),
        ("nest.jsonl", '{"text": {"a": 1}}\n', r"line 1: column 'text' holds an object where text is expected"),
        ("deep.jsonl", '{"text": ' + "[" * 5000 + "\n", r"line 1: .*nested deeper than 64 levels"),
        ("half.jsonl", '{"text": "\\ud83d film"}\n', r"line 1: text: holds half of a surrogate pair"),
        ("null.jsonl", '{"text": "a"}\n{"text": null}\n', r"line 2: column 'text' is empty"),
        ("wrapped.json", '{"version": 1, "data": [{"text": "a"}]}', r"one object with fields version, data"),
        ("columns.json", '{"text": ["a", "b"]}', r"one object with fields text. Give a list of records"),
        ("mixed.json", '[{"text": "a"},\n 7]', r"line 2: is a number, not an object"),
        ("unclosed.json", '[{"text": "a"}\n', r"line 2: Invalid JSON: Expecting ',' or '\]'"),
        ("behind.json", '[{"text": "a"}]\n]', r"line 2: Invalid JSON: text after the end"),
        # words and tags
        ("fewer.jsonl", '{"tokens": ["a", "b"], "tags": ["O"]}\n', r"line 1: has 2 words and 1 tags"),
        (
            "none.jsonl",
            '{"tokens": ["a", ""], "tags": ["O", "O"]}\n',
            r"line 1: word 2 is empty; remove it with its tag",
        ),
        ("thin.jsonl", '{"tokens": ["\\u200d"], "tags": ["O"]}\n', r"line 1: column 'tokens' is empty"),
        ("two.jsonl", '{"tokens": ["a b", "c"], "tags": [0, 1]}\n', r"line 1: word 1 \('a b'\) holds a blank"),
        ("no.jsonl", '{"tokens": [], "tags": []}\n', r"line 1: column 'tokens' is empty"),
        ("ragged.conll", "the O\nfilm NN O\n", r"line 2: has 3 columns; the first word has 2"),
        ("single.conll", "the\nfilm\n", r"has one column. Give a word and its tag"),
    ],
)
def test_kind_5_is_refused_with_its_line(written, name, content, message):
    """One line: the file, the line, what is there, and what to do."""
    with pytest.raises(InputFileError, match=message) as caught:
        read_texts(written(name, content))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "texts"),
    [
        ("bom.tsv", "\ufefftext\tlabel\na\t1\n", ["a"]),
        ("bom.csv", "\ufefftext,label\na,1\n", ["a"]),
        ("bom.jsonl", '\ufeff{"text": "a"}\n', ["a"]),
        ("bom.json", '\ufeff[{"text": "a"}]', ["a"]),
        ("crlf.tsv", "text\tlabel\r\na\t1\r\nb\t0\r\n", ["a", "b"]),
        ("cr.tsv", "text\tlabel\ra\t1\rb\t0\r", ["a", "b"]),
        ("crlf.csv", 'text,label\r\n"a\r\nb",1\r\n', ["a\r\nb"]),
        ("end.tsv", HEADER + "a\t1\n\n\n", ["a"]),
        ("open.tsv", HEADER + '"a" said\t1\n"b\t0\n', ['"a" said', '"b']),
        ("quoted.csv", 'text,label\n"two\nlines, ""x""",1\nplain,0\n', ['two\nlines, "x"', "plain"]),
        ("index.csv", ",text,label\n0,a,1\n1,b,0\n", ["a", "b"]),
        ("missing.tsv", HEADER + "NA\t1\nnull\t1\nNone\t1\nnan\t1\n", ["NA", "null", "None", "nan"]),
        ("zeros.tsv", HEADER + "007\t1\n1e5\t0\n2020-01-01\t1\n", ["007", "1e5", "2020-01-01"]),
        ("numbers.jsonl", '{"text": 1}\n{"text": 2.50}\n', ["1", "2.50"]),
        ("digits.jsonl", '{"text": 12345678901234567890123}\n', ["12345678901234567890123"]),
        ("strings.jsonl", '{"text": "NA"}\n{"text": "1e5"}\n{"text": "007"}\n', ["NA", "1e5", "007"]),
        ("separators.jsonl", '{"text": "a\u2028b\x85c"}\n', ["a\u2028b\x85c"]),
        ("separators.tsv", HEADER + "a\u2028b\x0cc\t1\n", ["a\u2028b\x0cc"]),
        ("lines.json", '{"text": "a"}\n{"text": "b"}\n', ["a", "b"]),
        ("one.json", '{"text": "a", "label": 1}', ["a"]),
        ("list.json", '[{"text": "a"},\n\n {"text": "b"}]', ["a", "b"]),
        ("some.ndjson", '{"text": "a"}\n\n{"text": "b"}\n', ["a", "b"]),
        ("packed.tsv.gz", packed((HEADER + "a\t1\n").encode()), ["a"]),
        ("parts.jsonl.gz", packed(b'{"text": "a"}\n') + packed(b'{"text": "b"}\n'), ["a", "b"]),
        ("long.csv", "text,label\n" + "x" * 200_000 + ",1\n", ["x" * 200_000]),
        ("nbsp.jsonl", '{"tokens": ["10\u00a0000", "b"], "tags": ["O", "X"]}\n', ["10\u00a0000 b"]),
    ],
)  # fmt: skip
def test_kind_5_is_read_as_it_stands(written, name, content, texts):
    """Encodings, line ends, quotes and numbers that look like something else: the texts of the file, unchanged."""
    assert texts_of(written(name, content)) == texts


def test_kind_5_parquet_types(written, tmp_path):
    """Nulls are refused by row; lists, dictionaries, bytes and short floats are what was written."""
    column = {
        "dictionary": pa.array(["a", "b", "a"]).dictionary_encode(),
        "bytes": pa.array([b"a", b"b", b"a"]),
        "words": pa.array([["a"], ["b"], ["a"]]),
        "large": pa.array(["a", "b", "a"], pa.large_string()),
    }
    for name, cells in column.items():
        pq.write_table(
            pa.table({"text": cells, "label": pa.array([0.1, 1.5, 2.0], pa.float32())}), tmp_path / f"{name}.parquet"
        )
        found = read_texts(tmp_path / f"{name}.parquet")
        assert found.texts == (("a",), ("b",), ("a",))
        assert found.labels == ("0.1", "1.5", "2.0")
    wrong = {
        "null": (pa.array(["a", None, None]), r"row 2: column 'text' is empty \(2 of 3 rows"),
        "bytes": (pa.array([b"a", b"\xff", b"b"]), r"row 2: column 'text' holds bytes that are not UTF-8"),
        "struct": (pa.array([{"a": 1}] * 3), r"row 1: column 'text' holds an object"),
    }
    for name, (cells, message) in wrong.items():
        pq.write_table(pa.table({"text": cells}), tmp_path / f"{name}.parquet")
        with pytest.raises(InputFileError, match=message):
            read_texts(tmp_path / f"{name}.parquet")
    pq.write_table(pa.table([["a"], ["b"]], names=["text", "text"]), tmp_path / "twice.parquet")
    with pytest.raises(InputFileError, match=r"column 'text' occurs twice"):
        read_texts(tmp_path / "twice.parquet")


def test_kind_5_saved_datasets(written, tmp_path):
    """A folder of `save_to_disk`: its splits, one split, its arrow file; a state that leads out of it is refused."""
    written("hf/dataset_dict.json", json.dumps({"splits": ["test"]}))
    written("hf/test/dataset_info.json", "{}")
    state = written("hf/test/state.json", json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    table = pa.table({"text": ["a", "b"], "label": [0, 1]})
    arrow = tmp_path / "hf/test/data-00000-of-00001.arrow"
    with pa.OSFile(str(arrow), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    for source, split in (
        (tmp_path / "hf", None),
        (tmp_path / "hf", "test"),
        (tmp_path / "hf/test", None),
        (arrow, None),
    ):
        found = read_texts(source, split=split)
        assert (found.texts, found.labels) == ((("a",), ("b",)), ("0", "1"))
    state.write_text(json.dumps({"_data_files": [{"filename": "../../x.arrow"}]}))
    with pytest.raises(InputFileError, match=r"state.json: names no data files"):
        read_texts(tmp_path / "hf/test")


def test_kind_5_conll_columns(written, tmp_path):
    """A word a line, its tag last; documents are marked, no-break spaces stay inside words."""
    path = written("a.conll", "-DOCSTART- -X- O\n\nthe DT O\n10\u00a0000 CD B-X\n\n\nfilm NN O\n")
    found = read_texts(path)
    assert found.texts == (("the 10\u00a0000",), ("film",))
    assert found.labels == ("O B-X", "O")
    assert read_texts(path, label_column="2").labels == ("DT CD", "NN")
    with pytest.raises(UsageError, match=r"`label_column` 4: .* has 3 columns. Give a number from 2 to 3"):
        read_texts(path, label_column="4")
    assert read_texts(tmp_path, split="a") == found or read_texts(tmp_path, split="a").texts == found.texts


def test_kind_5_shards_and_folders(written, tmp_path):
    """All shards of a split are read in order; a missing one is said; descriptions of a data set are no data."""
    written("hub/dataset_infos.json", "{}")
    written("hub/data/test-00000-of-00002.jsonl", '{"text": "a"}\n')
    with pytest.raises(InputFileError, match=r"is one of 2 shards, and the folder has 1 files"):
        read_texts(tmp_path / "hub")
    written("hub/data/test-00001-of-00002.jsonl", '{"text": "b"}\n')
    assert texts_of(tmp_path / "hub") == ["a", "b"]
    written("hub/train/0000.jsonl", '{"text": "c"}\n')
    assert texts_of(tmp_path / "hub", split="train") == ["c"]
    with pytest.raises(UsageError, match=r"holds test, train. Say which with `split`"):
        read_texts(tmp_path / "hub")


def test_what_is_no_data_file(tmp_path):
    """Pipes and devices are not opened, a folder with a file's name is a folder, a name too long is one line."""
    os.mkfifo(tmp_path / "pipe.tsv")
    (tmp_path / "folder.tsv").mkdir()
    (tmp_path / "zero.tsv").symlink_to("/dev/zero")
    (tmp_path / "loop.tsv").symlink_to("loop.tsv")
    for name, message in (
        ("pipe.tsv", r"is a pipe or a device"),
        ("zero.tsv", r"is a pipe or a device"),
        ("folder.tsv", r"no .tsv, .* file in this folder"),
        ("loop.tsv", r"cannot be read: Too many levels of symbolic links"),
        ("x" * 300 + ".tsv", r"cannot be read: File name too long"),
    ):
        with pytest.raises(InputFileError, match=message):
            read_texts(tmp_path / name)


def test_options_that_a_layout_does_not_have(tmp_path, written):
    """A column name means nothing where texts have none."""
    with pytest.raises(UsageError, match=r"`text_columns`: .* has the layout 'conll'"):
        read_texts(written("a.conll", "the O\n"), text_columns=["text"])


CELLS = st.text(st.characters(exclude_characters="\t\r\n\x00", exclude_categories=["Cs"]), min_size=1).filter(
    lambda text: any(c.isalnum() for c in text)
)


@settings(max_examples=50)
@given(rows=st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=8))
def test_every_row_is_read_as_it_is_written(tmp_path_factory, rows):
    """Whatever a cell holds, four formats give it back to the last character."""
    folder = tmp_path_factory.mktemp("rows")
    files = {
        "a.tsv": HEADER + "".join(f"{text}\t{label}\n" for text, label in rows),
        "a.csv": "text,label\n"
        + "".join(",".join('"' + c.replace('"', '""') + '"' for c in row) + "\n" for row in rows),
        "a.jsonl": "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows),
        "a.json": json.dumps([{"text": text, "label": label} for text, label in rows], ensure_ascii=False),
    }
    for name, content in files.items():
        (folder / name).write_bytes(content.encode())
        found = read_texts(folder / name)
        assert list(zip([text for (text,) in found.texts], found.labels, strict=True)) == rows, name


def test_words_split_at_blanks_only():
    """Tabs and line ends part words, a no-break space does not."""
    assert words(" 10\u00a0000  a\tb\n") == ["10\u00a0000", "a", "b"]


def test_other_readers_in_the_process_keep_their_longest_field(tmp_path):
    """Python's limit of a field is one for the whole process: a long text raises it, a short file never lowers it."""
    before = csv.field_size_limit()
    try:
        (tmp_path / "short.csv").write_text("text,label\na,b\n")
        read_texts(tmp_path / "short.csv")
        assert csv.field_size_limit() == before
        (tmp_path / "long.csv").write_text("text,label\n" + "w" * (before + 1) + ",b\n")
        assert len(read_texts(tmp_path / "long.csv").texts[0][0]) == before + 1
    finally:
        csv.field_size_limit(before)
