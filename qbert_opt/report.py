"""Nouns to text that a person reads. Units are put on here and nowhere before."""

from __future__ import annotations

from .scores import ScoreTable


def scores_summary(table: ScoreTable) -> str:
    """One line that says what a table of scores is of, and where it comes from."""
    p = table.provenance
    accuracy = "" if p.scored_accuracy is None else f", accuracy there {100 * p.scored_accuracy:.1f} %"
    return (
        f"{len(table.profile.matrices)} matrices × {len(table.choices)} choices of {table.profile.name} "
        f"({table.profile.architecture}, sha256 {table.profile.sha256[:12]}…), metric {table.metric}, "
        f"method {table.method}, data {p.data} ({p.num_calibration} texts to fit, {p.num_scored} to score, "
        f"{p.mean_tokens:.1f} tokens each{accuracy}), commit {p.commit}, {p.date}"
    )
