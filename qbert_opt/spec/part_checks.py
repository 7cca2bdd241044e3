"""Checks of the parts of a plan read from a file: matrices, tables, quantized inputs, missing layers and heads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import UsageError
from .activations import RANGES
from .forms import AROUND_ZERO, legal_bits, zero_dtype
from .groupings import LEGAL_GROUPINGS, parse_groupings

if TYPE_CHECKING:
    from .allocation import Allocation
    from .planned import PlannedMatrix, PlannedTable


def check_parts(plan: Allocation) -> None:
    """Check each part of a plan against its profile.

    Args:
        plan: as read from a file.

    Raises:
        ValueError: a field differs from what follows from the others; names the part, the field and what is right.
    """
    _check_dropped(plan)  # first, since shapes depend on what is left out
    _check_dropped_heads(plan)
    _check_matrices(plan)
    _check_tables(plan)
    _check_activations(plan)


def require(where: str, **fields: tuple[object, object]) -> None:
    """Raise ValueError for the first field whose value is not the right one.

    Args:
        where: owner of the fields, with a colon; empty for the plan itself.
        **fields: value and right value of each.
    """
    for name, (value, right) in fields.items():
        if value != right:
            raise ValueError(f"{where}{name} is {_shown(value)}; legal here: {_shown(right)}.")


def _shown(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else repr(value)


def _check_matrices(plan: Allocation) -> None:
    profile = plan.profile
    if not profile.matrices:
        raise ValueError("profile: matrices is empty; a plan has at least one.")
    if len(plan.matrices) != len(profile.matrices):
        raise ValueError(f"has {len(plan.matrices)} matrices; the profile has {len(profile.matrices)}.")
    for planned, matrix in zip(plan.matrices, profile.matrices, strict=True):
        if planned.module != matrix.module:
            raise ValueError(f"matrices: {planned.module} does not match {matrix.module} of the profile.")
        where = f"matrices: {planned.module}: "
        require(
            where,
            rows=(planned.rows, matrix.rows),
            columns=(planned.columns, matrix.columns),
            kind=(planned.kind, matrix.kind),
            block=(planned.block, matrix.block),
            name=(planned.name, f"layer {matrix.block + 1} {matrix.kind}"),
            method=(planned.method, plan.method),
            symmetric=(planned.symmetric, planned.form in AROUND_ZERO),
            zero_dtype=(planned.zero_dtype, zero_dtype(planned.form)),
        )
        _check_layout(where, planned, profile.heads_of(matrix))
        if planned.residency == "resident" and plan.device is None:
            raise ValueError(f"{where}residency is 'resident', but the plan is for no device; legal here: 'streamed'.")


def _check_layout(where: str, planned: PlannedMatrix, heads: int) -> None:
    """Check the fields that follow from bits, grouping, method and form."""
    _check_choice(where, planned)
    try:
        right = planned.choice.layout(planned.rows, planned.columns, heads=heads)
    except UsageError as error:
        raise ValueError(f"{where}{error}") from None
    require(
        f"{where}{planned.choice.name} of {planned.rows} × {planned.columns} weights: ",
        axis=(planned.axis, right.axis),
        num_groups=(planned.num_groups, right.num_groups),
        group_size=(planned.group_size, right.group_size),
        bytes=(planned.bytes, planned.choice.bytes(planned.rows, planned.columns, heads=heads)),
    )


def _check_choice(where: str, planned: PlannedMatrix | PlannedTable) -> None:
    """Check bits and grouping, which are any number and any text as far as the file's schema goes."""
    legal = legal_bits(planned.form)
    if planned.bits not in legal:
        raise ValueError(f"{where}bits is {planned.bits}; legal: {', '.join(map(str, legal))}.")
    try:
        is_one = parse_groupings(planned.grouping) == (planned.grouping,)
    except UsageError:
        is_one = False
    if not is_one:
        raise ValueError(f"{where}grouping is {planned.grouping!r}; legal: {LEGAL_GROUPINGS}.")


