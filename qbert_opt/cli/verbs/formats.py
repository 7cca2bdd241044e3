"""`qbert-opt formats`: what a matrix can be stored as."""

from __future__ import annotations

import typer

from .metrics import list_plugins


def command() -> None:
    """List the quantizers and groupings that `--method` and `--groupings` take, with their price.

    Example: `qbert-opt formats`
    """
    from ...choices import DEFAULT_GROUPINGS, LEGAL_BITS, OFFSET_BYTES, SCALE_BYTES, Choice

    typer.echo("methods:")
    list_plugins("quantizers")
    typer.echo(f"\nbits: {', '.join(map(str, LEGAL_BITS))}")
    typer.echo(f"every range stores a scale ({SCALE_BYTES} bytes, fp16) and an offset ({OFFSET_BYTES} bytes, fp16)")
    typer.echo("\ngroupings, with the ranges of a 768 × 768 matrix of 12 heads and what they add to a weight:")
    for grouping in DEFAULT_GROUPINGS:
        c = Choice(2, grouping, "gptq")
        layout = c.layout(768, 768, heads=12)
        extra = 8 * c.metadata_bytes(768, 768, heads=12) / 768**2
        typer.echo(f"{grouping:14} {layout.num_groups:6} ranges  {extra:.4f} bits per weight")
