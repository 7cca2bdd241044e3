"""Write the reference pages from the code, and `how-good-is-it.md` from the benchmarks' result files.

    make docs     # or: python docs/generate.py

`tests/qbert_opt/house/test_docs.py` fails if a page differs from what this writes.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import statistics
import sys
import types
import typing
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jinja2
import typer
from pydantic import BaseModel

DOCS = Path(__file__).parent
ROOT = DOCS.parent
BENCHMARKS = ROOT / "benchmarks"
NOTE = "<!-- Written by docs/generate.py. Do not edit: change the code, then run `make docs`. -->\n\n"
DOCUMENTS = {
    "scores.json": ("qbert_opt.spec.scores", "ScoreTable", "`sensitivity`"),
    "allocation.json": ("qbert_opt.spec.allocation", "Allocation", "`solve`, `import-config`"),
    "frontier.json": ("qbert_opt.planning.frontier", "TradeOff", "`pareto`"),
    "measured.json": (
        "qbert_opt.planning.measured_points",
        "MeasuredPoints",
        "`evaluate --json`, for `pareto --measured`, `report --measured`",
    ),
    "engine.json": ("qbert_opt.engines.record", "EngineRecord", "`export`"),
    "optimized.json": ("qbert_opt.workflows.outcome", "Outcome", "`optimize`"),
    "task.json": ("qbert_opt.sweep.cache", "Record", "`sweep`, beside each result in its cache"),
    "stability.json": ("qbert_opt.planning.stability", "Stability", "`sensitivity --stability`"),
    "row_map.json": ("qbert_opt.workflows.trim_vocabulary", "RowMap", "`trim-vocabulary`, in the model folder"),
    "diagnosis.json": ("qbert_opt.scoring.diagnosis", "Diagnosis", "`diagnose`"),
}
PLUGINS = {
    "metrics": "qbert_opt/scoring/metrics",
    "quantizers": "qbert_opt/quantization/methods",
    "solvers": "solvers/methods",
    "engines": "qbert_opt/engines/backends",
    "configs": "qbert_opt/configs/tools",
    "devices": "hwmodels/devices",
    "training_steps": "qbert_opt/training/steps",
    "training_losses": "qbert_opt/training/losses",
    "training_quantizers": "qbert_opt/training/quantizers",
    "block_errors": "qbert_opt/training/block_errors",
    "nonlinearities": "qbert_opt/integer/nonlinearities",
    "emitters": "qbert_opt/integer/emitters",
}

COMMANDS = """# Commands

