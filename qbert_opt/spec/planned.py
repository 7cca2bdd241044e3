"""The parts of a plan: the storage of each matrix, table and input, the plan's cost, and the limits it meets."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, FiniteFloat, model_validator

from ..runtime.frozen import Amount, Count, Frozen, Share, is_none
from .choices import Choice, Layout
from .forms import Form
from .profiles import Kind
from .quantities import Measure
from .score_arrays import Loss
from .tables import TABLE_CHOICE

Cost = Annotated[float, Field(ge=0)]


class PlannedMatrix(Frozen):
    """One matrix of a plan.

    Attributes:
        module: its name in the model.
        name: its name in reports.
        kind: its role.
        block: its encoder layer, from 0.
        rows: outputs.
        columns: inputs.
        bits: of a code.
        axis: whether a range covers whole rows or a part of one row (`columns`).
        grouping: as in its choice, for example `columns:64`.
        num_groups: number of ranges.
        group_size: rows or inputs per range.
        method: name of the quantizer.
        symmetric: whether zero is the middle level.
        scale_dtype: type of the scales.
        zero_dtype: type of the offsets or zero points.
        form: what is stored for each range; derived from `symmetric` in plans of older releases.
        bytes: codes and metadata.
        residency: `resident` if it stays on chip between inferences, else `streamed`.
        predicted_loss: its score.
        std_error: standard error of its score.
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
    bytes: Count
    residency: Literal["resident", "streamed"] = "streamed"
    predicted_loss: Loss
    std_error: Loss

    @model_validator(mode="before")
    @classmethod
    def _form(cls, fields: Any) -> Any:
        if not isinstance(fields, dict) or "form" in fields:
            return fields
        return fields | {"form": "symmetric" if fields.get("symmetric") else "offset"}

    @property
    def choice(self) -> Choice:
        """The choice of this matrix."""
        return Choice(self.bits, self.grouping, self.method, self.form)

    @property
    def layout(self) -> Layout:
        """Its ranges."""
        return Layout(self.bits, self.axis, self.num_groups, self.group_size, self.form)


class PlannedTable(Frozen):
    """One embedding table of a plan; a table that was not scored has 8 bits, one range per row, and no predicted loss.

    Attributes:
        unseen_rows: share of its rows that the scoring text never reads.
    """

    module: str
    rows: int
    columns: int
    bits: int = Field(ge=1, le=16)
    grouping: str = "rows:each"
    method: str = TABLE_CHOICE.method
    form: Form = "offset"
    bytes: Count
    predicted_loss: Loss | None = None
    std_error: Loss | None = None
    unseen_rows: Share | None = None

    @property
    def choice(self) -> Choice:
        """The choice of this table."""
        return Choice(self.bits, self.grouping, self.method, self.form)

    @property
    def layout(self) -> Layout:
        """Its ranges."""
        return self.choice.layout(self.rows, self.columns, heads=1)


class PlannedActivation(Frozen):
    """How one input is quantized: unsigned codes, and a range that includes zero.

    Attributes:
        modules: the matrices that read this input.
        bits: of a code.
        scheme: `token`: each token has its own range, computed at run time; `tensor`: `low` to `high` for all tokens.
        range: how `low` and `high` were fixed on the calibration set; None for `token`.
        low: lower end of the range, at most 0; None for `token`.
        high: upper end of the range, at least 0; None for `token`.
        predicted_loss: its score.
        std_error: standard error of its score.
    """

    modules: tuple[str, ...]
    bits: Literal[4, 8, 16]
    scheme: Literal["token", "tensor"]
    range: str | None = None
    low: FiniteFloat | None = None
    high: FiniteFloat | None = None
    predicted_loss: Loss
    std_error: Loss


class DroppedLayers(Frozen):
    """Encoder layers of the model that a plan leaves out; the plan is of the shorter model.

    Attributes:
        layers: their numbers in the whole model, from 0, ascending.
        num_layers: number of layers of the whole model.
        predicted_loss: loss of the float model without all of them, measured on the scoring text.
        std_error: of `predicted_loss`, over the scoring text.
    """

    layers: tuple[int, ...] = Field(min_length=1)
    num_layers: int
    predicted_loss: Loss
    std_error: Loss


