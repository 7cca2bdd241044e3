"""Plans in other tools' words: what is carried over comes back, what is not is named and priced."""

import dataclasses
import json
import re

import numpy as np
import pytest
import yaml

from hwmodels import format_bytes
from qbert_opt.configs.tool import config_tool, parse_config
from qbert_opt.costs.operations import Storage
from qbert_opt.costs.workload import Workload
from qbert_opt.errors import InfeasibleError
from qbert_opt.planning.assembly import Proof, assemble
from qbert_opt.planning.constraints import PlanConstraints
from qbert_opt.planning.planner import allocate
from qbert_opt.reports.exchange import export_lines, import_lines
from qbert_opt.runtime import plugins
from qbert_opt.spec.allocation import Allocation, write_allocation
from qbert_opt.spec.limits import Limits
from qbert_opt.spec.plan_checks import check_plan
from qbert_opt.spec.scores import ScoreTable
from qbert_opt.workflows.export_config import export_cost, export_plan
from qbert_opt.workflows.import_config import Import, best_within, import_plan
from qbert_opt.workflows.refit import refit

TOOLS = plugins.available("configs")
ENDINGS = [(name, suffix) for name in TOOLS for suffix in config_tool(name).SUFFIXES]


def plan_of(scores, columns):
    """The plan that gives each matrix the choice in that column."""
    storage = {m.module: Storage(scores.grid()[j]) for m, j in zip(scores.profile.matrices, columns, strict=True)}
    return assemble(scores, storage, Proof("unproven", "test"), None, Workload())


def random_plan(scores, seed):
    """A plan drawn from what was scored."""
    generator = np.random.default_rng(seed)
    return plan_of(scores, [generator.choice(np.flatnonzero(np.isfinite(row))) for row in scores.values()])


def whole(tool):
    """What a file of the tool is: an object, or a list."""
    return getattr(tool, "OUTERMOST", dict)


def test_every_tool_of_the_issue_is_there():
    assert set(TOOLS) == {
        "ai-edge-quantizer",
        "autoround",
        "compressed-tensors",
        "coremltools",
        "gptqmodel",
        "hawq",
        "llama-cpp",
        "modelopt",
        "nncf",
        "tidl",
        "torchao",
    }
    assert config_tool("llama.cpp").TITLE == "llama.cpp"


@pytest.mark.parametrize(("name", "suffix"), ENDINGS)
@pytest.mark.parametrize("seed", range(3))
def test_what_is_exported_comes_back(reference, tmp_path, name, suffix, seed):
    """Import reads what export wrote: bits and groups of every matrix, as far as the scores know them."""
    tool, plan = config_tool(name), random_plan(reference, seed)
    export = export_plan(plan, tool, suffix)
    path = tmp_path / f"config{suffix}"
    path.write_text(export.text)
    back = tool.read(parse_config(export.text, path, whole(tool)), plan.profile, suffix)
    offers = {item.matrix.module: item.offer for item in export.carried}
    assert {m: (o.bits, o.grouping, o.form) for m, o in back.items()} == {
        m: (o.bits, o.grouping, o.form) for m, o in offers.items()
    }
    imported = import_plan(path, tool, reference)
    assert imported.tool_bytes == export.tool_bytes
    for planned, found in zip(plan.matrices, imported.plan.matrices, strict=True):
        assert found.bits == offers[planned.module].bits
        offset = dataclasses.replace(offers[planned.module].as_choice("gptq"), form="offset")
        if offset.name in reference.choices:
            assert found.grouping == offset.grouping


@pytest.mark.parametrize("name", TOOLS)
def test_what_changes_is_said_and_priced(reference, reference_plan, name):
    """The price of what the tool runs is the sum of its choices' scores; every difference is among the changes."""
    tool = config_tool(name)
    export = export_plan(reference_plan, tool, tool.SUFFIXES[0])
    cost = export_cost(export, reference_plan, reference)
    inexact = [item for item in export.carried if not item.is_exact]
    said = sum(count for change, count in export.changes.items() if change.startswith("groups"))
    assert said == sum(item.offer.grouping != item.matrix.grouping for item in inexact)
    by_hand = 0.0
    for row, item in zip(reference.values(), export.carried, strict=True):
        stand_in = {taken: wanted for (wanted, taken) in cost.stand_ins if wanted == item.offer.as_choice("gptq").name}
        taken = next(iter(stand_in), item.offer.as_choice("gptq").name)
        by_hand += row[reference.choices.index(taken)]
    assert cost.carried_loss == pytest.approx(by_hand)
    if not inexact:
        assert cost.carried_loss == pytest.approx(reference_plan.sum_of_scores)