`qbert-opt VERB --help` prints the same. Exit codes: 0 done (also when a pipe's reader, such as `head`, has enough), 2
usage or an output that cannot be written (full disk), 3 infeasible, 4 bad input file, 1 a bug in qbert-opt, 130
interrupted (Ctrl-C), 143 terminated.
"""
FILES = """# File formats

JSON in UTF-8, written completely or not at all. `schema` names the kind and version of the document; any other is
rejected. Readers ignore unknown fields. The quantized folder is described in
[concepts/artifact.md](concepts/artifact.md), device files in [device-files.md](device-files.md).
"""
DEVICE_FILES = """# Device files

One YAML file describes one device. Quantities are strings with their unit; shares, counts and cycles are plain numbers.
`inherit: NAME` copies every missing field from that device. Files are YAML 1.2 without tags, anchors and merge
keys: `010` is ten, and `yes`, `1:30` and dates are text. Other packages can provide devices through an entry point in
the group `qbert_opt.devices`.

`qbert-opt devices check FILE` reports errors and counts assumed figures; `qbert-opt devices schema` prints the JSON
schema for an editor. [Notebook 06](../notebooks/06_bring_your_own_device.ipynb) writes one.

**Measure this machine**: `qbert-opt calibrate -o host.yaml` times kernels, memories and small models with one engine
(`--engine`).

**Measure another board**, on which neither torch nor this project is installed:

    qbert-opt calibrate --bundle board      # about 2 MB: ONNX models without weights, measure.py, README.txt
    scp -r board BOARD:                     # there: pip install onnxruntime; python3 board/measure.py
    qbert-opt calibrate --from-bundle result.json -o board.yaml

The models are those that a local calibration of ONNX Runtime times; the timing code and the fit are the same. The
script draws weights on the board, since no time depends on their values. It needs Python 3.10, onnxruntime (numpy comes
with it) and about 2 GB of memory. The result is read strictly: every time is positive and finite, and the hash of what
the bundle times must be this version's.

A device that was not measured has a band of latencies in every report, not a figure: its file ranks plans.
"""
PLUG_INS = """# Plug-ins

A plug-in is a file in one of these folders, and its name is the file's name. How to add one:
[CONTRIBUTING](../CONTRIBUTING.md).
"""


ENGINES = """# Engines

`solve --engine NAME` takes only what the engine holds, and counts the bytes of its file in every limit. `export` and
the simulator read the same rules, `RULES` in `qbert_opt/engines/backends/`. A product whose inputs an engine does not
round to integers runs in floating point, and tensors between operations are as wide as the engine keeps them, whatever
the device could keep. Device files list the engines that run on a device.

`solve --portable openvino,onnxruntime,qnn` makes one plan for several engines: only choices that each of them stores in
the same codes, {-2, -1, 0, 1} times the scale at 2 bits (form `signed`), -7 to 7 at 4 and -127 to 127 at 8 bits (form
`symmetric`), in groupings that all of them support. Score such choices: `sensitivity --bits 2,4,8 --forms
symmetric,signed`. Every limit on bytes counts the largest file: each matrix as the engine stores it that takes most, so
that no engine's file is larger. On a device, one of the engines must run there. `--portable all` is every engine with a
file of its own that holds all three.

Measured, file by file: [the same plan in every engine](how-good-is-it.md#the-same-plan-in-every-engine).
"""


def pages() -> dict[str, str]:
    """Return every generated page by its file name."""
    return {
        "commands.md": NOTE + commands(),
        "files.md": NOTE + files(),
        "device-files.md": NOTE + device_files(),
        "plug-ins.md": NOTE + plug_ins(),
        "engines.md": NOTE + engines(),
        "how-good-is-it.md": NOTE + results(),
    }


def commands() -> str:
    """Every verb with its options, from the command line itself."""
    from qbert_opt.cli.app import app

    lines = [COMMANDS]
    for words, command in _verbs(typer.main.get_command(app), []):
        lines += [f"## qbert-opt {' '.join(words)}", "", inspect.cleandoc(command.help or "").replace("\f", ""), ""]
        rows = [_parameter(p) for p in command.params if p.name != "help"]
        if rows:
            lines += ["| argument | type | default | description |", "|---|---|---|---|", *rows, ""]
    return "\n".join(lines).rstrip() + "\n"


def _verbs(group: Any, words: list[str]) -> Iterator[tuple[list[str], Any]]:
    for name, command in sorted(group.commands.items()):
        if hasattr(command, "commands"):
            yield from _verbs(command, [*words, name])
        else:
            yield [*words, name], command


def _parameter(p: Any) -> str:
    is_option = p.param_type_name == "option"
    name = ", ".join(f"`{o}`" for o in (*p.opts, *p.secondary_opts)) if is_option else f"`{p.name.upper()}`"
    takes = "" if getattr(p, "is_flag", False) else _kind(p.type_descriptor.annotation)
    takes += ", repeatable" if getattr(p, "multiple", False) else ""
    default = "required" if p.required else "" if p.default in (None, False) else f"`{p.default}`"
    return f"| {name} | {takes} | {default} | {_cell(getattr(p, 'help', None) or '')} |"


def files() -> str:
    """Every JSON document that is read or written, field by field."""
    lines = [FILES]
    seen: set[type] = set()
    for name, (module, model, writer) in DOCUMENTS.items():
        if find_spec(module) is None:
            continue
        root = getattr(import_module(module), model)
        schema = root.model_fields["document_schema"].default
        lines += [f"## {name}", "", f"`{schema}`, written by {writer}.", ""]
        for part in _models(root):
            if part not in seen:
                seen.add(part)
                lines += _model_lines(part)
    return "\n".join(lines).rstrip() + "\n"


def device_files() -> str:
    """The device schema: every part with its fields, units and legal values."""
    from hwmodels import Device, bundled_devices

    lines = [DEVICE_FILES]
    lines += ["Bundled: " + ", ".join(f"`{name}`" for name in bundled_devices()) + ".", ""]
    for part in _models(Device):
        lines += _model_lines(part, by_alias=True)
    return "\n".join(lines).rstrip() + "\n"


def plug_ins() -> str:
    """Every file of the folders that are registries."""
    lines = [PLUG_INS.rstrip()]
    for title, folder in PLUGINS.items():
        lines += ["", f"## {title} (`{folder}/`)", "", "| name | description |", "|---|---|"]
        for path in sorted((ROOT / folder).iterdir()):
            if path.suffix == ".py" and not path.name.startswith("_"):
                about = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").splitlines()[0]
                lines.append(f"| `{path.stem.replace('_', '-')}` | {_cell(about)} |")
            elif path.suffix == ".yaml":
                title_line = re.search(r"^name: (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
                lines.append(f"| `{path.stem}` | {_cell(title_line[1] if title_line else '')} |")
    return "\n".join(lines) + "\n"


def engines() -> str:
    """What every engine holds, how its file stores it, what runs in integers, and where each rule comes from."""
    from qbert_opt.engines.session import rules_of
    from qbert_opt.runtime.plugins import available

    header = "| engine | matrices | inputs in integers | tensors | codes in its file | inputs as planned | runs here |"
    lines = [ENGINES.rstrip(), "", header, "|---|---|---|---|---|---|---|"]
    for name in available("engines"):
        rules = rules_of(name)
        kinds = "; ".join(f"{kind}: {', '.join(map(str, bits))} bits" for kind, bits in rules.integer_inputs.items())
        stored = "as packed" if rules.file is None else f"{', '.join(map(str, rules.file.containers))} bits"
        static = ", ".join(map(str, rules.static_bits)) + " bits, static" if rules.static_bits else ""
        static += ", one range per row" if rules.static_needs_rows else ""
        static += "; queries and keys too" if rules.static_scores else ""
        static += ", ".join(map(str, rules.token_bits)) + " bits, one range per token" if rules.token_bits else ""
        runs = (
            "no: planning only"
            if rules.planning_only
            else f"checked on {rules.checked_on}"
            if rules.checked_on
            else "yes"
        )
        tensors = "as the device" if rules.activation_bits is None else f"{rules.activation_bits} bits"
        integers = kinds or f"none ({rules.float_type})"
        lines.append(f"| `{name}` | {rules.held} | {integers} | {tensors} | {stored} | {static or 'no'} | {runs} |")
    for name in available("engines"):
        rules = rules_of(name)
        lines += ["", f"## {name}", "", *(f"- {_cell(source)}" for source in rules.sources)]
        if rules.speeds:
            lines += ["", "| kernel | times as fast as its float32 | source |", "|---|---|---|"]
            lines += [f"| {s.what} | {s.times_float32 or 'not measured'} | {_cell(s.source)} |" for s in rules.speeds]
    return "\n".join(lines) + "\n"


def results() -> str:
    """Measured results: every figure comes from a result file, with its command."""
    documents = {
        path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(BENCHMARKS.glob("*/*.json"))
    }
    for path in sorted(BENCHMARKS.glob("*/*.jsonl")):
        documents[path.stem] = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(DOCS / "templates"), undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True, autoescape=False,  # Markdown, from our own files
    )  # fmt: skip
    environment.filters["g"] = lambda value, digits=3: f"{value:.{digits}g}"
    environment.filters["percent"] = lambda value, digits=1: f"{100 * value:.{digits}f}"
    environment.filters["geometric"] = statistics.geometric_mean
    environment.filters["mb"] = lambda value: f"{value / 1e6:.2f}"
    return _with_todays_paths(environment.get_template("how-good-is-it.md").render(results=documents))


def _with_todays_paths(text: str) -> str:
    """Commands as they are typed now: result files keep the command that was run, and scripts have moved since."""
    files = {path.name: path.relative_to(ROOT) for path in BENCHMARKS.glob("*/*.*")}

    def module(found: re.Match[str]) -> str:
        return "python -m " + ".".join(files[found[1]].with_suffix("").parts)

    text = re.sub(r"python benchmarks/(?:\w+/)*(\w+\.py)", module, text)
    return re.sub(r"benchmarks/(\w+\.jsonl?)", lambda found: str(files[found[1]]), text)


def _models(root: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """A model and those inside it, each once, in the order of their fields."""
    waiting: list[type[BaseModel]] = [root]
    seen: set[type[BaseModel]] = set()
    while waiting:
        model = waiting.pop(0)
        if model in seen:
            continue
        seen.add(model)
        yield model
        waiting += [m for field in model.model_fields.values() for m in _inside(field.annotation)]


def _inside(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _inside(argument)


def _model_lines(model: type[BaseModel], *, by_alias: bool = False) -> list[str]:
    about, attributes = _docstring(model)
    lines = [f"### {model.__name__}", "", about, "", "| field | type | default | description |", "|---|---|---|---|"]
    schema = model.model_json_schema(by_alias=True).get("properties", {}) if by_alias else {}
    for name, field in model.model_fields.items():
        key = field.alias or name
        described = attributes.get(name) or attributes.get(key) or field.description
        described = described or schema.get(key, {}).get("description", "")
        example = (schema.get(key, {}).get("examples") or [""])[0]
        kind = f"text such as `{example}`" if example else _kind(field.annotation)
        default = "required" if field.is_required() else "" if field.default is None else _default(field)
        lines.append(f"| `{key}` | {_cell(kind)} | {_cell(default)} | {_cell(described)} |")
    return [*lines, ""]


def _default(field: Any) -> str:
    if field.default_factory is not None or field.default in ((), {}):
        return "empty"
    return "" if isinstance(field.default, BaseModel) else f"`{field.default}`"


def _kind(annotation: Any) -> str:
    """A type in the terms of JSON."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return ", ".join(f"`{a}`" for a in arguments)
    if origin is typing.Annotated:
        return _kind(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join("none" if a is type(None) else _kind(a) for a in arguments)
    if origin is tuple:
        kinds = [_kind(a) for a in arguments if a is not Ellipsis]
        return f"list of {kinds[0]}" if Ellipsis in arguments else f"[{', '.join(kinds)}]"
    if origin is dict:
        return f"mapping of {_kind(arguments[0])} to {_kind(arguments[1])}"
    names = {"int": "integer", "float": "number", "str": "text", "bool": "true or false", "Path": "path"}
    name = getattr(annotation, "__name__", str(annotation))
    return names.get(name, name)


def _docstring(model: type[BaseModel]) -> tuple[str, dict[str, str]]:
    """A class's description, and those of its attributes."""
    text = inspect.getdoc(model) or ""
    about, _, listed = text.partition("Attributes:\n")
    attributes: dict[str, str] = {}
    name = ""
    for line in listed.splitlines():
        start = re.match(r" {4}(\w+): (.*)", line)
        if start:
            name = start[1]
            attributes[name] = start[2]
        elif name:
            attributes[name] += " " + line.strip()
    return about.strip(), {key: value.strip() for key, value in attributes.items()}


def _cell(text: str) -> str:
    return " ".join(str(text).split()).replace("|", "\\|")


def main() -> None:
    """Write the pages and print which changed."""
    for name, text in pages().items():
        path = DOCS / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"docs/{name}", file=sys.stderr)


if __name__ == "__main__":
    main()
