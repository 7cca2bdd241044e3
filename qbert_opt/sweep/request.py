"""The sweep file: what is combined with what. Strict YAML; every refusal names the line and what is legal there."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from hwmodels import DeviceError, YamlError, parse_quantity, parse_yaml

from ..costs.devices import check_engine, load_device
from ..data.sources import bundled_datasets
from ..errors import InputFileError, QbertOptError, UsageError
from ..planning.budgets import parse_budget
from ..runtime.input_files import read_bytes
from ..runtime.plugins import available
from ..spec.activations import parse_activation_bits
from ..spec.choices import parse_bits, parse_forms, parse_groupings

MAX_BYTES = 1_000_000
Until = Literal["solve", "quantize", "export", "measure"]


def _listed(value: Any) -> Any:
    """A single value stands for a list of one."""
    return value if value is None or isinstance(value, list) else [value]


def _in_field(name: str) -> BeforeValidator:
    """A text alone stands for a mapping with this one field."""
    return BeforeValidator(lambda value: {name: value} if isinstance(value, str) else value)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Texts(_Part):
    """A data set, as `--data` with its columns.

    Attributes:
        path: a file, a folder of splits, or a bundled data set.
        text_column: one column of texts, or two of pairs; None tries the usual names.
        label_column: None tries the usual names.
        split: which split of a folder.
    """

    path: str
    text_column: Annotated[tuple[str, ...] | None, BeforeValidator(_listed)] = None
    label_column: str | None = None
    split: str | None = None


AsTexts = Annotated[Texts, _in_field("path")]
ManyTexts = Annotated[tuple[AsTexts, ...], BeforeValidator(_listed), Field(min_length=1)]


class Model(_Part):
    """A model of the sweep.

    Attributes:
        folder: of the float model.
        name: what the table calls it; by default `folder` as written.
        data: its calibration sets, instead of those of the whole sweep.
        test_data: its held-out text, instead of that of the whole sweep.
    """

    folder: str
    name: str | None = None
    data: ManyTexts | None = None
    test_data: AsTexts | None = None

    @property
    def label(self) -> str:
        """Its name in the table."""
        return self.name or self.folder


class Target(_Part):
    """Where a model is to run: a device, an engine, or an engine on a device.

    Attributes:
        device: a bundled device's name or a YAML file.
        engine: the engine whose files are written.
    """

    device: str | None = None
    engine: str | None = None


class Budget(_Part):
    """Limits of a plan, each as the option of `solve` of the same name."""

    budget: str | None = None
    total_budget: str | None = None
    max_latency: str | None = None
    max_memory: str | None = None
    max_dram_bytes: str | None = None
    max_energy: str | None = None

    @property
    def label(self) -> str:
        """Its name in the table: `2.5bit`, or `total_budget 20MB, max_latency 20ms`."""
        given = self.model_dump(exclude_none=True)
        return given["budget"] if list(given) == ["budget"] else ", ".join(f"{k} {v}" for k, v in given.items())


QUANTITIES = {"max_latency": "time", "max_memory": "bytes", "max_dram_bytes": "bytes", "max_energy": "energy"}
"""Limits that need no model's shapes, with the kind of their unit."""


class Recovery(_Part):
    """Training of every plan after quantization.

    Attributes:
        data: training texts.
        minutes: approximate training time of a plan; None trains the recipe's or the default passes.
        recipe: a published recipe instead of the default steps.
        seed: of the split of texts and the order of batches.
    """

    data: ManyTexts
    minutes: float | None = Field(default=None, gt=0)
    recipe: str | None = None
    seed: int = 0


class Sweep(_Part):
    """What a sweep combines: models × calibration sets × metrics × quantizers × targets × budgets.

    Attributes:
        models: model folders.
        data: calibration sets, for models without their own.
        test_data: held-out text that finished models are measured on, for models without their own.
        metrics: estimators of the loss.
        methods: quantizers.
        devices: devices, engines, or engines on devices; none leaves the hardware open.
        budgets: limits of a plan besides the device's own; none leaves those alone.
        until: the last step: `solve`, `quantize`, `export` or `measure`.
        recover: train every plan after quantization.
        bits: widths of matrices to score.
        groupings: of matrices to score.
        forms: what a range stores; None is the quantizer's usual form.
        activation_bits: widths of inputs to score, or `none`.
        calibration_samples: texts that fit the quantizer.
        scoring_samples: texts that score.
        max_tokens: length at which texts are cut; None is the model's window.
        seq_len: tokens of one inference; None is 128, or what the model reads if less.
        batch_size: sentences of one inference.
        seed: of the draw of calibration and scoring texts.
    """

    models: Annotated[tuple[Annotated[Model, _in_field("folder")], ...], BeforeValidator(_listed), Field(min_length=1)]
    data: ManyTexts | None = None
    test_data: AsTexts | None = None
    metrics: Annotated[tuple[str, ...], BeforeValidator(_listed), Field(min_length=1)] = ("directional",)
    methods: Annotated[tuple[str, ...], BeforeValidator(_listed), Field(min_length=1)] = ("gptq",)
    devices: Annotated[
        tuple[Annotated[Target, _in_field("device")], ...], BeforeValidator(_listed), Field(min_length=1)
    ] = (Target(),)
    budgets: Annotated[
        tuple[Annotated[Budget, _in_field("budget")], ...], BeforeValidator(_listed), Field(min_length=1)
    ] = (Budget(),)
    until: Until = "measure"
    recover: Recovery | None = None
    bits: str = "2,3,4,8"
    groupings: str = "rows:1,rows:heads,rows:128,rows:each,columns:32,columns:64,columns:128"
    forms: str | None = None
    activation_bits: str = "none"
    calibration_samples: int = Field(default=256, ge=1)
    scoring_samples: int = Field(default=256, ge=2)
    max_tokens: int | None = Field(default=None, ge=1)
    seq_len: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=1, ge=1)
    seed: int = Field(default=0, ge=0)


