"""Cells of a table as texts and labels; a cell that is none says why."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from typing import Any

_BLANKS = re.compile(r"[ \t\n\r\f\v]+")


def words(text: str) -> list[str]:
    """Split a text into words at blanks, tabs and line ends.

    Unlike `str.split` this keeps a no-break space inside its word (`10 000`), so that words and tags stay as many.

    Args:
        text: a sentence; other kinds of blanks stay inside a word.
    """
    return [word for word in _BLANKS.split(text) if word]


def is_blank(text: str) -> bool:
    """Tell whether a text holds nothing visible: blanks of any kind, zero-width and control characters.

    Args:
        text: of any length.
    """
    return not text or all(unicodedata.category(c)[0] == "Z" or unicodedata.category(c) in ("Cc", "Cf") for c in text)


def text_of(cell: Any) -> str:
    """A cell as text: what is written in the file; the words of a list are joined by blanks.

    Args:
        cell: text, number, truth value, list of them, or None.

    Raises:
        ValueError: nothing there, or no text; the message continues a sentence that begins with the column.
    """
    found = " ".join(_plain(item) for item in cell) if isinstance(cell, (list, tuple)) else _plain(cell)
    if is_blank(found):
        raise ValueError("is empty")
    return found


def label_of(cell: Any, column: str) -> str:
    """A cell as a label: tags of a list are joined by blanks, accepted answers become a JSON list.

    Args:
        cell: what the file holds; answers are an object with their texts in `text`, as in SQuAD.
        column: name of its column; a list in `answers` is one of accepted answers.

    Raises:
        ValueError: no label, or none of these.
    """
    if isinstance(cell, dict) and isinstance(cell.get("text"), (list, tuple)):
        return json.dumps([_plain(text) for text in cell["text"]])
    if isinstance(cell, (list, tuple)) and column == "answers":
        return json.dumps([_plain(text) for text in cell])
    found = " ".join(_plain(item) for item in cell) if isinstance(cell, (list, tuple)) else _plain(cell)
    if is_blank(found):
        raise ValueError("has no label")
    return found


def check_tags(tokens: list[Any], tags: list[Any]) -> None:
    """Refuse lists of words and tags that do not stay apart when they are joined.

    Args:
        tokens: words of one sample.
        tags: one for each word.

    Raises:
        ValueError: another number of tags than words, or a word or tag that is empty or holds a blank.
    """
    if len(tokens) != len(tags):
        raise ValueError(f"has {len(tokens)} words and {len(tags)} tags; give one tag for each word")
    for what, items in (("word", tokens), ("tag", tags)):
        for number, item in enumerate(items, 1):
            plain = _plain(item)
            if is_blank(plain):
                raise ValueError(f"{what} {number} is empty; remove it with its {'tag' if what == 'word' else 'word'}")
            if words(plain) != [plain]:
                raise ValueError(f"{what} {number} ({plain[:40]!r}) holds a blank; give one {what} for each entry")


def _plain(cell: Any) -> str:
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return ""
    if isinstance(cell, bytes):
        try:
            return cell.decode("utf-8")
        except UnicodeDecodeError:
            raise ValueError("holds bytes that are not UTF-8 text") from None
    if isinstance(cell, (dict, list, tuple)):
        raise ValueError(f"holds {'an object' if isinstance(cell, dict) else 'a list'} where text is expected")
    return str(cell)
