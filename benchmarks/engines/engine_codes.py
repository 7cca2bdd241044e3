"""Does an exported file hold the very codes and scales of its quantized folder?

    python -m benchmarks.engines.engine_codes QUANTIZED EXPORTED...    # prints JSON, one line per exported folder

The file of each engine is read back, by ONNX, by OpenVINO or by our readers of TFLite and GGUF (which tests compare
with other readers), and unpacked by the engine's own rules. A matrix is kept if some matrix of the file has equal
integers, and scales that are equal bit for bit; products of planned inputs have signed integers. GGUF's 2-bit blocks
hold {-2, -1, 0, 1} as the mirror image with a negative scale; both are turned back; its one token type is the table's
first row, dequantized. Where a matrix has offsets, or the graph itself unpacks a table, the arrays have to be among the
file's constants.
"""

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from qbert_opt.checkpoint.reader import load_quantized, read_matrices
from qbert_opt.engines.record import read_record
from qbert_opt.formats.affine import affine, row_container_bits, with_planned_input


@dataclass
class Contents:
    """What a file holds: signed integers `[rows, columns]` with scales `[rows, groups]`, and all other constants."""

    matrices: list = field(default_factory=list)
    constants: list = field(default_factory=list)


def unpacked(packed, bits):
    """Integers of the last axis, the lowest bits first."""
    places = np.arange(0, 8, bits, dtype=np.uint8)
    values = packed.view(np.uint8)[..., None] >> places & np.uint8(2**bits - 1)
    return values.reshape(*packed.shape[:-1], -1)


