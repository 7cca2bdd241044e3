"""ONNX Runtime, with activations rounded as `export --activations` does."""

from __future__ import annotations

from ..engine_bench import PRECISIONS, EngineBench, container


def bench(precision: str) -> EngineBench:
    """Return the bench of one precision.

    Args:
        precision: how inputs of products are rounded, one of `PRECISIONS`.
    """
    return EngineBench("onnxruntime", next(name for name in PRECISIONS if name == precision), container)
