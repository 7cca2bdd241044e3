"""Kind 11: every option that is taken does something, and what is written is said."""

import pytest
from typer.main import get_command

from qbert_opt.cli.app import app
from qbert_opt.cli.idle_options import RULES
from qbert_opt.data.reference import reference_scores
from qbert_opt.planning.planner import allocate
from qbert_opt.spec.allocation import write_allocation
from qbert_opt.spec.limits import Limits


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """The bundled model at 25 MB, in a file."""
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    write_allocation(allocate(reference_scores(), Limits(encoder_bytes=25_000_000)), path)
    return path


def test_a_table_of_operations_is_followed_by_the_comparison(cli, plan, tmp_path):
    """`--per-op table --compare int8 --roofline r.png`: three answers to three questions."""
    picture = tmp_path / "r.png"
    asked = ("--device", "car-soc", "--per-op", "table", "--compare", "int8", "--roofline", picture)
    found = cli("simulate", plan, *asked)
    assert found.code == 0, found.err
    assert "this plan" in found.out and "int8" in found.out and f"wrote {picture}" in found.out


def test_a_comparison_over_lengths_is_refused(cli, plan):
    """It would print nothing."""
    found = cli("simulate", plan, "--device", "car-soc", "--lengths", "16:1,64:1", "--compare", "int8")
    assert found.code == 2 and "--compare: needs a single --seq-len" in found.err


def test_devices_show_has_units(cli):
    """Sizes in bytes, bandwidths per second, energies per what they are for."""
    out = cli("devices", "show", "car-soc").out
    for path, shown in (
        ("memories.ddr.read_bw", "17.06 GB/s"),
        ("units.mma.clock", "1 GHz"),
        ("memories.ddr.energy", "8.00 pJ/bit"),
    ):
        [line] = [line for line in out.splitlines() if line.startswith(path + " ")]
        assert shown in line


def test_a_frontier_of_two_resources_repeats_no_plan(cli):
    """Several pairs of budgets have the same best plan: it is one row."""
    out = cli("pareto", "--device", "car-soc", "--resource", "bytes,bops", "--points", "9").out
    rows = [line for line in out.splitlines() if " MB " in line]
    assert len(rows) > 2 and len(set(rows)) == len(rows)