def of_onnx(folder):
    """Products in blocks, and initializers."""
    import onnx
    from onnx import numpy_helper

    from qbert_opt.formats.writers.onnx import graph_file

    graph = onnx.load(graph_file(folder)).graph
    arrays = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}

    def value(name):
        if name in arrays:
            return arrays[name]
        node = makers[name]
        first, *others = [value(name) for name in node.input]
        actions = {
            "Cast": lambda: first.astype(onnx.helper.tensor_dtype_to_np_dtype(node.attribute[0].i)),
            "Gather": lambda: first[others[0]],
            "Unsqueeze": lambda: first[:, None],
            "Expand": lambda: np.broadcast_to(first, tuple(others[0])),
            "Reshape": lambda: first.reshape(tuple(others[0])),
        }
        return actions[node.op_type]()

    found = Contents(constants=list(arrays.values()))
    for node in graph.node:
        if node.op_type == "MatMulIntegerToFloat":  # of planned inputs: signed codes [columns, rows]
            codes = value(node.input[1]).T.astype(np.int16)
            if len(node.input) > 5 and node.input[5]:  # zero points of rows
                codes -= value(node.input[5]).astype(np.int16).reshape(-1, 1)
            found.matrices.append((codes, value(node.input[3]).reshape(-1, 1)))
        if node.op_type != "MatMulNBits":
            continue
        settings = {item.name: item.i for item in node.attribute}
        rows, columns, bits = settings["N"], settings["K"], settings["bits"]
        codes = unpacked(value(node.input[1]).reshape(rows, -1), bits).astype(np.int16)
        scale = value(node.input[2]).reshape(rows, -1)
        zeros = np.full(scale.shape, 2 ** (bits - 1), np.int16)
        if len(node.input) > 3:
            zeros = unpacked(value(node.input[3]).reshape(rows, -1), bits)[:, : scale.shape[1]].astype(np.int16)
        found.matrices.append((codes - np.repeat(zeros, columns // scale.shape[1], axis=1), scale))
    return found


def of_openvino(folder):
    """Packed constants with the zero point and the scale behind them, and constants of whole bytes."""
    from qbert_opt.formats.quiet_openvino import ov
    from qbert_opt.formats.writers.openvino_ir import graph_file

    found = Contents()

    def reader(node):
        return next(iter(node.output(0).get_target_inputs())).get_node()

    def other(node, first):
        """The constant that a node takes besides another one's output."""
        values = (node.input_value(index).get_node() for index in range(2))
        found = next(value for value in values if value.get_friendly_name() != first.get_friendly_name())
        return found.input_value(0).get_node() if found.get_type_name() == "Convert" else found

    model = ov.Core().read_model(graph_file(folder))
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Constant":
            continue
        kind, shape = node.get_element_type().to_string(), tuple(node.shape)
        step = reader(node)
        if len(shape) > 1 and step.get_type_name() == "Convert" and kind in ("u2", "u4", "u8", "i8"):
            after, codes = reader(step), None
            if after.get_type_name() == "Subtract":
                zero = other(after, step)
                zeros = whole(zero, tuple(zero.shape), zero.get_element_type().to_string())
                codes, step = whole(node, shape, kind) - zeros, after
            elif kind == "i8":  # of planned inputs, as are packed ones that are converted once more
                codes = whole(node, shape, kind)
            if codes is not None:
                step = reader(step) if reader(step).get_type_name() == "Convert" else step
                scale = np.array(other(reader(step), step).data, np.float32)
                found.matrices.append((codes.reshape(shape[0], -1), scale.reshape(shape[0], -1)))
                continue
        if kind not in ("u2", "u4"):
            found.constants.append(np.array(node.data))
    return found


def whole(node, shape, kind):
    """Integers of an OpenVINO constant, int16."""
    raw = np.frombuffer(np.array(node.data).tobytes(), np.uint8)
    values = raw.view(np.int8) if kind == "i8" else unpacked(raw[None], int(kind[1:]))[0]
    return values[: int(np.prod(shape, dtype=int))].astype(np.int16).reshape(shape)


def of_litert(folder):
    """Tensors in codes."""
    from qbert_opt.formats.litert_codes import Codes, unpack
    from qbert_opt.formats.tflite_file import read_tflite
    from qbert_opt.formats.writers.tflite import FILE

    coded = [tensor.value for tensor in read_tflite(folder / FILE).tensors if isinstance(tensor.value, Codes)]
    return Contents([(unpack(c).astype(np.int16), c.scale.astype(np.float32).reshape(c.shape[0], -1)) for c in coded])


def of_gguf(folder):
    """Tensors in blocks."""
    from qbert_opt.formats.ggml_blocks import F16, F32, unpack
    from qbert_opt.formats.gguf_file import read_gguf
    from qbert_opt.formats.writers.gguf import FILE

    found = Contents()
    for tensor in read_gguf(folder / FILE).tensors.values():
        if tensor.kind is F32:
            found.constants.append(np.ascontiguousarray(tensor.data).view(np.float32))
        elif tensor.kind is not F16:
            codes, scale = unpack(tensor.kind, tensor.data)
            found.matrices.append((codes, scale.astype(np.float32)))
    return found


TOKEN_TYPES = 4  # llama.cpp knows only the first, which GGUF holds dequantized
READERS = {"onnxruntime": of_onnx, "openvino": of_openvino, "litert": of_litert, "llama-cpp": of_gguf}


def spread(scale, columns):
    """A scale for each run of 16 inputs, or for each input where rows are no multiple of that."""
    runs = columns // 16 if columns % 16 == 0 else columns
    return np.repeat(scale, runs // scale.shape[1], axis=1)


def turned(codes, scale):
    """Codes and scales with every scale positive."""
    sign = np.where(scale < 0, -1, 1).astype(np.int16)
    return codes * np.repeat(sign, codes.shape[1] // scale.shape[1], axis=1), np.abs(scale)


def of_rows(table, width):
    """Codes of packed rows: neighbours in one byte, or the first columns in the lowest bits of all bytes (OpenVINO)."""
    codes = unpacked(table, width)
    yield codes
    yield codes.reshape(len(table), -1, 8 // width).transpose(0, 2, 1).reshape(len(table), -1)


def kept(found, matrix):
    """Whether a file holds a matrix."""

    def among(array):
        half = array.astype(np.float16)  # as which OpenVINO's file has it where that is exact
        stored = (array, half) if np.array_equal(half.astype(array.dtype), array) else (array,)
        wanted = {(a.dtype, a.tobytes()) for a in stored}
        return any((c.dtype, c.tobytes()) in wanted for c in found.constants if c.size == array.size)

    zeros = matrix.zero if isinstance(matrix.zero, int) else np.repeat(matrix.zero, matrix.group_size, axis=1)
    codes, scale = turned(matrix.codes.astype(np.int16) - np.int16(zeros), matrix.scale.astype(np.float32))
    wanted = spread(scale, matrix.columns)
    for theirs, their_scale in found.matrices:
        if theirs.shape == codes.shape:
            turned_codes, turned_scale = turned(theirs, their_scale)
            if np.array_equal(turned_codes, codes) and np.array_equal(spread(turned_scale, matrix.columns), wanted):
                return matrix.offset is None or among(matrix.offset)
    width = row_container_bits(matrix.bits, matrix.columns)
    size = matrix.rows * matrix.columns * width // 8
    tables = (c.reshape(matrix.rows, -1) for c in found.constants if c.dtype == np.uint8 and c.size == size)
    same = any(np.array_equal(codes, matrix.codes) for table in tables for codes in of_rows(table, width))
    if matrix.rows <= TOKEN_TYPES and among(matrix.dequantize()[:1]):
        return True
    low = -(matrix.scale.astype(np.float32) * np.float32(matrix.zero)) if matrix.offset is None else matrix.offset
    return same and among(matrix.scale) and among(low)


def compared(quantized, exported):
    """Names of matrices and tables that a file holds as they are, and of the others."""
    _, plan = load_quantized(quantized, round_inputs=False)
    record = read_record(exported)
    found = READERS[record.engine](Path(exported))
    inputs = {m: item for item in plan.activations for m in item.modules if item.low is not None}
    names = {True: [], False: []}
    for item in read_matrices(quantized, plan):
        matrix = affine(item.module, item.quantized)
        if record.activations == "planned" and item.module in inputs:
            matrix = with_planned_input(item.module, matrix, inputs[item.module])
        names[kept(found, matrix)].append(item.module)
    return names[True], names[False]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("quantized")
    parser.add_argument("exported", nargs="+")
    given = parser.parse_args()
    for folder in given.exported:
        same, others = compared(given.quantized, folder)
        print(json.dumps({"folder": folder, "kept": len(same), "others": others}), flush=True)


if __name__ == "__main__":
    main()
