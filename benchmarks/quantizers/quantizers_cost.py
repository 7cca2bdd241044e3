"""What does quantizing cost? The default grid of whole models, and how fast rounding and packing read and write.

    python -m benchmarks.quantizers.quantizers_cost grid [--shapes minilm|bert-base] [--method gptq] [--layers 6]
    python -m benchmarks.quantizers.quantizers_cost throughput

`grid` times every choice of the default grid for all matrices of some layers, with weights and inputs of random values
(what is computed does not depend on them); input statistics are not included. `throughput` counts bytes read + written
over warmed buffers of one BERT-base matrix, medians of thread CPU time, beside a copy of the same kind.
"""

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from benchmarks.records import machine
from qbert_opt.checkpoint.bits import pack, unpack
from qbert_opt.errors import UsageError
from qbert_opt.quantization.calibration import method_grid
from qbert_opt.quantization.methods import rtn
from qbert_opt.runtime import plugins
from qbert_opt.runtime.provenance import code_commit
from qbert_opt.spec.choices import choice

SHAPES = {"minilm": (384, 1536, 12, 6), "bert-base": (768, 3072, 12, 12)}
TOKENS = 4096
REPEATS = 9


def layouts_of(method: str, rows: int, columns: int, heads: int) -> list:
    found = []
    for asked in method_grid(method):
        try:
            found.append(asked.layout(rows, columns, heads=heads))
        except UsageError:
            continue
    return found


def grid(options: argparse.Namespace) -> dict[str, object]:
    hidden, wide, heads, depth = SHAPES[options.shapes]
    quantizer = plugins.load("quantizers", options.method)
    generator = torch.Generator().manual_seed(0)
    layers = min(options.layers, depth)
    wall = cpu = 0.0
    count = 0
    for _ in range(layers):
        for rows, columns in (*[(hidden, hidden)] * 4, (wide, hidden), (hidden, wide)):
            weight = 0.05 * torch.randn(rows, columns, generator=generator)
            inputs = torch.randn(TOKENS, columns, generator=generator)
            gram = inputs.T @ inputs / TOKENS
            layouts = layouts_of(options.method, rows, columns, heads)
            started, begun = time.perf_counter(), time.process_time()
            quantizer.quantize(weight, layouts, gram)
            wall, cpu = wall + time.perf_counter() - started, cpu + time.process_time() - begun
            count += len(layouts)
    return {
        "what": "default grid", "shapes": options.shapes, "method": options.method, "layers_timed": layers,
        "layers": depth, "choices": count, "wall_s": round(wall, 1), "cpu_s": round(cpu, 1),
        "whole_model_wall_s": round(wall * depth / layers, 1),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6),
    }  # fmt: skip


def rate(work: Callable[[], object], moved_bytes: int) -> list[float]:
    """Gigabytes per second: median, and the slowest and fastest of the repeats."""
    work()
    found = []
    for _ in range(REPEATS):
        begun = time.thread_time()
        work()
        found.append(moved_bytes / (time.thread_time() - begun) / 1e9)
    return [round(x, 2) for x in (statistics.median(found), min(found), max(found))]


def throughput() -> dict[str, object]:
    torch.set_num_threads(1)
    rows, columns = 3072, 768
    weight = torch.randn(rows, columns)
    other, size = torch.empty_like(weight), rows * columns
    codes = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    target = np.empty_like(codes)
    found: dict[str, object] = {
        "copy of floats": rate(lambda: other.copy_(weight), 8 * size),
        "copy of codes": rate(lambda: np.copyto(target, codes), 2 * size),
    }
    for name in ("2bit/rows:each/rtn", "2bit/rows:1/rtn", "4bit/columns:64/rtn", "2bit/columns:32/rtn"):
        layout = choice(name).layout(rows, columns, heads=12)
        # the weights are read twice: for the ranges, and to be rounded
        found[name] = rate(lambda layout=layout: rtn.quantize(weight, [layout]), 9 * size)
    for bits in (2, 3, 4, 6, 8):
        low = codes & ((1 << bits) - 1)
        packed = pack(low, bits)
        found[f"pack {bits} bits"] = rate(lambda low=low, bits=bits: pack(low, bits), size + packed.size)
        found[f"unpack {bits} bits"] = rate(
            lambda packed=packed, bits=bits: unpack(packed, bits, size), size + packed.size
        )
    return {"what": "GB/s read + written, 3072 x 768, 1 thread: median, least, most", "rates": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("grid", "throughput"))
    parser.add_argument("--shapes", choices=SHAPES, default="minilm")
    parser.add_argument("--method", default="gptq")
    parser.add_argument("--layers", type=int, default=99)
    options = parser.parse_args()
    row = grid(options) if options.what == "grid" else throughput()
    row |= {"machine": machine(), "threads": torch.get_num_threads()}
    print(json.dumps(row | {"torch": torch.__version__, "commit": code_commit()}))


if __name__ == "__main__":
    main()
