"""Reads sweep files, which are strict YAML; every error names the line and what is legal there."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from hwmodels import DeviceError, YamlError, model_at, parse_quantity, parse_yaml

from ..costs.devices import check_engine, load_device
from ..data.sources import bundled_datasets
from ..errors import InputFileError, QbertOptError
from ..planning.budgets import parse_budget
from ..runtime.input_files import read_bytes
from ..runtime.plugins import available
from ..spec.activations import parse_activation_bits
from ..spec.forms import parse_bits, parse_forms
from ..spec.groupings import parse_groupings
from .request import QUANTITIES, Budget, Model, Recovery, Sweep, Target, Texts

MAX_BYTES = 1_000_000
LISTS = ("bits", "groupings", "forms", "activation_bits")


def read_sweep(path: str | Path) -> Sweep:
    """Read a sweep file; relative paths in it are resolved against its folder.

    Args:
        path: a YAML file.

    Raises:
        InputFileError: the file is unreadable or not strict YAML, has an unknown key, a wrong value or an entry that is
            listed twice, or there is nothing to combine; names the line and what is legal.
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
    """Make paths absolute; names of bundled data, devices and hub models stay as they are."""

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


_PARTS: dict[str, type[BaseModel]] = {
    "models": Model,
    "data": Texts,
    "devices": Target,
    "budgets": Budget,
    "recover": Recovery,
}


def _check(sweep: Sweep, root: Any) -> None:
    """Check what types cannot: plug-ins exist, quantities are valid, data is given, no entry is listed twice."""
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
        elif name in ("budget", "total_budget"):
            _checked(lambda text=text: parse_budget(text, 1, "found"), root, where)


def _checked(read: Any, root: Any, loc: Sequence[str | int]) -> Any:
    """Parse a value; an error is reported with its line in this file."""
    try:
        return read()
    except (QbertOptError, DeviceError) as error:
        said = re.sub(r"^(`[a-z_]+`|--[a-z-]+) ", "found ", str(error))  # drop the option's name
        raise _refusal(root, loc, said) from None


def _unknown(name: str, legal: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, legal, n=1)
    todo = f"did you mean {near[0]}?" if near else "correct it"
    return f"found {name}; legal are {', '.join(legal)}; {todo}"


def _finding(error: ValidationError, root: Any) -> InputFileError:
    """Return the first error that pydantic found, worded for this file."""
    first = error.errors(include_url=False)[0]
    loc = first["loc"]
    owner = model_at(Sweep, loc[:-1])
    if first["type"] == "extra_forbidden":
        legal = list(owner.model_fields)
        near = difflib.get_close_matches(str(loc[-1]), legal, n=1)
        todo = f"did you mean {near[0]}?" if near else "remove it"
        if homes := [key for key, part in _PARTS.items() if part is not owner and loc[-1] in part.model_fields]:
            todo = f"it belongs to an entry of {' or '.join(homes)}"
        return _refusal(root, loc, f"found an unknown key; legal keys are {', '.join(legal)}; {todo}")
    if first["type"] == "missing":
        return _refusal(root, loc, f"found nothing; the key is needed; legal keys are {_legal_keys(owner)}; add it")
    if first["type"] == "too_short":
        return _refusal(root, loc, "found an empty list, so there is nothing to combine; add an entry, or remove it")
    if first["type"] == "tuple_type":
        return _refusal(root, loc, "found nothing; legal is an entry or a list of them; add one, or remove the key")
    if loc and loc[-1] in LISTS and first["type"] == "string_type":
        return _refusal(root, loc, f"found {first['input']!r:.60}; legal is a list or a text, such as [2, 4] or 2,4")
    legal_text = first["msg"].removeprefix("Input should be ")
    return _refusal(root, loc, f"found {first['input']!r:.60}; legal is {legal_text}; correct it")


def _legal_keys(model: type[BaseModel]) -> str:
    return ", ".join(model.model_fields)


def _refusal(root: Any, loc: Sequence[str | int], message: str) -> InputFileError:
    here, seen = root, ""
    for part in loc:
        inside = here.value
        is_key = isinstance(inside, dict) and part in inside
        is_place = isinstance(inside, list) and isinstance(part, int) and part < len(inside)
        here = inside[part] if is_key or is_place else here
        seen += f"[{part}]" if isinstance(part, int) else f".{part}"
    return InputFileError(f"{here.place}: {seen.removeprefix('.') + ': ' if seen else ''}{message}")
