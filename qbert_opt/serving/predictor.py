"""Answers of a quantized or exported model: text in, label and probability out."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..engines.agreement import check_session
from ..engines.record import EngineRecord, is_exported, read_checks, read_record
from ..engines.session import Session, engine
from ..errors import InputFileError, UsageError

Text = str | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Prediction:
    """The likeliest label of a text with its probability, and every label's."""

    label: str
    probability: float
    probabilities: dict[str, float]


class Predictor:
    """A classifier that is ready to answer.

    >>> predictor = Predictor("out")  # doctest: +SKIP
    >>> predictor("turn the light on").label  # doctest: +SKIP
    'SetLight'

    Args:
        folder: an exported folder, or a quantized one.
        engine: `torch`, `openvino` or `onnxruntime`; by default what the folder was exported to, and torch for a
            quantized folder. Another engine than torch exports a quantized folder first, to a temporary place.
        threads: processor threads; by default the engine's own choice.

    Raises:
        InputFileError: no such folder, files that differ from those exported, or wrong answers on this machine.
        UsageError: an engine that is unknown, not installed or not this folder's, or a model without labels.
    """

    def __init__(self, folder: str | Path, engine: str | None = None, *, threads: int | None = None) -> None:
        self._temporary: Any = None
        if not is_exported(folder):
            self._open_quantized(Path(folder), engine or "torch", threads)
        else:
            self._open_exported(Path(folder), engine, threads)

    def __call__(self, text: str, pair: str | None = None) -> Prediction:
        """Answer one text, or one pair of texts."""
        return self.predict([text if pair is None else (text, pair)])[0]

    def predict(self, texts: Sequence[Text], *, batch_size: int = 16) -> list[Prediction]:
        """Answer several texts."""
        if self.labels is None or self.kind != "classes":
            raise UsageError(
                f"run: {self.folder} is no classifier of texts, which would have one label per text. Its answers can "
                "be measured with 'qbert-opt evaluate', or read with transformers."
            )
        found = []
        for row in self.logits(texts, batch_size=batch_size):
            scores = np.exp(row.astype(np.float64) - row.max())
            scores /= scores.sum()
            best = int(scores.argmax())
            every = dict(zip(self.labels, scores.tolist(), strict=True))
            found.append(Prediction(self.labels[best], float(scores[best]), every))
        return found

    def logits(self, texts: Sequence[Text], *, batch_size: int = 16) -> NDArray[np.float32]:
        """Logits `[N, C]` of texts, in their order."""
        rows = []
        for start in range(0, len(texts), batch_size):
            part = [(text,) if isinstance(text, str) else text for text in texts[start : start + batch_size]]
            rows.append(self.session.run(self.encode(part))["logits"])
        return np.concatenate(rows)

    def encode(self, texts: Sequence[tuple[str, ...]]) -> dict[str, NDArray[np.int64]]:
        """Token arrays of a batch."""
        columns = [list(column) for column in zip(*texts, strict=True)]
        encoded = self._tokenizer(
            *columns, padding=True, truncation=True, max_length=self.max_tokens, return_tensors="np"
        )
        return {name: np.asarray(encoded[name], np.int64) for name in self.inputs}

    def _open_quantized(self, folder: Path, name: str, threads: int | None) -> None:
        if name == "torch":
            self.session: Session = engine("torch").open_model(folder, threads)
            self.folder, self.stored_bytes = folder, 0
            self._tokenizer = self.session.tokenizer  # type: ignore[attr-defined]
            self.inputs, self.outputs = self.session.inputs, self.session.outputs  # type: ignore[attr-defined]
            self.labels, self.max_tokens = self.session.labels, self.session.max_tokens  # type: ignore[attr-defined]
            self.kind = self.session.kind  # type: ignore[attr-defined]
            return
        from ..workflows.export import export_model

        self._temporary = tempfile.TemporaryDirectory(prefix="qbert-opt-")
        target = Path(self._temporary.name) / name
        export_model(folder, name, target)
        self._open_exported(target, name, threads)

    def _open_exported(self, folder: Path, name: str | None, threads: int | None) -> None:
        from ..models.loading import config_kind, load_tokenizer, written_config  # they import torch

        record = read_record(folder)
        if name is not None and name != record.engine:
            raise UsageError(f"`engine` {name}: {folder} was exported to {record.engine}. Export it for {name} too.")
        self.session = open_exported(folder, record, threads)
        self.folder, self.stored_bytes = folder, record.exported_bytes
        config = written_config(folder)
        self._tokenizer, self.kind = load_tokenizer(folder, config), config_kind(config, str(folder))
        self.inputs, self.outputs = record.inputs, record.outputs
        self.labels, self.max_tokens = record.labels, record.max_tokens


def open_exported(folder: Path, record: EngineRecord, threads: int | None) -> Session:
    """Compile an exported folder and ask it the questions it was checked with: another machine may run it wrong.

    Args:
        folder: as `export` wrote it.
        record: of that folder.
        threads: processor threads; None is the engine's own choice.

    Raises:
        InputFileError: an answer is off.
    """
    checks = read_checks(folder, record)
    session: Session = engine(record.engine).open_model(folder, threads, record.activations)
    found = check_session(session, record.kind, checks)
    if not record.limits.hold(found):
        raise InputFileError(
            f"{folder}: {record.engine} answers wrongly on this machine: "
            f"{'outputs are missing or not finite' if found is None else found}; as exported by "
            f"{record.engine_label}: {record.agreement}. Use another engine here."
        )
    return session
