"""The content of a sweep file: what a sweep combines."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from hwmodels import DeviceError, parse_quantity

from ..errors import UsageError

Until = Literal["solve", "quantize", "export", "measure"]


def _listed(value: Any) -> Any:
    """Turn a single value into a list of one."""
    return value if value is None or isinstance(value, list) else [value]


def _joined(value: Any) -> Any:
    """Join a list with commas, the form in which `sensitivity` takes its options."""
    plain = isinstance(value, list) and value and all(type(entry) in (int, str) for entry in value)
    return ",".join(map(str, value)) if plain else str(value) if type(value) is int else value


def _in_field(name: str) -> BeforeValidator:
    """Return a validator that turns a bare text into a mapping with this one field."""
    return BeforeValidator(lambda value: {name: value} if isinstance(value, str) else value)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Texts(_Part):
    """A data set, given as for `--data` with its columns.

    Attributes:
        path: a file, a folder of splits, or a bundled data set.
        text_column: one column of texts, or two of pairs; None tries the usual names.
        label_column: column of labels; None tries the usual names.
        split: split to read if the path is a folder.
    """

    path: str
    text_column: Annotated[tuple[str, ...] | None, BeforeValidator(_listed)] = None
    label_column: str | None = None
    split: str | None = None


Names = Annotated[str, BeforeValidator(_joined)]
AsTexts = Annotated[Texts, _in_field("path")]
LARGEST_BATCH = 1_000_000
Seed = Annotated[int, Field(ge=0, lt=2**63)]  # what torch accepts
ManyTexts = Annotated[tuple[AsTexts, ...], BeforeValidator(_listed), Field(min_length=1)]


class Model(_Part):
    """A model of the sweep.

    Attributes:
        folder: folder of the float model.
        name: its name in the table; by default `folder` as written.
        data: its calibration sets, instead of the sweep's.
        test_data: its held-out text, instead of the sweep's.
    """

    folder: str
    name: str | None = None
    data: ManyTexts | None = None
    test_data: AsTexts | None = None

    @property
    def label(self) -> str:
        """Its name in the table."""
        return self.name or self.folder


class Target(_Part):
    """What a model shall run on: a device, an engine, or an engine on a device.

    Attributes:
        device: a bundled device's name or a YAML file.
        engine: the engine whose files are written.
    """

    device: str | None = None
    engine: str | None = None


class Budget(_Part):
    """Limits of a plan; each has the name and the values of an option of `solve`.

    `min_tokens_per_s` is for decoders only.
    """

    budget: str | None = None
    total_budget: str | None = None
    max_latency: str | None = None
    max_memory: str | None = None
    max_dram_bytes: str | None = None
    max_energy: str | None = None
    min_tokens_per_s: float | None = Field(default=None, gt=0, allow_inf_nan=False)

    @property
    def label(self) -> str:
        """Its name in the table: `2.5bit`, or `total_budget 20MB, max_latency 20ms`."""
        given = self.model_dump(exclude_none=True)
        if list(given) == ["budget"]:
            return str(given["budget"])
        return ", ".join(f"{k} {f'{v:.12g}' if isinstance(v, float) else v}" for k, v in given.items())


QUANTITIES = {"max_latency": "time", "max_memory": "bytes", "max_dram_bytes": "bytes", "max_energy": "energy"}
"""Limits that can be read without knowing the model's shapes, and the kind of their unit."""


class Recovery(_Part):
    """Training of every plan after quantization.

    Attributes:
        data: training texts.
        minutes: approximate training time of a plan; None: as many passes as the recipe, or the default, has.
        recipe: a published recipe instead of the default steps.
        seed: seed of the split of texts and of the order of batches.
    """

    data: ManyTexts
    minutes: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    recipe: str | None = None
    seed: Seed = 0


class Sweep(_Part):
    """What a sweep combines: models × calibration sets × metrics × quantizers × targets × budgets.

    Attributes:
        models: model folders.
        data: calibration sets, for models without their own.
        test_data: held-out text that finished models are measured on, for models without their own.
        metrics: estimators of the loss.
        methods: quantizers.
        devices: devices, engines, or engines on devices; without any, the hardware is left open.
        budgets: limits of a plan besides the device's own; without any, only the device's own apply.
        until: the last step: `solve`, `quantize`, `export` or `measure`.
        recover: how to train every plan after quantization; None trains none.
        bits: bit widths of matrices to score.
        groupings: groupings of matrices to score.
        forms: forms to score, i.e. the parameters that a range stores; None is the quantizer's usual form.
        activation_bits: bit widths of inputs to score, or `none`.
        calibration_samples: number of texts in the quantizer's calibration set.
        scoring_samples: number of texts to score.
        max_tokens: length in tokens to which texts are truncated; None is the model's maximum.
        seq_len: tokens of one inference; None is 128, or the model's maximum if that is less.
        batch_size: sentences per inference.
        context: tokens in a decoder's full cache; None is 1024, or the model's maximum if that is less.
        cache_bits: bits of keys and values in the cache; None: as for `solve`.
        seed: seed of the draw of calibration and scoring texts.
    """

    models: Annotated[tuple[Annotated[Model, _in_field("folder")], ...], BeforeValidator(_listed), Field(min_length=1)]
    data: ManyTexts | None = None
    test_data: AsTexts | None = None
    metrics: Annotated[tuple[str, ...], BeforeValidator(_listed), Field(min_length=1)] = ("directional",)
    methods: Annotated[tuple[str, ...], BeforeValidator(_listed), Field(min_length=1)] = ("gptq",)
    devices: Annotated[
        tuple[Annotated[Target, _in_field("device")], ...], BeforeValidator(_listed), Field(min_length=1)
    ] = (Target(),)
    budgets: Annotated[
        tuple[Annotated[Budget, _in_field("budget")], ...], BeforeValidator(_listed), Field(min_length=1)
    ] = (Budget(),)
    until: Until = "measure"
    recover: Recovery | None = None
    bits: Names = "2,3,4,8"
    groupings: Names = "rows:1,rows:heads,rows:128,rows:each,columns:32,columns:64,columns:128"
    forms: Names | None = None
    activation_bits: Names = "none"
    calibration_samples: int = Field(default=256, ge=1)
    scoring_samples: int = Field(default=256, ge=2)
    max_tokens: int | None = Field(default=None, ge=4)
    seq_len: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=1, ge=1, le=LARGEST_BATCH)
    context: int | None = Field(default=None, ge=1)
    cache_bits: Literal[16, 8, 4] | None = None
    seed: Seed = 0


def needed_limits(budget: Budget) -> dict[str, float]:
    """Return the limits that can be read without knowing the model's shapes, by field of `spec.limits.Limits`.

    Args:
        budget: limits of a checked sweep.

    Raises:
        UsageError: a quantity is malformed or has a unit of another kind.
    """
    fields = {"max_latency": "latency_s", "max_memory": "memory_bytes", "max_dram_bytes": "dram_bytes"}
    fields["max_energy"] = "energy_j"
    limits = {}
    for name, kind in QUANTITIES.items():
        text = getattr(budget, name)
        if text is not None:
            try:
                value = parse_quantity(text, kind)
            except DeviceError as error:
                raise UsageError(f"`{name}` {text}: {error}") from None
            limits[fields[name]] = int(value) if kind == "bytes" else value
    if budget.min_tokens_per_s is not None:
        limits["tokens_per_s"] = budget.min_tokens_per_s
    return limits
