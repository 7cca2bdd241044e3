"""Rounding of one column of a matrix to the levels of its groups, for quantizers that go column by column."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..choices import Layout
from ._matrix import expand, top_code


class ScaleRounder:
    """Rounds several layouts of a matrix side by side to `scale * code + offset`.

    Attributes:
        lanes: layouts side by side.
    """

    def __init__(
        self,
        layouts: Sequence[Layout],
        ranges: Sequence[tuple[torch.Tensor, torch.Tensor]],
        shape: tuple[int, ...],
        order: torch.Tensor,
    ) -> None:
        rows, columns = shape
        self.lanes = len(layouts)
        pairs = list(zip(layouts, ranges, strict=True))
        self._scale = torch.cat([_by_column(s, layout, rows, columns, order) for layout, (s, _) in pairs], 1)
        self._offset = torch.cat([_by_column(o, layout, rows, columns, order) for layout, (_, o) in pairs], 1)
        self._top = torch.cat([torch.full((rows,), float(top_code(layout))) for layout in layouts])

    def round(self, column: int, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return codes and stored values of `values [lanes * rows]` at a position of the sweep."""
        scale, offset = self._scale[column], self._offset[column]
        code = torch.minimum(((values - offset) / scale).round_().clamp_(min=0), self._top)
        return code, code * scale + offset


class CodebookRounder:
    """Rounds one layout of a matrix to the nearest entry of its groups' codebooks."""

    lanes = 1

    def __init__(self, layout: Layout, codebook: torch.Tensor, shape: tuple[int, ...], order: torch.Tensor) -> None:
        rows, columns = shape
        levels = codebook.float()
        if layout.axis == "columns":
            levels = levels.reshape(rows, columns // layout.group_size, -1).transpose(0, 1).contiguous()
            self._group = (order // layout.group_size).tolist()
        else:
            levels = levels.repeat_interleave(layout.group_size, dim=0)[None]
            self._group = [0] * columns
        self._levels = levels  # [column groups, rows, entries]
        self._middles = (levels[..., 1:] + levels[..., :-1]) / 2

    def round(self, column: int, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return codes and stored values of `values [rows]` at a position of the sweep."""
        group = self._group[column]
        code = torch.searchsorted(self._middles[group], values[:, None])
        return code[:, 0], self._levels[group].gather(1, code)[:, 0]


def _by_column(per_group: torch.Tensor, layout: Layout, rows: int, columns: int, order: torch.Tensor) -> torch.Tensor:
    """Per-group values as float32 `[columns, rows]` in sweep order."""
    return expand(per_group.float(), layout, rows, columns).expand(rows, columns).T[order]
