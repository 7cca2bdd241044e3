"""Options that would have no effect in combination with the others: refused in one line, before a verb starts.

The rules of each verb are here; the test of this file lists all other options, which have an effect in every mode.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import typer

Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule that says when some options of a verb have no effect.

    Attributes:
        options: names of their parameters.
        idle: whether they have no effect, given the values of all options of the verb.
        reason: what to tell the user after the name of the option.
    """

    options: tuple[str, ...]
    idle: Callable[[Values], bool]
    reason: str


def check_options(context: typer.Context) -> None:
    """Refuse options that the user gave although they have no effect in combination with the others.

    Args:
        context: the verb's context, with its values parsed.

    Raises:
        UsageError: names the option and what it belongs to.
    """
    from ..errors import UsageError

    for rule in RULES.get(context.info_name or "", ()):
        given = [name for name in rule.options if _is_given(context, name)]
        if given and rule.idle(context.params):
            [option] = [parameter for parameter in context.command.params if parameter.name == given[0]]
            raise UsageError(f"{max(option.opts, key=len)}: {rule.reason}")


def _is_given(context: typer.Context, name: str) -> bool:
    """Whether the user gave an option, even if with its default value."""
    source = context.get_parameter_source(name)
    return source is not None and source.name in ("COMMANDLINE", "ENVIRONMENT")


def _without(*names: str) -> Callable[[Values], bool]:
    """Return a condition that is true unless one of these options is given."""
    return lambda values: not any(values[name] for name in names)


def _beside(*names: str) -> Callable[[Values], bool]:
    """Return a condition that is true if one of these options is given."""
    return lambda values: any(values[name] for name in names)


def _is_timed(values: Values) -> bool:
    from ..engines.record import is_exported

    return bool(values["engine"]) or is_exported(values["folder"])


def _learns_at_budget(metric: str) -> bool:
    from ..runtime.plugins import available
    from ..scoring.task import LearnsAtBudget, metric_named

    # another check refuses the name of an unknown metric
    return metric not in available("metrics") or isinstance(metric_named(metric), LearnsAtBudget)


def _reads_no_labels(values: Values) -> bool:
    from ..runtime.plugins import available
    from ..training.objective import needs_labels
    from ..training.recipes import recipe
    from .quantities import weights

    losses = weights(values["losses"], "--losses") if values["recipe"] is None else recipe(values["recipe"]).losses
    return set(losses) <= set(available("training_losses")) and not needs_labels(losses)


WORKLOAD = ("seq_len", "batch_size")
CACHE = ("context", "cache_bits")
MEASURED = ("verify", "refine", "allow_drop", "allow_drop_heads")
OF_SCORING = ("metric", "method", "calibration_samples", "scoring_samples", "scoring_pool", "seed", "max_tokens")
OF_DEVICE = (
    "max_latency", "max_memory", "max_dram_bytes", "max_bandwidth", "max_energy", "max_scratchpad", "max_bops",
    "min_tokens_per_s",
)  # fmt: skip
COLUMNS = ("text_column", "label_column", "split")
NEEDS_DEVICE = "belongs to --device: without one no cost is predicted."
NEEDS_DATA = "belongs to --data, which is not given."
SCRATCH = Rule(
    ("scratch",), lambda values: values["paged"] is False, "is for a paged model; --no-paged keeps it in memory."
)

