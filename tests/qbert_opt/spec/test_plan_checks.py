"""Kind 9, plans edited by hand: a figure that follows from the rest of the plan is recomputed when the plan is read."""

import copy
import json

import pytest

from qbert_opt.costs.workload import Workload
from qbert_opt.errors import InputFileError
from qbert_opt.planning.planner import allocate
from qbert_opt.quantization.calibration import CalibrationPlan
from qbert_opt.scoring.sensitivity import measure_sensitivity
from qbert_opt.spec.activations import activation_choice, activation_grid
from qbert_opt.spec.allocation import read_allocation, write_allocation
from qbert_opt.spec.grids import grid
from qbert_opt.spec.limits import Limits
from qbert_opt.spec.plan_scores import check_scores
from qbert_opt.spec.tables import table_grid

TRUSTED = {
    "profile", "provenance",  # of the model and of the scores: hashes say which
    "version", "solver", "loss_unit", "contains", "metric", "random_loss", "next_mb_gain", "next_ms_gain",
    "gap", "lower_bound",  # the proof
    "predicted_loss", "predicted_std_error",  # cross-fitted; checked where they are sums
    "loss_scale", "folds",
    "method",  # the quantizer that `quantize` calls; that of every matrix is checked against it
}  # fmt: skip
TRUSTED_OF = {
    "device": {"name", "confidence"},  # a figure of the device is checked where a limit is on it
    "outlook": {"custom", "reason"},
    "uniform": {"predicted_loss", "predicted_std_error"},
    "limits": {"capacity", "source", "binds"},
    "activations": {"bits", "low", "high"},
    "tables": {"method"},  # the quantizer that `quantize` calls
    "matrices": set(),
}
DEVICE_FIGURES_WITHOUT_LIMIT = {
    "seq_len", "batch_size", "latency_bound_s", "peak_bound_bytes", "dram_bytes", "bandwidth_bytes_per_s", "energy_j",
    "dynamic_energy_j", "unpack_s",
}  # fmt: skip


@pytest.fixture(scope="module")
def full_scores(tiny, file_texts):
    """Matrices, tables and activations."""
    return measure_sensitivity(
        tiny, file_texts, grid((2, 4, 8), ("rows:1", "rows:each"), "rtn"), plan=CalibrationPlan(20, 20, 0),
        table_choices=table_grid((4, 8), ("rows:each",)), activation_choices=activation_grid((8,)),
    )  # fmt: skip


@pytest.fixture(scope="module")
def full_plan(full_scores, car_soc):
    """A plan with everything that a plan can have but an engine's file."""
    size = full_scores.profile.encoder_elements // 2
    limits = Limits(encoder_bytes=size, latency_s=1.0, memory_bytes=10**8)
    plan = allocate(
        full_scores, limits, device=car_soc, workload=Workload(16), activations=[activation_choice("8bit/tensor/mse")]
    )
    assert plan.folds and plan.device and len(plan.limits) >= 3 and plan.tables[0].predicted_loss is not None
    return plan


def edited(plan, folder, *steps):
    """Write a plan with the value at a place replaced."""
    *way, last, value = steps
    document = json.loads(plan.model_dump_json(by_alias=True))
    place = document
    for step in way:
        place = place[step]
    place[last] = value
    path = folder / "plan.json"
    path.write_text(json.dumps(document))
    return path


def other(value):
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    return "foo"


def leaves(document, way=()):
    """Every place in a document that holds no list or record, but for the trusted parts of a plan."""
    children = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in children:
        if not way and key in TRUSTED | {"schema", "outlook"}:
            continue
        if isinstance(value, (dict, list)):
            yield from leaves(value, (*way, key))
        elif value is not None and not (way and key in TRUSTED_OF.get(way[0], set())):
            yield (*way, key), value


def test_every_field_of_a_plan_is_checked_or_trusted_by_name(full_plan, tmp_path):
    """Change one field at a time: the reader refuses every one that is not in the lists above."""
    document = json.loads(full_plan.model_dump_json(by_alias=True))
    ignored = set()
    for way, value in leaves(document):
        changed = copy.deepcopy(document)
        place = changed
        for step in way[:-1]:
            place = place[step]
        place[way[-1]] = other(value)
        path = tmp_path / "plan.json"
        path.write_text(json.dumps(changed))
        try:
            read_allocation(path)
            ignored.add(".".join(str(step) for step in way if not isinstance(step, int)))
        except InputFileError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
    assert ignored <= {f"device.{name}" for name in DEVICE_FIGURES_WITHOUT_LIMIT}


