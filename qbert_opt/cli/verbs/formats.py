"""`qbert-opt formats`: what a matrix can be stored as."""

from __future__ import annotations

import typer

from .metrics import list_plugins


def command() -> None:
    """List the quantizers and groupings that `--method` and `--groupings` take, with their price.

    Example: `qbert-opt formats`
    """
    from ...spec.choices import DEFAULT_GROUPINGS, FORMS, LEGAL_BITS, Choice

    typer.echo("methods:")
    list_plugins("quantizers")
    typer.echo(f"\nbits: {', '.join(map(str, LEGAL_BITS))}")
    typer.echo("\nforms, what each range stores (of the methods, kmeans has codebooks only, rtn and mse have none):")
    stored = {
        "offset": "fp16 scale and fp16 offset (the default)",
        "symmetric": "fp16 scale; the levels lie around zero",
        "zero-point": "fp16 scale and an integer zero point of as many bits as a code",
        "codebook": "2^bits fp16 values anywhere (the default of kmeans)",
    }
    for form in FORMS:
        typer.echo(f"{form:14} {stored[form]}")
    typer.echo("\ngroupings, with the ranges of a 768 × 768 matrix of 12 heads and what form offset adds to a weight:")
    for grouping in DEFAULT_GROUPINGS:
        c = Choice(2, grouping, "gptq")
        layout = c.layout(768, 768, heads=12)
        extra = 8 * c.metadata_bytes(768, 768, heads=12) / 768**2
        typer.echo(f"{grouping:14} {layout.num_groups:6} ranges  {extra:.4f} bits per weight")
