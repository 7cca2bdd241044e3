"""Labels to outputs: all by name or all by id, decided once for the whole set, never by guess."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qbert_opt.data.texts import LabeledTexts, split_disjoint
from qbert_opt.errors import InputFileError
from qbert_opt.evaluation.evaluate import evaluate, outputs
from qbert_opt.evaluation.references import comparable, reference_outputs
from qbert_opt.models.labels import label_ids, label_reading, numbers, output_order, sorted_names

COLOURS = ("red", "green", "blue")
STARS = ("1", "2", "3")
READ = {
    "names": (COLOURS, ("blue", "red"), [2, 0]),
    "ids": (COLOURS, ("2", "0", "1"), [2, 0, 1]),
    "ids as floats": (COLOURS, ("2.0", "0.0"), [2, 0]),
    "names but for case and blanks": (COLOURS, (" Blue", "RED "), [2, 0]),
    "names that differ in case only": (("a", "A"), ("A", "a"), [1, 0]),
    "names that are numbers": (STARS, ("1", "2", "3"), [0, 1, 2]),
    "ids beside names that are numbers": (STARS, ("0", "1", "2"), [0, 1, 2]),
    "names that are their ids": (("0", "1"), ("1", "0"), [1, 0]),
    "names that are floats": (("0.0", "1.0"), ("1.0", "0.0"), [1, 0]),
    "names of transformers' own making": (("LABEL_0", "LABEL_1"), ("LABEL_1", "LABEL_0"), [1, 0]),
    "ids beside them": (("LABEL_0", "LABEL_1"), ("1", "0"), [1, 0]),
    "ids written so that no name is meant": (STARS, ("LABEL_1", "LABEL_2"), [1, 2]),
    "a placeholder that is the name of another output": (("LABEL_1", "LABEL_0"), ("LABEL_1",), [0]),
    "truth values that are names": (("False", "True"), ("true", "false"), [1, 0]),
    "a name twice that no label has": (("neg", "other", "other"), ("neg",), [0]),
    "ids beside a name twice": (("neg", "other", "other"), ("0", "2", "1"), [0, 2, 1]),
    "one label only": (COLOURS, ("green",), [1]),
}


@pytest.mark.parametrize("case", READ)
def test_labels_are_read(case):
    """What can be meant in one way only is read in that way."""
    names, labels, wanted = READ[case]
    assert label_ids(names, labels, source="d", model="m") == wanted


REFUSED = {
    "numbers by name or by id": (STARS, ("1", "2"), r"'1' is the name of output 0 of m and also the id of output '2'"),
    "floats by name or by id": (("1.0", "2.0"), ("1.0",), r"'1.0' is the name of output 0 .* Write ids as LABEL_1, or"),
    "names and ids": (COLOURS, ("red", "2"), r"sample 1 has label 'red', a name, and sample 2 has label '2', an id"),
    "an unknown name": (COLOURS, ("red", "mauve"), r"sample 2 has label 'mauve'. m knows red, green, blue, or"),
    "ids from 1 on": (COLOURS, ("1", "2", "3"), r"sample 3 has label '3'. m knows red, green, blue, or ids 0 to 2"),
    "hidden labels": (COLOURS, ("-1",), r"sample 1 has label '-1'"),
    "a zero before an id": (COLOURS, ("01",), r"label '01'"),
    "half an id": (COLOURS, ("0.5",), r"label '0.5'"),
    "digits of another script": (COLOURS, ("\u0661",), r"label '\u0661'"),
    "a very long id": (COLOURS, ("9" * 5000,), r"knows red"),
    "truth values": (COLOURS[:2], ("True", "False"), r"label 'True'"),
    "a name of two outputs": (("neg", "other", "other"), ("neg", "other"), r"'other' is the name of outputs 1 and 2"),
    "two names but for case": (("A b", "a B"), ("a b",), r"'a b' is the name of outputs 0 and 1 of m"),
    "an empty label": (COLOURS, ("",), r"label ''"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_labels_are_refused(case):
    """What could be meant in two ways, or in none, is one line that names both or says what is legal."""
    names, labels, message = REFUSED[case]
    with pytest.raises(InputFileError, match=message) as caught:
        label_ids(names, labels, source="d", model="m")
    assert "\n" not in str(caught.value) and str(caught.value).startswith("d: ")


NAMES = ("0", "1", "2", "3", "1.0", "a", "A", "LABEL_1")


@given(
    st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True),
    st.lists(st.sampled_from((*NAMES, "True")), min_size=1, max_size=4),
)
@settings(max_examples=300)
def test_all_by_name_or_all_by_id(names, labels):
    """Whatever is read is every label's exact or plain name, or every label's id; the order of labels is no matter."""
    try:
        ids = label_ids(names, labels, source="d", model="m")
    except InputFileError:
        return
    by_name = all(names[i].casefold() == label.casefold() for i, label in zip(ids, labels, strict=True))
    by_id = all(label.removeprefix("LABEL_").split(".")[0] == str(i) for i, label in zip(ids, labels, strict=True))
    assert by_name or by_id
    assert label_ids(names, labels[::-1], source="d", model="m") == ids[::-1]
    if set(labels) <= set(names):
        assert by_name


def test_the_whole_set_decides():
    """A part of a set that could be read in two ways is read as the whole can only be read."""
    data = LabeledTexts("d", tuple((f"w{i}",) for i in range(9)), ("1", "2", "3") * 3)
    for part in (data.take([0, 1]), data.take([0, 1, 2]).take([1, 0]), *split_disjoint(data, [2, 2], seed=0)):
        ids = label_ids(STARS, part.labels, whole=part.whole_labels, source="d", model="m")
        assert ids == [int(label) - 1 for label in part.labels]
    with pytest.raises(InputFileError, match="also the id"):
        label_ids(STARS, ("1", "2"), source="d", model="m")
    spoiled = LabeledTexts("d", data.texts, (*data.labels[:8], "x")).take([0])
    with pytest.raises(InputFileError, match=r"sample 9 has label 'x'"):
        label_ids(STARS, spoiled.labels, whole=spoiled.whole_labels, source="d", model="m")


def test_tags_are_read_alike():
    """Tags are labels of words: one reading for all words of all texts."""
    assert label_reading(("O", "B"), [("O", "B"), ("B",)], source="d", model="m") == {"O": 0, "B": 1}
    assert label_reading(("O", "B"), [("0", "1")], source="d", model="m") == {"0": 0, "1": 1}
    with pytest.raises(InputFileError, match=r"sample 1 has tag 'O', a name, and sample 2 has tag '1', an id"):
        label_reading(("O", "B"), [("O",), ("B", "1")], source="d", model="m", what="tag")


def test_numbers_are_finite():
    """A regression's labels are numbers; anything else is one line with its sample."""
    assert numbers(("1", " 2.5 ", "-3e2"), "d") == [1.0, 2.5, -300.0]
    for label in ("nan", "inf", "2,5", "", "high"):
        with pytest.raises(InputFileError, match=rf"d: sample 2 has label '{label}'. This is a regression model"):
            numbers(("1", label), "d")


