"""PyTorch: the quantized folder itself, with weights dequantized to float32. The reference for other engines."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...formats.affine import AffineMatrix
from ..rules import EngineRules
from ..session import Activations, Arrays, Session

INSTALL = "pip install torch"
FORMAT = None
NO_EXPORT = "needs no export; it runs the quantized folder itself."
RULES = EngineRules(sources=("everything, in float32: weights are dequantized when a folder is opened",))


def usable() -> bool:
    """Whether the package is installed."""
    return importlib.util.find_spec("torch") is not None


def label() -> str:
    """Name and version."""
    import torch

    return f"torch {torch.__version__}"


def open_model(folder: Path, threads: int | None = None, activations: Activations = "float32") -> Session:
    """Load a quantized folder, or a model folder; always in float32."""
    return _Loaded(folder, threads)


def product(
    matrix: AffineMatrix | NDArray[np.float32], threads: int | None = None, activations: Activations = "float32"
) -> Session:
    """Return a session for `x @ weight.T` in float32."""
    return _Product(matrix.dequantize() if isinstance(matrix, AffineMatrix) else matrix, threads)


class _Loaded:
    def __init__(self, folder: Path, threads: int | None) -> None:
        import torch

        from ...checkpoint.reader import is_quantized, load_quantized
        from ...formats.traced_model import traceable
        from ...models.loading import load_model

        if threads is not None:
            torch.set_num_threads(threads)
        loaded = load_quantized(folder)[0] if is_quantized(folder) else load_model(folder)
        self._traced = traceable(loaded)
        self.tokenizer, self.labels = loaded.tokenizer, loaded.labels
        self.kind, self.config = loaded.head.kind, getattr(loaded.model, "config", None)
        self.inputs, self.outputs = self._traced.inputs, self._traced.outputs
        self.max_tokens = loaded.longest

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        import torch

        with torch.inference_mode():
            outputs = self._traced.module(*(torch.from_numpy(inputs[name]) for name in self.inputs))
        return {name: array.numpy() for name, array in zip(self.outputs, outputs, strict=True)}


class _Product:
    def __init__(self, weight: NDArray[np.float32], threads: int | None) -> None:
        import torch

        if threads is not None:
            torch.set_num_threads(threads)
        self._weight = torch.from_numpy(weight)

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        import torch

        with torch.inference_mode():
            return {"y": torch.nn.functional.linear(torch.from_numpy(inputs["x"]), self._weight).numpy()}
