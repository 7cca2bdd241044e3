"""Measured losses of plans, to be drawn over the predicted frontier."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from ..errors import InputFileError
from ..runtime.files import read_document

SCHEMA = "qbert-opt/measured@1"


class MeasuredPoint(BaseModel):
    """A plan that was run: its measured loss with a confidence interval, and other measurements.

    Attributes:
        name: label in the figure.
        loss: in the unit of the predicted loss; `low` and `high` are the ends of its confidence interval, if any.
        encoder_bytes: of the searched matrices as stored.
        latency_s: of one inference; `energy_j` likewise.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")
    name: str
    loss: FiniteFloat
    low: FiniteFloat | None = None
    high: FiniteFloat | None = None
    encoder_bytes: int | None = Field(default=None, gt=0)
    latency_s: FiniteFloat | None = Field(default=None, gt=0)
    energy_j: FiniteFloat | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _inside(self) -> MeasuredPoint:
        if (self.low is None) != (self.high is None):
            raise ValueError(f"{self.name}: has only one end of an interval; give both low and high, or neither")
        if self.low is not None and self.high is not None and not self.low <= self.loss <= self.high:
            raise ValueError(f"{self.name}: loss {self.loss:g} is outside its interval {self.low:g} to {self.high:g}")
        return self

    @property
    def usage(self) -> dict[str, float]:
        """The measured resources, by the names of a frontier's resources."""
        known = {"bytes": self.encoder_bytes, "latency": self.latency_s, "energy": self.energy_j}
        return {name: float(value) for name, value in known.items() if value is not None}


class MeasuredPoints(BaseModel):
    """A file of measured points.

    Attributes:
        what: free text: what was measured, on which text, by which command.
        points: the measurements.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)
    document_schema: str = Field(default=SCHEMA, alias="schema")
    what: str = ""
    points: tuple[MeasuredPoint, ...]


def read_measured(path: str | Path) -> MeasuredPoints:
    """Read measured points.

    Args:
        path: a JSON file, as `evaluate --reference MODEL --json` writes it.

    Raises:
        InputFileError: missing, malformed, of another schema, or without a point.
    """
    measured = read_document(path, MeasuredPoints, SCHEMA)
    if not measured.points:
        raise InputFileError(f"{path}: holds no measured points. 'evaluate --reference MODEL --json' writes some.")
    return measured
