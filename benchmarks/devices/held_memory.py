"""Does the predicted peak of weights and activations match what an engine holds? In fresh processes, on this machine.

    python -m benchmarks.devices.held_memory benchmarks/devices/held_memory.json

Private memory of a process that has run a model at 128 tokens, above that of one with a model of as many layers that
are 32 wide: its floor. OpenVINO reads embedding tables in place from the mapped file; their bytes are added to what is
measured there. Memory depends on no speed, so none is calibrated for this.
"""

import argparse
import json
import tempfile
from pathlib import Path

import torch

from hwmodels import MeasuredFormat, MeasuredGrid, MeasuredMemory, Measurements
from qbert_opt.device_profiling import engine_bench, fitting
from qbert_opt.device_profiling.bench import Shape, Subject
from qbert_opt.device_profiling.benches import find_bench
from qbert_opt.device_profiling.board.machine import processor_name
from qbert_opt.device_profiling.calibrate import as_device
from qbert_opt.engines.session import engine
from qbert_opt.engines.timing import made_up_inputs, time_files
from qbert_opt.formats.traced_model import TracedModel, quiet_tracing
from qbert_opt.spec.profiles import TABLE_BITS

TOKENS = 128
MODELS = (
    Shape("MiniLM-L6", 6, 384, 12, 1536),
    Shape("small", 4, 512, 8, 2048),
    Shape("a third of BERT-base", 4, 768, 12, 3072),
)
PLANS = {
    "fp32": (),
    "8bit/rows:each": ("8bit/rows:each/rtn",),
    "4bit/columns:64": ("4bit/columns:64/rtn",),
    "mixed": (
        "2bit/columns:64/rtn", "4bit/columns:32/rtn", "8bit/rows:each/rtn", "3bit/columns:128/rtn",
        "2bit/rows:each/rtn",
    ),
}  # fmt: skip


def device(bench):
    """The bench's formats at made-up speeds."""
    grid = MeasuredGrid((1,), (1,), (1,), (1e9,))
    formats = tuple(
        MeasuredFormat(f.id, f.bits, f.axis, f.compute, grid, group_sizes=f.group_sizes, loaded_bits=f.loaded_bits)
        for f in bench.formats
    )
    memories = (MeasuredMemory("l2", 2**21, 1e11, 0.0), MeasuredMemory("dram", 2**34, 1e10, 0.0))
    kinds = ("softmax", "layernorm", "gelu", "elementwise", "gather", "matmul")
    return as_device(
        Measurements("host", "host", 1, 1e9, 32, memories, formats, dict.fromkeys(kinds, 1e9), 1e-6, 0.0, "made up")
    )


def private_bytes(name, subject):
    """Private memory of a fresh process that has run the model."""
    network, stored = engine_bench._encoder(subject)
    ids = torch.randint(5, 100, (2, 9))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    arrays = (ids, mask, torch.zeros_like(ids))
    traced = TracedModel(
        engine_bench._Encoder(network).eval(), engine_bench.INPUTS, ("hidden", "pooled"), arrays, (3, 2)
    )
    with tempfile.TemporaryDirectory() as folder, quiet_tracing():
        engine(name).write(traced, stored, Path(folder), "int8")
        inputs = made_up_inputs(engine_bench.INPUTS, 1, TOKENS)
        return time_files(name, folder, inputs, threads=1, runs=3, activations="int8").private_bytes


def cells(name):
    bench = find_bench(name, None)
    described = device(bench)
    for shape in MODELS:
        for plan, choices in PLANS.items():
            narrow = Shape("floor", shape.layers, 32, 2, 64, 200)
            floor = private_bytes(name, Subject(narrow, TOKENS, choices and ("4bit/columns:32/rtn",)))
            held = private_bytes(name, Subject(shape, TOKENS, choices)) - floor
            rows = shape.vocabulary + shape.positions + 2
            tables = rows * (shape.hidden * TABLE_BITS // 8 + 4) if choices else rows * shape.hidden * 4
            mapped = tables if name == "openvino" else 0
            report = fitting.simulated(described, Subject(shape, TOKENS, choices), 32)
            yield {
                "engine": bench.label,
                "model": shape.name,
                "plan": plan,
                "floor_mb": floor / 1e6,
                "private_above_floor_mb": held / 1e6,
                "mapped_tables_mb": mapped / 1e6,
                "predicted_mb": report.peak_memory_bytes / 1e6,
                "predicted_to_measured": report.peak_memory_bytes / (held + mapped),
            }


def main(out):
    found = [cell for name in ("openvino", "onnxruntime") for cell in cells(name)]
    result = {
        "command": "python -m benchmarks.devices.held_memory OUT",
        "machine": processor_name(),
        "tokens": TOKENS,
        "cells": [{k: round(v, 3) if isinstance(v, float) else v for k, v in cell.items()} for cell in found],
    }
    Path(out).write_text(json.dumps(result, indent=1) + "\n")
    for cell in found:
        print(cell["engine"][:12], cell["model"], cell["plan"], f"{cell['predicted_to_measured']:.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    main(parser.parse_args().out)
