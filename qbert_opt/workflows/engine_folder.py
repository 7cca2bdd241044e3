"""The contents of an engine's folder besides the engine's own files: checks, plan, tokenizer, config and record."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from safetensors.numpy import save_file

from ..checkpoint.record import PLAN
from ..checkpoint.record import read_record as read_quantized
from ..engines.agreement import Check
from ..engines.record import CHECKS, RECORD, EngineRecord, check_arrays, write_record
from ..engines.session import engine
from ..models.loading import LoadedModel
from ..models.sentence_embeddings import copy_companions
from ..runtime.manifest import file_hashes
from ..runtime.provenance import code_version
from ..spec.allocation import Allocation, write_allocation


def complete_folder(
    target: Path,
    name: str,
    source: str | Path,
    loaded: LoadedModel,
    allocation: Allocation,
    checks: Sequence[Check],
    *,
    config: Mapping[str, Any] = MappingProxyType({}),
    **found: Any,
) -> EngineRecord:
    """Complete a folder that holds an engine's own files, so that `run` and `evaluate` open it.

    Args:
        target: the folder.
        name: the engine.
        source: the quantized folder, whose companion files (pooling, prompts) go along, and what it was trained on.
        loaded: the quantized model.
        allocation: its plan.
        checks: texts with the outputs that opening the folder recomputes.
        config: fields of `config.json` in addition to the model's own.
        **found: the other fields of the record.

    Returns:
        The record, which is written last and hashes every other file.
    """
    save_file(check_arrays(checks), target / CHECKS)
    write_allocation(allocation, target / PLAN)
    loaded.tokenizer.save_pretrained(target)
    copy_companions(Path(source), target)
    fields = json.dumps({**loaded.model.config.to_dict(), **config}, indent=1, default=str)
    (target / "config.json").write_text(fields + "\n", encoding="utf-8")
    record = EngineRecord(
        version=code_version(),
        engine=name,
        engine_label=engine(name).label(),
        source_sha256=allocation.profile.sha256,
        max_tokens=loaded.longest,
        labels=loaded.labels,
        files=file_hashes(target, RECORD),
        source_bytes=allocation.total_bytes,
        kind=loaded.head.kind,
        trained_on=read_quantized(Path(source)).trained_on,
        **found,
    )
    write_record(record, target)
    return record
