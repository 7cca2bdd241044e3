"""`quantization_config` in `config.json`: format of a quantized folder, hashes of its files, results of its checks."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ..errors import InputFileError
from ..models.depth import without_layers
from ..models.fewer_heads import without_heads
from ..models.loading import LoadedModel
from ..runtime.files import MAX_JSON_BYTES
from ..runtime.frozen import Amount, Count
from ..runtime.input_files import decode_text, parse_json, read_bytes
from ..runtime.manifest import SEAL, OlderFolderWarning, check_complete, check_files, seal
from ..spec.allocation import Allocation
from .stored_tensors import CODES, OLD_CODES

METHOD = "qbert-opt"
FORMAT = "qbert-opt/model@2"
OLD_FORMAT = "qbert-opt/model@1"  # codes have other names; only weights, plan and tokenizer are hashed
CONFIG = "config.json"
PLAN: Final = "allocation.json"
WEIGHTS = "model.safetensors"
ENTRY = "quantization_config"
REMEDY = "Quantize the model again."


class ReadBack(BaseModel):
    """Result of reading a written folder back and running it.

    Attributes:
        data: name of the texts that it was run on; `num_texts` is their number.
        loss: measured loss relative to the float model, in `loss_unit`.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    data: str
    num_texts: Count
    loss: Amount
    loss_unit: str


class Training(BaseModel):
    """Provenance of training that the codes, or other tensors, went through before they were written.

    Attributes:
        method: name of the training method.
        data: name of the training texts; `data_sha256` is their hash, `num_texts` their number.
        drawn_from: hashes of the data sets that they were drawn from.
        steps: optimizer steps.
        seed: of the order of texts.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    method: str
    data: str
    data_sha256: str
    num_texts: Count
    drawn_from: tuple[str, ...] = ()
    steps: Count
    seed: Count


class FolderRecord(BaseModel):
    """Description of a quantized folder.

    Attributes:
        quant_method: our name in transformers' table of quantizers.
        format: version of the folder's format.
        version: of qbert-opt.
        plan: file name of the plan.
        files: sha256 of every other file, by name.
        written_by: quantizer that made the codes; None in folders of earlier releases and after training.
        read_back: result of running the folder after it was written; None while it is being written.
        trained: names of tensors, other than the matrices, that were changed by training.
        training: provenance of the training; None without training.
        sha256: hash of the document that contains the record, config included; empty in the older format.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    quant_method: str = METHOD
    format: str = FORMAT
    version: str
    plan: Literal["allocation.json"] = PLAN
    files: dict[str, str]
    written_by: str | None = None
    read_back: ReadBack | None = None
    trained: tuple[str, ...] = ()
    training: Training | None = None
    sha256: str = ""

    @property
    def trained_on(self) -> tuple[str, ...]:
        """Hashes of the texts that the codes were trained on after planning; empty if they were not."""
        return () if self.training is None else self.training.drawn_from or (self.training.data_sha256,)

    @property
    def codes_name(self) -> str:
        """Suffix of the packed codes' tensor names in the weight file."""
        return OLD_CODES if self.format == OLD_FORMAT else CODES


def record_file(folder: Path) -> Path:
    """Return the file of a folder's record: `config.json`, or a separate file for a plain module, which has no config.

    Args:
        folder: a quantized folder.
    """
    alone = folder / f"{ENTRY}.json"
    return alone if alone.exists() else folder / CONFIG


def write_record(record: FolderRecord, folder: Path, config: dict[str, Any] | None) -> None:
    """Write the record into `config.json`, or into a separate file for a plain module, which has no config.

    Args:
        record: description of the folder, with the hash of each file.
        folder: where to write it.
        config: the model's configuration, to which the record is added; None for a plain module.
    """
    entry = record.model_dump(mode="json", exclude={SEAL})
    document = entry if config is None else json.loads(json.dumps(config, default=str)) | {ENTRY: entry}
    entry[SEAL] = _sealed(document)
    path = folder / (f"{ENTRY}.json" if config is None else CONFIG)
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def parse_record(folder: Path) -> tuple[FolderRecord, dict[str, Any]]:
    """Read the record of a quantized folder and the document that contains it, without checking hashes.

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
    """Read the record of a quantized folder, and check it and every file against their hashes.

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
            f"{folder}: is of the older format {OLD_FORMAT}; changes to its {name} would not be noticed. {REMEDY}",
            OlderFolderWarning,
            stacklevel=2,
        )
    else:
        if record.sha256 != _sealed(document):
            raise InputFileError(f"{folder / name}: has changed since it was written (sha256). {REMEDY}")
        check_complete(folder, record.files, name, (WEIGHTS, record.plan), REMEDY)
    check_files(folder, record.files, REMEDY)
    return record


def _sealed(document: dict[str, Any]) -> str:
    """Return the hash of the document that contains a record, without the hash itself."""
    entry = document.get(ENTRY)
    if not isinstance(entry, dict):
        return seal(document)
    return seal(document | {ENTRY: {key: value for key, value in entry.items() if key != SEAL}})


def checked_record(entry: Any, where: str) -> FolderRecord:
    """Validate a `quantization_config`.

    Args:
        entry: as parsed from JSON.
        where: the file, for messages.

    Raises:
        InputFileError: written by another tool, of an unknown format, or malformed.
    """
    if not isinstance(entry, dict) or entry.get("quant_method") != METHOD:
        raise InputFileError(f"{where}: has no quantization_config of quant_method {METHOD!r}. {REMEDY}")
    if entry.get("format") not in (FORMAT, OLD_FORMAT):
        raise InputFileError(
            f"{where}: format is {entry.get('format')!r}; this version reads {FORMAT!r} and {OLD_FORMAT!r}. Use the "
            f"version of qbert-opt that wrote it ({entry.get('version', 'unknown')}), or quantize the model again."
        )
    try:
        return FolderRecord.model_validate(entry)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InputFileError(
            f"{where}: quantization_config.{'.'.join(map(str, first['loc']))}: {first['msg']}. {REMEDY}"
        ) from None


def as_planned(allocation: Allocation, loaded: LoadedModel) -> LoadedModel:
    """Return the model that a plan is of: without the layers or heads that the plan leaves out.

    Args:
        allocation: the plan.
        loaded: the whole model, or already the model of the plan.

    Raises:
        InputFileError: the plan was made for another model.
        UsageError: the model has no such layers or heads.
    """
    planned = loaded
    if loaded.sha256 != allocation.profile.sha256:
        if allocation.dropped is not None:
            planned = without_layers(loaded, allocation.dropped.layers)
        elif allocation.dropped_heads is not None:
            planned = without_heads(loaded, allocation.dropped_heads)
    check_belongs(allocation, planned)
    return planned


def check_belongs(allocation: Allocation, loaded: LoadedModel) -> None:
    """Refuse a plan that was made for another model.

    Args:
        allocation: the plan.
        loaded: compared by the hash of its weights.

    Raises:
        InputFileError: the hashes differ.
    """
    if allocation.profile.sha256 != loaded.sha256:
        if allocation.dropped_heads is not None:
            raise InputFileError(
                f"{loaded.name}: without the heads that the plan drops, its weights are not the planned ones. Either "
                "it is another model, or the heads or means in the plan were changed: give the plan's model, and the "
                "plan as it was written."
            )
        raise InputFileError(
            f"{loaded.name}: its weights are not those the plan was made for ({allocation.profile.name}, "
            f"sha256 {allocation.profile.sha256[:12]}…; here {loaded.sha256[:12]}…). Score and solve this model first."
        )
