"""Several layouts of one matrix side by side, rounded one column at a time.

A sweep works on `[columns, layouts * rows]`: one column of the matrix under all layouts is one contiguous row of it, in
the order in which the sweep visits columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..spec.choices import Layout
from .quantized_matrix import QuantizedMatrix, expand, top_code


class Lanes:
    """The ranges of quantized matrices, ready to round; their codes are ignored.

    Matrices with scales are rounded all at once, those with codebooks one by one.

    Args:
        quantized: one weight matrix under several layouts.
        order: int64 `[columns]`, the order in which columns are swept.
    """

    def __init__(self, quantized: Sequence[QuantizedMatrix], order: torch.Tensor) -> None:
        self._rows, columns = quantized[0].codes.shape
        self._order = order
        scaled = [i for i, q in enumerate(quantized) if q.codebook is None]
        booked = [i for i, q in enumerate(quantized) if q.codebook is not None]
        self._sequence = scaled + booked
        self._scaled = len(scaled) * self._rows
        if scaled:
            chosen = [quantized[i] for i in scaled]
            self._scale = torch.cat([_by_column(q.scale, q.layout, self._rows, columns, order) for q in chosen], 1)
            self._offset = torch.cat([_by_column(q.offset, q.layout, self._rows, columns, order) for q in chosen], 1)
            self._top = torch.cat([torch.full((self._rows,), float(top_code(q.layout))) for q in chosen])
        self._books = [_Codebook(quantized[i], order) for i in booked]

    def spread(self, matrices: Sequence[torch.Tensor]) -> torch.Tensor:
        """Lay one matrix per layout side by side for a sweep.

        Args:
            matrices: `[rows, columns]` each, in the order of `quantized`.

        Returns:
            `[columns, matrices × rows]`, columns in the order of the sweep.
        """
        return torch.cat([matrices[i].T[self._order] for i in self._sequence], 1)

    def gather(self, sweep: torch.Tensor) -> list[torch.Tensor]:
        """Undo `spread`.

        Args:
            sweep: `[columns, matrices × rows]`.

        Returns:
            `[rows, columns]` of each layout, in the order of `quantized`.
        """
        natural = torch.empty_like(sweep)
        natural[self._order] = sweep
        lanes = dict(zip(self._sequence, torch.split(natural, self._rows, dim=1), strict=True))
        return [lanes[i].T.contiguous() for i in range(len(lanes))]

    def round(self, column: int, values: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """Round the values at one position of the sweep to the nearest levels.

        Args:
            column: position.
            values: float32 `[layouts * rows]`.
            codes: uint8 `[layouts * rows]`, written.

        Returns:
            What is stored, float32 `[layouts * rows]`.
        """
        stored = torch.empty_like(values)
        if self._scaled:
            end = self._scaled
            scale, offset = self._scale[column], self._offset[column]
            code = torch.sub(values[:end], offset).div_(scale).round_().clamp_(min=0)
            codes[:end] = torch.minimum(code, self._top, out=code)
            torch.addcmul(offset, code, scale, out=stored[:end])
        for index, book in enumerate(self._books):
            lane = slice(self._scaled + index * self._rows, self._scaled + (index + 1) * self._rows)
            codes[lane], stored[lane] = book.round(column, values[lane])
        return stored


class _Codebook:
    """Rounds to the nearest entry of each group's codebook."""

    def __init__(self, quantized: QuantizedMatrix, order: torch.Tensor) -> None:
        layout, columns = quantized.layout, quantized.codes.shape[1]
        if quantized.codebook is None:
            raise ValueError("the matrix has no codebook")
        levels = quantized.codebook.float()
        if layout.axis == "columns":
            levels = levels.transpose(0, 1).contiguous()
            self._group = (order // layout.group_size).tolist()
        else:
            levels = levels.repeat_interleave(layout.group_size, dim=0)[None]
            self._group = [0] * columns
        self._levels = levels  # [column groups, rows, entries]
        self._middles = (levels[..., 1:] + levels[..., :-1]) / 2

    def round(self, column: int, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        group = self._group[column]
        code = torch.searchsorted(self._middles[group], values[:, None])
        return code[:, 0], self._levels[group].gather(1, code)[:, 0]


def _by_column(per_group: torch.Tensor, layout: Layout, rows: int, columns: int, order: torch.Tensor) -> torch.Tensor:
    """Per-group values as float32 `[columns, rows]` in sweep order."""
    return expand(per_group.float(), layout, rows, columns).expand(rows, columns).T[order]
