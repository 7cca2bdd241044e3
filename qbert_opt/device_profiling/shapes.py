"""The profile of an encoder from its shape alone, for the simulator."""

from __future__ import annotations

from ..spec.profiles import HeadSpec, Kind, MatrixSpec, ModelProfile, TableSpec
from .bench import Shape


def profile_of(shape: Shape) -> ModelProfile:
    """Return the profile that `profile_model` returns for a `BertModel` of this shape.

    Args:
        shape: shape of the encoder.
    """
    h, inner = shape.hidden, shape.inner
    matrices: list[MatrixSpec] = []
    for block in range(shape.layers):
        sizes: list[tuple[Kind, int, int]] = [
            ("query", h, h),
            ("key", h, h),
            ("value", h, h),
            ("attention_output", h, h),
            ("intermediate", inner, h),
            ("output", h, inner),
        ]
        matrices += [
            MatrixSpec(module=f"block.{block}.{kind}", kind=kind, block=block, rows=rows, columns=columns)
            for kind, rows, columns in sizes
        ]
    tables = (("word", shape.vocabulary, 1.0), ("position", shape.positions, 1.0), ("type", 2, 1.0))
    norms_and_biases = 2 * h + shape.layers * (5 * h + inner + 4 * h)
    return ModelProfile(
        name=shape.name,
        architecture="BertModel",
        sha256="0" * 64,
        num_blocks=shape.layers,
        hidden=h,
        heads=shape.heads,
        matrices=tuple(matrices),
        tables=tuple(
            TableSpec(module=name, rows=rows, columns=h, reads_per_token=reads) for name, rows, reads in tables
        ),
        head=(HeadSpec(module="pooler", rows=h, columns=h),),
        other_elements=norms_and_biases + h * h + h,
    )