def test_tables_that_a_config_has_are_not_said_to_be_missing(reference_plan):
    """One tool's recipe names them; the others' do not, and say so."""
    assert reference_plan.tables
    for name, carried in (("ai-edge-quantizer", True), ("torchao", False)):
        export = export_plan(reference_plan, config_tool(name), config_tool(name).SUFFIXES[0])
        assert all((table.module.replace(".", "\\\\.") in export.text) == carried for table in reference_plan.tables)
        [left] = [line for line in export_lines(export, None, reference_plan) if line.startswith("not carried")]
        assert left.endswith("matrices and embedding tables" if carried else "encoder's matrices only")


def test_integers_of_a_config_are_those_of_yaml_1_2(reference, tmp_path):
    """`010` is ten, as another reader of YAML 1.2 has it, not the octal 8 of YAML 1.1; `0o10` is 8."""
    module = reference.profile.matrices[0].module
    text = f"quant_cfg:\n- quantizer_name: {module}.weight_quantizer\n  cfg: {{num_bits: 010, axis: 0}}\n"
    tool = config_tool("modelopt")
    offers = tool.read(parse_config(text, tmp_path / "config.yaml"), reference.profile, ".yaml")
    assert offers[module].bits == 10
    offers = tool.read(parse_config(text.replace("010", "0o10"), tmp_path / "c.yaml"), reference.profile, ".yaml")
    assert offers[module].bits == 8


@pytest.mark.parametrize("name", ["compressed-tensors", "modelopt"])
def test_tools_with_blocks_carry_row_groups(reference_plan, name):
    """Row groups survive where a tool knows blocks over both axes."""
    tool = config_tool(name)
    assert all(item.is_exact for item in export_plan(reference_plan, tool, tool.SUFFIXES[-1]).carried)


@pytest.mark.parametrize("name", TOOLS)
def test_a_refitted_plan_is_carried_whole(reference_sums, reference_plan, name):
    """Solved again among what the tool runs, bits and groups survive, within the bytes, and no better than before."""
    tool = config_tool(name)
    if name == "llama-cpp":  # its blocks of 16 were not scored, its blocks of 32 start at 4 bits
        return
    if name == "tidl":  # it has 8 bits only
        with pytest.raises(InfeasibleError, match=r"TI TIDL: its formats take at least 85,266,432 bytes"):
            refit(reference_plan, tool, reference_sums, None, Workload())
        return
    again = refit(reference_plan, tool, reference_sums, None, Workload())
    assert again.encoder_bytes <= reference_plan.encoder_bytes
    assert all(item.is_exact for item in export_plan(again, tool, tool.SUFFIXES[0]).carried)
    assert again.sum_of_scores >= reference_plan.sum_of_scores * (1 - 1e-9)
    nearest = export_plan(reference_plan, tool, tool.SUFFIXES[0])
    ours = [dataclasses.replace(item.offer.as_choice("gptq"), form="offset") for item in nearest.carried]
    sizes = [c.bytes(m.rows, m.columns, heads=12) for c, m in zip(ours, reference_plan.matrices, strict=True)]
    if sum(sizes) <= reference_plan.encoder_bytes and all(c.name in reference_sums.choices for c in ours):
        carried = export_cost(nearest, reference_plan, reference_sums).carried_loss
        assert again.sum_of_scores <= carried * (1 + 1e-6)


@pytest.mark.parametrize("scored", [True, False])
def test_refitting_with_scored_tables(rtn_scores, scored):
    """Tables are items of the program and no business of the tool: they keep to the plan's bytes and get their best."""
    scores = with_scored_tables(rtn_scores)
    half = scores.profile.encoder_elements // 2
    plan = allocate(scores if scored else rtn_scores, Limits(encoder_bytes=half))
    tool = config_tool("compressed-tensors")
    again = refit(plan, tool, scores, None, Workload())
    assert again.encoder_bytes <= plan.encoder_bytes and again.total_bytes <= plan.total_bytes
    assert all(item.is_exact for item in export_plan(again, tool, ".json").carried)
    assert {table.choice.name for table in again.tables} == {"8bit/rows:each/rtn"}