def read_sweep(path: str | Path) -> Sweep:
    """Read a sweep file; relative paths in it are relative to its folder.

    Args:
        path: a YAML file.

    Raises:
        InputFileError: unreadable, not strict YAML, an unknown key, a wrong value, nothing to combine, or an entry
            that is listed twice; names the line and what is legal.
    """
    file = Path(path)
    try:
        root = parse_yaml(read_bytes(file, MAX_BYTES, "a sweep file"), str(path))
    except YamlError as error:
        raise InputFileError(str(error)) from None
    if not isinstance(root.value, dict):
        raise InputFileError(f"{root.place}: found no mapping; legal are the keys {_legal_keys(Sweep)}; write models:")
    try:
        sweep = Sweep.model_validate(root.plain())
    except ValidationError as error:
        raise _finding(error, root) from None
    base = file.absolute().parent
    sweep = _with_paths(sweep, base)
    _check(sweep, root)
    return sweep


def _with_paths(sweep: Sweep, base: Path) -> Sweep:
    """Make paths absolute; names of bundled data, devices and hub models stay."""

    def texts(item: Texts) -> Texts:
        if item.path in bundled_datasets() and not (base / item.path).exists():
            return item
        return item.model_copy(update={"path": str(base / item.path)})

    def model(item: Model) -> Model:
        folder = base / item.folder
        is_hub = not folder.exists() and item.folder.count("/") == 1 and not item.folder.startswith(("/", ".", "~"))
        return item.model_copy(
            update={
                "name": item.label,
                "folder": item.folder if is_hub else str(folder),
                "data": None if item.data is None else tuple(map(texts, item.data)),
                "test_data": None if item.test_data is None else texts(item.test_data),
            }
        )

    def target(item: Target) -> Target:
        is_file = item.device is not None and (base / item.device).is_file()
        return item.model_copy(update={"device": str(base / str(item.device))}) if is_file else item

    recover = sweep.recover
    if recover is not None:
        recover = recover.model_copy(update={"data": tuple(map(texts, recover.data))})
    return sweep.model_copy(
        update={
            "models": tuple(map(model, sweep.models)),
            "data": None if sweep.data is None else tuple(map(texts, sweep.data)),
            "test_data": None if sweep.test_data is None else texts(sweep.test_data),
            "devices": tuple(map(target, sweep.devices)),
            "recover": recover,
        }
    )


def _check(sweep: Sweep, root: Any) -> None:
    """Refuse what no type says: unknown plug-ins, wrong quantities, missing data, entries that are listed twice."""
    for field, kind in (("metrics", "metrics"), ("methods", "quantizers")):
        for number, name in enumerate(getattr(sweep, field)):
            if name not in available(kind):
                raise _refusal(root, (field, number), _unknown(name, available(kind)))
    for field in ("models", "metrics", "methods", "devices", "budgets", "data"):
        entries = getattr(sweep, field) or ()
        labels = [entry.label if isinstance(entry, Model) else entry for entry in entries]
        for number, label in enumerate(labels):
            if label in labels[:number]:
                what = label if isinstance(label, str) else "the same entry"
                legal = "a different name: for each" if field == "models" else "each entry once"
                raise _refusal(root, (field, number), f"found {what} again; legal is {legal}; remove one")
    for number, model in enumerate(sweep.models):
        if model.data is None and sweep.data is None:
            todo = "add data: to the file or to the model"
            raise _refusal(root, ("models", number), f"found no calibration text; legal is text for each model; {todo}")
        if sweep.until == "measure" and model.test_data is None and sweep.test_data is None:
            todo = "add test_data:, or write until: export"
            raise _refusal(root, ("models", number), f"found no text to measure on; legal is held-out text; {todo}")
    for number, target in enumerate(sweep.devices):
        _check_target(target, root, ("devices", number))
    for number, budget in enumerate(sweep.budgets):
        _check_budget(budget, root, ("budgets", number))
    if sweep.recover is not None and sweep.until == "solve":
        raise _refusal(root, ("recover",), "found training, and until: solve quantizes nothing; remove one of them")
    for field, read in (
        ("bits", parse_bits), ("groupings", parse_groupings), ("forms", parse_forms),
        ("activation_bits", parse_activation_bits),
    ):  # fmt: skip
        _checked(lambda read=read, field=field: getattr(sweep, field) and read(getattr(sweep, field)), root, (field,))
    if any(target.device is None for target in sweep.devices) and Budget() in sweep.budgets:
        raise _refusal(root, (), "found neither budgets nor a device; legal is at least one limit; add budgets:")


