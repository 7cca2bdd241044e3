"""`quantization_config` in `config.json`: what a quantized folder is, the hashes of its files, how it was checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, FiniteFloat, ValidationError

from ..errors import InputFileError
from ..models.loading import LoadedModel
from ..runtime.files import MAX_JSON_BYTES, check_files
from ..spec.allocation import Allocation

METHOD = "qbert-opt"
FORMAT = "qbert-opt/model@1"
CONFIG = "config.json"
PLAN = "allocation.json"
WEIGHTS = "model.safetensors"
ENTRY = "quantization_config"
REMEDY = "Quantize the model anew."


class ReadBack(BaseModel):
    """What the written folder answered when it was read back.

    Attributes:
        data: texts that it answered; `num_texts` how many.
        loss: measured against the model that it was made from, in `loss_unit`.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    data: str
    num_texts: int
    loss: FiniteFloat
    loss_unit: str


class Training(BaseModel):
    """What trained the matrices' codes, or the tensors beside them, before they were written.

    Attributes:
        method: what trained, by name.
        data: the training texts' name; `data_sha256` their hash; `num_texts` how many.
        steps: optimizer steps.
        seed: of the order of texts.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    method: str
    data: str
    data_sha256: str
    num_texts: int
    steps: int
    seed: int


class FolderRecord(BaseModel):
    """What a quantized folder holds.

    Attributes:
        quant_method: the name under which transformers knows us.
        format: version of the folder's format.
        version: of the code that wrote it.
        plan: file name of the plan.
        files: sha256 of every other file, by name.
        read_back: how the folder was checked; None while it is being written.
        trained: tensors that are not the original model's, besides the matrices.
        training: what trained them or the matrices; None where nothing was trained.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    quant_method: str = METHOD
    format: str = FORMAT
    version: str
    plan: str
    files: dict[str, str]
    read_back: ReadBack | None = None
    trained: tuple[str, ...] = ()
    training: Training | None = None


def write_record(record: FolderRecord, folder: Path, config: dict[str, Any] | None) -> None:
    """Write the record into `config.json`, or into a file of its own for a plain module, which has no config."""
    document = record.model_dump() if config is None else config | {ENTRY: record.model_dump()}
    path = folder / (f"{ENTRY}.json" if config is None else CONFIG)
    path.write_text(json.dumps(document, indent=1, default=str) + "\n", encoding="utf-8")


def read_record(folder: Path) -> FolderRecord:
    """Read the record of a quantized folder and compare every file with its hash.

    Raises:
        InputFileError: malformed, of an unknown format, or a file is missing or differs.
    """
    alone = folder / f"{ENTRY}.json"
    path = alone if alone.exists() else folder / CONFIG
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise InputFileError(f"{path}: {path.stat().st_size} bytes; a config has at most {MAX_JSON_BYTES}.")
        document = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputFileError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from None
    found = document.get(ENTRY) if path != alone and isinstance(document, dict) else document
    record = checked_record(found, str(path))
    check_files(folder, record.files, REMEDY)
    return record


def checked_record(found: Any, where: str) -> FolderRecord:
    """Read a `quantization_config`.

    Raises:
        InputFileError: none of ours, of an unknown format, or malformed.
    """
    if not isinstance(found, dict) or found.get("quant_method") != METHOD:
        raise InputFileError(f"{where}: has no quantization_config of quant_method {METHOD!r}. {REMEDY}")
    if found.get("format") != FORMAT:
        raise InputFileError(
            f"{where}: format is {found.get('format')!r}; this version reads {FORMAT!r}. Use the version of qbert-opt "
            f"that wrote it ({found.get('version', 'unknown')}), or quantize the model anew."
        )
    try:
        return FolderRecord.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InputFileError(
            f"{where}: quantization_config.{'.'.join(map(str, first['loc']))}: {first['msg']}. {REMEDY}"
        ) from None


def check_belongs(allocation: Allocation, loaded: LoadedModel) -> None:
    """Refuse a plan that was made for another model.

    Raises:
        InputFileError: the hashes differ.
    """
    if allocation.profile.sha256 != loaded.sha256:
        raise InputFileError(
            f"{loaded.name}: its weights are not those the plan was made for ({allocation.profile.name}, "
            f"sha256 {allocation.profile.sha256[:12]}…; here {loaded.sha256[:12]}…). Score and solve this model first."
        )
