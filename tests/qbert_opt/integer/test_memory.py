"""The memory planner: values that are needed at the same time never share a byte."""

import itertools

import pytest

from qbert_opt.integer.builder import Builder
from qbert_opt.integer.memory import bits_of, elements_of, planned_memory
from qbert_opt.integer.operations import Value
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


@pytest.mark.parametrize("tokens", [1, 7, 16])
def test_values_that_are_needed_together_do_not_overlap(family_folder, tokens):
    folder, texts = family_folder
    program = compiled(folder, texts)[1].program
    memory, values = planned_memory(program, tokens), program.values
    last = {name: index for index, step in enumerate(program.operations) for name in step.operands}
    alive = {}
    for index, step in enumerate(program.operations):
        name = step.output.name
        if name in memory.places:
            alive[name] = values[name]
        for one, two in itertools.combinations(alive, 2):
            place, other = memory.places[one], memory.places[two]
            ends = [memory.places[x].start + elements_of(values[x].shape, tokens) for x in (one, two)]
            apart = place.bits != other.bits or ends[0] <= other.start or ends[1] <= place.start
            in_place = name in (one, two) and last.get(two if name == one else one) == index and place == other
            assert apart or in_place, (one, two)
        for x in [x for x in alive if last.get(x, index) <= index]:
            del alive[x]
    for name, place in memory.places.items():
        assert place.bits == bits_of(values[name])
        assert place.start + elements_of(values[name].shape, tokens) <= memory.elements[place.bits]