class PlannedCache(Frozen):
    """How a decoder's cache stores keys and values: below 16 bits symmetric, with one fp16 scale per head and token.

    Attributes:
        bits: of a key or value.
        predicted_loss: its score; None if a narrow cache was not scored, so that no loss of the plan includes it.
        std_error: standard error of its score.
    """

    bits: Literal[16, 8, 4]
    predicted_loss: Loss | None = None
    std_error: Loss | None = None

    @property
    def is_rounded(self) -> bool:
        """Whether keys and values are stored in fewer bits than computed."""
        return self.bits < 16


class DecodeCost(Frozen):
    """The cost of a decoder's answer, token by token.

    Attributes:
        context: tokens per sequence in the cache when it is full, prompt and answer.
        cache_bytes: of the full cache, over the batch.
        token_s: scheduled latency of the token that fills the cache.
        token_bound_s: its separable upper bound, as limited in the program.
        tokens_per_s: tokens per second of each sequence, at that latency.
    """

    context: int = Field(ge=1)
    cache_bytes: int = Field(ge=0)
    token_s: float = Field(gt=0)
    token_bound_s: float = Field(gt=0)
    tokens_per_s: float = Field(gt=0)


class DeviceCost(Frozen):
    """The predicted cost of a plan on its device.

    Attributes:
        name: of the device.
        seq_len: tokens per sentence.
        batch_size: sentences per inference.
        latency_s: scheduled latency of one inference; for a decoder, of its prompt: the time to the first token.
        latency_bound_s: its separable upper bound, as limited in the program.
        peak_memory_bytes: all weights, a decoder's cache, and the activation arena.
        peak_bound_bytes: its separable upper bound.
        dram_bytes: DRAM traffic per inference; for a decoder, this and the following are per token with a full cache.
        bandwidth_bytes_per_s: DRAM bytes per inference × rate of inferences.
        energy_j: per inference, static power included.
        dynamic_energy_j: per inference, without static power.
        unpack_s: time spent unpacking weights.
        confidence: how far the figures can be trusted, from the device description.
        decode: cost of the tokens of a decoder's answer; None, and not written, for an encoder.
    """

    name: str
    seq_len: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    latency_s: Cost
    latency_bound_s: Cost
    peak_memory_bytes: Count
    peak_bound_bytes: Count
    dram_bytes: Count
    bandwidth_bytes_per_s: Cost
    energy_j: Cost
    dynamic_energy_j: Cost
    unpack_s: Cost
    confidence: str
    decode: DecodeCost | None = Field(default=None, exclude_if=is_none)


class EngineFile(Frozen):
    """The size of a plan in the file of the engine that it was made for; every limit on bytes counts these.

    Attributes:
        name: the engine.
        encoder_bytes: of the matrices, with codes in widths that the engine supports and ranges as it stores them.
        total_bytes: of the whole file.
        graph_bytes: the part of `total_bytes` that is nodes, names and shapes.
    """

    name: str
    encoder_bytes: Count
    total_bytes: Count
    graph_bytes: Count


class EngineOutlook(Frozen):
    """Which of the device's engines can run a plan made for no engine, and the loss of a plan for one of them.

    Attributes:
        engines: engines that the device lists.
        runs: engines that run the plan unchanged.
        custom: formats of the plan that no engine supports: bits, axis and form.
        instead: the engine whose plan under the same limits has the least predicted loss; None if there is none, or
            none was sought.
        loss_ratio: sum of scores of that plan / sum of scores of this plan.
        reason: why there is no such plan, or why no engine runs the model at all.
    """

    engines: tuple[str, ...]
    runs: tuple[str, ...]
    custom: tuple[str, ...]
    instead: str | None = None
    loss_ratio: Amount | None = None
    reason: str = ""


class UniformPlan(Frozen):
    """A plan that gives every matrix the same choice within the same budget, for comparison.

    Attributes:
        choice: the choice of every matrix.
        encoder_bytes: bytes of the matrices; in the engine's file if the plan is made for an engine.
        predicted_loss: the sum of its scores. No text chose this plan, so the sum is unbiased, and cross-fitting would
            give the same number.
        predicted_std_error: of `predicted_loss`, over the scoring text; None in plans of older releases.
    """

    choice: str
    encoder_bytes: Count
    predicted_loss: Amount
    predicted_std_error: Amount | None = None


class Limit(Frozen):
    """A limit that the plan meets.

    Attributes:
        resource: the limited quantity.
        capacity: the limit.
        used: the plan's value.
        source: where the limit comes from, for example `--budget`.
        binds: whether a looser limit would allow a better plan.
    """

    resource: Measure
    capacity: float
    used: float
    source: str
    binds: bool
