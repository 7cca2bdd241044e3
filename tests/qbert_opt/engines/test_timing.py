"""Times that are compared with each other are taken in turns."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from qbert_opt.engines.timing import Timing, median_cpu_in_turns

ONCE = Timing("made up", 1, (1, 8), 0.0, (1.0,), (1.0,), None, None, None)


@given(
    costs=st.dictionaries(st.sampled_from("abcd"), st.floats(1, 9), min_size=1),
    load=st.floats(0, 5),
)
@settings(max_examples=30)
def test_load_that_grows_steadily_changes_no_difference(costs, load):
    """Each turn takes a machine that is slower by the same amount than the turn before: differences stay exact."""
    clock, order = [0], []

    def timed(name):
        order.append(name)
        clock[0] += 1
        return replace(ONCE, cpu_s=(costs[name] + load * clock[0],))

    found = median_cpu_in_turns({name: lambda name=name: timed(name) for name in costs})
    assert order == [*costs, *reversed(costs)]
    mean_load = load * (2 * len(costs) + 1) / 2
    assert all(abs(found[name] - costs[name] - mean_load) < 1e-9 for name in costs)


def test_every_run_counts():
    """The median is over the runs of both turns."""
    turns = iter([(1.0, 2.0, 9.0), (3.0, 4.0, 5.0)])
    assert median_cpu_in_turns({"a": lambda: replace(ONCE, cpu_s=next(turns))}) == {"a": 3.5}
