"""LiteRT (TFLite): 2, 4 and 8 bits per row, 4-bit blocks; plain BERTs on Android, iOS and Arm boards."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import UsageError
from ...formats.affine import AffineMatrix
from ...formats.litert_codes import BLOCKS, Codes, dequantize
from ...formats.tflite_file import TfliteFile, read_tflite, write_tflite
from ...formats.writers.tflite import FILE, IDS, MASK
from ...runtime.native import native_code
from ...spec.forms import Form
from ..file_law import FileLaw, GraphLaw
from ..rules import EngineRules, Speed, TableRules
from ..session import Activations, Arrays, Session

INSTALL = "pip install 'qbert-opt[litert]'"
FORMAT = "tflite"
_FORMS: tuple[Form, ...] = ("symmetric", "signed")
_MEASURED = "measured: benchmarks/engines/runtimes_results.jsonl (6 x 384, 128 tokens, AVX2 without VNNI, whole model)"
RULES = EngineRules(
    bits=(2, 3, 4, 5, 6, 7, 8),
    forms=_FORMS,
    group_multiple=32,
    column_bits=(3, 4),
    signed_bits=(2, 3, 5, 6, 7),
    columns_multiple=4,
    tables=TableRules(forms=_FORMS, column_groups=False, whole_bytes=True, tiers=False),
    integer_inputs={"gemm": (8,)},
    token_bits=(8,),
    fewer_heads=False,
    other_inputs="with static or 16-bit inputs it rounds outputs too, for which plans have no ranges",
    file=FileLaw(
        containers=(2, 4, 8),
        blocks={2: (), 4: BLOCKS, 8: ()},
        row_scale_bytes=4,
        row_zero_bytes=8,
        tables_as_matrices=True,
        graph=GraphLaw(5634, 7696, {"columns": 92}, wide_vectors=True),
    ),
    speeds=(
        Speed("8 bits, rows:each", 1.05, _MEASURED),
        Speed("4 bits, columns:32", 0.61, _MEASURED),
        Speed("a plan of 4 bits per weight", 0.84, _MEASURED),
        Speed("a plan of 2.5 bits per weight", 1.22, _MEASURED),
        Speed("any of these on an Arm processor", None, "assumed: as fast as the device file says of integers"),
    ),
    sources=(
        "int8 and int4 per row, int4 in blocks of 32, 64, 128 and 256, int2 per row: fully_connected.cc of LiteRT and "
        "the qd8 kernels of XNNPACK; int2 in blocks has none, and returns noise without a message (seen with 2.3.0)",
        "3 bits are widened to 4, 5 to 7 bits to 8: qbert_opt/formats/litert_codes.py",
        "-128 and -8 are no codes: int8 weights are -127 to 127 by TFLite's quantization specification; "
        "4 bits likewise, since the kernels without XNNPACK are wrong at -8 (seen with 2.3.0)",
        "8-bit activations in one range per token, as form 8bit/token rounds them: XNNPACK's qd8; "
        "tests/qbert_opt/engines/test_litert.py compares them",
        "no static ranges and no 16 bits (static W8A8, W8A16): such a product rounds its outputs too, for which plans "
        "have no ranges: docs/concepts/inputs.md",
        "scales of rows are float32, those of blocks float16, which XNNPACK rounds to bfloat16 (by 0.2 % at most): "
        "tests/qbert_opt/engines/test_litert.py",
        "biases and LayerNorms are float32, zero points of rows are stored although they are 0: "
        "qbert_opt/formats/tflite_file.py",
        "bytes of the graph: measured: benchmarks/devices/engine_files_results.json",
    ),
)


def usable() -> bool:
    """Whether the package is installed."""
    return importlib.util.find_spec("ai_edge_litert") is not None


def label() -> str:
    """Name and version."""
    return f"LiteRT (ai-edge-litert {importlib.metadata.version('ai-edge-litert')})"


@native_code()
def open_model(folder: Path, threads: int | None = None, activations: Activations = "int8") -> Session:
    """Map a written model; with float32 activations its weights are unpacked to float32 first."""
    path = folder / FILE
    contents = read_tflite(path)
    if activations != "float32":
        return _Running(path, contents, threads)
    with tempfile.TemporaryDirectory() as scratch:
        unpacked = Path(scratch) / FILE
        write_tflite(unpacked, in_float(contents))
        return _Running(unpacked, contents, threads)


def in_float(contents: TfliteFile) -> TfliteFile:
    """Return a file with every matrix in float32.

    Args:
        contents: with matrices in codes.
    """
    tensors = tuple(
        replace(tensor, kind="float32", value=dequantize(tensor.value)) if isinstance(tensor.value, Codes) else tensor
        for tensor in contents.tensors
    )
    operations = tuple(
        replace(operation, version=1) if operation.operator in ("FULLY_CONNECTED", "EMBEDDING_LOOKUP") else operation
        for operation in contents.operations
    )
    return replace(contents, tensors=tensors, operations=operations)


def product(
    matrix: AffineMatrix | NDArray[np.float32], threads: int | None = None, activations: Activations = "int8"
) -> Session:
    """LiteRT runs whole models only.

    Raises:
        UsageError: always.
    """
    raise UsageError("`engine` litert: runs whole models only, so that single products cannot be timed.")


class _Running:
    """A loaded model, which reads one text at a time, each at its own length."""

    def __init__(self, path: Path, contents: TfliteFile, threads: int | None) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter = Interpreter(model_path=str(path), num_threads=threads)
        self._inputs, self._outputs, self._tokens = contents.inputs, contents.outputs, 0

    @native_code()
    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """Answer one text after the other, without the padding behind it; there, answers are zeros."""
        batch, tokens = inputs[IDS].shape
        answers: dict[str, NDArray[Any]] = {}
        for row in range(batch):
            used = np.flatnonzero(inputs[MASK][row])
            length = int(used[-1]) + 1 if len(used) else 1
            for name, answer in self._one({n: inputs[n][row, :length] for n in self._inputs}).items():
                each_token = answer.ndim > 2 or name != "logits"
                shape = (batch, tokens, *answer.shape[2:]) if each_token else (batch, *answer.shape[1:])
                whole = answers.setdefault(name, np.zeros(shape, np.float32))
                whole[row, : answer.shape[1]] = answer[0]
        return answers

    def _one(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """Answer one text: its token arrays `[tokens]`."""
        tokens = len(inputs[IDS])
        if tokens != self._tokens:
            for index in self._inputs.values():
                self._interpreter.resize_tensor_input(index, [1, tokens])
            self._interpreter.allocate_tensors()
            self._tokens = tokens
        for name, index in self._inputs.items():
            self._interpreter.set_tensor(index, inputs[name][None].astype(np.int32))
        self._interpreter.invoke()
        return {name: self._interpreter.get_tensor(index) for name, index in self._outputs.items()}
