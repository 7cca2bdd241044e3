"""The tables and operators of TFLite files, version 3, that we write and read.

Source: tensorflow/compiler/mlir/lite/schema/schema.fbs.
"""

from __future__ import annotations

from dataclasses import dataclass

from .flatbuffer import Schema


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator that we write.

    Attributes:
        number: BuiltinOperator of the schema.
        options: number and table of its options; None for an operator that needs none.
        fields: fields of that table.
    """

    number: int
    options: tuple[int, str] | None = None
    fields: tuple[tuple[int, str, str], ...] = ()


_FUSED = (0, "fused_activation_function", "i8")
OPERATORS = {
    "ADD": Operator(0, (11, "AddOptions"), (_FUSED,)),
    "DEQUANTIZE": Operator(6),
    "EMBEDDING_LOOKUP": Operator(7),
    "FULLY_CONNECTED": Operator(9, (8, "FullyConnectedOptions"), ()),
    "MUL": Operator(18, (21, "MulOptions"), (_FUSED,)),
    "RELU": Operator(19),
    "RESHAPE": Operator(22, (17, "ReshapeOptions"), ((0, "new_shape", "[i32]"),)),
    "SOFTMAX": Operator(25, (9, "SoftmaxOptions"), ((0, "beta", "f32"),)),
    "TANH": Operator(28),
    "TRANSPOSE": Operator(39, (26, "TransposeOptions")),
    "MEAN": Operator(40, (27, "ReducerOptions"), ((0, "keep_dims", "bool"),)),
    "SUB": Operator(41, (28, "SubOptions"), (_FUSED,)),
    "SPLIT": Operator(49, (35, "SplitOptions"), ((0, "num_splits", "i32"),)),
    "CAST": Operator(53, (37, "CastOptions"), ((0, "in_data_type", "i8"), (1, "out_data_type", "i8"))),
    "SLICE": Operator(65, (48, "SliceOptions")),
    "NOT_EQUAL": Operator(72, (54, "NotEqualOptions")),
    "RSQRT": Operator(76),
    "SQUARED_DIFFERENCE": Operator(99, (76, "SquaredDifferenceOptions")),
    "BATCH_MATMUL": Operator(126, (101, "BatchMatMulOptions"), ((0, "adj_x", "bool"), (1, "adj_y", "bool"))),
    "CUMSUM": Operator(128, (102, "CumsumOptions"), ((0, "exclusive", "bool"), (1, "reverse", "bool"))),
    "GELU": Operator(150, (116, "GeluOptions"), ((0, "approximate", "bool"),)),
}
OPERATOR_NAMES = {operator.number: name for name, operator in OPERATORS.items()}
SCHEMA = Schema(
    b"TFL3",
    {
        "Model": (
            (0, "version", "u32"), (1, "operator_codes", "[OperatorCode]"), (2, "subgraphs", "[SubGraph]"),
            (3, "description", "text"), (4, "buffers", "[Buffer]"), (7, "signature_defs", "[SignatureDef]"),
        ),
        "OperatorCode": ((0, "deprecated_builtin_code", "i8"), (2, "version", "i32"), (3, "builtin_code", "i32")),
        "SubGraph": (
            (0, "tensors", "[Tensor]"), (1, "inputs", "[i32]"), (2, "outputs", "[i32]"),
            (3, "operators", "[Operator]"), (4, "name", "text"),
        ),
        "Tensor": (
            (0, "shape", "[i32]"), (1, "type", "i8"), (2, "buffer", "u32"), (3, "name", "text"),
            (4, "quantization", "Quantization"), (7, "shape_signature", "[i32]"),
        ),
        "Quantization": ((2, "scale", "[f32]"), (3, "zero_point", "[i64]"), (4, "details", "QuantizationDetails?")),
        "BlockwiseQuantization": ((0, "scales", "i32"), (1, "zero_points", "i32"), (2, "block_size", "i32")),
        "Operator": (
            (0, "opcode_index", "u32"), (1, "inputs", "[i32]"), (2, "outputs", "[i32]"),
            (3, "builtin_options", "BuiltinOptions?"),
        ),
        "Buffer": ((0, "data", "[u8]"),),
        "SignatureDef": (
            (0, "inputs", "[TensorMap]"), (1, "outputs", "[TensorMap]"), (2, "signature_key", "text"),
        ),
        "TensorMap": ((0, "name", "text"), (1, "tensor_index", "u32")),
        **{operator.options[1]: operator.fields for operator in OPERATORS.values() if operator.options},
    },
    {
        "QuantizationDetails": {2: "BlockwiseQuantization"},
        "BuiltinOptions": dict(operator.options for operator in OPERATORS.values() if operator.options),
    },
)  # fmt: skip
