"""`quantization_config` in `config.json`: what a quantized folder is, the hashes of its files, how it was checked."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, FiniteFloat, ValidationError

from ..errors import InputFileError
from ..models.loading import LoadedModel
from ..runtime.files import MAX_JSON_BYTES
from ..runtime.input_files import decode_text, parse_json, read_bytes
from ..runtime.manifest import SEAL, OlderFolderWarning, check_complete, check_files, seal
from ..spec.allocation import Allocation
from .stored_tensors import CODES, OLD_CODES

METHOD = "qbert-opt"
FORMAT = "qbert-opt/model@2"
OLD_FORMAT = "qbert-opt/model@1"  # other names of codes; hashes of weights, plan and tokenizer only
CONFIG = "config.json"
PLAN: Final = "allocation.json"
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
        drawn_from: hashes of the data sets that they were drawn from.
        steps: optimizer steps.
        seed: of the order of texts.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    method: str
    data: str
    data_sha256: str
    num_texts: int
    drawn_from: tuple[str, ...] = ()
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
        sha256: of the document that holds the record, config and record alike; empty in the older format.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    quant_method: str = METHOD
    format: str = FORMAT
    version: str
    plan: Literal["allocation.json"] = PLAN
    files: dict[str, str]
    read_back: ReadBack | None = None
    trained: tuple[str, ...] = ()
    training: Training | None = None
    sha256: str = ""

    @property
    def codes_name(self) -> str:
        """What the weights file calls the packed codes of a module."""
        return OLD_CODES if self.format == OLD_FORMAT else CODES


def record_file(folder: Path) -> Path:
    """Where a folder's record is: a plain module has no config, so its record is a file of its own.

    Args:
        folder: a quantized folder.
    """
    alone = folder / f"{ENTRY}.json"
    return alone if alone.exists() else folder / CONFIG


def write_record(record: FolderRecord, folder: Path, config: dict[str, Any] | None) -> None:
    """Write the record into `config.json`, or into a file of its own for a plain module, which has no config.

    Args:
        record: what the folder holds, with the hash of each file.
        folder: where to write it.
        config: the model's configuration, to which the record is added; None for a plain module.
    """
    entry = record.model_dump(mode="json", exclude={SEAL})
    document = entry if config is None else json.loads(json.dumps(config, default=str)) | {ENTRY: entry}
    entry[SEAL] = _sealed(document)
    path = folder / (f"{ENTRY}.json" if config is None else CONFIG)
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def parse_record(folder: Path) -> tuple[FolderRecord, dict[str, Any]]:
    """Read the record of a quantized folder, with the document that it stands in; compare nothing with hashes.

    Args:
        folder: a quantized folder.

    Raises:
        InputFileError: missing, malformed or of an unknown format.
    """
    path = record_file(folder)
    if not (folder / WEIGHTS).exists() and path.name == CONFIG:
        raise InputFileError(
            f"{folder / WEIGHTS}: is missing. {REMEDY} If the folder was exported to an engine, its engine.json is "
            "missing: export the model again."
        )
    try:
        document = parse_json(decode_text(read_bytes(path, MAX_JSON_BYTES, "a config"), path), path)
    except InputFileError as error:
        raise InputFileError(f"{error} {REMEDY}") from None
    in_config = path.name == CONFIG and isinstance(document, dict)
    return checked_record(document.get(ENTRY) if in_config else document, str(path)), document


def read_record(folder: Path) -> FolderRecord:
    """Read the record of a quantized folder, and compare it and every file with their hashes.

    Args:
        folder: a quantized folder.

    Warns:
        OlderFolderWarning: the folder is of the older format, which does not cover its config.

    Raises:
        InputFileError: malformed, of an unknown format, or a file is missing, differs or is not listed.
    """
    record, document = parse_record(folder)
    name = record_file(folder).name
    if record.format == OLD_FORMAT:
        warnings.warn(
            f"{folder}: is of the older format {OLD_FORMAT}; changes of its {name} would not be noticed. {REMEDY}",
            OlderFolderWarning,
            stacklevel=2,
        )
    else:
        if record.sha256 != _sealed(document):
            raise InputFileError(f"{folder / name}: is not what was written (sha256). {REMEDY}")
        check_complete(folder, record.files, name, (WEIGHTS, record.plan), REMEDY)
    check_files(folder, record.files, REMEDY)
    return record


def _sealed(document: dict[str, Any]) -> str:
    """Seal of the document that holds a record, without the seal inside it."""
    entry = document.get(ENTRY)
    if not isinstance(entry, dict):
        return seal(document)
    return seal(document | {ENTRY: {key: value for key, value in entry.items() if key != SEAL}})


def checked_record(entry: Any, where: str) -> FolderRecord:
    """Check a `quantization_config`.

    Args:
        entry: as parsed from JSON.
        where: file that it is from.

    Raises:
        InputFileError: none of ours, of an unknown format, or malformed.
    """
    if not isinstance(entry, dict) or entry.get("quant_method") != METHOD:
        raise InputFileError(f"{where}: has no quantization_config of quant_method {METHOD!r}. {REMEDY}")
    if entry.get("format") not in (FORMAT, OLD_FORMAT):
        raise InputFileError(
            f"{where}: format is {entry.get('format')!r}; this version reads {FORMAT!r} and {OLD_FORMAT!r}. Use the "
            f"version of qbert-opt that wrote it ({entry.get('version', 'unknown')}), or quantize the model anew."
        )
    try:
        return FolderRecord.model_validate(entry)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InputFileError(
            f"{where}: quantization_config.{'.'.join(map(str, first['loc']))}: {first['msg']}. {REMEDY}"
        ) from None


def check_belongs(allocation: Allocation, loaded: LoadedModel) -> None:
    """Refuse a plan that was made for another model.

    Args:
        allocation: the plan.
        loaded: compared by the hash of its weights.

    Raises:
        InputFileError: the hashes differ.
    """
    if allocation.profile.sha256 != loaded.sha256:
        raise InputFileError(
            f"{loaded.name}: its weights are not those the plan was made for ({allocation.profile.name}, "
            f"sha256 {allocation.profile.sha256[:12]}…; here {loaded.sha256[:12]}…). Score and solve this model first."
        )
