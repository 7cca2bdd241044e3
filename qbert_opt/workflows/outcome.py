"""`optimized.json`: the findings of a run of `optimize`, in numbers; the report puts them into words."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ..evaluation.intervals import Interval
from ..runtime.frozen import Amount, Count, Frozen, Share

SCHEMA = "qbert-opt/optimized@1"


class ShareProof(Frozen):
    """A limit on answers, and what the check texts say about it.

    Attributes:
        limit: `flips` or `accuracy_drop`.
        allowed: the largest share allowed.
        measured: on the check texts.
        upper: one-sided upper bound of the share among all such texts.
        confidence: of the bound.
        holds: `upper` is at most `allowed`.
        without_labels: the share of flips stands in for the drop, which is never larger.
    """

    limit: Literal["flips", "accuracy_drop"]
    allowed: Share
    measured: float = Field(ge=-1, le=1)
    upper: float = Field(ge=-1, le=1)
    confidence: Share
    holds: bool
    without_labels: bool = False


class Measured(Frozen):
    """A model of the comparison: float32, uniform 8-bit or the plan. None: not predicted or not measured.

    Attributes:
        name: what it is.
        stored_bytes: of the quantized model as planned; of the float model in float32.
        engine_bytes: of the engine's files.
        num_texts: check texts.
        accuracy: on the check texts, 95 % interval.
        drop: of accuracy relative to the float model; paired 95 % interval.
        flips: share of texts whose answer changed, exact 95 % interval.
        flipped: their number.
        kl: loss relative to the float model, measured, in the plan's `loss_unit`; its 95 % interval.
        predicted_loss: without a forward pass; cross-fitted for the plan.
        predicted_flips: prediction of `flips` with its 95 % prediction interval.
        predicted_drop: prediction of `drop` likewise.
        latency_s: measured here in the engine: median processor time on one thread.
        predicted_latency_s: on the device.
        proofs: limits on answers.
    """

    name: str
    stored_bytes: Count
    engine_bytes: Count | None = None
    num_texts: Count
    accuracy: Interval | None = None
    drop: Interval | None = None
    flips: Interval | None = None
    flipped: Count | None = None
    kl: Interval | None = None
    predicted_loss: Amount | None = None
    predicted_flips: Interval | None = None
    predicted_drop: Interval | None = None
    latency_s: Amount | None = None
    predicted_latency_s: Amount | None = None
    proofs: tuple[ShareProof, ...] = ()


class Outcome(Frozen):
    """What a run of `optimize` found.

    Attributes:
        model: name of the model.
        engine: name and version of the engine; None if nothing was exported.
        device: the target; None without one.
        activations: how the engine rounds the inputs of products.
        loss_unit: of every loss.
        least: what was minimized under limits on answers: bytes or latency.
        texts: description of the calibration, scoring and check texts.
        original: the float model.
        uniform: every matrix at 8 bits; None where that is not possible.
        uniform_choice: its bit width, grouping and quantizer.
        uniform_suffices: uniform 8-bit meets every limit.
        plan: the plan.
        tried: plans that were checked, in the order fixed beforehand; the last one that passed is the plan.
        limits: resource limits of the plan with what is used, in words.
        notes: what an engineer should know.
        files: what was written.
    """

    document_schema: str = Field(default=SCHEMA, alias="schema")
    model: str
    engine: str | None
    device: str | None
    activations: str | None
    loss_unit: str
    least: str = "bytes"
    texts: str
    original: Measured
    uniform: Measured | None
    uniform_choice: str | None
    uniform_suffices: bool
    plan: Measured
    tried: tuple[Measured, ...] = ()
    limits: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
