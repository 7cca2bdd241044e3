"""ONNX Runtime, with activations rounded as `export --activations` says."""

from __future__ import annotations

from ..engine_bench import PRECISIONS, EngineBench, container


def bench(precision: str) -> EngineBench:
    """Return the bench with activations of one of `PRECISIONS`."""
    return EngineBench("onnxruntime", next(known for known in PRECISIONS if known == precision), container)
