"""Names by which transformers.js finds an ONNX graph: it asks for a `dtype`, and each has its own file name.

Source: huggingface/transformers.js, src/utils/dtypes.js. Widths in a plan differ by matrix, so no dtype says what is in
the file; it only says which file a program asks for.
"""

from __future__ import annotations

from pathlib import Path

from ..errors import UsageError

SUFFIXES = {"fp32": "", "q8": "_quantized", "int8": "_int8", "uint8": "_uint8", "q4": "_q4", "q2": "_q2"}
CONFIG_KEY = "transformers.js_config"  # of config.json: what transformers.js takes where a program names no dtype


def check_dtype(dtype: str) -> None:
    """Refuse a dtype that has no file name.

    Raises:
        UsageError: it is unknown.
    """
    if dtype not in SUFFIXES:
        raise UsageError(f"`dtype` {dtype}: legal: {', '.join(SUFFIXES)}.")


def named(graph: Path, dtype: str) -> Path:
    """Return the path of a graph under the name of a dtype.

    Args:
        graph: `model.onnx`.
        dtype: one of `SUFFIXES`.
    """
    return graph.with_name(f"{graph.stem}{SUFFIXES[dtype]}{graph.suffix}")
