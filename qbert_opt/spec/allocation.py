"""The plan: what every matrix gets, what that costs, and what is proven about it. `allocation.json` is this noun."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, FiniteFloat, model_validator

from ..errors import InputFileError
from ..runtime.files import read_document, write_text
from ..runtime.frozen import Frozen
from .choices import Choice, Form, Layout
from .limits import Measure
from .plan_checks import check_plan
from .profiles import Kind, ModelProfile
from .scores import Provenance
from .tables import TABLE_CHOICE

SCHEMA = "qbert-opt/allocation@2"
FIRST_SCHEMA = "qbert-opt/allocation@1"  # its `predicted_loss` is the sum of scores


class PlannedMatrix(Frozen):
    """What one matrix gets. `bytes` holds codes and ranges; `residency` is `resident` or `streamed`.

    `form` says what a range stores; a plan without it is of a release that knew symmetric or not.
    """

    module: str
    name: str
    kind: Kind
    block: int
    rows: int
    columns: int
    bits: int = Field(ge=1, le=16)
    axis: Literal["rows", "columns"]
    grouping: str
    num_groups: int
    group_size: int
    method: str
    symmetric: bool
    scale_dtype: Literal["float16"] = "float16"
    zero_dtype: Literal["float16", "integer", "none"] = "float16"
    form: Form = "offset"
    bytes: int
    residency: Literal["resident", "streamed"] = "streamed"
    predicted_loss: FiniteFloat
    std_error: FiniteFloat

    @model_validator(mode="before")
    @classmethod
    def _form(cls, fields: Any) -> Any:
        if not isinstance(fields, dict) or "form" in fields:
            return fields
        return fields | {"form": "symmetric" if fields.get("symmetric") else "offset"}

    @property
    def choice(self) -> Choice:
        """The choice that this matrix got."""
        return Choice(self.bits, self.grouping, self.method, self.form)

    @property
    def layout(self) -> Layout:
        """How its groups lie."""
        return Layout(self.bits, self.axis, self.num_groups, self.group_size, self.form)


class PlannedTable(Frozen):
    """What one embedding table gets; a table that was not scored has 8 bits per row and no predicted loss."""

    module: str
    rows: int
    columns: int
    bits: int = Field(ge=1, le=16)
    grouping: str = "rows:each"
    method: str = TABLE_CHOICE.method
    form: Form = "offset"
    bytes: int
    predicted_loss: FiniteFloat | None = None
    std_error: FiniteFloat | None = None
    unseen_rows: float | None = None

    @property
    def choice(self) -> Choice:
        """The choice that this table got."""
        return Choice(self.bits, self.grouping, self.method, self.form)

    @property
    def layout(self) -> Layout:
        """How its groups lie."""
        return self.choice.layout(self.rows, self.columns, heads=1)


class PlannedActivation(Frozen):
    """How the input of some matrices is rounded: unsigned codes, a range that holds zero.

    Attributes:
        modules: the matrices that read it.
        bits: of a code.
        scheme: `token`: a range of each token, found while running; `tensor`: `low` to `high` for all.
        range: how `low` and `high` were found on calibration text; None for `token`.
    """

    modules: tuple[str, ...]
    bits: Literal[8, 16]
    scheme: Literal["token", "tensor"]
    range: str | None = None
    low: FiniteFloat | None = None
    high: FiniteFloat | None = None
    predicted_loss: FiniteFloat
    std_error: FiniteFloat


class DeviceCost(Frozen):
    """What the plan is predicted to cost on the device. `confidence` says how far to trust it."""

    name: str
    seq_len: int
    batch_size: int
    latency_s: float
    latency_bound_s: float
    peak_memory_bytes: int
    peak_bound_bytes: int
    dram_bytes: int
    bandwidth_bytes_per_s: float
    energy_j: float
    dynamic_energy_j: float
    unpack_s: float
    confidence: str


class EngineFile(Frozen):
    """What a plan takes in the file of the engine that it was made for; every limit on bytes counts these.

    Attributes:
        name: the engine.
        encoder_bytes: of the matrices: codes in the widths that it has, and ranges as it stores them.
        total_bytes: of the whole file.
        graph_bytes: the part of `total_bytes` that nodes, names and shapes take.
    """

    name: str
    encoder_bytes: int
    total_bytes: int
    graph_bytes: int


class EngineOutlook(Frozen):
    """Which engines of the device run a plan that was made for none of them, and what a plan for one costs instead.

    Attributes:
        engines: engines that the device lists.
        runs: those of them that run the plan as it is.
        custom: formats of the plan that none of them holds: bits, axis and form.
        instead: the engine whose plan under the same limits is predicted to lose least; None where none was sought or
            found.
        loss_ratio: sum of scores of that plan over this one's.
        reason: why there is no such plan.
    """

    engines: tuple[str, ...]
    runs: tuple[str, ...]
    custom: tuple[str, ...]
    instead: str | None = None
    loss_ratio: FiniteFloat | None = None
    reason: str = ""


class UniformPlan(Frozen):
    """A plan that gives every matrix one choice at no more bytes, for comparison.

    Attributes:
        choice: what every matrix gets.
        encoder_bytes: bytes of the matrices; in the engine's file where the plan is made for one.
        predicted_loss: the sum of its scores. No text chose this plan, so the sum is unbiased: cross-fitting it
            would give the same number.
        predicted_std_error: of `predicted_loss`, over the scoring text; None in plans of older releases.
    """

    choice: str
    encoder_bytes: int
    predicted_loss: float
    predicted_std_error: FiniteFloat | None = None


class Limit(Frozen):
    """A limit the plan keeps: what was asked, what is used, whether it binds."""

    resource: Measure
    capacity: float
    used: float
    source: str
    binds: bool


class Allocation(Frozen):
    """A plan with its proof.

    Attributes:
        status: `optimal` only with a proven gap of at most 1e-6; `unproven` for a plan made by a rule.
        objective: what is least: `sum_of_scores`, or a resource (latency and energy: their separable bounds).
        gap: proven relative distance of the objective to the best plan's.
        lower_bound: no plan within the limits has less of the objective.
        loss_unit: unit of every loss here; `contains` says which roundings the losses contain.
        predicted_loss: what the plan is predicted to lose. Cross-fitted where `folds` is not 0: each part of the
            scoring text judges the plan that the other parts would have chosen under the same limits. Otherwise the
            sum of scores, which is unbiased for a plan that a rule made and optimistic for one that a solver chose.
            Contains no forward pass of this plan.
        predicted_std_error: of `predicted_loss`, over the scoring text.
        folds: parts of the scoring text that judged the plan; 0 where `predicted_loss` is the sum of scores.
        sum_of_scores: sum of the scores of matrices, scored tables and rounded inputs: what the solver minimized.
            Optimistic, because the solver picks what this text happens to favour.
        sum_std_error: of `sum_of_scores`, its terms taken as independent.
        loss_scale: the common factor in every score, see `ScoreTable.scale`.
        activations: how inputs of matrices are rounded; an input that is not here stays in floats.
        roundings: what is rounded in the losses: `matrices`, `tables`, `activations`.
        encoder_bytes: the matrices' bytes; `total_bytes` the whole stored model's. Both as packed in the quantized
            folder.
        outlook: which engines of the device run it; None without a device that lists any, or for a plan made for one.
        engine: what the plan takes in the file of the engine that it was made for; None without one.
        average_bits: encoder bytes × 8 over encoder weights, scales and offsets included.
        random_loss: median predicted loss of random plans that fill the same limits.
        next_mb_gain: by how much one more MB of budget lowers `predicted_loss`, solved and judged again; None without
            a byte budget.
        next_ms_gain: the same for one more ms of latency; None where latency does not bind.
    """

    document_schema: str = Field(default=SCHEMA, alias="schema")
    version: str
    status: str
    objective: Measure = "sum_of_scores"
    gap: float | None
    lower_bound: float | None
    solver: str
    loss_unit: str
    contains: str
    roundings: tuple[str, ...] = ("matrices",)
    metric: str
    method: str
    predicted_loss: FiniteFloat
    predicted_std_error: FiniteFloat
    folds: int = Field(default=0, ge=0)
    sum_of_scores: FiniteFloat
    sum_std_error: FiniteFloat
    loss_scale: FiniteFloat = 1.0
    encoder_bytes: int
    total_bytes: int
    average_bits: FiniteFloat
    profile: ModelProfile
    matrices: tuple[PlannedMatrix, ...]
    tables: tuple[PlannedTable, ...]
    activations: tuple[PlannedActivation, ...] = ()
    device: DeviceCost | None = None
    engine: EngineFile | None = None
    outlook: EngineOutlook | None = None
    limits: tuple[Limit, ...] = ()
    uniform: tuple[UniformPlan, ...] = ()
    random_loss: float | None = None
    next_mb_gain: float | None = None
    next_ms_gain: float | None = None
    provenance: Provenance

    def __str__(self) -> str:
        """Return the plan in two lines; `qbert_opt.print_plan` prints the full report."""
        cost = self.device
        latency = "" if cost is None else f", {1e3 * cost.latency_s:.4g} ms on {cost.name}"
        return (
            f"{self.profile.name}: {self.encoder_bytes / 1e6:.2f} MB encoder, {self.total_bytes / 1e6:.2f} MB in all, "
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
    """Return a document of the first schema in today's words.

    There `predicted_loss` was the sum of scores and `cross_fitted` held the prediction. What one more MB saves was
    measured on the sum; beside a cross-fitted prediction it would be a number in another unit, so it is dropped.
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
    """Write `allocation.json`, whole or not at all."""
    write_text(path, allocation.model_dump_json(by_alias=True, indent=1) + "\n")


def read_allocation(path: str | Path) -> Allocation:
    """Read `allocation.json`.

    Raises:
        InputFileError: missing, malformed, or parts and sums that are not those of its profile and choices.
    """
    allocation = read_document(path, Allocation, SCHEMA, older={FIRST_SCHEMA: _upgraded})
    try:
        check_plan(allocation)
    except ValueError as error:
        raise InputFileError(f"{path}: {error} Make the plan again with 'solve'.") from None
    return allocation
