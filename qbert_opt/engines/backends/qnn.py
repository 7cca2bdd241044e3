"""Qualcomm Hexagon by ONNX Runtime's QNN provider: 4 and 2 bits per row or in blocks of 32 and 64, 8 bits per row.

No such processor was at hand. Files are opened and compared on ONNX Runtime's CPU, which shows that they hold our codes
and compute what they should, not that the provider takes them or how fast it is.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...formats.affine import AffineMatrix
from ...formats.writers.onnx_qnn import BLOCKS
from ..file_law import FileLaw
from ..rules import EngineRules, Speed, TableRules
from ..session import Activations, Session
from . import onnxruntime

INSTALL = onnxruntime.INSTALL
FORMAT = "onnx-qnn"
RULES = EngineRules(
    bits=(2, 4, 8),
    forms=("symmetric", "signed"),
    column_bits=(2, 4),
    group_sizes=(32, 64),
    fewest_rows={4: 33},
    tables=TableRules(bits=(8,), column_groups=False, whole_bytes=True),
    integer_inputs={"gemm": (8, 16), "matmul": (8, 16)},
    float_type="fp16",
    static_bits=(8, 16),
    file=FileLaw(containers=(2, 4, 8), graph=onnxruntime.GRAPH_LAW),
    speeds=(Speed("products in integers", None, "assumed: the device file's figures; fewer bits save transfers only"),),
    checked_on="ONNX Runtime's CPU",
    sources=(
        "2 and 4 bits in blocks of 32 and 64 as MatMulNBits: onnxruntime/onnxruntime-qnn pull request 288; ranges of "
        "whole rows are repeated for blocks of 64 or 32 when a session starts",
        "8 bits per row, and planned inputs of 8 and 16 bits, unsigned with a zero point, in QDQ form: "
        "onnxruntime.ai, QNN execution provider",
        "which widths the processor has: pytorch/executorch backends/qualcomm/quantizer/quantizer.py, QuantDtype",
        "4 bits need more than 32 outputs: docs.qualcomm.com 80-63442-10",
        "symmetric ranges, tables at 8 bits per row, as many bytes of the graph as onnxruntime's: assumed",
    ),
)


def usable() -> bool:
    """Whether ONNX Runtime is installed, which checks the files."""
    return onnxruntime.usable()


def label() -> str:
    """Name and version of what checks the files."""
    return f"{onnxruntime.label()} on its CPU, in place of a Qualcomm NPU"


def open_model(folder: Path, threads: int | None = None, activations: Activations = "int8") -> Session:
    """Start a session on the CPU; see `onnxruntime.open_model`."""
    return onnxruntime.open_model(folder, threads, activations)


def product(
    matrix: AffineMatrix | NDArray[np.float32], threads: int | None = None, activations: Activations = "int8"
) -> Session:
    """Start a session on `x @ weight.T` alone, on the CPU; see `onnxruntime.product`."""
    return onnxruntime.product(matrix, threads, activations, blocks=BLOCKS)
