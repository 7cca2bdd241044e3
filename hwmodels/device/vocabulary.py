"""The words that a device file and an operator graph share: kinds of operations, number types, axes."""

from __future__ import annotations

from typing import Literal, get_args

OperationKind = Literal["gemm", "matmul", "gather", "append", "softmax", "layernorm", "gelu", "elementwise"]
NumberType = Literal["int4", "int8", "int16", "fp8", "fp16", "bf16", "fp32"]
Axis = Literal["rows", "columns", "none"]

FLOAT_TYPES: tuple[NumberType, ...] = ("fp32", "bf16", "fp16", "fp8")
OPERATION_KINDS: tuple[str, ...] = get_args(OperationKind)
AXES: tuple[str, ...] = get_args(Axis)
