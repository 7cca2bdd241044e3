"""The sweep file: every mistake is one line with its place and what is legal."""

import pytest

from qbert_opt.errors import InputFileError
from qbert_opt.sweep.reader import read_sweep
from qbert_opt.sweep.request import Budget, Sweep, Target, needed_limits

GOOD = """models: [a, {folder: b, name: second, data: own.tsv}]
data: snips/dev
test_data: snips/test
metrics: [directional]
methods: [gptq, rtn]
devices:
  - car-soc
  - {device: rpi5, engine: onnxruntime}
budgets:
  - 3bit
  - {total_budget: 20MB, max_latency: 20ms}
"""


def read(tmp_path, text):
    path = tmp_path / "s.yaml"
    path.write_text(text)
    return read_sweep(path)


def test_a_sweep_file_is_read_as_written(tmp_path):
    """Short forms, defaults, and paths beside the file; names of bundled data and devices stay names."""
    sweep = read(tmp_path, GOOD)
    assert [(model.label, model.folder) for model in sweep.models] == [
        ("a", str(tmp_path / "a")), ("second", str(tmp_path / "b")),
    ]  # fmt: skip
    assert sweep.data[0].path == "snips/dev" and sweep.models[1].data[0].path == str(tmp_path / "own.tsv")
    assert sweep.devices == (Target(device="car-soc"), Target(device="rpi5", engine="onnxruntime"))
    assert [budget.label for budget in sweep.budgets] == ["3bit", "total_budget 20MB, max_latency 20ms"]
    assert (sweep.until, sweep.seed, sweep.calibration_samples) == ("measure", 0, 256)


def test_a_device_file_beside_the_sweep_file_is_found(tmp_path):
    """It is read from there wherever the command is started."""
    (tmp_path / "mine.yaml").write_text("schema: qbert-opt/device@1\nid: mine\ninherit: car-soc\n")
    assert read(tmp_path, GOOD.replace("- car-soc", "- mine.yaml")).devices[0].device == str(tmp_path / "mine.yaml")


def test_widths_and_groupings_are_also_lists(tmp_path):
    """`bits: [2, 3]` is the list that a reader of YAML writes; a number alone is one width."""
    sweep = read(tmp_path, "bits: [2, 3]\ngroupings: ['rows:each', columns:64]\nactivation_bits: 8\n" + GOOD)
    assert (sweep.bits, sweep.groupings, sweep.activation_bits) == ("2,3", "rows:each,columns:64", "8")
    assert read(tmp_path, "bits: 2,3\n" + GOOD).bits == "2,3"


