"""Reading a device file safely, with the line of every value kept for the error message.

A description is a few kilobytes of plain data. So files over 1 MB, aliases (which can explode), duplicate
keys and anything nested deeper than a description are refused before a document is built.
"""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from .errors import DeviceError

MAX_FILE_BYTES = 1_000_000
_MAX_DEPTH = 16
_MAX_VALUES = 50_000
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Located:
    """A value of a file: a mapping or list of further ones or a plain scalar, and its place "file:line"."""

    value: Any
    place: str

    def plain(self) -> Any:
        """Return the value without its places."""
        if isinstance(self.value, dict):
            return {key: item.plain() for key, item in self.value.items()}
        if isinstance(self.value, list):
            return [item.plain() for item in self.value]
        return self.value

    def overlaid(self, own: Located) -> Located:
        """Return this value with another one laid over it: mappings by key, lists of parts by their `id`."""
        if isinstance(self.value, dict) and isinstance(own.value, dict):
            merged = {
                key: item.overlaid(own.value[key]) if key in own.value else item for key, item in self.value.items()
            }
            return Located(merged | {key: item for key, item in own.value.items() if key not in merged}, own.place)
        mine, theirs = self._by_id(), own._by_id()
        if mine is None or theirs is None:
            return own
        merged = {key: item.overlaid(theirs[key]) if key in theirs else item for key, item in mine.items()}
        return Located([*merged.values(), *(item for key, item in theirs.items() if key not in merged)], own.place)

    def _by_id(self) -> dict[Any, Located] | None:
        """Return the items of a list by their `id`, None where it is no list of parts with one each."""
        if not isinstance(self.value, list):
            return None
        ids = [
            item.value["id"].value if isinstance(item.value, dict) and "id" in item.value else None
            for item in self.value
        ]
        if any(not isinstance(part_id, str) for part_id in ids) or len(set(ids)) < len(ids):
            return None
        return dict(zip(ids, self.value, strict=True))

    def at(self, loc: Iterable[str | int]) -> Located:
        """Return what lies at a location, or the nearest parent that exists."""
        here = self
        for part in loc:
            inside = here.value
            if isinstance(inside, dict) and part in inside:
                here = inside[str(part)]
            elif isinstance(inside, list) and isinstance(part, int) and part < len(inside):
                here = inside[part]
        return here

    def error(self, loc: Iterable[str | int], message: str) -> DeviceError:
        """Return the error "file:line: field: message" for a location under this value."""
        steps = tuple(loc)
        return DeviceError(f"{self.at(steps).place}: {field_path(steps)}: {message}")


def field_path(loc: Iterable[str | int]) -> str:
    """Write a location as a reader would: `memories[1].size`."""
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)
    return path.removeprefix(".") or "device"


def read_device_file(path: Path) -> Located:
    """Read one YAML file.

    Raises:
        DeviceError: unreadable, too large, not YAML, with aliases, duplicate keys or absurd nesting, or no mapping.
    """
    text = _text(path)
    try:
        _refuse_bombs(path, text)
        node = _Loader(text).get_single_node()
        root = None if node is None else _located(node, path.name)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise DeviceError(
            f"{path.name}:{line}: found {error.problem or error}; legal is plain YAML; correct the file"
        ) from None
    except yaml.YAMLError as error:
        reason = str(error).splitlines()[0]
        raise DeviceError(f"{path.name}:1: found {reason}; legal is plain YAML text; correct the file") from None
    if root is None or not isinstance(root.value, dict):
        raise DeviceError(f"{path.name}:1: found no fields; legal is a mapping that starts with 'schema:'; add it")
    return root


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise DeviceError(f"{path}: found {error.strerror}; legal is a readable file; check the path") from None
    if len(raw) > MAX_FILE_BYTES:
        raise DeviceError(f"{path.name}:1: found over {MAX_FILE_BYTES} bytes; legal is a short description; shorten it")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise DeviceError(f"{path.name}:1: found bytes that are no UTF-8 text; legal is YAML; check the file") from None


