"""Layers with fewer attention heads than the model's config says, as a quantized folder stores them.

`fewer_heads` in `config.json` states how many heads each layer keeps, and the shapes of the matrices that become
smaller. When a model is built, these matrices get those shapes. BERT's attention infers its number of heads from their
width; before heads are left out, `fewer_heads.py` checks that the model's attention does so too.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from ..errors import InputFileError

FIELD = "fewer_heads"  # of config.json
COUNTS, SHAPES = "heads", "shapes"


def head_counts(config: Any) -> tuple[int, ...]:
    """Return how many heads each layer has; empty if all layers have as many as the config states.

    Args:
        config: transformers' config, or None.
    """
    return tuple((getattr(config, FIELD, None) or {}).get(COUNTS, ()))


def is_narrowed(model: Any) -> bool:
    """Return whether layers of a model have fewer attention heads than its config says.

    Args:
        model: any model.
    """
    return bool(head_counts(getattr(model, "config", None)))


def narrow_attention(model: Any, source: str) -> None:
    """Shrink a model's matrices to the shapes in the config's `fewer_heads`; without this field, change nothing.

    Args:
        model: a transformers model, also on the meta device; changed in place.
        source: the folder, for messages.

    Raises:
        InputFileError: the field does not name linear layers of the model with shapes within theirs.
    """
    field = getattr(model.config, FIELD, None)
    if field is None:
        return
    shapes, counts = (field.get(SHAPES), field.get(COUNTS)) if isinstance(field, dict) else (None, None)
    if not isinstance(shapes, dict) or not isinstance(counts, list) or not all(isinstance(n, int) for n in counts):
        raise InputFileError(
            f"{source}: config.json: {FIELD} must have {COUNTS} and {SHAPES}. Quantize the model again."
        )
    layers = dict(model.named_modules())
    for name, shape in shapes.items():
        layer = layers.get(name)
        if (
            not isinstance(layer, nn.Linear)
            or not isinstance(shape, list)
            or [type(size) for size in shape] != [int, int]
            or not all(0 < new <= old for new, old in zip(shape, layer.weight.shape, strict=True))
        ):
            raise InputFileError(
                f"{source}: config.json: {FIELD}: {name[:80]} with shape {str(shape)[:40]} does not belong to a "
                "linear layer of the model. Quantize the model again."
            )
        rows, columns = shape
        owner, _, own = name.rpartition(".")
        like = {"device": layer.weight.device, "dtype": layer.weight.dtype}
        setattr(model.get_submodule(owner), own, nn.Linear(columns, rows, bias=layer.bias is not None, **like))
