"""The calibration set of a model, and matrices quantized with it: every quantization error comes from this file.

Scoring, planning and writing all use these functions with the same data, sizes and seed, so the ΔW that was scored is
the ΔW that is deployed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from numbers import Integral

import torch
from torch import nn

from ..curvature.capture import input_grams
from ..curvature.guidance import guided_grams
from ..data.texts import LabeledTexts, split_disjoint
from ..errors import UsageError
from ..models.batches import TokenBatch
from ..models.layers import matrix_of
from ..models.loading import LoadedModel, tokenized
from ..models.outputs import Head
from ..models.paging import in_parts, pass_bytes, release_pages, weights_at_home
from ..spec.allocation import Allocation
from ..spec.choices import Choice, Layout
from ..spec.forms import Form
from ..spec.grids import DEFAULT_BITS, DEFAULT_GROUPINGS, grid
from ..spec.profiles import MatrixSpec, ModelProfile
from ..spec.score_parts import Provenance
from .quantized_matrix import QuantizedMatrix, StoredMatrix, joined
from .quantizer import quantizer

BATCH_SIZE = 16
# by width, where inputs have static ranges; below 8 bits one level more counts
STATIC_FORMS: dict[int, Form] = {2: "signed", 3: "signed", 4: "signed", 8: "symmetric"}
TABLE_ROWS = 1 << 12  # of an embedding table that are quantized at a time
LARGEST = 1 << 63  # numbers are below it: torch takes seeds of 64 bits
GRAM_BYTES = 1 << 29  # input statistics in memory at a time; the rest needs further passes over the calibration set


@dataclass(frozen=True, slots=True)
class CalibrationPlan:
    """How calibration text is drawn from a given data set: sizes and seed.

    Attributes:
        num_calibration: samples for calibrating the quantizer.
        num_scored: samples to score, disjoint from those.
        seed: of the draw.
        num_pool: texts from which the scoring samples are drawn, uncertain ones more often (`scoring.pool`); 0: no
            pool.

    Raises:
        UsageError: a number that is not whole, or negative.
    """

    num_calibration: int
    num_scored: int
    seed: int
    num_pool: int = 0

    @staticmethod
    def of(origin: Provenance) -> CalibrationPlan:
        """Return the plan that scores were made by."""
        return CalibrationPlan(origin.num_calibration, origin.num_scored, origin.seed, origin.num_pool)

    @property
    def num_held(self) -> int:
        """Number of texts besides those for calibration: the pool, or the scoring samples."""
        return max(self.num_scored, self.num_pool)

    def __post_init__(self) -> None:
        for name in ("num_calibration", "num_scored", "seed", "num_pool"):
            number = getattr(self, name)
            if isinstance(number, bool) or not isinstance(number, Integral) or not 0 <= int(number) < LARGEST:
                raise UsageError(f"`{name}`: {number!r} is not a whole number from 0 to {LARGEST - 1}.")
            object.__setattr__(self, name, int(number))


def calibration_texts(
    data: LabeledTexts, plan: CalibrationPlan, *, named: bool = False
) -> tuple[LabeledTexts, LabeledTexts]:
    """Draw the calibration texts, and disjoint from them the scoring texts or their pool.

    Args:
        data: the data set.
        plan: how many, and the seed.
        named: whether an error about too few texts names the plan's parameters, because the user gave them.

    Raises:
        InputFileError: there are fewer distinct texts.
    """
    names = ("num_calibration", "num_pool" if plan.num_pool > plan.num_scored else "num_scored") if named else ()
    fit, scored = split_disjoint(data, [plan.num_calibration, plan.num_held], seed=plan.seed, names=names)
    return fit, scored


def method_grid(
    method: str,
    bits: Sequence[int] = DEFAULT_BITS,
    groupings: Sequence[str] = DEFAULT_GROUPINGS,
    forms: Sequence[Form] | None = None,
) -> tuple[Choice, ...]:
    """Return every choice of a quantizer: bits × grouping × form.

    Args:
        method: name of the quantizer.
        bits: widths of a code.
        groupings: for example `rows:each` or `columns:64`.
        forms: forms of a range; None takes the quantizer's default form.

    Raises:
        UsageError: unknown method, or a form that it does not support.
    """
    legal: Sequence[Form] = quantizer(method).FORMS
    for form in forms or ():
        if form not in legal:
            raise UsageError(f"`forms` {form}: {method} has no such form. Legal with it: {', '.join(legal)}.")
    return grid(bits, groupings, method, forms or legal[:1])


def static_grid(method: str) -> tuple[Choice, ...]:
    """Return the default grid for engines that multiply in static 8-bit input ranges.

    If a range spans rows, codes are symmetric around zero: an offset costs a sum over the inputs and two more passes
    over the outputs of each product, a sixth of the time of a whole small model, for almost no gain (measured:
    benchmarks/engines/README.md, exports beside what users would take).

    Args:
        method: name of the quantizer.

    Raises:
        UsageError: unknown method.
    """
    legal = quantizer(method).FORMS
    middle: dict[int, Form] = {bits: form for bits, form in STATIC_FORMS.items() if form in legal}
    return tuple(
        replace(c, form=middle.get(c.bits, c.form)) if c.grouping.startswith("rows:") and c.form == "offset" else c
        for c in method_grid(method)
    )


def weight_of(model: nn.Module, module: str) -> torch.Tensor:
    """Return a view of the weight of a layer or embedding table, `[rows, columns]`, outside the graph.

    Args:
        model: contains the module.
        module: its name.
    """
    layer = model.get_submodule(module)
    return matrix_of(layer, weights_at_home(model, layer.get_parameter("weight"))).detach()


def fit_batches(loaded: LoadedModel, method: str, fit: LabeledTexts | None) -> list[TokenBatch]:
    """Tokenize the calibration text of a quantizer, in batches of `BATCH_SIZE`.

    Args:
        loaded: the model, for its tokenizer.
        method: the quantizer, for the message.
        fit: the calibration text.

    Raises:
        UsageError: there is none.
    """
    if fit is None:
        raise UsageError(f"`method` {method}: needs calibration text. Give `data` FILE.")
    return tokenized(loaded, fit.texts, batch_size=BATCH_SIZE)


def fit_grams(
    model: nn.Module, method: str, batches: Sequence[TokenBatch], modules: Sequence[str], head: Head
) -> dict[str, torch.Tensor]:
    """Return the input second moments that a quantizer needs, by module, float32 `[columns, columns]` each.

    Args:
        model: contains the modules.
        method: the quantizer.
        batches: calibration set.
        modules: names of linear layers.
        head: how the model's answers are read.
    """
    grams = input_grams(model, batches, modules)
    share: float = quantizer(method).GRADIENT_SHARE
    return guided_grams(model, batches, grams, share, head) if share else grams


def quantize_rows(rows: torch.Tensor, choices: Sequence[Choice]) -> list[QuantizedMatrix]:
    """Quantize rows of an embedding table under each choice, without calibration text.

    Each row is rounded independently, so part of a table gives the same codes as the whole table.

    Args:
        rows: float32 `[rows, columns]`.
        choices: at least one, all of one method.
    """
    layouts = [c.layout(*rows.shape, heads=1) for c in choices]
    found: list[QuantizedMatrix] = quantizer(choices[0].method).quantize(rows, layouts)
    return found


def quantize_table(model: nn.Module, module: str, choices: Sequence[Choice]) -> list[QuantizedMatrix]:
    """Quantize one embedding table under each choice, `TABLE_ROWS` rows at a time if no range spans rows.

    Args:
        model: contains the table.
        module: its name.
        choices: at least one, all of one method.
    """
    weight = weight_of(model, module)
    layouts = [c.layout(*weight.shape, heads=1) for c in choices]
    if any(layout.axis == "rows" and layout.num_groups < len(weight) for layout in layouts):
        return quantize_rows(weight, choices)
    parts = []
    for rows in in_parts(model, weight, TABLE_ROWS):
        parts.append(quantize_rows(rows, choices))
    return [joined(layout, [part[place] for part in parts]) for place, layout in enumerate(layouts)]


class MatrixQuantizer:
    """Quantizes a model's matrices by one method with the statistics of one calibration set.

    Attributes:
        model: the model that holds the matrices.
    """

    def __init__(self, loaded: LoadedModel, profile: ModelProfile, method: str, fit: LabeledTexts | None) -> None:
        self.model, self._profile = loaded.model, profile
        self._plugin = quantizer(method)
        self._method, self._grams = method, dict[str, torch.Tensor]()
        if self._plugin.NEEDS_GRAM:
            self._batches, self._head = fit_batches(loaded, method, fit), loaded.head

    def weight(self, matrix: MatrixSpec) -> torch.Tensor:
        """Weights of a matrix, contiguous float32 `[rows, columns]`."""
        return weight_of(self.model, matrix.module).contiguous()

    def quantize(self, matrix: MatrixSpec, choices: Sequence[Choice]) -> list[QuantizedMatrix]:
        """Quantize one matrix under each choice.

        Args:
            matrix: of the model's profile.
            choices: bits, grouping and form; their method is not read.
        """
        heads = self._profile.heads_of(matrix)
        layouts: list[Layout] = [c.layout(matrix.rows, matrix.columns, heads=heads) for c in choices]
        gram = self._gram(matrix) if self._plugin.NEEDS_GRAM else None
        found: list[QuantizedMatrix] = self._plugin.quantize(self.weight(matrix), layouts, gram)
        return found

    def _gram(self, matrix: MatrixSpec) -> torch.Tensor:
        """Statistics of a matrix; computed together with those of following matrices, up to `GRAM_BYTES` of memory."""
        if matrix.module not in self._grams:
            self._grams.clear()
            names: list[str] = []
            held, limit = 0, pass_bytes(self.model, GRAM_BYTES)
            for other in self._profile.matrices[self._profile.matrices.index(matrix) :]:
                held += 4 * other.columns**2
                if names and held > limit:
                    break
                names.append(other.module)
            self._grams = fit_grams(self.model, self._method, self._batches, names, self._head)
        return self._grams[matrix.module]

    def errors(self, matrix: MatrixSpec, choices: Sequence[Choice]) -> torch.Tensor:
        """Return the rounding errors ΔW of one matrix, float32 `[choices, rows, columns]`.

        Args:
            matrix: of the model's profile.
            choices: as in `quantize`.
        """
        weight = self.weight(matrix)
        return torch.stack([quantized.dequantize() - weight for quantized in self.quantize(matrix, choices)])


def quantized_matrices(quantizer: MatrixQuantizer, plan: Allocation) -> Iterator[StoredMatrix]:
    """Quantize the matrices of a plan, then its embedding tables, lazily and one at a time.

    Args:
        quantizer: for the plan's model and method.
        plan: the choice of each matrix and table.
    """
    for matrix, planned in zip(plan.profile.matrices, plan.matrices, strict=True):
        yield StoredMatrix(planned.module, *quantizer.quantize(matrix, [planned.choice]))
        release_pages(quantizer.model)
    yield from quantized_tables(quantizer.model, plan)


def quantized_tables(model: nn.Module, plan: Allocation) -> Iterator[StoredMatrix]:
    """Quantize the embedding tables of a plan, lazily and one at a time."""
    for table in plan.tables:
        yield StoredMatrix(table.module, *quantize_table(model, table.module, [table.choice]))
        release_pages(model)
