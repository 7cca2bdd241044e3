"""ONNX Runtime on 64-bit Arm processors: 2-bit kernels in integers, blocks that its Arm kernels have.

The file is that of `onnxruntime`. No Arm board was at hand: files are compared on the processor that exports them.
"""

from __future__ import annotations

import platform
from dataclasses import replace

from ..rules import Speed
from . import onnxruntime
from .onnxruntime import FORMAT, INSTALL, open_model, product, usable

__all__ = ["FORMAT", "INSTALL", "RULES", "label", "open_model", "product", "usable"]

RULES = replace(
    onnxruntime.RULES,
    group_sizes=(32, 64, 128),
    speeds=(
        Speed("2 bits in blocks of 32, 64 and 128", None, "assumed: as fast as the device file says of integers"),
        Speed("4 bits in blocks of 32, 64 and 128", None, "assumed: as fast as the device file says of integers"),
        Speed("8 bits", None, "assumed: as fast as the device file says of integers"),
    ),
    checked_on="ONNX Runtime on the processor that exports",
    sources=(
        "2 bits in integers in blocks of 32, 64 and 128, with the instruction SDOT: microsoft/onnxruntime pull request "
        "29466",
        "4 bits in integers by KleidiAI in blocks that are multiples of 32, with zero points too: "
        "microsoft/onnxruntime pull requests 23627 and 27751",
        "one set of block sizes for all widths, 8 bits in integers, everything else as onnxruntime: assumed",
    ),
)


def label() -> str:
    """Name and version of what checks the files, and on which processor."""
    return f"{onnxruntime.label()} on {platform.machine()}"