RULES: dict[str, tuple[Rule, ...]] = {
    "calibrate": (
        Rule(
            ("engine", "rounds", "seconds"),
            _beside("bundle", "from_bundle"),
            "is for measuring this machine; a bundle runs onnxruntime on the board, with options of measure.py.",
        ),
        Rule(("from_bundle", "out"), _beside("bundle"), "makes a device file; --bundle makes a folder for a board."),
        Rule(("precision",), _beside("from_bundle"), "is recorded in --from-bundle. Leave it out."),
    ),
    "evaluate": (
        Rule(("threads", "seq_len"), lambda values: not _is_timed(values), "belongs to --engine: nothing is timed."),
        Rule(
            ("paged", "scratch"),
            lambda values: _is_timed(values) and values["reference"] is None,
            "is for models that torch evaluates; here an engine does.",
        ),
        SCRATCH,
    ),
    "export": (Rule(("text_column", "split"), _without("data"), NEEDS_DATA),),
    "export-config": (
        Rule(("device",), _without("refit"), "belongs to --refit: a plan that is converted as it is needs no device."),
    ),
    "import-config": (Rule(WORKLOAD, _without("device"), NEEDS_DEVICE),),
    "integer": (
        Rule(
            ("device",),
            lambda values: values["nonlinearity"] != "auto",
            "belongs to --nonlinearity auto: a program does not depend on its price.",
        ),
    ),
    "optimize": (
        Rule(("rate",), _without("device"), NEEDS_DEVICE),
        Rule(WORKLOAD, _without("device", "engine"), "belongs to --device or --engine: nothing is timed or predicted."),
        Rule(("metric", "method"), _beside("scores"), "is recorded in --scores. Leave one of them out."),
        Rule(
            ("confidence", "least"),
            _without("max_accuracy_drop", "max_flips"),
            "belongs to --max-flips or --max-accuracy-drop: nothing is proven.",
        ),
    ),
    "pareto": (
        Rule((*WORKLOAD, *CACHE), _without("device", "devices"), NEEDS_DEVICE),
        Rule(("compare", "plan", "measured"), _without("plot"), "is shown in the plot only; add --plot FILE."),
        Rule(("model", "data"), _without("allow_drop"), "is measured without some of its layers; add --allow-drop N."),
        Rule(("plans",), _without("allow_drop"), "belongs to --allow-drop."),
        Rule(COLUMNS, _without("data"), NEEDS_DATA),
        Rule(
            ("resource", "points"),
            lambda values: bool(values["devices"]) and values["allow_drop"] is not None,
            "belongs to a family of sizes; --devices makes one plan for each. Remove it, or give one --device.",
        ),
        Rule(
            ("resource", "points"),
            lambda values: bool(values["devices"]) and not values["plot"],
            "belongs to a frontier; --devices prints one plan for each. Add --plot FILE, or give one --device.",
        ),
    ),
    "quantize": (Rule(COLUMNS, _without("data"), NEEDS_DATA), SCRATCH),
    "recover": (
        Rule(("steps", "losses", "block_error"), _beside("recipe"), "is set by --recipe."),
        Rule(
            ("block_error",),
            lambda values: "blocks" not in [step.strip() for step in values["steps"].split(",")],
            "belongs to step blocks, which is not in --steps.",
        ),
        Rule(
            ("losses", "teacher_cache"),
            lambda values: {step.strip() for step in values["steps"].split(",")} == {"blocks"},
            "belongs to steps ranges and distill, and only blocks are trained. Add one: --steps blocks,distill.",
        ),
        Rule(("label_column",), _reads_no_labels, "belongs to losses with labels; --losses has none."),
    ),
    "report": (
        Rule(
            WORKLOAD,
            _without("device", "devices"),
            "belongs to --device and --devices; the plan's own device is shown with the plan's own workload.",
        ),
    ),
    "run": (Rule(("text_column", "split"), _without("data"), NEEDS_DATA),),
    "sensitivity": (
        Rule(
            ("budget",),
            lambda values: not values["stability"] and not _learns_at_budget(values["metric"]),
            "belongs to --stability and --metric differentiable: no plan is made.",
        ),
        SCRATCH,
    ),
    "simulate": (
        Rule(
            ("compare", "per_op", "roofline", "timeline", "seq_len", *CACHE),
            _beside("lengths"),
            "needs a single --seq-len; --lengths gives several. Leave one of them out.",
        ),
        Rule(
            ("phase",),
            _without("compare", "per_op", "roofline", "timeline"),
            "belongs to --compare, --per-op, --roofline and --timeline; the report has both phases.",
        ),
        Rule(("compare",), _beside("as_json"), "prints a table, --json does not. Leave one of them out."),
        Rule(
            ("compare",),
            lambda values: values["per_op"] in ("csv", "json"),
            "prints a table, which --per-op csv and json do not have. Leave one of them out.",
        ),
        Rule(("as_json",), _beside("per_op"), "prints the whole report; --per-op has its own json."),
    ),
    "solve": (
        Rule(OF_SCORING, _beside("scores"), "belongs to --model; --scores are scored already."),
        Rule(OF_SCORING, _without("model"), "belongs to --model; the bundled reference is scored already."),
        Rule(("data",), _without("model"), "belongs to --model, which is not given."),
        Rule(COLUMNS, _without("data"), NEEDS_DATA),
        Rule(
            ("data",),
            lambda values: bool(values["scores"]) and not any(values[n] for n in MEASURED),
            "belongs to --verify, --refine, --allow-drop and --allow-drop-heads; --scores are scored already.",
        ),
        Rule(("rate",), _without("device"), NEEDS_DEVICE),
        Rule(WORKLOAD, _without("device", "measure"), NEEDS_DEVICE),
        Rule(CACHE, _without("device"), NEEDS_DEVICE),
        Rule(("nonlinearity",), _without("device"), NEEDS_DEVICE),
        Rule(("within", "apart"), _without("top_k", "measure"), "belongs to --top-k, for example --top-k 5."),
        Rule(("solver", "time_limit", "explain"), _beside("recipe"), "nothing is solved: --recipe is a fixed rule."),
        Rule(("table_bits",), _beside("recipe"), "--recipe is a fixed rule, which leaves tables at 8 bits."),
        Rule(OF_DEVICE, _beside("recipe"), "--recipe is a fixed rule, which keeps --budget and --total-budget only."),
        Rule(("explain", "verify", "measure"), _beside("as_json"), "prints tables, which --json leaves out."),
        Rule(
            ("activation_ranges",),
            lambda values: values["activation_bits"] == "none",
            "belongs to rounded inputs; --activation-bits none rounds none.",
        ),
    ),
    "sweep": (
        Rule(
            ("workers", "worker_memory", "dashboard"),
            _beside("scheduler"),
            "is for processes on this machine; --scheduler has its own workers.",
        ),
        Rule(("tls_ca", "tls_cert", "tls_key"), _without("scheduler"), "belongs to --scheduler."),
    ),
    "trim-vocabulary": (
        Rule(("min_count", "split", "tiers"), _without("data"), NEEDS_DATA),
        Rule(("text_column",), _without("data", "test_data"), "belongs to --data or --test-data; neither is given."),
        Rule(("label_column",), _without("test_data"), "belongs to --test-data: no other labels are needed."),
    ),
}  # fmt: skip
