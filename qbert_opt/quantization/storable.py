"""Reject weights beyond the range of fp16 before anything is scored or quantized.

Scales, offsets and codebooks are stored in fp16, and so is every tensor that is not quantized. Beyond ±65504 they would
become infinite, and a single infinite row of an embedding table makes the output NaN for every text that uses it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

import torch
from torch import nn

from ..errors import InputFileError, UsageError
from ..models.layers import matrix_of
from ..models.loading import flat, is_finite
from ..models.paging import in_parts, streamed
from ..spec.choices import Choice, Layout
from ..spec.profiles import ModelProfile
from ..spec.tables import TABLE_CHOICE
from .quantized_matrix import grouped, stored_range

FP16_MAX = 65504.0


def check_storable(model: nn.Module, layouts: Mapping[str, Sequence[Layout]]) -> None:
    """Refuse a model with a weight that cannot be stored.

    Args:
        model: float weights.
        layouts: possible layouts of each matrix and embedding table, by module; all other parameters are stored in
            fp16.

    Raises:
        InputFileError: names the tensor, its largest value and the limit.
    """
    for name, parameter in streamed(model, dict(model.named_parameters())):
        ends = [torch.stack(part.aminmax()) for part in in_parts(model, flat(parameter)) if len(part)]
        extremes = torch.cat(ends) if ends else torch.zeros(1)
        if not is_finite(extremes):
            raise InputFileError(f"{name}: holds NaN or infinite values. Repair or retrain the model.")
        largest = float(extremes.abs().max())
        module = name.removesuffix(".weight") if name.endswith(".weight") else ""
        if module not in layouts:
            if not fits_fp16(extremes):
                raise InputFileError(
                    f"{name}: holds a value of magnitude {largest:.6g}; it is stored in fp16, whose limit is "
                    f"{FP16_MAX:g}. Rescale or retrain the model."
                )
        elif largest > FP16_MAX / 2:  # below, even the widest range has a scale and an offset within the limit
            for layout in layouts[module]:
                if not _range_fits(matrix_of(model.get_submodule(module)).detach(), layout):
                    raise InputFileError(
                        f"{name}: holds a value of magnitude {largest:.6g}; at {layout.bits} bits, form {layout.form}, "
                        f"a scale or offset would be beyond fp16's limit of {FP16_MAX:g}. Rescale or retrain the model."
                    )


def possible_layouts(
    profile: ModelProfile, choices: Sequence[Choice], table_choices: Sequence[Choice] = ()
) -> dict[str, list[Layout]]:
    """Return every way in which a plan may store each matrix and embedding table of a model, by module.

    Args:
        profile: of the model.
        choices: of the matrices; those whose groups do not divide a matrix are left out.
        table_choices: of the tables; if empty, tables get the default layout of unscored tables.
    """
    layouts: dict[str, list[Layout]] = {}
    for matrix in profile.matrices:
        layouts[matrix.module] = []
        for choice in choices:
            with suppress(UsageError):
                layouts[matrix.module].append(
                    choice.layout(matrix.rows, matrix.columns, heads=profile.heads_of(matrix))
                )
    for table in profile.tables:
        layouts[table.module] = []
        for choice in table_choices or (TABLE_CHOICE,):
            with suppress(UsageError):
                layouts[table.module].append(choice.layout(table.rows, table.columns, heads=1))
    return layouts


def fits_fp16(tensor: torch.Tensor) -> bool:
    """Return whether a tensor is finite after rounding to fp16; an empty one is.

    Args:
        tensor: of any shape.
    """
    return tensor.numel() == 0 or bool(torch.isfinite(torch.stack(tensor.aminmax()).half()).all())


def _range_fits(weight: torch.Tensor, layout: Layout) -> bool:
    """Return whether the min-max range of each group can be stored."""
    groups = grouped(weight.float(), layout)
    low, high = groups.amin(1), groups.amax(1)
    if layout.form == "codebook":
        return fits_fp16(low) and fits_fp16(high)
    scale, offset = stored_range(low, high, layout)
    return bool(torch.isfinite(scale).all() and torch.isfinite(offset).all())
