"""Text from files and command lines, made safe to show: on a terminal, in any encoding, and in a spreadsheet."""

from __future__ import annotations

import codecs
import csv
import io
import unicodedata
from collections.abc import Iterable, Sequence

READABLE = "qbert-opt-readable"  # the name of our error handler
SPELLED = {
    "±": "+-", "×": "x", "…": "...", "−": "-", "–": "-", "—": "-", "→": "->", "≤": "<=", "≥": ">=", "Ω": "Omega",
    "λ": "lambda", "Δ": "Delta", "²": "2", "⁹": "^9", "µ": "u", "μ": "u", "‖": "||", "·": "*", "‘": "'", "’": "'",
    "“": '"', "”": '"', "•": "*", "─": "-", "━": "-", "│": "|", "╭": "+", "╮": "+", "╰": "+", "╯": "+", "┃": "|",
    "é": "e", "ü": "u", "ö": "o", "ä": "a",
}  # fmt: skip
HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")  # controls, formats (such as right-to-left), surrogates, line separators
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def one_line(text: str) -> str:
    r"""Show control characters as escapes, so that no text moves the cursor, colours, reorders or breaks a line.

    >>> print(one_line("a\x1b[31mb\nc"))
    a\x1b[31mb\nc

    Args:
        text: of any content.
    """
    if text.isprintable():
        return text
    return "".join(_escaped(c) if unicodedata.category(c) in HIDDEN else c for c in text)


def whole_number(text: str) -> int | None:
    """Read a whole number of at most 18 decimal digits; None for anything else that Python may or may not take for one.

    >>> whole_number("128"), whole_number("²"), whole_number("-1")
    (128, None, None)

    Args:
        text: of any content.
    """
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 18 else None


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def readable(error: UnicodeError) -> tuple[str, int]:
    """Replace what an encoding cannot hold by ASCII that reads alike; anything else becomes an escape.

    Args:
        error: as raised while encoding.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    part = error.object[error.start : error.end]
    return "".join(SPELLED.get(c) or _escaped(c) for c in part), error.end


codecs.register_error(READABLE, readable)


def to_csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Write CSV in which no text is taken for a formula: cells that could be one start with an apostrophe (OWASP).

    Args:
        header: names of the columns.
        rows: cells; numbers stay as they are.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for row in (header, *rows):
        writer.writerow([f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell for cell in row])
    return out.getvalue()