def _check_target(target: Target, root: Any, loc: tuple[str | int, ...]) -> None:
    engine = target.engine
    if engine is not None and engine not in available("engines"):
        raise _refusal(root, (*loc, "engine"), _unknown(engine, available("engines")))
    if target == Target() and loc[0] in root.value:
        raise _refusal(root, loc, "found neither; legal are device and engine; add one")
    if target.device is not None:
        device = _checked(lambda: load_device(str(target.device)), root, loc)
        if engine is not None:
            _checked(lambda: check_engine(engine, device), root, loc)


def _check_budget(budget: Budget, root: Any, loc: tuple[str | int, ...]) -> None:
    for name, text in budget.model_dump(exclude_none=True).items():
        where = (*loc, name)
        if name in QUANTITIES:
            _checked(lambda text=text, kind=QUANTITIES[name]: parse_quantity(text, kind), root, where)
        else:
            _checked(lambda text=text: parse_budget(text, 1, "found"), root, where)


def _checked(read: Any, root: Any, loc: Sequence[str | int]) -> Any:
    """Read a value; what is wrong with it becomes a line of this file."""
    try:
        return read()
    except (QbertOptError, DeviceError) as error:
        raise _refusal(root, loc, str(error)) from None


def _unknown(name: str, legal: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, legal, n=1)
    todo = f"did you mean {near[0]}?" if near else "correct it"
    return f"found {name}; legal are {', '.join(legal)}; {todo}"


def _finding(error: ValidationError, root: Any) -> InputFileError:
    """The first thing that pydantic found, in the words of this file."""
    first = error.errors(include_url=False)[0]
    loc = first["loc"]
    owner = _owner(Sweep, loc[:-1])
    if first["type"] == "extra_forbidden":
        legal = list(owner.model_fields)
        near = difflib.get_close_matches(str(loc[-1]), legal, n=1)
        todo = f"did you mean {near[0]}?" if near else "remove it"
        return _refusal(root, loc, f"found an unknown key; legal keys are {', '.join(legal)}; {todo}")
    if first["type"] == "missing":
        return _refusal(root, loc, f"found nothing; the key is needed; legal keys are {_legal_keys(owner)}; add it")
    if first["type"] == "too_short":
        return _refusal(root, loc, "found an empty list, so there is nothing to combine; add an entry, or remove it")
    if first["type"] == "tuple_type":
        return _refusal(root, loc, "found nothing; legal is an entry or a list of them; add one, or remove the key")
    legal_text = first["msg"].removeprefix("Input should be ")
    return _refusal(root, loc, f"found {first['input']!r:.60}; legal is {legal_text}; correct it")


def _legal_keys(model: type[BaseModel]) -> str:
    return ", ".join(model.model_fields)


def _owner(model: type[BaseModel], loc: Sequence[str | int]) -> type[BaseModel]:
    for part in loc:
        if isinstance(part, str) and part in model.model_fields:
            model = next(_models_in(model.model_fields[part].annotation), model)
    return model


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _models_in(argument)


def _refusal(root: Any, loc: Sequence[str | int], message: str) -> InputFileError:
    here, seen = root, ""
    for part in loc:
        inside = here.value
        is_key = isinstance(inside, dict) and part in inside
        is_place = isinstance(inside, list) and isinstance(part, int) and part < len(inside)
        here = inside[part] if is_key or is_place else here
        seen += f"[{part}]" if isinstance(part, int) else f".{part}"
    return InputFileError(f"{here.place}: {seen.removeprefix('.') + ': ' if seen else ''}{message}")


def needed_limits(budget: Budget) -> dict[str, float]:
    """Return the limits that need no model's shapes, by field of `spec.limits.Limits`.

    Args:
        budget: of a checked sweep.

    Raises:
        UsageError: a quantity that is not of its kind.
    """
    fields = {"max_latency": "latency_s", "max_memory": "memory_bytes", "max_dram_bytes": "dram_bytes"}
    fields["max_energy"] = "energy_j"
    limits = {}
    for name, kind in QUANTITIES.items():
        text = getattr(budget, name)
        if text is not None:
            try:
                value = parse_quantity(text, kind)
            except DeviceError as error:
                raise UsageError(f"`{name}` {text}: {error}") from None
            limits[fields[name]] = int(value) if kind == "bytes" else value
    return limits
