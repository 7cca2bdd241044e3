"""What a smaller vocabulary keeps, as lines."""

from pathlib import Path

from qbert_opt.reports.vocabulary import vocabulary_lines
from qbert_opt.workflows.trim_vocabulary import Trimmed


def test_shares_of_tiers_are_of_all_pieces_of_the_texts():
    """By hand, of 8 pieces; what was left out is in no tier, and tiers that no text reads are no error."""
    for reads, shares in (((6, 1), ("75.00 %", "12.50 %")), ((0, 0), ("0.00 %", "0.00 %"))):
        tiers = tuple(zip((2, 4), reads, strict=True))
        made = Trimmed(Path("out"), (10, 6), 3, (100, 60), tiers=tiers, num_pieces=8, left_out=4)
        lines = [line for line in vocabulary_lines(made, "whole") if line.startswith("tier")]
        assert all(share in line for share, line in zip(shares, lines, strict=True))


def test_nothing_is_said_of_left_out_pieces_where_all_are_kept():
    """No other text is then read otherwise; with pieces left out, what that costs has not been measured."""
    for left_out in (0, 4):
        made = Trimmed(Path("out"), (10, 10 - left_out), 3, (100, 60), left_out=left_out)
        said = "\n".join(vocabulary_lines(made, "whole"))
        assert ("none is left out" in said) == (not left_out)
        assert ("not measured" in said) == ("single characters" in said) == bool(left_out)
