"""What a smaller vocabulary keeps, and how it tokenizes other text, as lines of text."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..workflows.trim_vocabulary import Trimmed
    from ..workflows.vocabulary_reading import Reading


def vocabulary_lines(trimmed: Trimmed, model: str) -> list[str]:
    """Return rows and bytes before and after, and how held-out text is tokenized.

    Args:
        trimmed: the written model.
        model: name of the whole model, as the user gave it.
    """
    (rows, kept), (size, left) = trimmed.rows, trimmed.weight_bytes
    others = "the others are special tokens, single characters and parts" if trimmed.left_out else "none is left out"
    lines = [
        f"rows             {kept:,} of {rows:,} kept: {trimmed.used:,} pieces are used, {others}",
        f"weights          {left:,} bytes, {size:,} before ({100 * left / size:.1f} %)",
    ]
    for number, (size, count) in enumerate(trimmed.tiers, 1):
        share = 100 * count / trimmed.num_pieces
        lines.append(f"tier {number}           {size:,} rows, {share:.2f} % of the pieces of the texts")
    if trimmed.reading is None and trimmed.left_out:
        lines.append(
            "other text       not measured: words without their piece split into smaller ones. Give --test-data, or "
            f"run 'qbert-opt evaluate {trimmed.folder} --data TEXT --reference {model}'"
        )
    elif trimmed.reading is not None:
        lines += _reading_lines(trimmed.reading)
    return [*lines, f"{trimmed.folder}: texts of kept pieces are read and answered as before"]


def _reading_lines(reading: Reading) -> list[str]:
    share = reading.num_dropped / max(1, reading.num_pieces)
    before, after = reading.unknown
    return [
        f"other text       {100 * share:.2f} % of the {reading.num_pieces:,} pieces of {reading.name} split "
        f"differently, in {reading.texts_changed:,} of {reading.num_texts:,} texts",
        f"                 {reading.num_pieces / reading.num_texts:.2f} pieces a text before, "
        f"{reading.num_pieces_after / reading.num_texts:.2f} after; unknown ones {before:,} before, {after:,} after",
    ]
