"""ONNX for Qualcomm's QNN provider: blocks of 32 or 64 at 2 and 4 bits, 8 bits per row in QDQ form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import UsageError
from ...runtime.native import native_code
from ..format import Activations
from .onnx import FILES, write_graph

if TYPE_CHECKING:
    from ...quantization.quantized_matrix import StoredMatrix
    from ...spec.planned import PlannedActivation
    from ..traced_model import TracedModel

__all__ = ["BLOCKS", "FILES", "TITLE", "write"]

TITLE = "ONNX for Qualcomm's QNN provider"
BLOCKS = {2: (64, 32), 4: (64, 32)}  # onnxruntime-qnn pull request 288


@native_code()
def write(
    traced: TracedModel,
    stored: Iterable[StoredMatrix],
    folder: Path,
    activations: Activations = "int8",
    inputs: Mapping[str, PlannedActivation] | None = None,
    scores: Mapping[str, tuple[float, float]] | None = None,
) -> None:
    """Write `onnx/model.onnx`; see `Format.write`.

    Whatever `activations` says, the provider rounds the inputs of products in blocks to its own 16-bit floats; planned
    ranges of 8 and 16 bits are in the file as `QuantizeLinear` and `DequantizeLinear`.

    Raises:
        InputFileError: a stored matrix is missing from the graph.
        UsageError: the provider does not support a matrix's form, or `scores` ask to round queries and keys.
    """
    if scores:
        raise UsageError("`scores`: the QNN provider is given queries and keys in floats.")
    from ..onnx_graph import Builder

    builder = Builder(integers=activations != "planned", blocks=BLOCKS)
    write_graph(builder, traced, stored, folder, inputs)
