"""Lists of words: one per line."""

from __future__ import annotations

from pathlib import Path

from ..errors import InputFileError
from ..runtime.input_files import decode_text, read_bytes, text_lines
from .sources import MAX_TEXT_BYTES


def read_words(path: str | Path) -> tuple[str, ...]:
    """Read a word list: one word per line, blanks around it do not count, and neither do empty lines.

    Args:
        path: a text file in UTF-8.

    Raises:
        InputFileError: unreadable, a line holds a tab, or there is no word.
    """
    lines = text_lines(decode_text(read_bytes(Path(path), MAX_TEXT_BYTES, "a word list"), path), path)
    for number, line in enumerate(lines, 1):
        if "\t" in line.strip():
            raise InputFileError(f"{path}: line {number}: holds a tab. Give one word per line; `data` reads tables.")
    words = tuple(word for line in lines if (word := line.strip()))
    if not words:
        raise InputFileError(f"{path}: holds no word. Give one per line.")
    return words
