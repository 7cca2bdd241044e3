"""Kind 11: every option that is taken does something, and what is written is said."""

import pytest

from qbert_opt.data.reference import reference_scores
from qbert_opt.planning.planner import allocate
from qbert_opt.spec.allocation import write_allocation
from qbert_opt.spec.limits import Limits


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """The bundled model at 25 MB, in a file."""
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    write_allocation(allocate(reference_scores(), Limits(encoder_bytes=25_000_000)), path)
    return path


def test_a_table_of_operations_is_followed_by_the_comparison(cli, plan, tmp_path):
    """`--per-op table --compare int8 --roofline r.png`: three answers to three questions."""
    picture = tmp_path / "r.png"
    asked = ("--device", "car-soc", "--per-op", "table", "--compare", "int8", "--roofline", picture)
    found = cli("simulate", plan, *asked)
    assert found.code == 0, found.err
    assert "this plan" in found.out and "int8" in found.out and f"wrote {picture}" in found.out


def test_a_comparison_over_lengths_is_refused(cli, plan):
    """It would print nothing."""
    found = cli("simulate", plan, "--device", "car-soc", "--lengths", "16:1,64:1", "--compare", "int8")
    assert found.code == 2 and "--compare: needs a single --seq-len" in found.err


def test_devices_show_has_units(cli):
    """Sizes in bytes, bandwidths per second, energies per what they are for."""
    out = cli("devices", "show", "car-soc").out
    for path, shown in (
        ("memories.ddr.read_bw", "17.06 GB/s"),
        ("units.mma.clock", "1 GHz"),
        ("memories.ddr.energy", "8.00 pJ/bit"),
    ):
        [line] = [line for line in out.splitlines() if line.startswith(path + " ")]
        assert shown in line


def test_a_frontier_of_two_resources_repeats_no_plan(cli):
    """Several pairs of budgets have the same best plan: it is one row."""
    out = cli("pareto", "--device", "car-soc", "--resource", "bytes,bops", "--points", "9").out
    rows = [line for line in out.splitlines() if " MB " in line]
    assert len(rows) > 2 and len(set(rows)) == len(rows)
