"""Run a quantized or exported model: text in; label and probability, or vectors, out."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.cells import is_blank
from ..engines.agreement import check_session
from ..engines.opening import open_session
from ..engines.record import EngineRecord, is_exported, read_checks, read_record
from ..engines.session import Arrays, Session, engine, exporting_format
from ..errors import InputFileError, UsageError

Text = str | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Prediction:
    """The most likely label of a text with its probability, and the probabilities of all labels.

    Attributes:
        label: the most likely label.
        probability: its probability, the softmax of the logits.
        probabilities: the probability of every label; they add up to 1.
    """

    label: str
    probability: float
    probabilities: dict[str, float]


class Predictor:
    """A classifier of texts, or an encoder that embeds them, loaded into an engine.

    >>> predictor = Predictor("out")  # doctest: +SKIP
    >>> predictor("turn the light on").label  # doctest: +SKIP
    'SetLight'

    Args:
        folder: an exported folder, or a quantized one.
        engine: for example `onnxruntime`; by default the engine that the folder was exported to, or torch for a
            quantized folder. For other engines a quantized folder is first exported to a temporary folder.
        threads: CPU threads; by default the engine chooses.

    Raises:
        InputFileError: the folder does not exist, its files have changed, or the engine's outputs deviate from the
            recorded ones on this machine.
        UsageError: the engine is unknown, not installed, or not the one that the folder was exported to; or the model
            is neither a classifier of texts nor an encoder without a head.
    """

    def __init__(self, folder: str | Path, engine: str | None = None, *, threads: int | None = None) -> None:
        self._temporary: Any = None
        if not is_exported(folder):
            self._open_quantized(Path(folder), engine or "torch", threads)
        else:
            self._open_exported(Path(folder), engine, threads)

    def __call__(self, text: str, pair: str | None = None) -> Prediction:
        """Predict the label of one text, or of one pair of texts.

        Args:
            text: the text, or the first text of a pair.
            pair: the second text of a pair.

        Raises:
            UsageError: a text is empty, or the model is no classifier of texts.
        """
        return self.predict([text if pair is None else (text, pair)])[0]

    def predict(self, texts: Sequence[Text], *, batch_size: int = 16) -> list[Prediction]:
        """Predict the labels of several texts.

        Args:
            texts: at least one text, or tuple of one or two texts; all of the same number.
            batch_size: texts that run in one batch, padded to the longest of them.

        Returns:
            One prediction for each text, in their order.

        Raises:
            UsageError: a text is empty, or the model is no classifier of texts.
        """
        if self.labels is None or self.kind != "classes":
            raise UsageError(
                f"run: {self.folder} is neither a classifier of texts nor an encoder without a head. Measure it with "
                "'qbert-opt evaluate', or run it with transformers."
            )
        predictions = []
        for row in self.logits(texts, batch_size=batch_size):
            scores = np.exp(row.astype(np.float64) - row.max())
            scores /= scores.sum()
            best = int(scores.argmax())
            every = dict(zip(self.labels, scores.tolist(), strict=True))
            predictions.append(Prediction(self.labels[best], float(scores[best]), every))
        return predictions

    def logits(self, texts: Sequence[Text], *, batch_size: int = 16) -> NDArray[np.float32]:
        """Run the model on several texts.

        Args:
            texts: at least one text, or tuple of one or two texts; all of the same number.
            batch_size: texts that run in one batch, padded to the longest of them.

        Returns:
            The logits of the texts, float32 `[N, C]`, in their order.

        Raises:
            UsageError: a text is empty.
        """
        self._refuse_blank(texts)
        return np.concatenate([outputs["logits"] for _, outputs in self._runs(texts, batch_size)])

    def embed(self, texts: Sequence[str], *, batch_size: int = 16) -> NDArray[np.float32]:
        """Return the vectors of texts: pooled, and normalized if the model is.

        Args:
            texts: at least one text; the model's prompt is put before each.
            batch_size: texts that run in one batch, padded to the longest of them.

        Returns:
            The vectors, float32 `[N, columns]`, in the order of the texts.

        Raises:
            UsageError: a text is empty, or the model is no encoder of texts.
        """
        import torch

        from ..models.sentence_embeddings import SentenceEmbedding, embedding_of, with_prompt

        if self.kind != "embeddings":
            raise UsageError(f"run: {self.folder} answers with {self.kind}, not with vectors of texts.")
        self._refuse_blank(texts)
        pooling = embedding_of(self._config) or SentenceEmbedding()
        rows = []
        for inputs, outputs in self._runs(with_prompt(self._tokenizer, texts), batch_size):
            mask = torch.from_numpy(inputs["attention_mask"]).bool()
            rows.append(pooling.pool(torch.from_numpy(outputs["last_hidden_state"]), mask).numpy())
        return np.concatenate(rows)

    def similarities(self, pairs: Sequence[tuple[str, str]], *, batch_size: int = 16) -> list[float]:
        """Return the cosine of the two texts of each pair; a text that occurs more than once is embedded once.

        Args:
            pairs: at least one pair of texts.
            batch_size: texts that run in one batch, padded to the longest of them.

        Returns:
            The cosines, from -1 to 1, in the order of the pairs.

        Raises:
            UsageError: a text is empty, or the model is no encoder of texts.
        """
        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        vectors = self.embed(texts, batch_size=batch_size).astype(np.float64)
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        row = {text: index for index, text in enumerate(texts)}
        return [float(vectors[row[a]] @ vectors[row[b]]) for a, b in pairs]

    def _refuse_blank(self, texts: Sequence[Text]) -> None:
        for number, text in enumerate(texts, 1):
            if any(map(is_blank, (text,) if isinstance(text, str) else text)):
                raise UsageError(f"text {number} is empty. Give texts of at least one word.")

    def _runs(self, texts: Sequence[Text], batch_size: int) -> Iterator[tuple[Arrays, Arrays]]:
        """Yield the token arrays and the outputs of each batch."""
        for start in range(0, len(texts), batch_size):
            part = [(text,) if isinstance(text, str) else text for text in texts[start : start + batch_size]]
            inputs = self.encode(part)
            yield inputs, self.session.run(inputs)

    def encode(self, texts: Sequence[tuple[str, ...]]) -> dict[str, NDArray[np.int64]]:
        """Tokenize a batch as the model expects it: padded to its longest text, cut at `max_tokens`.

        Args:
            texts: tuples of one text, or of the two texts of a pair.

        Returns:
            The model's inputs by name, int64 `[B, T]` each.
        """
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
            self._config = self.session.config  # type: ignore[attr-defined]
            return
        from ..workflows.export import export_model

        exporting_format(name)  # refuses before there is a folder to remove
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
        self._config = config = written_config(folder)
        self._tokenizer, self.kind = load_tokenizer(folder, config), config_kind(config, str(folder))
        self.inputs, self.outputs = record.inputs, record.outputs
        self.labels, self.max_tokens = record.labels, record.max_tokens
        self._dry_run()

    def _dry_run(self) -> None:
        """Run two texts of different length: the checks of the export are token ids, which no tokenizer has read.

        Raises:
            InputFileError: tokenizer or engine fails, or an output is missing, NaN or infinite.
        """
        from ..models.folder_files import first_line
        from ..models.probe import known_words

        words = known_words(self._tokenizer)
        pair = 2 if self.kind == "spans" else 1
        try:
            outputs = self.session.run(self.encode([(" ".join(words[:2]),) * pair, (" ".join(words),) * pair]))
            finite = [outputs[name] for name in self.outputs if np.isfinite(outputs[name]).all()]
        except Exception as error:  # the engines' errors have no common family
            raise InputFileError(
                f"{self.folder}: tokenizer and model do not go together: {type(error).__name__}: {first_line(error)}. "
                "Export the model again."
            ) from None
        if len(finite) < len(self.outputs):
            raise InputFileError(
                f"{self.folder}: the outputs for a short text are NaN or infinite. Use another engine here."
            )


def open_exported(folder: Path, record: EngineRecord, threads: int | None) -> Session:
    """Open an exported folder and repeat the checks of its export, because results can differ between machines.

    Args:
        folder: as `export` wrote it.
        record: of that folder.
        threads: CPU threads; None lets the engine choose.

    Raises:
        InputFileError: an output exceeds the record's limits.
    """
    checks = read_checks(folder, record)
    session: Session = open_session(engine(record.engine), folder, threads, record.activations)
    agreement = check_session(session, record.kind, checks)
    if not record.limits.hold(agreement):
        raise InputFileError(
            f"{folder}: {record.engine} answers wrongly on this machine: "
            f"{'outputs are missing or not finite' if agreement is None else agreement}; as exported by "
            f"{record.engine_label}: {record.agreement}. Use another engine here."
        )
    return session
