"""Questions and paragraphs in SQuAD's JSON: pairs (question, paragraph), labelled with the accepted answers as JSON.

Splits consist of whole articles in the order of the file: `train` is the first three fifths, `dev` the next, `test` the
last. Questions of one article share paragraphs, so splits by question would share text. Unanswerable questions of SQuAD
2 have an empty list of answers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...errors import InputFileError, UsageError
from ...runtime.input_files import decode_text, parse_json, read_bytes
from ..cells import is_blank

MAX_BYTES = 2**30
SPLITS = {"train": (0, 3), "dev": (3, 4), "test": (4, 5)}


def reads(path: Path) -> bool:
    """Return whether a file has SQuAD's layout, by its first bytes."""
    try:
        if path.suffix != ".json" or not path.is_file():
            return False
        with path.open("rb") as file:
            return b'"paragraphs"' in file.read(1 << 16)
    except OSError:  # reported when the file is read
        return False


def read(path: Path, *, split: str | None, label_column: str | None) -> tuple[list[tuple[str, ...]], list[str] | None]:
    """Read questions with their paragraphs.

    Raises:
        InputFileError: the file does not have SQuAD's layout, or is too large.
        UsageError: an unknown split or column.
    """
    if label_column not in (None, "answers"):
        raise UsageError(f"`label_column` {label_column}: {path} has answers.")
    if split is not None and split not in SPLITS:
        raise UsageError(f"`split` {split}: {path} has {', '.join(SPLITS)}, by article.")
    document = parse_json(decode_text(read_bytes(path, MAX_BYTES, "a SQuAD file"), path), path)
    texts: list[tuple[str, ...]] = []
    labels: list[str] = []
    try:
        articles = document["data"]
        for article in articles if split is None else _part(articles, split):
            for paragraph in article["paragraphs"]:
                context = _text(paragraph["context"], "context")
                for question in paragraph["qas"]:
                    texts.append((_text(question["question"], "question"), context))
                    labels.append(json.dumps(_accepted(question)))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputFileError(
            f"{path}: is no SQuAD file: question {len(texts) + 1}: {type(error).__name__}: {error}. "
            "Give the official layout."
        ) from None
    return texts, labels


def _accepted(question: dict[str, Any]) -> list[str]:
    """Return the accepted answers; none if SQuAD 2 marks the question as unanswerable."""
    if question.get("is_impossible") is True:
        return []
    return [_text(answer["text"], "answer") for answer in question["answers"]]


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str) or is_blank(value):
        raise ValueError(f"its {what} is {'empty' if isinstance(value, str) else 'no text'}")
    return value


def _part(articles: list[Any], split: str) -> list[Any]:
    first, last = SPLITS[split]
    return articles[first * len(articles) // 5 : last * len(articles) // 5]
