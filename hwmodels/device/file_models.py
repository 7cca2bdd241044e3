"""Which model of a file's schema describes a place in the file: messages say what is legal there."""

from __future__ import annotations

import typing
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import BaseModel


def fields_of(model: type[BaseModel]) -> dict[str, Any]:
    """Return the fields of a model under the names that a file uses.

    Args:
        model: a part of the schema.
    """
    return {field.alias or name: field for name, field in model.model_fields.items()}


def model_at(model: type[BaseModel], loc: Iterable[str | int]) -> type[BaseModel]:
    """Return the innermost model that a place lies in.

    Args:
        model: of the whole file.
        loc: keys and indices that lead to the place, as pydantic reports them; what is no field is passed over.
    """
    for part in loc:
        field = fields_of(model).get(part) if isinstance(part, str) else None
        model = next(_models_in(field.annotation), model) if field is not None else model
    return model


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _models_in(argument)