ALWAYS = {"quiet"}
"""Options of any verb that are never refused: silence where nothing would be printed is what was asked for."""
OF_USE = {
    "calibrate": "bundle",
    "diagnose": "model data output plot layer samples vectors steps points text_column label_column split seed "
    "memory_limit torch_device",
    "evaluate": "folder data reference text_column label_column split max_tokens engine as_json",
    "export": "folder engine output data activations tolerance dtype",
    "export-config": "plan to output scores refit",
    "fine-tune": "encoder data output kind epochs learning_rate batch_size batches_per_update loss text_column "
    "label_column split seed",
    "import-config": "config source scores device rest output",
    "integer": "folder data output nonlinearity calibration_samples emit emit_tokens text_column label_column split "
    "as_json",
    "optimize": "model data output budget total_budget max_latency max_memory max_dram_bytes max_bandwidth max_energy "
    "max_scratchpad max_bops min_tokens_per_s max_accuracy_drop max_flips test_data device text_column label_column "
    "split engine activations scores max_tokens seed as_json",
    "pareto": "scores device output as_json plot devices allow_drop",
    "quantize": "plan model output data method sequential paged",
    "recover": "source model data output recipe minutes epochs rates batch_size batches_per_update held_back tables "
    "nonlinearity text_column split seed",
    "report": "plan output scores device devices measured",
    "run": "folder text data engine threads similarity as_json",
    "sensitivity": "model data output metric method bits groupings forms table_bits activation_bits "
    "calibration_samples scoring_samples scoring_pool text_column label_column split held_out curvature max_tokens "
    "seed paged memory_limit torch_device stability",
    "simulate": "plan device lengths per_op roofline timeline batch_size engine nonlinearity rate",
    "solve": "until budget total_budget device scores model bits groupings activation_bits engine pins excluded ties "
    "max_formats max_loss least portable allow_drop allow_drop_heads top_k refine recipe output as_json plot",
    "sweep": "source output cache threads scheduler as_json",
    "trim-vocabulary": "model data words test_data output",
}
"""Options that are of use in every mode of their verb, or refused where they are read; all others have a rule."""
IDLE = [
    ("calibrate --bundle b --engine openvino", "--engine: is for measuring this machine"),
    ("calibrate --bundle b --rounds 5", "--rounds: is for measuring this machine"),
    ("calibrate --from-bundle r.json --seconds 5", "--seconds: is for measuring this machine"),
    ("calibrate --bundle b -o x.yaml", "--out: makes a device file"),
    ("calibrate --bundle b --from-bundle r.json", "--from-bundle: makes a device file"),
    ("calibrate --from-bundle r.json --precision int8", "--precision: is recorded in --from-bundle"),
    ("evaluate f --data d --threads 2", "--threads: belongs to --engine"),
    ("evaluate f --data d --seq-len 7", "--seq-len: belongs to --engine"),
    ("evaluate f --data d --engine torch --paged", "--paged: is for models that torch evaluates"),
    ("evaluate f --data d --engine torch --scratch /tmp", "--scratch: is for models that torch evaluates"),
    *((f"{verb} --no-paged --scratch /tmp", "--scratch: is for a paged model")
      for verb in ("evaluate f --data d", "quantize p -m m -o o", "sensitivity -m m --data d")),
    ("export f --engine e -o o --split test", "--split: belongs to --data"),
    ("export f --engine e -o o --text-column t", "--text-column: belongs to --data"),
    ("export-config p --to nncf --device car-soc -o n.json", "--device: belongs to --refit"),
    ("import-config c --from nncf --scores s --seq-len 7", "--seq-len: belongs to --device"),
    ("import-config c --from nncf --scores s --batch-size 2", "--batch-size: belongs to --device"),
    ("optimize -m m --data d -o o --rate 5", "--rate: belongs to --device"),
    ("optimize -m m --data d -o o --seq-len 7", "--seq-len: belongs to --device or --engine"),
    ("optimize -m m --data d -o o --batch-size 7", "--batch-size: belongs to --device or --engine"),
    ("optimize -m m --data d -o o --scores s --metric guided", "--metric: is recorded in --scores"),
    ("optimize -m m --data d -o o --scores s --method rtn", "--method: is recorded in --scores"),
    ("optimize -m m --data d -o o --budget 3bit --confidence 90%", "--confidence: belongs to --max-flips"),
    ("optimize -m m --data d -o o --budget 3bit --least latency", "--least: belongs to --max-flips"),
    ("pareto --seq-len 7", "--seq-len: belongs to --device"),
    ("pareto --batch-size 7", "--batch-size: belongs to --device"),
    ("pareto --context 7", "--context: belongs to --device"),
    ("pareto --cache-bits 8", "--cache-bits: belongs to --device"),
    ("pareto -m m", "--model: is measured without some of its layers; add --allow-drop N."),
    ("pareto --data d", "--data: is measured without some of its layers; add --allow-drop N."),
    *((f"pareto --{name} c", f"--{name}: belongs to --data") for name in ("text-column", "label-column", "split")),
    ("pareto --plans new", "--plans: belongs to --allow-drop."),
    ("pareto --compare a=b", "--compare: is shown in the plot only"),
    ("pareto --plan p", "--plan: is shown in the plot only"),
    ("pareto --measured p", "--measured: is shown in the plot only"),
    ("pareto --devices a,b --resource dram", "--resource: belongs to a frontier"),
    ("pareto --devices a,b --points 9", "--points: belongs to a frontier"),
    ("quantize p -m m -o o --text-column t", "--text-column: belongs to --data"),
    ("quantize p -m m -o o --label-column t", "--label-column: belongs to --data"),
    ("quantize p -m m -o o --split t", "--split: belongs to --data"),
    ("recover p -m m --data d -o o --steps distill --block-error plain", "--block-error: belongs to step blocks"),
    ("recover p -m m --data d -o o --steps blocks --losses logits", "--losses: belongs to steps ranges and distill"),
    ("recover p -m m --data d -o o --steps blocks --teacher-cache 10%", "--teacher-cache: belongs to steps ranges"),
    *((f"recover p -m m --data d -o o --recipe xtc --{name}", f"--{name.split()[0]}: is set by --recipe")
      for name in ("steps blocks", "losses logits", "block-error plain")),
    ("recover p -m m --data d -o o --recipe xtc --label-column t", "--label-column: belongs to losses with labels"),
    ("recover p -m m --data d -o o --label-column t", "--label-column: belongs to losses with labels"),
    ("report p -o o --seq-len 7", "--seq-len: belongs to --device"),
    ("report p -o o --batch-size 7", "--batch-size: belongs to --device"),
    ("run f --text x --split test", "--split: belongs to --data"),
    ("run f --text x --text-column t", "--text-column: belongs to --data"),
    ("sensitivity -m m --data d --budget 3bit", "--budget: belongs to --stability"),
    *((f"simulate p -d car-soc --lengths 16:1 --{name}", f"--{name.split()[0]}: needs a single --seq-len")
      for name in ("compare int8", "per-op csv", "roofline r.png", "timeline t.png", "seq-len 7", "context 64",
                   "cache-bits 8")),
    ("simulate p -d car-soc --compare int8 --json", "--compare: prints a table"),
    ("simulate p -d car-soc --compare int8 --per-op csv", "--compare: prints a table"),
    ("simulate p -d car-soc --per-op table --json", "--json: prints the whole report"),
    *((f"solve {scores} --{name}", f"--{name.split()[0]}: belongs to --model")
      for scores in ("--scores s", "", "--scores s --model m --data d --verify v")
      for name in ("metric nonsense", "method rtn", "calibration-samples 5", "scoring-samples 5", "scoring-pool 9",
                   "seed 0", "max-tokens 64")),
    ("solve --data d", "--data: belongs to --model"),
    *((f"solve --{name} c", f"--{name}: belongs to --data") for name in ("text-column", "label-column", "split")),
    ("solve --scores s --model m --data d --measure torch", "--data: belongs to --verify, --refine, --allow-drop and"),
    ("solve --rate 5", "--rate: belongs to --device"),
    ("solve --nonlinearity auto", "--nonlinearity: belongs to --device"),
    ("integer out --data d -o o --device car-soc", "--device: belongs to --nonlinearity auto"),
    ("solve --seq-len 64", "--seq-len: belongs to --device"),
    ("solve --batch-size 2", "--batch-size: belongs to --device"),
    ("solve --context 64", "--context: belongs to --device"),
    ("solve --cache-bits 8", "--cache-bits: belongs to --device"),
    ("simulate p -d car-soc --phase decode", "--phase: belongs to --compare"),
    ("solve --within 5%", "--within: belongs to --top-k"),
    ("solve --apart 5", "--apart: belongs to --top-k"),
    *((f"solve --recipe r --device car-soc --{name}", f"--{name.split()[0]}: ")
      for name in ("solver dp", "time-limit 5s", "explain", "table-bits 4", "max-latency 1ms", "max-memory 1MB",
                   "max-dram-bytes 1MB", "max-bandwidth 1GB/s", "max-energy 1mJ", "max-scratchpad 1kB", "max-bops 5",
                   "min-tokens-per-s 5")),
    *((f"solve --json --model m --data d --{name}", f"--{name.split()[0]}: prints tables")
      for name in ("explain", "verify v", "measure torch")),
    ("solve --activation-bits none --activation-ranges token", "--activation-ranges: belongs to rounded inputs"),
    ("sweep s -o o --scheduler tls://h:1 --workers 2", "--workers: is for processes on this machine"),
    ("sweep s -o o --scheduler tls://h:1 --worker-memory 1GiB", "--worker-memory: is for processes on this machine"),
    ("sweep s -o o --scheduler tls://h:1 --dashboard 127.0.0.1:1", "--dashboard: is for processes on this machine"),
    ("sweep s -o o --tls-ca c", "--tls-ca: belongs to --scheduler"),
    ("sweep s -o o --tls-cert c", "--tls-cert: belongs to --scheduler"),
    ("sweep s -o o --tls-key c", "--tls-key: belongs to --scheduler"),
    ("trim-vocabulary -m m --words w -o o --min-count 2", "--min-count: belongs to --data"),
    ("trim-vocabulary -m m --words w -o o --tiers 20%", "--tiers: belongs to --data"),
    ("trim-vocabulary -m m --words w -o o --split train", "--split: belongs to --data"),
    ("trim-vocabulary -m m --words w -o o --text-column t", "--text-column: belongs to --data or --test-data"),
    ("trim-vocabulary -m m --words w -o o --label-column t", "--label-column: belongs to --test-data"),
]  # fmt: skip