def _refuse_bombs(path: Path, text: str) -> None:
    """Refuse aliases, absurd nesting and absurd length in the stream of events, before anything is built."""
    depth = 0
    for count, event in enumerate(yaml.parse(text, Loader=_Loader)):
        place = f"{path.name}:{event.start_mark.line + 1 if event.start_mark else 1}"
        if isinstance(event, yaml.AliasEvent):
            raise DeviceError(f"{place}: found an alias '*{event.anchor}'; legal are plain values; write it out")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH or count > _MAX_VALUES:
            raise DeviceError(
                f"{place}: found more than {_MAX_DEPTH} levels or {_MAX_VALUES} values; "
                "legal is a description; shorten the file"
            )


def _located(node: yaml.Node, file: str) -> Located:
    place = f"{file}:{node.start_mark.line + 1}"
    if isinstance(node, yaml.MappingNode):
        fields: dict[str, Located] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value) if isinstance(key_node, yaml.ScalarNode) else "a list or mapping"
            if not isinstance(key_node, yaml.ScalarNode) or key in fields:
                line = key_node.start_mark.line + 1
                raise DeviceError(
                    f"{file}:{line}: found {key!r} as a second or odd key; legal is each key once; remove it"
                )
            fields[key] = _located(value_node, file)
        return Located(fields, place)
    if isinstance(node, yaml.SequenceNode):
        return Located([_located(item, file) for item in node.value], place)
    try:
        return Located(_Loader("").construct_object(node), place)
    except ValueError as error:  # a date or a number that Python cannot hold
        raise DeviceError(f"{place}: found {error}; legal is text or a number; correct it") from None


def explain(error: ValidationError, root: Located, model: type[BaseModel]) -> str:
    """Turn pydantic's findings into one line about the first of them, with its place in the file."""
    findings = error.errors(include_url=False)
    first = findings[0]
    loc = tuple(part for part in first["loc"] if part != "[key]")
    here = root.at(loc)
    line = f"{here.place}: {field_path(loc)}: {_finding(first, loc, model)}"
    return line + (f" (and {len(findings) - 1} more)" if len(findings) > 1 else "")


def _finding(finding: Any, loc: tuple[str | int, ...], model: type[BaseModel]) -> str:
    if finding["type"] == "value_error":
        return str(finding["ctx"]["error"])
    if finding["type"] == "missing":
        return f"found nothing; legal is {_described(model, loc)}; add the field"
    if finding["type"] == "extra_forbidden":
        legal = sorted(_fields(_model_at(model, loc[:-1])))
        near = difflib.get_close_matches(str(loc[-1]), legal, n=1)
        todo = f"did you mean {near[0]!r}?" if near else "remove it"
        return f"found an unknown field; legal fields are {', '.join(legal)}; {todo}"
    shown = repr(finding["input"])
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    legal_text = finding["msg"].removeprefix("Input should be ").removeprefix("Value should ")
    return f"found {shown}; legal is {legal_text[0].lower() + legal_text[1:]}; correct it"


def _fields(model: type[BaseModel]) -> dict[str, Any]:
    """Return the fields of a model under the names that a file uses."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _model_at(model: type[BaseModel], loc: Iterable[str | int]) -> type[BaseModel]:
    for part in loc:
        field = _fields(model).get(part) if isinstance(part, str) else None
        model = next(_models_in(field.annotation), model) if field is not None else model
    return model


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _models_in(argument)


def _described(model: type[BaseModel], loc: tuple[str | int, ...]) -> str:
    """Say what a field holds, from the JSON schema that editors get."""
    owner = _model_at(model, loc[:-1])
    schema = owner.model_json_schema().get("properties", {}).get(str(loc[-1]), {})
    example = f", for example '{schema['examples'][0]}'" if schema.get("examples") else ""
    kinds = schema.get("enum") or schema.get("description") or schema.get("type") or "a value"
    return (", ".join(map(str, kinds)) if isinstance(kinds, list) else str(kinds)) + example
