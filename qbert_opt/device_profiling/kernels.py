"""The kernels of an encoder over a grid of sizes: the calls to time, and the resulting tables."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from hwmodels import MeasuredGrid

from ..runtime.cpu_timing import Call, Timing
from .bench import Bench, BenchFormat, Grid

MB = 2**20
POOL = 64 * MB  # weights that calls cycle through
POINT_ROWS = (1, 8, 32, 128, 512)
WIDTHS = (128, 512, 2048)
POINTWISE = ("layernorm", "gelu", "elementwise", "gather")
LENGTHS = (8, 16, 32, 64, 128, 256, 512)
DEPTHS, HEADS = (32, 64), (4, 12)
Key = tuple[object, ...]


def kernel_makers(bench: Bench) -> dict[Key, Callable[[], Call]]:
    """Return functions that make the calls to time, by kind and size.

    Args:
        bench: the engine.
    """
    makers: dict[Key, Callable[[], Call]] = {("nothing",): bench.nothing}
    grid = bench.grid
    for form in one_of_each_kernel(bench):
        for inputs in grid.sizes:
            for outputs in grid.sizes:
                if inputs * outputs > grid.largest:
                    continue
                for rows in grid.rows:
                    maker = partial(bench.product, form, rows, inputs, outputs, POOL)
                    makers["product", form.kernel, rows, inputs, outputs] = maker
    for seq_len in LENGTHS:
        for heads in HEADS:
            for depth in DEPTHS:
                makers["attention", seq_len, heads, depth] = partial(bench.attention, seq_len, heads, depth)
    for kind in POINTWISE:
        for rows in POINT_ROWS:
            for width in WIDTHS:
                makers["pointwise", kind, rows, width] = partial(bench.pointwise, kind, rows, width)
    return makers


def one_of_each_kernel(bench: Bench) -> Iterator[BenchFormat]:
    """Yield the first format of each kernel.

    Args:
        bench: the engine.
    """
    seen: set[str] = set()
    for form in bench.formats:
        if form.kernel not in seen:
            seen.add(form.kernel)
            yield form


@dataclass(frozen=True, slots=True)
class KernelTable:
    """Measured speeds, including the launch of each call.

    Attributes:
        products: by kernel, multiply-accumulates per second of products with weights.
        elements: by kind of operation, elements per second; for `matmul`, multiplications of activations per second.
    """

    products: Mapping[str, MeasuredGrid]
    elements: Mapping[str, MeasuredGrid]

    def slower(self, products: float, others: float) -> KernelTable:
        """Return the table with all times multiplied by a factor.

        Args:
            products: factor of matrix products.
            others: factor of all other kernels.
        """
        return KernelTable(
            {name: _slower(grid, products) for name, grid in self.products.items()},
            {name: _slower(grid, others) for name, grid in self.elements.items()},
        )


def kernel_table(timings: Mapping[Key, Timing], grid: Grid) -> KernelTable:
    """Return grids of speeds from the median times minus the overhead of a call.

    Args:
        timings: timings of all calls.
        grid: sizes at which products were timed.
    """
    empty_s = timings["nothing",].median_s
    # if overhead dominates, the difference of two timings would be noise
    seconds = {key: max(timing.median_s - empty_s, 0.1 * timing.median_s) for key, timing in timings.items()}
    kernels = dict.fromkeys(str(key[1]) for key in seconds if key[0] == "product")
    products = {kernel: _products(seconds, kernel, grid) for kernel in kernels}
    elements = {
        kind: MeasuredGrid(
            POINT_ROWS,
            (1,),
            WIDTHS,
            tuple(m * n / seconds["pointwise", kind, m, n] for m in POINT_ROWS for n in WIDTHS),
        )
        for kind in POINTWISE
    }
    return KernelTable(products, elements | _attention(seconds))


def _products(seconds: Mapping[Key, float], kernel: str, grid: Grid) -> MeasuredGrid:
    def per_s(m: int, k: int, n: int) -> float:
        if k * n <= grid.largest:
            return m * k * n / seconds["product", kernel, m, k, n]
        return per_s(m, k, grid.largest // k)  # sizes that are too large get the speed of their neighbour

    speeds = tuple(per_s(m, k, n) for m in grid.rows for k in grid.sizes for n in grid.sizes)
    return MeasuredGrid(grid.rows, grid.sizes, grid.sizes, speeds)


def _attention(seconds: Mapping[Key, float]) -> dict[str, MeasuredGrid]:
    """Split the time of attention between its products and its softmax.

    Attention is timed as one call. The part that does not depend on the number of heads is the launch. The part per
    head consists of 2 S² d multiplications and S² exponentials for length S; timing two depths d separates them.
    """
    few, many = HEADS
    starts, products, softmaxes = [], [], []
    for s in LENGTHS:
        per_head = {
            d: (seconds["attention", s, many, d] - seconds["attention", s, few, d]) / (many - few) for d in DEPTHS
        }
        starts += [seconds["attention", s, few, d] - few * per_head[d] for d in DEPTHS if s <= 64]
        narrow, wide = DEPTHS
        minimum = 0.02 * max(per_head[wide], seconds["attention", s, many, wide] / (2 * many))
        by_depth = max(minimum, per_head[wide] - per_head[narrow]) / (wide - narrow)
        products.append(2 * s * s / by_depth)
        softmaxes.append(s * s / max(minimum, per_head[wide] - wide * by_depth))
    start_s = max(0.0, statistics.median(starts))
    return {
        "matmul": MeasuredGrid(LENGTHS, (1,), (1,), tuple(products), launch_s=0.0),
        "softmax": MeasuredGrid(LENGTHS, (1,), (1,), tuple(softmaxes), launch_s=start_s),
    }


def _slower(grid: MeasuredGrid, factor: float) -> MeasuredGrid:
    launch_s = None if grid.launch_s is None else grid.launch_s * factor
    return MeasuredGrid(grid.rows, grid.inputs, grid.outputs, tuple(v / factor for v in grid.per_s), launch_s)