def verbs():
    """Every verb with its options."""
    commands = get_command(app).commands
    return {name: verb for name, verb in commands.items() if not hasattr(verb, "commands")}


def test_every_option_of_every_verb_is_of_use_or_has_a_rule():
    """A new option is put into one of the two lists: then somebody has thought about when it does nothing."""
    for name, verb in verbs().items():
        ruled = {option for rule in RULES.get(name, ()) for option in rule.options}
        of_use = set(OF_USE.get(name, "").split())
        assert {p.name for p in verb.params} - ALWAYS == ruled | (of_use - ruled), name
    assert set(RULES) <= set(verbs())


@pytest.mark.parametrize(("line", "message"), IDLE)
def test_an_option_that_would_do_nothing_is_refused(cli, line, message):
    """Before anything is read: none of these files exists."""
    found = cli(*line.split())
    assert found.code == 2 and message in found.complaint


def test_every_rule_has_an_example():
    """Each option of each rule is refused in one of the lines above."""
    shown = {(line.split()[0], message.split(":")[0]) for line, message in IDLE}
    for name, rules in RULES.items():
        flags = {p.name: max(p.opts, key=len) for p in verbs()[name].params}
        assert {(name, flags[option]) for rule in rules for option in rule.options} <= shown


def test_an_option_is_taken_where_it_belongs(cli, plan, tmp_path):
    """The same options beside the ones that they belong to."""
    assert cli("report", plan, "-d", "car-soc", "--seq-len", "64", "-o", tmp_path / "r.html").code == 0
    assert cli("solve", "-b", "25MB", "-d", "car-soc", "--rate", "5", "--seq-len", "64", "-q").code == 0
    assert cli("simulate", plan, "-d", "car-soc", "--lengths", "16:1", "--batch-size", "2").code == 0
