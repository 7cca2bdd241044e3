"""TI TIDL, planning only: 8 bits per row, symmetric; 8- and 16-bit activations; nothing below 8 bits."""

from __future__ import annotations

from ..file_law import FileLaw
from ..rules import EngineRules, Speed, TableRules

RULES = EngineRules(
    bits=(8,),
    forms=("symmetric", "signed"),
    column_groups=False,
    tables=TableRules(bits=(8,), column_groups=False),
    integer_inputs={"gemm": (8, 16), "matmul": (8, 16)},
    fewer_heads=False,
    static_bits=(8, 16),
    file=FileLaw(containers=(8,)),
    speeds=(Speed("products in integers", None, "assumed: the device file's figures; 16 bits at a quarter of 8"),),
    planning_only="Its import tool quantizes a float ONNX file itself: write its 16-bit layers with 'qbert-opt "
    "export-config' for tidl.",
    sources=(
        "8 and 16 bits per layer, nothing below, one range per output row, symmetric on TDA4VM: "
        "TexasInstruments/edgeai-tidl-tools docs/tidl_fsg_quantization.md",
        "no float32 (TDA4VH): e2e.ti.com thread 1608595",
        "tables at 8 bits per row, bytes without the graph: assumed",
    ),
)
