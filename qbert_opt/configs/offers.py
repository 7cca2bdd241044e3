"""The formats that a tool can store, in terms of choices, and which of them is nearest to a planned choice."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from ..runtime.input_files import quoted
from ..spec.allocation import Allocation
from ..spec.choices import Choice
from ..spec.forms import Form
from ..spec.groupings import num_groups, parse_groupings
from ..spec.planned import PlannedMatrix
from ..spec.profiles import ModelProfile

FP16_BITS = 16
COLUMN_SIZES = (16, 32, 64, 128, 256)
FORMS: tuple[Form, ...] = (
    "zero-point",
    "offset",
    "codebook",
    "signed",
    "symmetric",
    "ternary",
)  # nearest to an fp16 offset first


@dataclass(frozen=True, slots=True)
class Offer:
    """One format in which a tool can store a matrix.

    Attributes:
        bits: width of a code.
        grouping: `rows:N`, `rows:each` or `columns:G`, as in a choice.
        form: parameters of a range, as in a choice.
        group_bits: bits of scale, zero point and codebook that the tool stores per group; None is as in a choice.
        name: the tool's name for the format, if it has one.
    """

    bits: int
    grouping: str
    form: Form
    group_bits: int | None = None
    name: str = ""

    def as_choice(self, method: str) -> Choice:
        """Return the equivalent choice.

        Args:
            method: name of the quantizer.

        Raises:
            UsageError: bits or a form that no choice has.
        """
        return Choice(self.bits, self.grouping, method, self.form)

    def bytes(self, rows: int, columns: int, *, heads: int) -> int:
        """Return the bytes of a matrix as the tool stores it.

        Args:
            rows: outputs of the matrix.
            columns: inputs of the matrix.
            heads: attention heads of the model, for `rows:heads`.

        Raises:
            UsageError: the grouping does not divide the matrix.
        """
        groups = num_groups(self.grouping, rows, columns, heads=heads)
        group_bits = range_bits(self.bits, self.form) if self.group_bits is None else self.group_bits
        return -(-(rows * columns * self.bits + groups * group_bits) // 8)


@dataclass(frozen=True, slots=True)
class Carried:
    """A planned matrix and the format that another tool stores it in.

    Attributes:
        matrix: the matrix as planned.
        offer: the tool's format for it.
    """

    matrix: PlannedMatrix
    offer: Offer

    @property
    def is_exact(self) -> bool:
        """Whether bits and grouping are those of the plan; the form is not compared."""
        return (self.offer.bits, self.offer.grouping) == (self.matrix.bits, self.matrix.grouping)


def range_bits(bits: int, form: Form) -> int:
    """Return the bits that a choice stores per group.

    Args:
        bits: width of a code.
        form: parameters of a range.

    >>> range_bits(4, "zero-point")
    20
    """
    if form == "codebook":
        return FP16_BITS << bits
    return FP16_BITS + {"offset": FP16_BITS, "zero-point": bits}.get(form, 0)


def ranges(
    matrix: PlannedMatrix,
    bits: Iterable[int],
    *,
    rows: Iterable[str] = ("rows:1", "rows:each"),
    any_rows: bool = False,
    columns: Iterable[int] = COLUMN_SIZES,
    forms: Iterable[Form] = ("zero-point", "symmetric"),
    group_bits: Callable[[int, Form], int | None] = lambda bits, form: None,
) -> Iterator[Offer]:
    """Yield every legal combination for a matrix: integer codes with a range per group.

    Args:
        matrix: the matrix.
        bits: legal bit widths.
        rows: legal row groupings.
        any_rows: whether any number of row groups is legal, and therefore the planned one.
        columns: legal inputs per group; sizes that do not divide the columns are left out.
        forms: legal forms.
        group_bits: bits stored per group; by default as in a choice.
    """
    planned = (matrix.grouping,) if any_rows and matrix.axis == "rows" else ()
    sizes = tuple(f"columns:{size}" for size in columns if matrix.columns % size == 0)
    for width in bits:
        for grouping in dict.fromkeys((*planned, *rows, *sizes)):
            for form in forms:
                yield Offer(width, grouping, form, group_bits(width, form))


def checked(offers: Mapping[str, Offer]) -> dict[str, Offer]:
    """Refuse what a tool's reader took over from a file as it stands: names, bits and groupings of any type.

    Args:
        offers: by module.

    Returns:
        The same offers.

    Raises:
        ValueError: a module that is no name, or bits or a grouping that no matrix can have.
    """
    for module, offer in offers.items():
        if not isinstance(module, str):
            raise ValueError(f"module {quoted(str(module))} is no name")
        if type(offer.bits) is not int or not 0 < offer.bits <= FP16_BITS:
            raise ValueError(f"{quoted(module)}: {quoted(str(offer.bits))} is no number of bits")
        parse_groupings(str(offer.grouping))
    return dict(offers)


def nearest(offers: Iterable[Offer], matrix: PlannedMatrix, heads: int) -> Offer | None:
    """Return the offer that is nearest to the planned choice; None if there are no offers.

    Preferred are, in this order: the same bits, else more, else fewer; the same grouping, else more groups, else fewer;
    the same form, else one with an offset, else symmetric.

    Args:
        offers: of the tool.
        matrix: with its planned choice.
        heads: attention heads of the model, for `rows:heads`.
    """

    def distance(offer: Offer) -> tuple[bool, int, bool, float, int]:
        ratio = math.log2(num_groups(offer.grouping, matrix.rows, matrix.columns, heads=heads) / matrix.num_groups)
        return (
            offer.bits < matrix.bits,
            abs(offer.bits - matrix.bits),
            ratio < 0,
            0.0 if offer.grouping == matrix.grouping else 1 + abs(ratio),
            -1 if offer.form == matrix.form else FORMS.index(offer.form),
        )

    return min(offers, key=distance, default=None)


def by_offer(carried: Iterable[Carried]) -> Mapping[Offer, list[str]]:
    """Return modules by their offer, in the order of the model.

    Args:
        carried: matrices with their offers, in the order of the model.
    """
    modules: dict[Offer, list[str]] = {}
    for item in carried:
        modules.setdefault(item.offer, []).append(item.matrix.module)
    return modules


def of_matrix(plan: Allocation, module: str) -> PlannedMatrix:
    """Return a plan's matrix by its module name.

    Args:
        plan: the plan.
        module: a module of the plan.

    Raises:
        StopIteration: the plan has no such matrix.
    """
    return next(m for m in plan.matrices if m.module == module)


def row_ranges(profile: ModelProfile, module: str, rows_per_range: int) -> str:
    """Return the row grouping of a matrix, for example `rows:heads`.

    Args:
        profile: of the model.
        module: name of the matrix.
        rows_per_range: consecutive rows that share a range.
    """
    matrix = next((matrix for matrix in profile.matrices if matrix.module == module), None)
    rows, heads = (0, profile.heads) if matrix is None else (matrix.rows, profile.heads_of(matrix))
    if rows_per_range == rows:
        return "rows:1"
    if rows_per_range == 1:
        return "rows:each"
    count = rows // rows_per_range
    return "rows:heads" if count == heads else f"rows:{count}"