def _check_tables(plan: Allocation) -> None:
    shapes = tuple((t.module, t.rows, t.columns) for t in plan.profile.tables)
    if tuple((t.module, t.rows, t.columns) for t in plan.tables) != shapes:
        raise ValueError("tables: do not match the tables of the profile.")
    for table in plan.tables:
        where = f"tables: {table.module}: "
        _check_choice(where, table)
        try:
            right = table.choice.bytes(table.rows, table.columns, heads=1)
        except UsageError as error:
            raise ValueError(f"{where}{error}") from None
        require(f"{where}{table.choice.name}: ", bytes=(table.bytes, right))
        if (table.predicted_loss is None) != (table.std_error is None):
            raise ValueError(f"{where}predicted_loss and std_error: a scored table has both, any other has neither.")


def _check_activations(plan: Allocation) -> None:
    known = {m.module for m in plan.profile.matrices}
    read: set[str] = set()
    for item in plan.activations:
        if not item.modules:
            raise ValueError("activations: modules is empty; name the matrices that read the input.")
        for name in item.modules:
            if name not in known:
                raise ValueError(f"activations: {name} is not a matrix of the profile.")
            if name in read:
                raise ValueError(f"activations: {name} is named twice; a matrix reads one input.")
            read.add(name)
        where = f"activations: {item.modules[0]}: "
        is_tensor = item.scheme == "tensor"
        if is_tensor != (item.low is not None and item.high is not None):
            raise ValueError(f"{where}scheme tensor needs low and high, scheme token has neither.")
        if item.range not in (RANGES if is_tensor else (None,)):
            legal = ", ".join(RANGES) if is_tensor else "none, because each token has its own"
            raise ValueError(f"{where}range is {item.range!r}; legal with scheme {item.scheme}: {legal}.")
        if item.low is not None and item.high is not None and not item.low <= 0 <= item.high:
            raise ValueError(f"{where}low {item.low:g}, high {item.high:g}: low must be at most 0 and high at least 0.")


def _check_dropped(plan: Allocation) -> None:
    """Check that the profile is that of the model without the dropped layers."""
    dropped = plan.dropped
    if dropped is None:
        return
    layers = dropped.layers
    if sorted(set(layers)) != list(layers) or not 0 <= layers[0] <= layers[-1] < dropped.num_layers:
        raise ValueError(f"dropped: layers are {layers}; legal: different numbers from 0, ascending, below num_layers.")
    require("dropped: ", num_layers=(dropped.num_layers, plan.profile.num_blocks + len(layers)))


def _check_dropped_heads(plan: Allocation) -> None:
    """Check that the profile is that of the model without the dropped heads."""
    dropped, profile, where = plan.dropped_heads, plan.profile, "dropped_heads: "
    if dropped is None:
        if profile.block_heads:
            raise ValueError(
                f"{where}is missing, and the layers keep {_shown(profile.block_heads)} of {profile.heads}."
            )
        return
    if plan.dropped is not None:
        raise ValueError(f"{where}stands beside dropped layers; legal: one of them.")
    for numbers in dropped.heads:
        if sorted(set(numbers)) != list(numbers) or not all(0 <= number < dropped.num_heads for number in numbers):
            raise ValueError(
                f"{where}heads of a layer are {numbers}; legal: different numbers from 0, ascending, below num_heads."
            )
    require(
        where,
        num_heads=(dropped.num_heads, profile.heads),
        layers=(len(dropped.heads), profile.num_blocks),
        kept=(dropped.kept, profile.block_heads),
        means=(len(dropped.means), dropped.count),
    )
    for matrix in profile.matrices:
        if matrix.kind in ("query", "key", "value", "attention_output"):
            width = matrix.columns if matrix.kind == "attention_output" else matrix.rows
            for mean in dropped.means_of(matrix.block):
                require(f"{where}{matrix.module}: ", width=(width, len(mean) * dropped.kept[matrix.block]))
