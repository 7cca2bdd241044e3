"""The memory planner: values that are needed at the same time never share a byte."""

import numpy as np
import pytest

from qbert_opt.integer.builder import Builder
from qbert_opt.integer.memory import bits_of, elements_of, head_loops, one_head, planned_memory
from qbert_opt.integer.operations import Embed, Value
from qbert_opt.integer.program import Output

from .conftest import compiled


def chain():
    """Ids to a sum of squares, by hand: a 32-bit value and two that can share its memory."""
    ids = Value("input_ids", ("batch", "tokens"), 0, 30000, 1.0)
    b = Builder((ids,), 10)
    twice = b.binary("multiply", "twice", ids, 2)  # 32 bits
    more = b.binary("add", "more", twice, 5)  # 32 bits, over `twice`
    small = b.saturate("small", more, 0, 100)  # 8 bits
    total = b.reduce("sum", "total", small)  # 16 bits
    return b.finish((Output("y", b.binary("add", "y", total, 1).name),))


def test_hand_computed_places():
    memory = planned_memory(chain(), 10)
    assert memory.places["twice"] == memory.places["more"]
    assert memory.elements == {32: 10, 8: 10, 16: 1}
    assert memory.total_bytes == 40 + 10 + 2
    assert "y" not in memory.places, "the caller holds the output"


def attention():
    """Scores of 4 heads from ids, halved, and their sums with the ids of each head, by hand."""
    ids = Value("input_ids", ("batch", "tokens"), 0, 99, 1.0)
    table = (np.arange(100 * 8) % 101 - 50).astype(np.int8).reshape(100, 8)
    b = Builder((ids,), 10)
    b.constants |= {"codes": table, "one": np.ones((100, 1), np.int32), "none": np.zeros((100, 1), np.int32)}
    x = b.emit(Embed, "x", ("batch", "tokens", 8), codes="codes", factors="one", offsets="none", index="input_ids",
               shift=0, scale=1.0)  # fmt: skip
    heads = b.rearrange("split", "heads", x, ("batch", 4, "tokens", 2))
    scores = b.matmul("scores", heads, heads, transposed=True)
    half = b.saturate("half", scores, -50, 50)
    context = b.matmul("context", half, heads, transposed=False)
    return b.finish((Output("y", b.rearrange("merge", "y", context, ("batch", "tokens", 8)).name),))


def test_scores_take_the_memory_of_one_head():
    program = attention()
    [loop] = head_loops(program)
    names = [step.output.name for step in program.operations[loop.start : loop.stop]]
    assert names == ["scores", "half", "context"] and loop.heads == 4 and loop.local == {"scores", "half"}
    memory = planned_memory(program, 10)
    assert memory.places["scores"].bits == 16 and memory.places["half"].bits == 8
    assert memory.places["context"].bits == 16
    assert memory.elements == {8: 80 + 100, 16: 100 + 80}, "x is free again when the scores are made"


def shadow(program, tokens):
    """Run a program on tags instead of numbers: every operand must still be where it was put, element by element."""
    memory, loops = planned_memory(program, tokens), {loop.start: loop for loop in head_loops(program)}
    arenas = {bits: np.full(count, -1, np.int64) for bits, count in memory.elements.items()}
    number = {name: index * 10**9 for index, name in enumerate(memory.places)}

    def cells(name, loop, head):
        """Where a value, or one head's part of it, is; and its tags."""
        shape, place = program.values[name].shape, memory.places[name]
        parted = loop is not None and (len(shape) == 4 or shape[0] != "batch")
        size = elements_of(one_head(shape) if parted else shape, tokens)
        skipped = head * size if parted else 0
        start = place.start + (0 if loop is not None and name in loop.local else skipped)
        return arenas[place.bits][start : start + size], number[name] + skipped + np.arange(size)

    def run(step, loop=None, head=0):
        for name in step.operands:
            if name in memory.places:
                found, tags = cells(name, loop, head)
                assert np.array_equal(found, tags), (step.output.name, name, head)
        if step.output.name in memory.places:
            found, tags = cells(step.output.name, loop, head)
            assert found.size == tags.size, "the arena is too small"
            found[:] = tags

    index = 0
    while index < len(program.operations):
        loop = loops.get(index)
        stop = index + 1 if loop is None else loop.stop
        for head in range(1 if loop is None else loop.heads):
            for step in program.operations[index:stop]:
                run(step, loop, head)
        index = stop


@pytest.mark.parametrize("tokens", [1, 7, 16])
def test_nothing_is_overwritten_before_it_is_read(family_folder, tokens):
    folder, texts = family_folder
    program = compiled(folder, texts)[1].program
    assert len(head_loops(program)) == 2, "one for each block"
    shadow(program, tokens)
    memory = planned_memory(program, tokens)
    assert all(place.bits == bits_of(program.values[name]) for name, place in memory.places.items())


def test_small_programs_are_not_overwritten_either():
    shadow(chain(), 10)
    shadow(attention(), 10)
