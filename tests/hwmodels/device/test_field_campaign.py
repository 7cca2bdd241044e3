"""Every field of a full device file, replaced by junk: refused in one line, or it loads and every figure is finite."""

import copy
import dataclasses
import math

import networkx as nx
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hwmodels import DeviceError, load_device, operation_cost, simulate, unsupported

from ..conftest import SafeDumper, gemm, pointwise, stored
from .test_device_files import full

EXTREMES = [
    *("1e308", "1e-320", "-1e308", ".inf", "-.inf", ".nan", "0", "-0.0", "-1", "1.5", "9" * 300, "0x" + "f" * 250),
    *("true", "null", "[]", "{}", "''", "' '", "x", "1e999 GB", "1e-320 s", "inf MB", "nan s"),
    *("1 parsec", "5 %", "٣ MB", "1 MB MB", "1e6 W", "010"),
    *("2**64 B", "9**9**9 B", "1 B/B", "1e3 B", "1e12 B/s", "1e-15 s", "1e4 s", "1e15 B/s", "1 kHz", "1e-18 J/bit"),
    *("1000000", "1000000000", "0.000000001", "0.000001", "[1, 1]", "[1000000]", "{1: 0.5}", "{01: 0.5}"),
]  # fmt: skip


def paths(value, path=()):
    """The path of every value in a file, mappings and lists included."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in pairs:
        yield (*path, key)
        yield from paths(item, (*path, key))


FULL = full()
PATHS = list(paths(FULL))


def work():
    """A product in each stored format, softmax and GELU, one after the other."""
    graph = nx.DiGraph()
    operations = [
        gemm("first", 16, 64, 64, stored(64, 64, 8)),
        pointwise("soft", "softmax", 16, 64),
        gemm("second", 16, 64, 128, stored(128, 64, 4)),
        pointwise("gelu", "gelu", 16, 128),
    ]
    for operation in operations:
        graph.add_node(operation.name, op=operation)
    nx.add_path(graph, [operation.name for operation in operations])
    return graph


WORK = work()
SHARE = 4  # all fields with all extremes take 40 s


def replaced(changes):
    data = copy.deepcopy(FULL)
    for path, junk in changes:
        inside = data
        for key in path[:-1]:
            try:
                inside = inside[key]
            except (KeyError, IndexError, TypeError):  # another change has replaced the parent
                break
        else:
            if isinstance(inside, dict) or (isinstance(inside, list) and path[-1] < len(inside)):
                inside[path[-1]] = Junk(junk)
    return yaml.dump(data, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=10_000)


class Junk(str):
    """Text that stands in the file as it is."""


class Dumper(SafeDumper):
    """Writes junk unquoted."""

    def ignore_aliases(self, data):
        return True


Dumper.add_representer(Junk, lambda dumper, junk: dumper.represent_scalar("!junk", f"<<{junk}>>", style='"'))


def write(tmp_path, changes):
    text = replaced(changes)
    for _, junk in changes:
        text = text.replace(f'!junk "<<{junk}>>"', junk)
    assert "!junk" not in text
    path = tmp_path / "tiny.yaml"
    path.write_text(text)
    return str(path)


def numbers(report):
    """Every number of a report and of its operations' prices."""
    for part in (report, *(row.cost for row in report.operations)):
        for field in dataclasses.fields(part):
            value = getattr(part, field.name)
            yield from (v for v in (value if isinstance(value, tuple) else (value,)) if isinstance(v, int | float))


def check(path):
    """Load a file and price the work on it; returns whether it loaded."""
    try:
        device = load_device(path)
    except DeviceError as error:
        message = str(error)
        assert message.startswith("tiny.yaml:") and message.isprintable() and len(message) < 600, message
        return False
    if any(unsupported(op, device) for _, op in WORK.nodes(data="op")):
        return True
    report = simulate(WORK, device)
    assert all(math.isfinite(number) for number in numbers(report))
    assert 0 < report.latency_s <= report.latency_bound_s
    assert operation_cost(WORK.nodes["first"]["op"], device).latency_bound_s > 0
    return True


@pytest.mark.parametrize("junk", EXTREMES, ids=[junk[:24] for junk in EXTREMES])
def test_one_field_at_a_time(tmp_path, junk):
    """Each extreme value in every fourth field, so that each field gets a dozen of them."""
    assert check(write(tmp_path, []))
    for path in PATHS[EXTREMES.index(junk) % SHARE :: SHARE]:
        check(write(tmp_path, [(path, junk)]))


@settings(max_examples=150)
@given(st.lists(st.tuples(st.sampled_from(PATHS), st.sampled_from(EXTREMES)), min_size=2, max_size=5))
def test_several_fields_at_once(tmp_path_factory, changes):
    check(write(tmp_path_factory.mktemp("device"), changes))
