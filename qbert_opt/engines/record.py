"""`engine.json`: what an exported folder contains, what it was exported from, and how it was checked."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat
from safetensors import SafetensorError
from safetensors.numpy import load_file

from ..errors import InputFileError
from ..runtime.files import read_document
from ..runtime.manifest import SEAL, OlderFolderWarning, check_complete, check_files, seal
from .session import Activations, Arrays, Session, difference

SCHEMA = "qbert-opt/engine@2"
OLD_SCHEMA = "qbert-opt/engine@1"  # has hashes of the engine's files and of the checks only
REMEDY = "Export the model again."
RECORD = "engine.json"
CHECKS = "check.safetensors"


class EngineRecord(BaseModel):
    """Description of an exported folder.

    Attributes:
        version: of qbert-opt.
        engine: name of the engine.
        engine_label: name and version of the engine that checked the export.
        source_sha256: hash of the model that was quantized.
        inputs: names of the token arrays.
        outputs: names of the output arrays.
        max_tokens: length of the longest text, in tokens.
        labels: class names by index; none for other models.
        files: sha256 of every other file of the folder; in the older schema, of the engine's files and the checks only.
        source_bytes: size of the tensors in the quantized folder.
        exported_bytes: size of all files of the engine.
        activations: how matrix products round their inputs.
        difference: max |output - reference| / max |reference| over the checks, as exported.
        graph_difference: the same with activations in float32.
        tolerance: largest accepted `difference`.
        sha256: hash of this record; empty in the older schema.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    document_schema: str = Field(default=SCHEMA, alias="schema")
    version: str
    engine: str
    engine_label: str
    source_sha256: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    max_tokens: int = Field(gt=0)
    labels: tuple[str, ...] | None
    files: dict[str, str]
    source_bytes: int
    exported_bytes: int
    activations: Activations
    difference: FiniteFloat
    graph_difference: FiniteFloat
    tolerance: FiniteFloat
    sha256: str = ""


def is_exported(folder: str | Path) -> bool:
    """Return whether a folder holds a model exported to an engine.

    Args:
        folder: need not exist.
    """
    return (Path(folder) / RECORD).is_file()


def write_record(record: EngineRecord, folder: Path) -> None:
    """Write `engine.json` with its own hash.

    Args:
        record: what the folder holds, with the hash of each file.
        folder: where to write it.
    """
    document = record.model_dump(mode="json", by_alias=True, exclude={SEAL})
    document[SEAL] = seal(document)
    (folder / RECORD).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def read_record(folder: str | Path) -> EngineRecord:
    """Read `engine.json` and check it and every file against their hashes.

    Args:
        folder: as `export` wrote it.

    Warns:
        OlderFolderWarning: the folder has the older schema, which covers the engine's own files only.

    Raises:
        InputFileError: the record is malformed or of an unknown schema, or a file is missing, changed or not listed.
    """
    root = Path(folder)
    record = read_document(root / RECORD, EngineRecord, SCHEMA, older={OLD_SCHEMA: dict})
    if record.document_schema == OLD_SCHEMA:
        warnings.warn(
            f"{folder}: has the older schema {OLD_SCHEMA}; changes to its config and tokenizer would not be noticed. "
            f"{REMEDY}",
            OlderFolderWarning,
            stacklevel=2,
        )
    else:
        if record.sha256 != seal(json.loads((root / RECORD).read_bytes())):
            raise InputFileError(f"{root / RECORD}: has changed since it was written (sha256). {REMEDY}")
        check_complete(root, record.files, RECORD, (CHECKS,), REMEDY)
    check_files(root, record.files, REMEDY)
    return record


def checks(batches: list[tuple[Arrays, Arrays]]) -> dict[str, np.ndarray]:
    """Return batches of (inputs, reference outputs) as one dictionary of arrays, named for a safetensors file.

    Args:
        batches: inputs and reference outputs by name, float32 or int64.
    """
    return {
        f"{index}.{side}.{name}": np.ascontiguousarray(array)
        for index, pair in enumerate(batches)
        for side, arrays in zip(("input", "output"), pair, strict=True)
        for name, array in arrays.items()
    }


def check_session(session: Session, batches: dict[str, np.ndarray]) -> float:
    """Run the checks in an engine and compare its outputs with the reference.

    Args:
        session: an open engine.
        batches: inputs and reference outputs, as named by `checks`.

    Returns:
        Largest max |output - reference| / max |reference|; infinite if an output is missing or has another shape.
    """
    pairs: dict[str, dict[str, Arrays]] = {}
    for key, array in batches.items():
        index, side, name = key.split(".", 2)
        pairs.setdefault(index, {"input": {}, "output": {}})[side][name] = array
    worst = 0.0
    for pair in pairs.values():
        answers = session.run(pair["input"])
        for name, reference in pair["output"].items():
            worst = max(worst, difference(reference, answers[name]) if name in answers else math.inf)
    return worst


def read_checks(folder: str | Path, record: EngineRecord) -> dict[str, np.ndarray]:
    """Read the checks of an exported folder.

    Args:
        folder: as `export` wrote it.
        record: of that folder.

    Raises:
        InputFileError: the file cannot be read, or its inputs, outputs and labels do not match the record.
    """
    path = Path(folder) / CHECKS
    try:
        batches = load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputFileError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from None
    names: dict[str, set[str]] = {"input": set(), "output": set()}
    for key in batches:
        _index, side, name = (*key.split(".", 2), "", "")[:3]
        names.setdefault(side, set()).add(name)
    if names != {"input": set(record.inputs), "output": set(record.outputs)} or not batches:
        raise InputFileError(f"{path}: does not match the inputs and outputs in {RECORD}. {REMEDY}")
    widths = {array.shape[-1] for key, array in batches.items() if key.endswith(".output.logits")}
    if record.labels is not None and widths - {len(record.labels)}:
        raise InputFileError(f"{path}: has outputs of width {min(widths)}; {RECORD} has {len(record.labels)} labels.")
    return batches
