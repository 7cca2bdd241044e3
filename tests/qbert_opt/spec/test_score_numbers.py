"""Every number of a score file is checked: one line that names the field, and exit code 4."""

import copy
import json

import pytest

from qbert_opt.errors import InputFileError
from qbert_opt.spec.scores import read_scores

SIGNED = {  # may be negative
    "activations.ranges", "block_sensitivity.eigenvalues", "curvature.eigenvalues", "curvature.value",
}  # fmt: skip
RANKED = {  # of any size: no sum or square of them decides
    "block_sensitivity.eigenvalues", "block_sensitivity.omega", "curvature.eigenvalues",
    "curvature.products", "curvature.std_error", "curvature.value", "effective_samples", "provenance.back_propagations",
    "provenance.max_tokens", "provenance.mean_tokens", "provenance.num_calibration", "provenance.num_cut",
    "provenance.num_lost", "provenance.num_pool", "provenance.num_scored", "samples", "tables.unseen_factor",
}  # fmt: skip
SHARES = {"provenance.mean_confidence", "provenance.scored_accuracy", "tables.unseen_reads", "tables.unseen_rows"}


@pytest.fixture(scope="module")
def document(rtn_scores):
    """A score file with every part that one can have."""
    scores = json.loads(rtn_scores.model_dump_json(by_alias=True))
    matrices = [matrix["module"] for matrix in scores["profile"]["matrices"]]
    tables = [table["module"] for table in scores["profile"]["tables"]]
    rows, folds = [[0.1, 0.2]] * len(tables), len(scores["fold_value"])
    reads = [0.5] * len(tables)
    scores["tables"] = {
        "modules": tables, "choices": ["4bit/rows:each/mse", "8bit/rows:each/mse"], "value": rows, "std_error": rows,
        "weight_error": rows, "fold_value": [rows] * folds, "unseen_rows": reads, "unseen_reads": reads,
        "unseen_factor": reads, "contains": "tables",
    }  # fmt: skip
    inputs = [[0.1, 0.2]] * len(matrices)
    scores["activations"] = {
        "inputs": [[module] for module in matrices], "choices": ["8bit/token", "8bit/tensor/mse"], "value": inputs,
        "std_error": inputs, "ranges": [[None, [-1.0, 2.0]]] * len(matrices), "contains": "inputs",
    }  # fmt: skip
    scores["cache"] = {"bits": [8, 4], "value": [0.1, 0.2], "std_error": [0.1, 0.2], "contains": "keys and values"}
    curvature = {"quantity": "trace", "value": 1.0, "std_error": 0.1, "eigenvalues": [1.0], "products": 3}
    scores["curvature"] = [{"module": matrices[0], **curvature}]
    scores["block_sensitivity"] = [{"block": 0, "omega": 1.0, "eigenvalues": [1.0]}]
    scores["provenance"] |= {"mean_confidence": 0.9, "scored_accuracy": 0.9, "back_propagations": 2.0, "num_cut": 0}
    return json.loads(json.dumps(scores))  # no list is in two places


def numbers(document):
    """The first number of every field, as (names, way to it, value)."""
    found = {}

    def walk(part, way):
        for key, value in part.items() if isinstance(part, dict) else enumerate(part):
            if isinstance(value, (dict, list)):
                walk(value, (*way, key))
            elif isinstance(value, (int, float)) and not isinstance(value, bool):
                name = ".".join(step for step in (*way, key) if isinstance(step, str))
                found.setdefault(name, ((*way, key), value))

    walk(document, ())
    return [(name, way, value) for name, (way, value) in found.items()]


def changed(document, way, value, folder):
    """Write the document with one value replaced."""
    other = copy.deepcopy(document)
    place = other
    for step in way[:-1]:
        place = place[step]
    place[way[-1]] = value
    path = folder / "scores.json"
    path.write_text(json.dumps(other))
    return path


