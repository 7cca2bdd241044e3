"""The options of `optimize` that no other verb has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from .solve_options import LIMITS


@dataclass(frozen=True, slots=True)
class AnswerLimitOptions:
    """Limits on answers, proven on held-out text."""

    max_accuracy_drop: Annotated[
        str | None,
        typer.Option(
            "--max-accuracy-drop",
            help="Accuracy that may be lost, proven on held-out text: 0.5pt.",
            rich_help_panel=LIMITS,
        ),
    ] = None
    max_flips: Annotated[
        str | None,
        typer.Option(
            "--max-flips", help="Share of answers that may change, proven on held-out text: 1%.", rich_help_panel=LIMITS
        ),
    ] = None
    confidence: Annotated[
        str, typer.Option("--confidence", help="Confidence of these proofs, one-sided.", rich_help_panel=LIMITS)
    ] = "95%"
    least: Annotated[
        str,
        typer.Option(
            "--least",
            help="What the proven plan minimizes: bytes, or latency (needs --device).",
            rich_help_panel=LIMITS,
        ),
    ] = "bytes"
    test_data: Annotated[
        str | None, typer.Option("--test-data", help="Held-out text to check on; by default what is left of --data.")
    ] = None
