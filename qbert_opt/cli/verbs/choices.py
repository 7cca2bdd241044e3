"""`qbert-opt choices`: how a matrix can be stored."""

from __future__ import annotations

import typer

from .metrics import list_plugins

FORM_SUMMARIES = {
    "offset": "fp16 scale and fp16 offset (the default)",
    "symmetric": "fp16 scale; levels are symmetric around zero",
    "signed": "fp16 scale; two's-complement integers, one more level below zero than above",
    "zero-point": "fp16 scale and an integer zero point of as many bits as a code",
    "codebook": "2^bits arbitrary fp16 values (the default of kmeans)",
    "ternary": "fp16 scale; 2 bits with levels -1, 0 and 1, five codes packed into a byte: 1.6 bits",
}


def command() -> None:
    """List the quantizers, bit widths, forms and groupings for storing a matrix, and their overhead.

    Example: `qbert-opt choices`
    """
    from ...spec.choices import Choice
    from ...spec.forms import FORMS, LEGAL_BITS
    from ...spec.grids import DEFAULT_GROUPINGS

    typer.echo("methods:")
    list_plugins("quantizers")
    typer.echo(f"\nbits: {', '.join(map(str, LEGAL_BITS))}")
    typer.echo("\nforms, the parameters of each range (kmeans supports codebook only; rtn and mse do not support it):")
    for form in FORMS:
        typer.echo(f"{form:14} {FORM_SUMMARIES[form]}")
    typer.echo("\ngroupings, for a 768 × 768 matrix with 12 heads and form offset:")
    for grouping in DEFAULT_GROUPINGS:
        c = Choice(2, grouping, "gptq")
        layout = c.layout(768, 768, heads=12)
        extra = 8 * c.metadata_bytes(768, 768, heads=12) / 768**2
        typer.echo(f"{grouping:14} {layout.num_groups:6} ranges  {extra:.4f} bits per weight")
