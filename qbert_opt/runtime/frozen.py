"""The base of every value that is written as JSON."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


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