def taken(document, wrong, folder):
    """Read the document once for every field with a wrong number in it; the names of the fields that were read."""
    names = set()
    for name, way, value in numbers(document):
        if (number := wrong(name, value)) is None:
            continue
        path = changed(document, way, number, folder)
        try:
            read_scores(path)
            names.add(name)
        except InputFileError as refusal:
            line = str(refusal)
            assert line.startswith(f"{path}: ") and name.split(".")[0] in line and "\n" not in line
            assert "Expected a qbert-opt/scores@1 document." in line
    return names


def test_the_example_is_read_and_has_every_number(document, tmp_path):
    path = changed(document, ("metric",), "directional", tmp_path)
    assert read_scores(path).cache is not None
    assert {name for name, _, _ in numbers(document)} >= SIGNED | RANKED | SHARES | {"activations.value", "scale.value"}


def test_negative_numbers_are_refused_wherever_they_mean_nothing(document, tmp_path):
    assert taken(document, lambda _, value: type(value)(-1), tmp_path) == SIGNED


def test_numbers_without_end_are_refused_wherever_they_are_reckoned_with(document, tmp_path):
    assert taken(document, lambda _, value: 10**29 if isinstance(value, int) else 1e300, tmp_path) == RANKED


def test_shares_are_at_most_1(document, tmp_path):
    assert taken(document, lambda name, _: 1.5 if name in SHARES else None, tmp_path) == set()


@pytest.mark.parametrize(
    ("way", "wrong", "message"),
    [
        (("activations", "value", 0, 1), -0.5, "activations.value.0.1: Input should be greater than or equal to 0, "),
        (("value", 0, 0), 1e200, r"value.0.0: Input should be less than or equal to 1e\+100, found 1e\+200"),
        (("choices", 1), "2bit/rows:1/rtn", "choices: 2bit/rows:1/rtn is named twice"),
        (("choices", 1), "9bit/rows:1/rtn", "choices: choice '9bit/rows:1/rtn': bits 9: '9' is not a bit width"),
        (("choices", 1), "4bit/tiles:1/rtn", "choices: choice '4bit/tiles:1/rtn': grouping tiles:1: .* not a grouping"),
        (("activations", "choices", 1), "8bit/token", "activations: choices: 8bit/token is named twice"),
        (("tables", "modules", 1), "nowhere", "tables: nowhere is not a table of the profile"),
        (("tables", "unseen_factor"), [1.0], "tables: modules, unseen_rows, unseen_reads and unseen_factor differ"),
        (("curvature", 0, "module"), "nowhere", "curvature: nowhere is not a matrix of the profile"),
        (("block_sensitivity", 0, "block"), 7, "block_sensitivity: block is 7; the profile has 2, from 0"),
        (("profile", "matrices", 0, "block"), 7, "profile: matrices: .*query: block is 7; num_blocks is 2, counted"),
        (("masks",), {"nowhere": {"2bit/rows:1/rtn": "why"}}, "masks: nowhere: 2bit/rows:1/rtn is not among the matri"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(document, tmp_path, way, wrong, message):
    with pytest.raises(InputFileError, match=message):
        read_scores(changed(document, way, wrong, tmp_path))


def test_a_masked_choice_has_no_score(document, tmp_path):
    module = document["profile"]["matrices"][0]["module"]
    masks = {module: {"2bit/rows:1/rtn": "why"}}
    with pytest.raises(InputFileError, match=f"masks: {module}: 2bit/rows:1/rtn has a score; .* not allowed has null"):
        read_scores(changed(document, ("masks",), masks, tmp_path))


def test_a_matrix_or_table_is_named_once(document, tmp_path):
    for part in ("matrices", "tables"):
        twice = document["profile"][part][0]["module"]
        with pytest.raises(InputFileError, match=f"profile: {part}: {twice} is named twice"):
            read_scores(changed(document, ("profile", part, 1, "module"), twice, tmp_path))


def test_a_verb_says_so_in_one_line(cli, document, tmp_path):
    path = changed(document, ("activations", "std_error", 2, 0), -1.0, tmp_path)
    found = cli("solve", "--scores", path, "--budget", "4bit")
    assert found.code == 4
    assert (
        f"{path}: activations.std_error.2.0: Input should be greater than or equal to 0, found -1.0" in found.complaint
    )
