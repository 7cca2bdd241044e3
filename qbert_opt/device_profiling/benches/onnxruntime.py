"""ONNX Runtime, with activations rounded as by `export --activations`."""

from __future__ import annotations

from ..engine_bench import PRECISIONS, EngineBench, container


def bench(precision: str) -> EngineBench:
    """Return the bench with activations of one of `PRECISIONS`."""
    return EngineBench("onnxruntime", next(name for name in PRECISIONS if name == precision), container)
