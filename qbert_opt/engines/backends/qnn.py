"""Qualcomm Hexagon through QNN, planning only: 4 and 2 bits per row or in blocks of 32 and 64, 8 bits per row."""

from __future__ import annotations

from ..file_law import FileLaw
from ..rules import EngineRules, Speed, TableRules

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
    file=FileLaw(containers=(2, 4, 8)),
    speeds=(Speed("products in integers", None, "assumed: the device file's figures; fewer bits save transfers only"),),
    planning_only="Its ONNX Runtime provider opens ONNX: export with `engine` onnxruntime.",
    sources=(
        "2, 4 and 8 bits, blocks of 32 and 64 at 2 and 4: microsoft/onnxruntime-qnn pull requests 288 and 429; "
        "pytorch/executorch backends/qualcomm/quantizer/quantizer.py, QuantDtype",
        "4 bits need more than 32 outputs: docs.qualcomm.com 80-63442-10",
        "8- and 16-bit activations: pytorch/executorch backends/qualcomm/quantizer/quantizer.py",
        "symmetric ranges, tables at 8 bits per row, bytes without the graph: assumed",
    ),
)
