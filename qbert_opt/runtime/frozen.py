"""The base of every value that is written as JSON, and the numbers that such values hold."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=0)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]


def is_none(value: object) -> bool:
    """Whether an optional part is missing: what is written leaves it out.

    Args:
        value: of the part.
    """
    return value is None


def is_empty(value: object) -> bool:
    """Whether a list has no entries: what is written leaves it out.

    Args:
        value: the list.
    """
    return not value


class Frozen(BaseModel):
    """An immutable value; fields that this version does not know are ignored, so that newer files can be read."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)
