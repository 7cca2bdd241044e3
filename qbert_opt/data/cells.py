"""Convert the cells of a table to texts and labels; an invalid cell raises ValueError with the reason."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from typing import Any

_BLANKS = re.compile(r"[ \t\n\r\f\v]+")


def words(text: str) -> list[str]:
    """Split a text into words at blanks, tabs and line ends.

    Unlike `str.split` this keeps a no-break space inside its word (`10 000`), so that words and tags still match.

    Args:
        text: a sentence.
    """
    return [word for word in _BLANKS.split(text) if word]


def is_blank(text: str) -> bool:
    """Return whether a text has no visible characters: only white space, zero-width and control characters.

    Args:
        text: of any length.
    """
    return not text or all(unicodedata.category(c)[0] == "Z" or unicodedata.category(c) in ("Cc", "Cf") for c in text)


def text_of(cell: Any) -> str:
    """Return a cell as text; the words of a list are joined by blanks.

    Args:
        cell: string, number, boolean, a list of these, or None.

    Raises:
        ValueError: the cell is empty or not text; the message is a phrase that follows the column's name.
    """
    text = " ".join(_plain(item) for item in cell) if isinstance(cell, (list, tuple)) else _plain(cell)
    if is_blank(text):
        raise ValueError("is empty")
    return text


def label_of(cell: Any, column: str) -> str:
    """Return a cell as a label; a list of tags is joined by blanks, accepted answers become a JSON list.

    Args:
        cell: as read from the file; answers are an object with a list of strings in `text`, as in SQuAD.
        column: name of its column; a list in `answers` contains accepted answers.

    Raises:
        ValueError: the cell is empty, or of another type; the message is a phrase that follows the column's name.
    """
    if isinstance(cell, dict) and isinstance(cell.get("text"), (list, tuple)):
        return json.dumps([_plain(text) for text in cell["text"]])
    if isinstance(cell, (list, tuple)) and column == "answers":
        return json.dumps([_plain(text) for text in cell])
    label = " ".join(_plain(item) for item in cell) if isinstance(cell, (list, tuple)) else _plain(cell)
    if is_blank(label):
        raise ValueError("has no label")
    return label


def check_tags(tokens: list[Any], tags: list[Any]) -> None:
    """Refuse lists of words and tags that could not be split again after joining.

    Args:
        tokens: words of one sample.
        tags: one for each word.

    Raises:
        ValueError: the numbers of words and tags differ, or a word or tag is empty or contains a blank.
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
