"""A program as files: its operations as JSON, its constants in safetensors, codes below 8 bits packed.

    program.json         values, operations, outputs, and the width of each packed constant
    program.safetensors  int8, int16 or int32 arrays; packed codes as bytes, each code plus half of its range

A program that is read is not trusted: its operations are validated, and its intervals are proven again.
"""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from ..checkpoint.bits import pack, unpack
from ..errors import InputFileError
from ..runtime.files import first_fault, read_document
from ..runtime.frozen import Frozen
from .intervals import OverflowFound, check_intervals
from .operations import KINDS, Embed, Linear, Operation, Value, width
from .program import Output, Program
from .shapes import check_shapes

SCHEMA = "qbert-opt/integer@1"
PROGRAM, CONSTANTS = "program.json", "program.safetensors"
REMEDY = "Make it again with 'qbert-opt integer'."
MAX_TOKENS = 1 << 16
TYPES = (np.int8, np.int16, np.int32)


class _Packed(Frozen):
    bits: int = Field(ge=1, le=7)
    shape: tuple[PositiveInt, PositiveInt]


class _Document(Frozen):
    document_schema: str = Field(default=SCHEMA, alias="schema")
    max_tokens: int = Field(ge=1, le=MAX_TOKENS)
    inputs: tuple[dict[str, Any], ...]
    operations: tuple[dict[str, Any], ...]
    outputs: tuple[dict[str, Any], ...]
    packed: dict[str, _Packed]


def write_program(program: Program, folder: Path) -> None:
    """Write `program.json` and `program.safetensors`.

    Args:
        program: the program to write.
        folder: an existing folder.
    """
    arrays, packed = {}, {}
    codes = code_names(program.operations)
    for name, array in program.constants.items():
        bits = width(int(array.min()), int(array.max()))
        if name in codes and bits < 8:
            packed[name] = _Packed(bits=bits, shape=array.shape)
            arrays[name] = pack((array.astype(np.int16) + 2 ** (bits - 1)).astype(np.uint8), bits)
        else:
            arrays[name] = np.ascontiguousarray(array)
    save_file(arrays, folder / CONSTANTS)
    document = _Document(
        max_tokens=program.max_tokens,
        inputs=tuple(asdict(value) for value in program.inputs),
        operations=tuple({"kind": type(step).__name__, **asdict(step)} for step in program.operations),
        outputs=tuple(asdict(output) for output in program.outputs),
        packed=packed,
    )
    (folder / PROGRAM).write_text(document.model_dump_json(by_alias=True, indent=1) + "\n", encoding="utf-8")


def read_program(folder: Path) -> Program:
    """Read a program and prove its intervals.

    Args:
        folder: as `write_program` wrote it.

    Raises:
        InputFileError: a file is missing or malformed, an operation reads a value or constant that does not exist, or a
            value can leave its interval.
    """
    path = folder / PROGRAM
    document = read_document(path, _Document, SCHEMA)
    try:
        inputs = tuple(_valid(Value, entry) for entry in document.inputs)
        operations = tuple(_operation(index, entry) for index, entry in enumerate(document.operations))
        outputs = tuple(_valid(Output, entry) for entry in document.outputs)
    except ValueError as error:
        fault = first_fault(error) if isinstance(error, ValidationError) else error
        raise InputFileError(f"{path}: {fault}. {REMEDY}") from None
    constants = _constants(folder / CONSTANTS, document.packed)
    program = Program(inputs, operations, constants, outputs, document.max_tokens)
    try:
        _check_names(program)
        check_shapes(program)
        check_intervals(program)
    except (OverflowFound, ValueError, IndexError, KeyError) as error:
        raise InputFileError(f"{path}: {error}. {REMEDY}") from None
    return program


def _operation(index: int, entry: dict[str, Any]) -> Operation:
    name = entry.pop("kind", None)
    if not isinstance(name, str) or name not in KINDS:
        raise ValueError(f"operations.{index}.kind: found {name!r}; legal: {', '.join(sorted(KINDS))}")
    operation: Operation = _valid(KINDS[name], entry)
    return operation


def _valid(kind: type[Any], entry: dict[str, Any]) -> Any:
    if unknown := entry.keys() - {part.name for part in fields(kind)}:
        raise ValueError(f"{kind.__name__} has no {min(unknown)}")
    return TypeAdapter(kind).validate_python(entry)


def code_names(operations: tuple[Operation, ...]) -> set[str]:
    """Return the names of the constants that hold codes of matrices and tables.

    Args:
        operations: operations of a program.
    """
    return {
        step.weights if isinstance(step, Linear) else step.codes
        for step in operations
        if isinstance(step, Linear | Embed)
    }


def _constants(path: Path, packed: dict[str, _Packed]) -> dict[str, NDArray[Any]]:
    try:
        arrays: dict[str, NDArray[Any]] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputFileError(f"{path}: cannot be read: {str(error).splitlines()[0]}. {REMEDY}") from None
    for name, form in packed.items():
        try:
            codes = unpack(arrays[name], form.bits, int(np.prod(form.shape)))
        except (KeyError, ValueError) as error:
            raise InputFileError(f"{path}: {name}: {error}. {REMEDY}") from None
        arrays[name] = (codes.astype(np.int16) - 2 ** (form.bits - 1)).astype(np.int8).reshape(form.shape)
    for name, array in arrays.items():
        if array.dtype.type not in TYPES or not array.size:
            raise InputFileError(f"{path}: {name} has {array.size} numbers of type {array.dtype}. {REMEDY}")
    return arrays


def _check_names(program: Program) -> None:
    known = {value.name for value in program.inputs} | set(program.constants)
    for operation in program.operations:
        missing = [name for name in operation.operands if name not in known]
        if missing:
            raise ValueError(f"{operation.output.name} reads {missing[0]}, which is not defined before it")
        if operation.output.name in known:
            raise ValueError(f"{operation.output.name} is defined twice")
        known.add(operation.output.name)
    for output in program.outputs:
        if output.value not in program.values:
            raise ValueError(f"the output {output.name} is {output.value}, which does not exist")
