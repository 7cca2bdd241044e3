"""Names by which transformers.js finds an ONNX graph: it asks for a `dtype`, and each has its own file name.

Source: huggingface/transformers.js, src/utils/dtypes.js. Widths in a plan differ by matrix, so a dtype does not
describe the content of the file; it is only the name under which a program asks for it.
"""

from __future__ import annotations

from pathlib import Path

from ..errors import UsageError

SUFFIXES = {"fp32": "", "q8": "_quantized", "int8": "_int8", "uint8": "_uint8", "q4": "_q4", "q2": "_q2"}
CONFIG_KEY = "transformers.js_config"  # in config.json: what transformers.js uses if a program names no dtype


def check_dtype(dtype: str) -> None:
    """Refuse a dtype that has no file name.

    Args:
        dtype: name of the dtype.

    Raises:
        UsageError: it is unknown.
    """
    if dtype not in SUFFIXES:
        raise UsageError(f"`dtype` {dtype}: legal: {', '.join(SUFFIXES)}.")


def named(graph: Path, dtype: str) -> Path:
    """Return the path of a graph, renamed for a dtype.

    Args:
        graph: path of `model.onnx`.
        dtype: one of `SUFFIXES`.
    """
    return graph.with_name(f"{graph.stem}{SUFFIXES[dtype]}{graph.suffix}")
