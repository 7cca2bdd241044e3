"""Device files: reading one, laying a variant over it, and saying in one line what is wrong at which place."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from importlib.resources.abc import Traversable
from typing import Any

from pydantic import BaseModel, ValidationError

from .errors import DeviceError
from .file_models import fields_of, model_at
from .strict_yaml import MAX_BYTES, Located, YamlError, parse_yaml
from .units import shown

# pydantic's type of a finding -> what is legal, in our words
_LEGAL = {
    "bool_type": "true or false",
    "string_type": "text; put it in quotes",
    "int_type": "a whole number",
    "float_type": "a number",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "finite_number": "a finite number",
    "greater_than_equal": "at least {ge:g}",
    "less_than_equal": "at most {le:g}",
    "string_pattern_mismatch": "a short name of letters, digits, '.', '_' and '-' (only power modes have capitals)",
    "string_too_short": "text of at least {min_length} characters",
    "string_too_long": "text of at most {max_length} characters",
    "too_short": "at least {min_length} of them",
    "too_long": "at most {max_length} of them",
}
_TYPES = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "a mapping",
}


def read_device_file(path: Traversable) -> Located:
    """Read one device file.

    Args:
        path: of the file.

    Returns:
        Its fields, each with its place.

    Raises:
        DeviceError: unreadable, not plain YAML (see `strict_yaml`), or no mapping.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise DeviceError(f"{path}: found {error.strerror}; legal is a readable file; check the path") from None
    try:
        root = parse_yaml(raw, path.name if path.name.isprintable() else ascii(path.name))
    except YamlError as error:
        raise DeviceError(str(error)) from None
    if not isinstance(root.value, dict):
        raise DeviceError(f"{root.place}: found no fields; legal is a mapping that starts with 'schema:'; add it")
    return root


def overlay(base: Located, own: Located) -> Located:
    """Return `base` overlaid by `own`: mappings by key, lists of parts by their `id`; anything else is replaced.

    Args:
        base: fields of the inherited device.
        own: fields of the file that inherits.
    """
    if isinstance(base.value, dict) and isinstance(own.value, dict):
        return Located(_merged(base.value, own.value), own.place)
    base_parts, own_parts = _by_id(base), _by_id(own)
    if base_parts is None or own_parts is None:
        return own
    return Located(list(_merged(base_parts, own_parts).values()), own.place)


def _merged(base: dict[str, Located], own: dict[str, Located]) -> dict[str, Located]:
    overlaid = {key: overlay(item, own[key]) if key in own else item for key, item in base.items()}
    return overlaid | {key: item for key, item in own.items() if key not in overlaid}


def _by_id(part_list: Located) -> dict[str, Located] | None:
    """Return the items of a list by their `id`, None where it is empty or not a list of parts with one each."""
    if not isinstance(part_list.value, list):
        return None
    parts = {
        item.value["id"].value: item
        for item in part_list.value
        if isinstance(item.value, dict) and "id" in item.value and isinstance(item.value["id"].value, str)
    }
    return parts if parts and len(parts) == len(part_list.value) else None


def value_at(root: Located, loc: Iterable[str | int]) -> Located:
    """Return what lies at a location, or the nearest parent that exists.

    Args:
        root: a whole file.
        loc: field names and list positions from the root.
    """
    here = root
    for part in loc:
        inside = here.value
        if isinstance(inside, dict) and part in inside:
            here = inside[str(part)]
        elif isinstance(inside, list) and isinstance(part, int) and part < len(inside):
            here = inside[part]
    return here


def refusal(root: Located, loc: Iterable[str | int], message: str) -> DeviceError:
    """Return the error "file:line: field: message" for a location under `root`.

    Args:
        root: the whole file.
        loc: field names and list positions from the root.
        message: what was found, what is legal, and what to do.
    """
    steps = tuple(loc)
    return DeviceError(f"{value_at(root, steps).place}: {field_path(steps)}: {message}")


def field_path(loc: Iterable[str | int]) -> str:
    """Write a location as `memories[1].size`; a key that is long or cannot be printed is escaped and shortened.

    Args:
        loc: field names and list positions from the root.
    """
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{_key(part)}" for part in loc)
    return path.removeprefix(".") or "device"


def _key(key: str) -> str:
    return key if len(key) <= 60 and key.isprintable() else shown(key)


def explain(error: ValidationError, root: Located, model: type[BaseModel]) -> DeviceError:
    """Return one line about the first of pydantic's findings, with its place in the file.

    Args:
        error: pydantic's error.
        root: the whole file.
        model: the schema of the file.
    """
    findings = error.errors(include_url=False)
    first = findings[0]
    loc = tuple(part for part in first["loc"] if part != "[key]")
    others = len(findings) - 1
    more = f" (and {others} more {'finding' if others == 1 else 'findings'})" if others else ""
    return refusal(root, loc, _finding(first, loc, model) + more)


def _finding(finding: Any, loc: tuple[str | int, ...], model: type[BaseModel]) -> str:
    if finding["type"] == "value_error":
        return str(finding["ctx"]["error"])
    if finding["type"] in _LEGAL:
        legal_text = _LEGAL[finding["type"]].format(**finding.get("ctx", {}))
        return f"found {shown(finding['input'])}; legal is {legal_text}; correct it"
    if finding["type"] == "missing":
        what = "value" if isinstance(loc[-1], int) else "field"
        return f"found nothing; legal is {_described(model, loc)}; add the {what}"
    if finding["type"] == "extra_forbidden":
        legal = sorted(fields_of(model_at(model, loc[:-1])))
        near = difflib.get_close_matches(str(loc[-1]), legal, n=1)
        todo = f"did you mean {near[0]!r}?" if near else "remove it"
        return f"found an unknown field; legal fields are {', '.join(legal)}; {todo}"
    legal_text = finding["msg"].removeprefix("Input should be ").removeprefix("Value should ")
    return f"found {shown(finding['input'])}; legal is {legal_text[0].lower() + legal_text[1:]}; correct it"


def _described(model: type[BaseModel], loc: tuple[str | int, ...]) -> str:
    """Return what a field must contain, from the JSON schema that editors use."""
    if isinstance(loc[-1], int):
        return f"{loc[-1] + 1} or more values in this list"
    owner = model_at(model, loc[:-1])
    schema = owner.model_json_schema().get("properties", {}).get(str(loc[-1]), {})
    example = f", for example '{schema['examples'][0]}'" if schema.get("examples") else ""
    legal = schema.get("enum") or schema.get("const") or schema.get("description") or _TYPES.get(schema.get("type"))
    if isinstance(legal, list):
        return ", ".join(map(str, legal))
    return (f"'{legal}'" if "const" in schema else str(legal or "a mapping")) + example
