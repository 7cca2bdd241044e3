"""The plan (`allocation.json`): the choice of every matrix, its cost, and what is proven about it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from pydantic import Field, FiniteFloat

from ..errors import InputFileError
from ..runtime.files import read_document, write_text
from ..runtime.frozen import Amount, Count, Frozen, is_none
from .dropped import DroppedHeads
from .plan_checks import check_plan
from .planned import (
    DeviceCost,
    DroppedLayers,
    EngineFile,
    EngineOutlook,
    Limit,
    PlannedActivation,
    PlannedCache,
    PlannedMatrix,
    PlannedTable,
    UniformPlan,
)
from .profiles import ModelProfile
from .quantities import Measure
from .score_arrays import LARGEST_SCALE
from .score_parts import Provenance

SCHEMA = "qbert-opt/allocation@2"
FIRST_SCHEMA = "qbert-opt/allocation@1"  # its `predicted_loss` is the sum of scores
PLAN_SPREAD = 0.2
"""Standard deviation of log(measured / predicted loss) of whole plans beyond the scoring text's own error.

It covers interactions between matrices and higher-order terms, which scores of single matrices do not contain. Chosen
on twelve plans of one tagger. With it, 125 of 137 plans of seven models lie in their intervals, but only 22 of 31 where
the model is confident on nearly every text: `benchmarks/predictions/coverage.py`.
"""
WITHIN_90 = 1.6449  # standard deviations on either side that contain 90 % of a normal distribution
LARGEST_ERROR = 3.0  # standard error relative to predicted loss, above which an interval is meaningless


class Allocation(Frozen):
    """A plan with its proof.

    Attributes:
        status: `optimal` only with a proven gap of at most 1e-6; `unproven` for a plan made by a rule.
        objective: what was minimized: `sum_of_scores` or a resource (for latency and energy, their separable bound).
        gap: proven relative distance of the objective from the optimum.
        lower_bound: proven lower bound of the objective over all plans within the limits.
        loss_unit: unit of all losses in the plan.
        contains: which quantization errors the losses include.
        predicted_loss: the predicted loss of the plan. If `folds` is not 0 it is cross-fitted: each part of the scoring
            text evaluates the plan that the other parts would have chosen under the same limits. Otherwise it is
            the sum of scores, which is unbiased for a plan made by a rule and optimistic for one chosen by a solver.
            The plan itself was not run.
        predicted_std_error: of `predicted_loss`, over the scoring text.
        folds: number of parts of the scoring text; 0 if `predicted_loss` is the sum of scores.
        sum_of_scores: sum of the scores of matrices, scored tables, quantized inputs and what is left out, which the
            solver minimized. Optimistic, because the solver picks what this text happens to favour.
        sum_std_error: of `sum_of_scores`, with its terms treated as independent.
        loss_scale: the common factor in every score, see `ScoreTable.scale`.
        activations: how inputs of matrices are quantized; an input that is not listed stays in floating point.
        cache: how a decoder's cache is stored; None, and not written, for an encoder or without a device.
        dropped: layers of the model that the plan leaves out; `profile` is of the shorter model. None keeps all.
        dropped_heads: attention heads that the plan leaves out; `profile` is of the smaller model. None, and not
            written, keeps all.
        functions: which method computes softmax, activation and norm in the predicted costs, `float` for floating
            point; empty if the device's own rates apply.
        roundings: what is quantized in the losses: `matrices`, `tables`, `activations`, `cache`.
        encoder_bytes: bytes of the matrices, as packed in the quantized folder.
        total_bytes: bytes of the whole stored model, as packed in the quantized folder.
        outlook: which engines of the device run the plan; None if the device lists no engines, or if the plan was made
            for one.
        engine: size of the plan in the file of the engine that it was made for; None without an engine.
        average_bits: 8 × `encoder_bytes` / number of encoder weights; scales and offsets are included.
        random_loss: median predicted loss of random plans that fill the same limits.
        next_mb_gain: decrease of `predicted_loss` with one more MB of budget; None without a byte budget.
        next_ms_gain: decrease of `predicted_loss` with one more ms of latency; None if latency does not bind.
    """

    document_schema: str = Field(default=SCHEMA, alias="schema")
    version: str
    status: str
    objective: Measure = "sum_of_scores"
    gap: float | None = Field(ge=0)
    lower_bound: float | None
    solver: str
    loss_unit: str
    contains: str
    roundings: tuple[str, ...] = ("matrices",)
    metric: str
    method: str
    predicted_loss: Amount
    predicted_std_error: Amount
    folds: Count = 0
    sum_of_scores: Amount
    sum_std_error: Amount
    loss_scale: float = Field(default=1.0, ge=1 / LARGEST_SCALE, le=LARGEST_SCALE)
    encoder_bytes: Count
    total_bytes: Count
    average_bits: Amount
    profile: ModelProfile
    matrices: tuple[PlannedMatrix, ...]
    tables: tuple[PlannedTable, ...]
    activations: tuple[PlannedActivation, ...] = ()
    cache: PlannedCache | None = Field(default=None, exclude_if=is_none)
    dropped: DroppedLayers | None = None
    dropped_heads: DroppedHeads | None = Field(default=None, exclude_if=is_none)
    functions: dict[str, str] = Field(default_factory=dict)
    device: DeviceCost | None = None
    engine: EngineFile | None = None
    outlook: EngineOutlook | None = None
    limits: tuple[Limit, ...] = ()
    uniform: tuple[UniformPlan, ...] = ()
    random_loss: Amount | None = None
    next_mb_gain: FiniteFloat | None = None
    next_ms_gain: FiniteFloat | None = None
    provenance: Provenance

    @property
    def predicted_interval(self) -> tuple[float, float] | None:
        """90 % prediction interval of the mean loss on text like the scoring text.

        None if the loss only ranks, or if its standard error is more than `LARGEST_ERROR` times the loss.

        Log-normal around `predicted_loss`, with the error of the scoring text and `PLAN_SPREAD`.
        """
        if self.metric != "directional" or self.predicted_loss <= 0:
            return None
        relative_error = self.predicted_std_error / self.predicted_loss
        if relative_error > LARGEST_ERROR:
            return None
        factor = math.exp(WITHIN_90 * math.hypot(PLAN_SPREAD, relative_error))
        return self.predicted_loss / factor, self.predicted_loss * factor

    def __str__(self) -> str:
        """Return the plan in two lines; `qbert_opt.print_plan` prints the full report."""
        cost = self.device
        latency = "" if cost is None else f", {1e3 * cost.latency_s:.4g} ms on {cost.name}"
        if cost is not None and cost.decode is not None:
            latency = (
                f", first token {1e3 * cost.latency_s:.4g} ms, {cost.decode.tokens_per_s:.4g} tokens/s on {cost.name}"
            )
        return (
            f"{self.profile.name}: {self.encoder_bytes / 1e6:.2f} MB {self.profile.part}, "
            f"{self.total_bytes / 1e6:.2f} MB in all, "
            f"{self.average_bits:.3f} bits per weight\n"
            f"predicted loss {self.predicted_loss:.4g} ± {self.predicted_std_error:.1g} {self.loss_unit}, "
            f"{self.status}{latency}"
        )

    def __repr__(self) -> str:
        """Return one line."""
        return (
            f"Allocation({self.profile.name!r}, encoder_bytes={self.encoder_bytes}, "
            f"average_bits={self.average_bits:.3f}, predicted_loss={self.predicted_loss:.4g}, status={self.status!r})"
        )


def _upgraded(fields: dict[str, Any]) -> dict[str, Any]:
    """Convert a document of the first schema to the current one.

    In the first schema `predicted_loss` was the sum of scores, and `cross_fitted` held the prediction. The gain of one
    more MB referred to the sum, so it is not comparable with a cross-fitted prediction and is dropped.
    """
    renamed = {"predicted_loss": "sum_of_scores", "predicted_std_error": "sum_std_error"}
    new = fields | {"schema": SCHEMA} | {name: fields[old] for old, name in renamed.items() if old in fields}
    if fields.get("objective", "predicted_loss") == "predicted_loss":
        new["objective"] = "sum_of_scores"
    limits = fields.get("limits")
    if isinstance(limits, list):
        is_loss = [isinstance(limit, dict) and limit.get("resource") == "predicted_loss" for limit in limits]
        new["limits"] = [
            limit | {"resource": "sum_of_scores"} if loss else limit
            for limit, loss in zip(limits, is_loss, strict=True)
        ]
    judged = new.pop("cross_fitted", None)
    if isinstance(judged, dict):
        new |= {"predicted_loss": judged.get("loss"), "predicted_std_error": judged.get("std_error")}
        new |= {"folds": judged.get("folds"), "next_mb_gain": None, "next_ms_gain": None}
    return new


def write_allocation(allocation: Allocation, path: str | Path) -> None:
    """Write `allocation.json`, completely or not at all.

    Args:
        allocation: the plan.
        path: of the file.
    """
    write_text(path, allocation.model_dump_json(by_alias=True, indent=1) + "\n")


def read_allocation(path: str | Path) -> Allocation:
    """Read `allocation.json`, also of older releases.

    Args:
        path: of the file.

    Raises:
        InputFileError: missing, malformed, or inconsistent: parts or sums that do not follow from its profile and
            choices.
    """
    allocation = read_document(path, Allocation, SCHEMA, older={FIRST_SCHEMA: _upgraded})
    try:
        check_plan(allocation)
    except ValueError as error:
        raise InputFileError(f"{path}: {error} Make the plan again with 'solve'.") from None
    return allocation