LEGAL = "legal keys are models, data, test_data, metrics, methods, devices, budgets, until, recover"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("metrics:", "metrcis:", f"s.yaml:4: metrcis: found an unknown key; {LEGAL}"),
        ("metrics:", "metrcis:", "seed; did you mean metrics?"),
        ("name: second", "nmae: second", "s.yaml:1: models[1].nmae: found an unknown key; legal keys are folder, name"),
        ("engine: onnx", "engin: onnx", "s.yaml:8: devices[1].engin: found an unknown key; legal keys are device,"),
        ("[directional]", "[directionl]", "s.yaml:4: metrics[0]: found directionl; legal are "),
        ("[gptq, rtn]", "[gptq, rtm]", "s.yaml:5: methods[1]: found rtm; legal are gptq, guided"),
        ("[gptq, rtn]", "[rtn, rtn]", "s.yaml:5: methods[1]: found rtn again; legal is each entry once"),
        ("[gptq, rtn]", "[]", "s.yaml:5: methods: found an empty list, so there is nothing to combine"),
        ("[a, {", "[{folder: b, name: second}, {", "s.yaml:1: models[1]: found second again; legal is a di"),
        ("models: [a, {folder: b, name: second, data: own.tsv}]", "models: []", "s.yaml:1: models: found an empty"),
        ("- car-soc", "- car-sco", "s.yaml:7: devices[0]: car-sco: found no such"),
        ("onnxruntime", "onnxruntme", "s.yaml:8: devices[1].engine: found onnxruntme; legal are "),
        ("device: rpi5", "device: coral", "s.yaml:8: devices[1]: "),
        ("3bit", "3", "s.yaml:10: budgets[0]: found 3; legal is "),
        ("3bit", "3bt", "s.yaml:10: budgets[0].budget: found 3bt: "),
        ("20ms", "20MB", "s.yaml:11: budgets[1].max_latency: "),
        ("data: snips/dev\n", "", "s.yaml:1: models[0]: found no calibration text"),
        ("test_data: snips/test\n", "", "s.yaml:1: models[0]: found no text to measure on; legal is held-out text; "),
        ("budgets:\n", "until: mesure\nbudgets:\n", "s.yaml:9: until: found 'mesure'; legal is 'solve', 'quantize'"),
        ("budgets:\n", "seed: yes\nbudgets:\n", "s.yaml:9: seed: found 'yes'; legal is a valid integer"),
        ("budgets:\n", "seed: 9223372036854775808\nbudgets:\n", "s.yaml:9: seed: found 9223372036854775808; legal is "),
        ("budgets:\n", "batch_size: 1000001\nbudgets:\n", "s.yaml:9: batch_size: found 1000001; legal is "),
        ("budgets:\n", "max_tokens: 3\nbudgets:\n", "s.yaml:9: max_tokens: found 3; legal is "),
        ("budgets:\n", "recover: {data: t.tsv, minutes: .inf}\nbudgets:\n", "s.yaml:9: recover.minutes: found "),
        ("budgets:\n", "recover: {data: t.tsv, seed: -1}\nbudgets:\n", "s.yaml:9: recover.seed: found -1; legal is "),
        ("budgets:\n", "bits: 2,3,99\nbudgets:\n", "s.yaml:9: bits: "),
        ("budgets:\n", "bits: [2, 99]\nbudgets:\n", "s.yaml:9: bits: found 2,99: "),
        ("budgets:\n", "bits: []\nbudgets:\n", "s.yaml:9: bits: found []; legal is a list or a text, such"),
        ("budgets:\n", "bits: [[2]]\nbudgets:\n", "s.yaml:9: bits: found [[2]]; legal is a list or a text,"),
        ("budgets:\n", "bits: [yes]\nbudgets:\n", "s.yaml:9: bits: "),
        ("budgets:\n", "min_tokens_per_s: 5\nbudgets:\n", "seed; it belongs to an entry of budgets"),
        ("budgets:\n", "minutes: 5\nbudgets:\n", "seed; it belongs to an entry of recover"),
        ("- car-soc", "- {device: car-soc, max_latency: 5ms}", "engine; it belongs to an entry of budgets"),
        ("budgets:\n", "recover: {data: t.tsv, minuts: 5}\nbudgets:\n", "s.yaml:9: recover.minuts: found an unknown"),
        ("budgets:\n", "recover: {data: t.tsv}\nuntil: solve\nbudgets:\n", "s.yaml:9: recover: found training, and "),
        ("models: [a, {folder: b, name: second, data: own.tsv}]\n", "", "s.yaml:1: models: found nothing; the key is"),
        (GOOD, "- a\n", "s.yaml:1: found no mapping; legal are the keys models, data"),
        (GOOD, "models: [a\n", "s.yaml:2: found text that is not YAML"),
        (GOOD, "models: &x [a]\n", "s.yaml:1: found the anchor '&x'"),
        ("  - car-soc\n", "  - {engine: openvino}\n", None),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_with_its_place(tmp_path, old, new, said):
    """A typing error names the line, the legal keys and the likely word."""
    assert old in GOOD
    if said is None:  # an engine without a device is legal beside budgets
        assert read(tmp_path, GOOD.replace(old, new)).devices[0].device is None
        return
    with pytest.raises(InputFileError) as caught:
        read(tmp_path, GOOD.replace(old, new))
    assert said in str(caught.value).replace(str(tmp_path) + "/", "") and "\n" not in str(caught.value)


def test_no_limit_at_all_is_refused(tmp_path):
    """Without budgets and devices every matrix would take its largest choice."""
    with pytest.raises(InputFileError, match=r"s\.yaml:1: found neither budgets nor a device"):
        read(tmp_path, "models: a\ndata: snips/dev\nuntil: solve\n")


def test_quantities_are_read_once_with_their_units():
    """Of a budget's limits, those that need no model are in base units."""
    budget = Budget(budget="3bit", max_latency="20ms", max_memory="1MiB", max_energy="2mJ")
    assert needed_limits(budget) == {"latency_s": 0.02, "memory_bytes": 1048576, "energy_j": 0.002}
    fast = Budget(budget="3bit", min_tokens_per_s=20)
    assert needed_limits(fast) == {"tokens_per_s": 20} and fast.label == "budget 3bit, min_tokens_per_s 20"
    assert Budget(min_tokens_per_s=1e9).label == "min_tokens_per_s 1000000000"
    with pytest.raises(ValueError, match="greater than 0"):
        Budget(min_tokens_per_s=0)
    assert Sweep.model_fields["budgets"].default == (Budget(),)
