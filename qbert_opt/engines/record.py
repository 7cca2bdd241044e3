"""`engine.json`: what an exported folder contains, what it was exported from, and how it was checked."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from safetensors.numpy import load_file

from ..errors import InputFileError
from ..runtime.files import read_document
from ..runtime.frozen import Amount, Count
from ..runtime.manifest import SEAL, OlderFolderWarning, check_complete, check_files, seal
from .agreement import ARRAYS, LOGITS, OUTPUTS, UNITS, Agreement, AgreementLimits, Check, answer_rows
from .session import Activations

SCHEMA = "qbert-opt/engine@3"
SECOND_SCHEMA = "qbert-opt/engine@2"  # compares raw outputs, by their largest difference
OLD_SCHEMA = "qbert-opt/engine@1"  # likewise; has hashes of the engine's files and of the checks only
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
        integer_scores: whether queries and keys are rounded to 8 bits too, and multiplied in integers.
        refused: faster ways to round inputs that were tried first, each with the reason why it was not taken.
        kind: what the model answers with; `arrays` in older schemas, which compare raw outputs.
        checked_on: name of the data set that the checks are from.
        trained_on: hashes of the texts that the codes were trained on after planning; empty if they were not.
        agreement: how the engine's answers compared with torch's, as exported.
        graph_difference: `agreement.difference` with activations in float32.
        limits: what is accepted.
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
    source_bytes: Count
    exported_bytes: Count
    activations: Activations
    integer_scores: bool = False
    refused: dict[str, str] = Field(default_factory=dict)
    kind: str
    checked_on: str
    trained_on: tuple[str, ...] = ()
    agreement: Agreement
    graph_difference: Amount
    limits: AgreementLimits
    sha256: str = ""

    @property
    def difference(self) -> float:
        """Max |output - reference| / max |reference| over the checks, as exported."""
        return self.agreement.difference


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
    record = read_document(
        root / RECORD, EngineRecord, SCHEMA, older=dict.fromkeys((OLD_SCHEMA, SECOND_SCHEMA), _upgraded)
    )
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


def _upgraded(fields: dict[str, Any]) -> dict[str, Any]:
    """Return a record of an older schema, converted to the current one."""
    agreement = {"answers": 0, "loss": 0.0, "unit": UNITS[ARRAYS], "difference": fields.get("difference")}
    limits = {"difference": fields.get("tolerance")}
    return fields | {"kind": ARRAYS, "checked_on": "bundled texts", "agreement": agreement, "limits": limits}


def check_arrays(checks: Sequence[Check]) -> dict[str, np.ndarray]:
    """Return checks as one dictionary of arrays, named for a safetensors file.

    Args:
        checks: texts with torch's outputs.

    Returns:
        By name, for check i: `i.input.NAME`, `i.answers` and, where it has them, `i.positions`.
    """
    arrays: dict[str, np.ndarray] = {}
    for index, check in enumerate(checks):
        arrays |= {f"{index}.input.{name}": array for name, array in check.inputs.items()}
        arrays[f"{index}.answers"] = check.answers
        if check.positions is not None:
            arrays[f"{index}.positions"] = check.positions
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def read_checks(folder: str | Path, record: EngineRecord) -> list[Check]:
    """Read the checks of an exported folder.

    Args:
        folder: as `export` wrote it.
        record: of that folder.

    Raises:
        InputFileError: the file cannot be read, or its inputs, answers and labels do not match the record.
    """
    path = Path(folder) / CHECKS
    try:
        arrays = load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputFileError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from None
    batches: dict[str, dict[str, np.ndarray]] = {}
    for key, array in arrays.items():
        index, _, name = key.partition(".")
        batches.setdefault(index, {})[name] = array
    outputs = tuple(f"output.{name}" for name in record.outputs) if record.kind == ARRAYS else ("answers",)
    wanted = {*(f"input.{name}" for name in record.inputs), *outputs}
    known = record.kind == ARRAYS or set(OUTPUTS.get(record.kind, LOGITS)) <= set(record.outputs)
    if not known or not batches or any(set(parts) - {"positions"} != wanted for parts in batches.values()):
        raise InputFileError(f"{path}: does not match the inputs and outputs in {RECORD}. {REMEDY}")
    classes = "output.logits" if record.kind == ARRAYS else "answers"
    widths = {parts[classes].shape[-1] for parts in batches.values() if classes in parts and record.kind != "spans"}
    if record.labels is not None and widths - {len(record.labels)}:
        raise InputFileError(f"{path}: has outputs of width {min(widths)}; {RECORD} has {len(record.labels)} labels.")
    return [
        Check(
            {name: parts[f"input.{name}"] for name in record.inputs},
            answer_rows(ARRAYS, {name: parts[name] for name in outputs}, None)
            if record.kind == ARRAYS
            else parts["answers"],
            parts.get("positions"),
        )
        for parts in batches.values()
    ]
