"""Refusals are one line, whatever names a file holds."""

from qbert_opt.errors import MAX_MESSAGE, InputFileError


def test_a_refusal_is_one_printable_line():
    """Line ends, escapes of terminals and separators are shown, not sent; letters of any script stay."""
    assert str(InputFileError("a\nb\x1b[31m\u2028ü\ud83d")) == "a\\nb\\x1b[31m\\u2028ü\\ud83d"


def test_a_long_name_leaves_the_beginning_and_the_remedy():
    """The file stands at the beginning of a message and what to do at its end; both stay."""
    line = str(InputFileError("scores.json: " + "x" * 10_000 + ". Make the file again."))
    assert line.startswith("scores.json: xxx") and line.endswith("xxx. Make the file again.")
    assert len(line) <= MAX_MESSAGE + 3
