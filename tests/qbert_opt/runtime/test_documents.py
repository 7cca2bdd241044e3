"""Scores and plans as files: nothing lost on the way, and nothing wrong accepted."""

import json
import os

import pytest

from qbert_opt.data.reference import reference_path
from qbert_opt.errors import InputFileError, UsageError
from qbert_opt.spec.allocation import read_allocation, write_allocation
from qbert_opt.spec.scores import ScoreTable, read_scores, write_scores


@pytest.fixture
def edited(tmp_path, gptq_scores, gptq_plan):
    """Write the scores or the plan with one field changed; gives the path."""

    def make(kind, *path_and_value):
        *path, value = path_and_value
        document = json.loads((gptq_scores if kind == "scores" else gptq_plan).model_dump_json(by_alias=True))
        place = document
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        file = tmp_path / f"{kind}.json"
        file.write_text(json.dumps(document))
        return file

    return make


READERS = {"scores": read_scores, "plan": read_allocation}


def test_scores_round_trip(tmp_path, gptq_scores):
    """Every figure of a table comes back to the last bit, masks included; writing twice gives the same bytes."""
    write_scores(gptq_scores, tmp_path / "a.json")
    found = read_scores(tmp_path / "a.json")
    assert found == gptq_scores
    assert found.masks
    assert (found.values() == gptq_scores.values())[~(found.values() != found.values())].all()
    write_scores(found, tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_plans_round_trip(tmp_path, gptq_plan, reference_plan):
    """A plan comes back as it was, with or without a device."""
    for plan in (gptq_plan, reference_plan):
        write_allocation(plan, tmp_path / "a.json")
        assert read_allocation(tmp_path / "a.json") == plan


def test_masks_say_why(gptq_scores):
    """A choice whose groups do not divide a matrix has no score and a reason."""
    for i, matrix in enumerate(gptq_scores.profile.matrices):
        reasons = gptq_scores.masks.get(matrix.module, {})
        for j, name in enumerate(gptq_scores.choices):
            masked = gptq_scores.value[i][j] is None
            assert masked == (name in reasons)
            assert not masked or "does not divide" in reasons[name]
    assert "4bit/columns:128/gptq" in gptq_scores.masks[gptq_scores.profile.matrices[0].module]


@pytest.mark.parametrize("kind", READERS)
def test_another_schema_is_refused(edited, kind):
    """Newer, older and foreign documents are named as such."""
    with pytest.raises(
        InputFileError, match=r"schema is 'other@7'; this version reads 'qbert-opt/.*@[12]'. Make the file"
    ):
        READERS[kind](edited(kind, "schema", "other@7"))


@pytest.mark.parametrize("kind", READERS)
def test_unknown_fields_are_ignored(edited, kind, gptq_scores, gptq_plan):
    """Readers skip optional parts that they do not know, at every level."""
    file = edited(kind, "extra", {"of": "tomorrow"})
    assert READERS[kind](file) == (gptq_scores if kind == "scores" else gptq_plan)
    file = edited(kind, "profile", "matrices", 0, "extra", 1)
    assert READERS[kind](file) == (gptq_scores if kind == "scores" else gptq_plan)


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("content", ["", "{", "null", "[]", "{}", '{"schema": "qbert-opt/scores@1"}', "\x00\xff"])
def test_what_is_no_document(tmp_path, kind, content):
    """Whatever is in the file, the refusal is one line that names the file."""
    file = tmp_path / "x.json"
    file.write_text(content)
    with pytest.raises(InputFileError, match=r"x\.json: .*(Expected a qbert-opt/|this version reads)") as caught:
        READERS[kind](file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", READERS)
def test_truncated_and_missing_files(tmp_path, edited, kind):
    """A file cut in the middle is no document; a file that is not there is said to be missing."""
    file = edited(kind, "extra", 1)
    text = file.read_text()
    file.write_text(text[: len(text) // 2])
    with pytest.raises(InputFileError, match=r"Invalid JSON"):
        READERS[kind](file)
    with pytest.raises(InputFileError, match=r"nowhere.json: no such file"):
        READERS[kind](tmp_path / "nowhere.json")


@pytest.mark.parametrize("name", ["value", "std_error", "weight_error"])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_scores_that_are_no_numbers_are_refused(edited, name, wrong):
    """NaN and infinite scores would make any plan look good."""
    with pytest.raises(InputFileError, match=rf"{name}"):
        read_scores(edited("scores", name, 0, 0, wrong))


@pytest.mark.parametrize(
    "path", [("predicted_loss",), ("matrices", 0, "predicted_loss"), ("matrices", 0, "std_error"), ("average_bits",)]
)
def test_plans_with_nan_are_refused(edited, path):
    """A plan's figures are numbers."""
    with pytest.raises(InputFileError, match=path[-1]):
        read_allocation(edited("plan", *path, float("nan")))


def test_tables_of_another_shape_are_refused(edited, gptq_scores):
    """One row per matrix, one column per choice."""
    with pytest.raises(InputFileError, match=r"value is not \[12 items, 28 choices\]"):
        read_scores(edited("scores", "value", [list(row) for row in gptq_scores.value[:-1]]))
    with pytest.raises(InputFileError, match=r"choices: .*'3bit' *: not of the form"):
        read_scores(edited("scores", "choices", 3, "3bit"))


@pytest.mark.parametrize(
    ("path", "wrong", "message"),
    [
        (("matrices", 2, "bytes"), 17, r"bytes is 17; legal here: \d+"),
        (("matrices", 2, "bits"), 7, r"7bit/.* bytes is \d+; legal here: \d+"),
        (("matrices", 2, "num_groups"), 5, r"num_groups is 5; legal here: \d+"),
        (("matrices", 2, "grouping"), "tiles:4", r"grouping is 'tiles:4'; legal: rows:N"),
        (("matrices", 2, "grouping"), "rows:7", r"7 does not divide"),
        (("matrices", 2, "bits"), 9, r"bits is 9; legal: 1, 2, 3"),
        (("matrices", 2, "rows"), 64, r"rows is 64; legal here: 32"),
        (("matrices", 2, "module"), "elsewhere", r"elsewhere does not match .* of the profile"),
        (("encoder_bytes",), 17, r"encoder_bytes is 17; the matrices take \d+"),
        (("total_bytes",), 17, r"total_bytes is 17; .* take \d+"),
        (("tables", 0, "bytes"), 17, r"tables: .* bytes is 17; legal here: \d+"),
        (("tables", 0, "rows"), 17, r"tables: do not match the tables of the profile"),
    ],
)
def test_plans_that_contradict_themselves_are_refused(edited, path, wrong, message):
    """Bytes are those of the choices, sums are sums, and the matrices are those of the profile."""
    with pytest.raises(InputFileError, match=message):
        read_allocation(edited("plan", *path, wrong))


def test_a_plan_without_a_matrix_is_refused(edited, gptq_plan):
    """Every searched matrix has a choice."""
    fewer = [json.loads(m.model_dump_json()) for m in gptq_plan.matrices[:-1]]
    with pytest.raises(InputFileError, match=r"11 matrices; the profile has 12"):
        read_allocation(edited("plan", "matrices", fewer))


def test_a_document_has_a_size(tmp_path, monkeypatch):
    """A file larger than any document is not read at all."""
    monkeypatch.setattr("qbert_opt.runtime.files.MAX_JSON_BYTES", 10)
    (tmp_path / "x.json").write_text("{" + " " * 20 + "}")
    with pytest.raises(InputFileError, match=r"22 bytes; a qbert-opt/scores@1 document has at most 10"):
        read_scores(tmp_path / "x.json")


def test_writing_into_nowhere(tmp_path, gptq_plan):
    """The folder must exist."""
    with pytest.raises(UsageError, match=r"its folder .* does not exist"):
        write_allocation(gptq_plan, tmp_path / "nowhere" / "a.json")


def test_the_bundled_table_says_what_it_is(reference):
    """A BERT-base-shaped model with real weights, this project's scores, with data, commit and date; no mask."""
    assert isinstance(reference, ScoreTable)
    assert (reference.metric, reference.method) == ("directional", "gptq")
    assert (reference.profile.num_blocks, reference.profile.hidden, reference.profile.heads) == (12, 768, 12)
    assert len(reference.profile.matrices) == 72
    assert reference.profile.encoder_elements == 12 * (4 * 768 * 768 + 2 * 768 * 3072)
    assert len(reference.choices) == 28 and not reference.masks
    assert reference.loss_unit == "squared output distance relative to the output's squared length"
    made = reference.provenance
    assert made.data == "snips/train" and made.commit and made.date >= "2025"
    assert reference_path().stat().st_size < 1_000_000


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"schema": ', '"metric": "x", "schema": ', r"key 'metric' occurs twice"),
        ('"metric": "directional"', '"metric": NaN', r"metric: is nan; every number must be finite"),
        ('"heads": 4', '"heads": 4' + "0" * 5000, r"an integer of 5001 digits"),
        ('"heads": 4', '"heads": 1e999', r"profile.heads: is inf; every number must be finite"),
        ('"heads": 4', '"heads": ' + "[" * 100_000, r"nested deeper than 64 levels"),
        ('"heads": 4', '"heads": "4"', r"profile.heads: Input should be a valid integer, found '4'"),
        ('"heads": 4', '"heads": true', r"profile.heads: Input should be a valid integer, found true"),
        ('"heads": 4', '"heads": null', r"profile.heads: Input should be a valid integer, found null"),
        ('"metric": "directional"', '"metric": "\\ud83d"', r"half of a surrogate pair"),
    ],
)
def test_kind_7_json_that_parsers_let_pass(edited, kind, old, new, message):
    """Repeated keys, NaN, numbers without end, deep nesting and wrong types are one line that names the field."""
    file = edited(kind, "extra", 1)
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    with pytest.raises(InputFileError, match=message) as caught:
        READERS[kind](file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", READERS)
def test_kind_5_documents_with_a_byte_order_mark(edited, kind, gptq_scores, gptq_plan):
    """An editor's mark at the beginning changes nothing; UTF-16 is refused by name."""
    file = edited(kind, "extra", 1)
    text = file.read_text()
    file.write_bytes(text.encode("utf-8-sig"))
    assert READERS[kind](file) == (gptq_scores if kind == "scores" else gptq_plan)
    file.write_bytes(text.encode("utf-16"))
    with pytest.raises(InputFileError, match=r"is UTF-16 text. Save it as UTF-8"):
        READERS[kind](file)


@pytest.mark.parametrize("kind", READERS)
def test_what_is_no_file(tmp_path, kind):
    """Folders, pipes and devices are not read, and a name that is too long is said to be."""
    os.mkfifo(tmp_path / "pipe")
    for path, message in (
        (tmp_path, r"is a folder, not a file"),
        (tmp_path / "pipe", r"is a pipe or a device, not a file"),
        ("/dev/zero", r"is a pipe or a device, not a file"),
        (tmp_path / ("x" * 300), r"cannot be read: File name too long"),
    ):
        with pytest.raises(InputFileError, match=message):
            READERS[kind](path)


def test_kind_7_plans_with_unknown_names_are_refused(edited, gptq_plan):
    """A limit on a resource, or a head tied to a table, that this version does not know would fail in the report."""
    limit = json.loads(gptq_plan.limits[0].model_dump_json()) | {"resource": "watts"}
    with pytest.raises(InputFileError, match=r"limits.0.resource: Input should be .*'encoder_bytes'.*, found 'watts'"):
        read_allocation(edited("plan", "limits", [limit]))
    head = [{"module": "decoder", "rows": 9, "columns": 32, "tied_to": "nowhere"}]
    with pytest.raises(InputFileError, match=r"profile: head: decoder is tied to 'nowhere', which is not a table"):
        read_allocation(edited("plan", "profile", "head", head))
    with pytest.raises(InputFileError, match=r"objective: Input should be .*, found 'beauty'"):
        read_allocation(edited("plan", "objective", "beauty"))


def test_every_measure_has_a_name_in_reports():
    """What a plan may be limited by, a report can print."""
    from typing import get_args

    from qbert_opt.reports.printing import MEASURES
    from qbert_opt.spec.quantities import Measure, shown

    assert set(get_args(Measure)) == set(MEASURES)
    assert all(shown(measure, 1.5) for measure in MEASURES)