def test_names_of_a_new_head():
    """Ids are sorted as numbers, so that a head learnt from ids answers with them."""
    assert sorted_names(map(str, range(12))) == [str(i) for i in range(12)]
    assert sorted_names(["b", "10", "2"]) == ["10", "2", "b"]
    for labels in itertools.permutations(map(str, range(4))):
        assert label_ids(sorted_names(labels), labels, source="d", model="m") == [int(label) for label in labels]


def test_outputs_are_matched_by_name():
    """Another order is put right; other names, or a name twice, are refused."""
    assert output_order(("a", "b", "c"), ("c", "a", "b"), "m", "r") == [1, 2, 0]
    assert output_order(("x", "x"), ("x", "x"), "m", "r") == [0, 1]
    for reference in (("a", "b"), ("a", "b", "d"), ("LABEL_0", "LABEL_1", "LABEL_2")):
        with pytest.raises(
            InputFileError, match=r"m answers with a, b, c, its reference r with .* only one has an .*\. Give both"
        ):
            output_order(("a", "b", "c"), reference, "m", "r")
    with pytest.raises(InputFileError, match="a name occurs twice"):
        output_order(("x", "x", "y"), ("x", "y", "x"), "m", "r")


def test_a_reference_with_another_order_of_classes(tiny, sentences):
    """The same model with its classes in another order loses nothing; compared by position it would seem to."""
    import copy
    from dataclasses import replace

    order = [2, 0, 1]
    other = copy.deepcopy(tiny.model)
    with torch.no_grad():
        for parameter in other.classifier.parameters():
            parameter.copy_(parameter[order])
    other.config.id2label = {k: tiny.labels[old] for k, old in enumerate(order)}
    moved = replace(tiny, name="moved", model=other)
    subject, reference = comparable(moved, tiny)
    found = evaluate(subject, sentences, reference_outputs(reference, subject, sentences))
    assert found.kl.value == pytest.approx(0, abs=1e-9) and found.flipped == 0
    assert found.accuracy == evaluate(tiny, sentences).accuracy
    assert evaluate(subject, sentences, outputs(tiny, sentences)).flipped > 0