@pytest.mark.parametrize(
    ("way", "wrong", "message"),
    [
        (("matrices", 1, "method"), "foo", r"query: method is 'foo'; legal here: 'rtn'"),
        (("matrices", 1, "symmetric"), True, r"query: symmetric is True; legal here: False"),
        (("matrices", 1, "name"), "foo", r"query: name is 'foo'; legal here: 'layer 1 query'"),
        (("matrices", 1, "kind"), "key", r"query: kind is 'key'; legal here: 'query'"),
        (("matrices", 1, "group_size"), 3, r"of 32 × 32 weights: group_size is 3; legal here: \d+"),
        (("matrices", 1, "num_groups"), 7, r"of 32 × 32 weights: num_groups is 7; legal here: \d+"),
        (("matrices", 1, "zero_dtype"), "none", r"zero_dtype is 'none'; legal here: 'float16'"),
        (("average_bits",), 1.0, r"average_bits is 1; the matrices take \d"),
        (("gap",), -1.0, r"gap: Input should be greater than or equal to 0, found -1.0"),
        (("gap",), 0.5, r"status is 'optimal' and gap is 0.5; optimal is a gap of at most 1e-06"),
        (("gap",), None, r"status is 'optimal' and gap is none"),
        (("status",), "optimal!", r"status is 'optimal!'; legal: optimal, feasible, time_limit, unproven"),
        (("sum_of_scores",), 1e9, r"sum_of_scores is 1e\+09; its parts give \d"),
        (
            ("matrices", 0, "predicted_loss"),
            -1.0,
            r"matrices\.0\.predicted_loss: Input should be greater than or equal to 0",
        ),
        (("matrices", 0, "predicted_loss"), 1.0, r"sum_of_scores is .*; its parts give 1\.\d"),
        (("limits", 0, "used"), 1e9, r"limits: \w+: used is 1e\+09; the plan uses \d"),
        (
            ("predicted_std_error",),
            -1.0,
            r"predicted_std_error: Input should be greater than or equal to 0, found -1.0",
        ),
        (("loss_scale",), 0.0, r"loss_scale: Input should be greater than or equal to 0\.000001, found 0.0"),
        (("device", "energy_j"), -1.0, r"device\.energy_j: Input should be greater than or equal to 0, found -1.0"),
        (("device", "seq_len"), 0, r"device\.seq_len: Input should be greater than or equal to 1, found 0"),
        (("roundings",), ["matrices"], r"roundings is \('matrices',\); legal here: \('matrices', 'tables', 'activ"),
        (("profile", "matrices"), [], r"profile: matrices is empty"),
        (("sum_std_error",), 1e300, r"sum_std_error is 1e\+300; its parts give \d"),
        (
            ("matrices", 0, "std_error"),
            1e300,
            r"std_error: Input should be less than or equal to 1e\+100, found 1e\+300",
        ),
        (("limits", 0, "capacity"), -1.0, r"limits: \w+: capacity is -1; legal: 0 or more"),
    ],
)
def test_what_is_wrong_is_said_by_field_with_both_values(full_plan, tmp_path, way, wrong, message):
    """The line names the field, what it says and what is right."""
    if way == ("gap",) and wrong != -1.0:
        full_plan = full_plan.model_copy(update={"status": "optimal"})
    way = ("matrices", query(full_plan), *way[2:]) if way[:2] == ("matrices", 1) else way
    with pytest.raises(InputFileError, match=message):
        read_allocation(edited(full_plan, tmp_path, *way, wrong))


def query(plan):
    """Index of the first query matrix."""
    return next(i for i, m in enumerate(plan.matrices) if m.kind == "query")


def test_a_resident_matrix_needs_a_device(gptq_plan, tmp_path):
    """On chip of what?"""
    with pytest.raises(InputFileError, match=r"residency is 'resident', but the plan is for no device"):
        read_allocation(edited(gptq_plan, tmp_path, "matrices", 0, "residency", "resident"))


def test_a_limit_that_the_plan_does_not_keep_is_refused(gptq_plan, tmp_path):
    """A matrix that was given more by hand shows in the limit."""
    with pytest.raises(InputFileError, match=r"limits: encoder_bytes: used is \d+; the limit is 5\."):
        read_allocation(edited(gptq_plan, tmp_path, "limits", 0, "capacity", 5))


def test_a_plan_without_forms_keeps_loading(gptq_plan, tmp_path):
    """Earlier releases wrote `symmetric` alone."""
    document = json.loads(gptq_plan.model_dump_json(by_alias=True))
    for matrix in document["matrices"]:
        del matrix["form"]
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(document))
    assert read_allocation(path) == gptq_plan


def test_the_scores_of_a_plan_tell_whether_its_losses_are_theirs(full_plan, full_scores, gptq_scores):
    """One loss moved to another matrix keeps every sum; the scores know better."""
    check_scores(full_plan, full_scores)
    first, second, *rest = full_plan.matrices
    moved = (
        first.model_copy(update={"predicted_loss": first.predicted_loss / 2}),
        second.model_copy(update={"predicted_loss": second.predicted_loss + first.predicted_loss / 2}),
        *rest,
    )
    with pytest.raises(InputFileError, match=r"not from these scores: .*: predicted_loss is .* in the scores"):
        check_scores(full_plan.model_copy(update={"matrices": moved}), full_scores)
    check_scores(full_plan, gptq_scores)  # of the same model, from another run: nothing to compare with


@pytest.mark.parametrize("verb", ["report", "export-config"])
def test_verbs_that_take_the_scores_compare_them(cli, full_plan, full_scores, tmp_path, verb):
    """`--scores` says what the plan was solved from."""
    from qbert_opt.spec.scores import write_scores

    write_scores(full_scores, tmp_path / "scores.json")
    first, second, *rest = full_plan.matrices
    both = first.predicted_loss + second.predicted_loss
    moved = [m.model_copy(update={"predicted_loss": part * both}) for m, part in ((first, 0.999), (second, 0.001))]
    write_allocation(full_plan.model_copy(update={"matrices": (*moved, *rest)}), tmp_path / "plan.json")
    more = ("--to", "nncf", "-o", tmp_path / "o.json") if verb == "export-config" else ("-o", tmp_path / "o.html")
    found = cli(verb, tmp_path / "plan.json", "--scores", tmp_path / "scores.json", *more)
    assert found.code == 4 and "not from these scores" in found.complaint
    assert not list(tmp_path.glob("o.*"))
