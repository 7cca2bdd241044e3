"""Shapes that a file states are checked against those that follow from its operands."""

from dataclasses import replace

import numpy as np
import pytest

from qbert_opt.integer.operations import Linear, Lookup, Mask, MatMul, Rearrange, Reduce, Relative, Requantize, Shift
from qbert_opt.integer.shapes import check_shapes

from .conftest import compiled
from .small_programs import edge_program, packed_program


def changed(program, kind, **fields):
    """A program whose first operation of a kind has other fields, or another shape of its result."""
    steps = list(program.operations)
    at = next(i for i, step in enumerate(steps) if isinstance(step, kind))
    if "shape" in fields:
        fields["output"] = replace(steps[at].output, shape=fields.pop("shape"))
    steps[at] = replace(steps[at], **fields)
    return replace(program, operations=tuple(steps))


def test_every_shape_of_every_family_follows(family_folder):
    folder, texts = family_folder
    program = compiled(folder, texts)[1].program
    check_shapes(program)
    for kind, fields, says in (
        (Reduce, {"shape": ("batch", "tokens", 2)}, "states the shape batch x tokens x 2, but is batch x tokens x 1"),
        (Linear, {"shape": ("batch", "tokens", 31)}, "states the shape batch x tokens x 31"),
        (MatMul, {"shape": ("batch", 1, "tokens", "tokens")}, "states the shape batch x 1 x tokens x tokens"),
        (
            Rearrange,
            {"shape": ("batch", 3, "tokens", 8)},
            "cannot rearrange batch x tokens x 32 to batch x 3 x tokens x 8",
        ),
        (Reduce, {"a": "input_ids"}, "states the shape"),
        (Mask, {"mask": "input_ids"}, "masks"),
        (Mask, {"a": "input_ids"}, "states the shape"),
        (MatMul, {"transposed": False}, "multiplies batch x 4 x tokens x 8 by batch x 4 x tokens x 8"),
        (Linear, {"x": "input_ids"}, "multiplies batch x tokens by"),
    ):
        with pytest.raises(ValueError, match=says):
            check_shapes(changed(program, kind, **fields))
    with pytest.raises(ValueError, match="input_ids: is batch x 1, where inputs are batch x tokens"):
        check_shapes(replace(program, inputs=(replace(program.inputs[0], shape=("batch", 1)), *program.inputs[1:])))
    with pytest.raises(ValueError, match="takes column 999 of"):
        check_shapes(replace(program, outputs=(replace(program.outputs[0], column=999),)))
    if any(isinstance(step, Relative) for step in program.operations):
        with pytest.raises(ValueError, match="states the shape 3 x tokens x tokens, but is 4 x tokens x tokens"):
            check_shapes(changed(program, Relative, shape=(3, "tokens", "tokens")))


def test_small_programs():
    program, _ = edge_program("table")
    check_shapes(program)
    constants = program.constants | {"two": np.zeros((2, 2), np.int32), "pair": np.ones(2, np.int32)}
    program = replace(program, constants=constants)
    for kind, fields, says in (
        (Lookup, {"table": "two"}, "looks up in a table of shape 2 x 2"),
        (Shift, {"by": "pair"}, "shifts batch x tokens by 2"),
        (Requantize, {"multiplier": "pair"}, "pairs batch x tokens with 2"),
    ):
        with pytest.raises(ValueError, match=says):
            check_shapes(changed(program, kind, **fields))
    packed, _ = packed_program(4)
    check_shapes(packed)
    for name in ("k", "bias", "factors"):
        constants = packed.constants | {name: np.ones((5, 2), np.int32)}
        with pytest.raises(ValueError, match=r"factors of 5 x 2|a bias of another length"):
            check_shapes(replace(packed, constants=constants))