def in_form(scores, form):
    """The same scores, of choices in another form."""
    document = scores.model_dump(by_alias=True)
    document["choices"] = [f"{name}/{form}" for name in scores.choices]
    document["masks"] = {m: {f"{n}/{form}": why for n, why in masks.items()} for m, masks in scores.masks.items()}
    return type(scores).model_validate(document)


def test_the_optimum_comes_back_as_the_optimum(rtn_scores, tmp_path):
    """A config describes no tables, and they count in the imported plan as in ours: the same plan has the same sum."""
    scores = in_form(with_scored_tables(rtn_scores), "symmetric")  # both tools store it as we do
    plan = allocate(scores, Limits(encoder_bytes=scores.profile.encoder_elements // 2))
    assert {table.bits for table in plan.tables} == {8} and plan.tables[0].predicted_loss == 0.0001
    for name, suffix in (("compressed-tensors", ".json"), ("modelopt", ".yaml")):
        export = export_plan(plan, config_tool(name), suffix)
        assert all(item.is_exact for item in export.carried)
        path = tmp_path / f"config{suffix}"
        path.write_text(export.text)
        imported = import_plan(path, config_tool(name), scores)
        assert imported.plan.matrices == plan.matrices and not imported.stand_ins
        assert imported.plan.sum_of_scores == pytest.approx(plan.sum_of_scores, rel=1e-12)
        assert (imported.plan.encoder_bytes, imported.plan.total_bytes) == (plan.encoder_bytes, plan.total_bytes)
        best = best_within(imported, scores)
        assert best.sum_of_scores == pytest.approx(imported.plan.sum_of_scores, rel=1e-6)
        [line] = import_lines(imported, best.model_copy(update={"predicted_loss": best.sum_of_scores}))
        assert line.endswith("(1.00x)")


# bits that a group of weights takes besides its codes, of b bits each
GROUP_BITS = {
    "coremltools": lambda b: 16 * 2**b,  # a codebook
    "gptqmodel": lambda b: 16 + b,  # a scale and an integer zero point
    "torchao": lambda b: 24,  # the zero point in a byte
    "modelopt": lambda b: 16,  # a scale alone
}


@pytest.mark.parametrize("name", GROUP_BITS)
def test_a_config_has_the_same_bytes_both_ways(cli, rtn_scores, tmp_path, name):
    """What was exported is imported at the tool's own size, in a form that was not scored; the rival fits into it."""
    plan = allocate(rtn_scores, Limits(encoder_bytes=rtn_scores.profile.encoder_elements // 2))
    tool = config_tool(name)
    export = export_plan(plan, tool, tool.SUFFIXES[0])
    path = tmp_path / f"config{tool.SUFFIXES[0]}"
    path.write_text(export.text)
    imported = import_plan(path, tool, rtn_scores)
    by_hand = sum(
        -(-(m.rows * m.columns * m.bits + m.num_groups * GROUP_BITS[name](m.bits)) // 8) for m in imported.plan.matrices
    )
    assert imported.tool_bytes == export.tool_bytes == by_hand
    if name != "torchao":  # its zero points are not packed
        assert imported.plan.encoder_bytes == by_hand
    check_plan(imported.plan)
    best = best_within(imported, rtn_scores)
    assert best.encoder_bytes <= by_hand
    told = "\n".join(import_lines(imported, best))
    assert f"at {format_bytes(by_hand)}" in told
    assert f"score again with --forms {imported.plan.matrices[0].form}" in told


def test_a_config_smaller_than_every_scored_plan_has_no_rival(rtn_scores, tmp_path):
    """Symmetric ranges at the least bits, beside scores of ranges with offsets alone."""
    least = allocate(
        in_form(rtn_scores, "symmetric"), Limits(), constraints=PlanConstraints(least="bytes", max_loss=1e9)
    )
    path = tmp_path / "config.yaml"
    path.write_text(export_plan(least, config_tool("modelopt"), ".yaml").text)
    imported = import_plan(path, config_tool("modelopt"), rtn_scores)
    assert imported.tool_bytes == least.encoder_bytes
    assert best_within(imported, rtn_scores) is None
    [line] = import_lines(imported, None)
    assert line.startswith("our best plan    none: no scored choices fit into the imported plan's")


def test_a_refit_that_does_not_fit_says_what_the_tool_needs(cli, rtn_scores, tmp_path):
    """The figures are the tool's smallest plan, and the advice is of options that exist: not the solver's own."""
    least = allocate(rtn_scores, Limits(), constraints=PlanConstraints(least="bytes", max_loss=1e9))
    # NNCF's smallest format has a scale and an offset for each row
    floor = sum(m.rows * m.columns // 4 + 4 * m.rows for m in rtn_scores.profile.matrices)
    with pytest.raises(InfeasibleError, match=rf"its formats take at least {floor:,} bytes for the encoder") as stop:
        refit(least, config_tool("nncf"), rtn_scores, None, Workload())
    assert f"the plan takes {least.encoder_bytes:,} and {least.total_bytes:,}." in str(stop.value)
    write_allocation(least, tmp_path / "plan.json")
    (tmp_path / "scores.json").write_text(rtn_scores.model_dump_json(by_alias=True))
    where = ("--to", "nncf", "-s", tmp_path / "scores.json", "--refit", "-o", tmp_path / "out.json")
    found = cli("export-config", tmp_path / "plan.json", *where)
    assert found.code == 3 and found.complaint.endswith("or convert without --refit.")
    assert "--bits" not in found.complaint and "--total-budget" not in found.complaint


def test_what_is_carried_is_priced_with_tables_as_planned(rtn_scores):
    """Where the tool carries every matrix, planned and carried loss are the same sum, tables included."""
    scores = with_scored_tables(rtn_scores)
    plan = allocate(scores, Limits(encoder_bytes=scores.profile.encoder_elements // 2))
    export = export_plan(plan, config_tool("compressed-tensors"), ".json")
    assert all(item.is_exact for item in export.carried) and plan.tables[0].predicted_loss > 0
    cost = export_cost(export, plan, scores)
    assert cost.carried_loss == pytest.approx(cost.planned_loss) == plan.predicted_loss


def with_scored_tables(scores):
    """The same scores with made-up ones of every table."""
    tables, choices = scores.profile.tables, ("2bit/rows:each/rtn", "8bit/rows:each/rtn")
    value = [[0.01, 0.0001]] * len(tables)
    document = scores.model_dump(by_alias=True)
    document["tables"] = {
        "modules": [t.module for t in tables], "choices": choices, "value": value, "std_error": value,
        "weight_error": value, "unseen_rows": [0.5] * len(tables), "unseen_reads": [0.1] * len(tables),
        "contains": "made up",
    }  # fmt: skip
    return ScoreTable.model_validate(document)


def test_bytes_of_a_tool_are_its_block_bytes(reference):
    """llama.cpp's published block sizes: q2_k 84, q3_k 110, q6_k 210 bytes for 256 weights; q4_0 18, q8_0 34 for 32."""
    tool = config_tool("llama.cpp")
    matrix = random_plan(reference, 0).matrices[0]
    rows, columns = matrix.rows, matrix.columns
    per_weight = {o.name: o.bytes(rows, columns, heads=12) / (rows * columns) for o in tool.offers(matrix)}
    blocks = {"q2_k": 84 / 256, "q3_k": 110 / 256, "q4_0": 18 / 32, "q4_1": 20 / 32, "q5_0": 22 / 32, "q5_1": 24 / 32,
              "q6_k": 210 / 256, "q8_0": 34 / 32}  # fmt: skip
    assert per_weight == pytest.approx(blocks)


def test_widths_that_super_blocks_do_not_divide_get_plain_blocks(gptq_plan):
    """A hidden width of 32 has no 2-bit type in llama.cpp; the nearest has more bits."""
    tool = config_tool("llama.cpp")
    assert {item.offer.name for item in export_plan(gptq_plan, tool, ".txt").carried} <= {"q4_0", "q4_1", "q5_0",
                                                                                         "q5_1", "q8_0"}  # fmt: skip


def test_export_then_import_on_the_command_line(cli, tmp_path, reference_plan):
    """Both verbs end to end; the imported plan is a readable allocation with its device cost."""
    write_allocation(reference_plan, tmp_path / "plan.json")
    found = cli(
        "export-config", tmp_path / "plan.json", "--to", "gptqmodel", "-s", "reference", "-o", tmp_path / "g.json"
    )
    assert found.code == 0
    assert "groups rows:128 become rows:each" in found.out
    planned, carried = map(float, re.search(r"([\d.]+) planned, ([\d.]+) with what the tool runs", found.out).groups())
    assert 0 < planned < carried
    blind = cli("export-config", tmp_path / "plan.json", "--to", "gptqmodel", "-o", tmp_path / "g.json")
    assert "cost of the changes unknown without --scores" in blind.out
    options = ("--from", "gptqmodel", "-s", "reference", "--device", "car-soc", "-o", tmp_path / "back.json")
    back = cli("import-config", tmp_path / "g.json", *options)
    assert back.code == 0
    assert "our best plan" in back.out and "on car-soc, predicted:" in back.out
    plan = Allocation.model_validate(json.loads((tmp_path / "back.json").read_text()))
    assert plan.status == "unproven" and "GPTQModel" in plan.solver


def test_our_best_plan_in_another_tools_words_is_as_good_as_itself(cli, tmp_path, gptq_plan, gptq_scores):
    """Both sides of the comparison are sums of scores: a cross-fitted loss beside one made a plan beat itself."""
    best = best_within(Import(gptq_plan, gptq_plan.encoder_bytes, {}), gptq_scores)
    ours = Import(best, best.encoder_bytes, {})
    assert best.predicted_loss != best.sum_of_scores
    [first, second] = import_lines(ours, best)
    assert first.endswith("(1.00x)") and first.count(f"{best.sum_of_scores:.4g}") == 2
    assert f"{best.predicted_loss:.4g}" in second and "did not choose it" in second
    as_scored = best.model_copy(update={"predicted_loss": best.sum_of_scores})
    assert len(list(import_lines(Import(as_scored, best.encoder_bytes, {}), as_scored))) == 1


def test_refit_needs_scores_and_helps(cli, tmp_path, reference_plan):
    write_allocation(reference_plan, tmp_path / "plan.json")
    where = (tmp_path / "plan.json", "--to", "nncf", "-o", tmp_path / "n.json")
    assert "--refit: needs --scores" in cli("export-config", *where, "--refit").complaint
    assert "72 of 72 matrices keep" in cli("export-config", *where, "--refit", "-s", "reference").out


@pytest.mark.parametrize(
    ("name", "suffix", "edit", "code", "message"),
    [
        ("gptqmodel", ".json", lambda t: t[:40], 4, "Invalid JSON"),
        ("gptqmodel", ".json", lambda t: "[]", 4, "holds a list, not an object"),
        ("gptqmodel", ".json", lambda t: t.replace("{", '{"bits": 2,', 1), 4, "key 'bits' occurs twice"),
        ("gptqmodel", ".json", lambda t: t.replace("{", '{"damp": NaN,', 1), 4, "damp: is nan"),
        ("autoround", ".json", lambda t: "[" * 10000, 4, "nested deeper than 64 levels"),
        ("modelopt", ".yaml", lambda t: t + "algorithm: max\n", 4, "found the key 'algorithm' again"),
        ("coremltools", ".yaml", lambda t: "a: &a {}\nb: *a", 4, "config.yaml:1: found the anchor '&a'"),
        ("coremltools", ".yaml", lambda t: "- 1", 4, "holds a list, not an object"),
        ("modelopt", ".yaml", lambda t: "#" * 2**20, 4, "found more than 1000000 bytes"),
        ("gptqmodel", ".json", lambda t: t.replace('"bits": 3', '"bits": 5'), 4, "5 bits were not scored"),
        ("gptqmodel", ".json", lambda t: t.replace('"group_size": 64', '"group_size": 100'), 4, "does not divide"),
        ("autoround", ".json", lambda t: t.replace("encoder.layer.0", "model.layers.0"), 4, "is for another model"),
        ("modelopt", ".yaml", lambda t: re.sub("num_bits: .", "num_bits: 10", t), 4, "choice: bits 10; legal: 1, 2, 3"),
        ("modelopt", ".yaml", lambda t: "quant_cfg: []", 4, "names no matrix"),
        ("modelopt", ".yaml", lambda t: "quant_cfg: !!python/object/apply:os.system ['true']", 4, "found the tag"),
        ("torchao", ".json", lambda t: t.replace("IntxWeightOnlyConfig", "Float8Config"), 4, "is no IntxWeightOnly"),
        ("hawq", ".py", lambda t: "bit_config_dict = {'a': {'x': 4}, 'b': {}}", 4, "holds 2 configs (a, b); keep one"),
        ("hawq", ".py", lambda t: "bit_config_dict = __import__('os').getcwd()", 4, "no plan of HAWQ"),
        ("coremltools", ".yaml", lambda t: re.sub("n_bits: .", "n_bits: 99999999999", t), 4, "legal: 1, 2, 3, 4, 6, 8"),
        ("llama.cpp", ".txt", lambda t: t.replace("q2_k", "iq1_s"), 4, "type 'iq1_s' is none of"),
        ("llama.cpp", ".txt", lambda t: "\n".join(t.split()[1:]), 4, "--rest"),
    ],
)
def test_a_wrong_import_is_one_line(cli, tmp_path, reference_plan, name, suffix, edit, code, message):
    """What is cut off, of another model, not scored or not to be run is refused by name."""
    path = tmp_path / f"config{suffix}"
    path.write_text(edit(export_plan(reference_plan, config_tool(name), suffix).text))
    found = cli("import-config", path, "--from", name, "-s", "reference")
    assert found.code == code
    assert message in found.complaint


def test_bits_of_a_plan_are_bounded_before_memory_is_taken(cli, tmp_path, reference_plan):
    """A codebook of 2^bits entries of an absurd width is a line, not a computation without end."""
    document = json.loads(reference_plan.model_dump_json(by_alias=True))
    document["matrices"][0] |= {"bits": 99999999999, "form": "codebook"}
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(document))
    answer = cli("report", path, "-o", tmp_path / "report.html")
    assert answer.code == 4
    assert "bits" in answer.complaint


def test_the_rest_can_be_given_a_choice(cli, tmp_path, reference_plan):
    """Matrices that a foreign plan leaves in floats get the choice that `--rest` names."""
    text = "\n".join(export_plan(reference_plan, config_tool("llama.cpp"), ".txt").text.split()[2:])
    (tmp_path / "types.txt").write_text(text)
    options = ("--from", "llama.cpp", "-s", "reference", "--rest", "8bit/rows:each/gptq", "-o", tmp_path / "plan.json")
    assert cli("import-config", tmp_path / "types.txt", *options).code == 0
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert [m["bits"] for m in plan["matrices"][:3]] != [8, 8, 8] == [m["bits"] for m in plan["matrices"][:2]] + [8]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--to", "quark", "-o", "x.json"], "--to quark: unknown. Available: ai-edge-quantizer, autoround"),
        (
            ["--to", "modelopt", "-o", "x.json"],
            "--output: NVIDIA ModelOpt writes .yaml; found the file extension '.json'",
        ),
    ],
)
def test_a_wrong_export_is_one_line(cli, tmp_path, reference_plan, options, message):
    write_allocation(reference_plan, tmp_path / "plan.json")
    found = cli("export-config", tmp_path / "plan.json", *options)
    assert found.code == 2
    assert message in found.complaint


def test_scores_of_another_model_are_refused(cli, tmp_path, gptq_plan):
    write_allocation(gptq_plan, tmp_path / "plan.json")
    found = cli("export-config", tmp_path / "plan.json", "--to", "nncf", "-s", "reference", "-o", tmp_path / "n.json")
    assert found.code == 4
    assert "the scores are for" in found.complaint


def test_odd_module_names_survive(reference, tmp_path):
    """Dots, brackets, quotes and HTML in module names are neither patterns nor markup."""
    odd = ["a[0].b+(c)", "x.'q\"uote'", "<b>&amp;</b>.w", "ünï.cödé"]
    plan = random_plan(reference, 1)
    matrices = tuple(
        m.model_copy(update={"module": odd[i] if i < len(odd) else m.module}) for i, m in enumerate(plan.matrices)
    )
    specs = tuple(
        m.model_copy(update={"module": p.module}) for m, p in zip(plan.profile.matrices, matrices, strict=True)
    )
    plan = plan.model_copy(
        update={"matrices": matrices, "profile": plan.profile.model_copy(update={"matrices": specs})}
    )
    for name, suffix in ENDINGS:
        tool = config_tool(name)
        export = export_plan(plan, tool, suffix)
        back = tool.read(parse_config(export.text, tmp_path / f"config{suffix}", whole(tool)), plan.profile, suffix)
        assert {m: (o.bits, o.grouping) for m, o in back.items()} == {
            i.matrix.module: (i.offer.bits, i.offer.grouping) for i in export.carried
        }
        if suffix == ".yaml":
            yaml.safe_load(export.text)
