"""Choices and their sizes, against arithmetic by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qbert_opt.errors import UsageError
from qbert_opt.spec.choices import Choice, Layout, choice
from qbert_opt.spec.forms import FORMS, LEGAL_BITS, legal_bits, parse_bits, parse_forms
from qbert_opt.spec.grids import DEFAULT_BITS, DEFAULT_GROUPINGS, default_grid, grid
from qbert_opt.spec.groupings import parse_groupings
from qbert_opt.spec.tables import table_grid

SIDE = 768
CODES = SIDE * SIDE // 8  # bytes of one bit per weight

choices = st.builds(
    lambda of, grouping, method: Choice(of[0], grouping, method, of[1]),
    of=st.sampled_from([(bits, form) for form in FORMS for bits in legal_bits(form)]),
    grouping=st.one_of(
        st.sampled_from(["rows:heads", "rows:each"]),
        st.builds("{}:{}".format, st.sampled_from(["rows", "columns"]), st.integers(1, 4096)),
    ),
    method=st.sampled_from(["gptq", "rtn"]),
)


@pytest.mark.parametrize(
    ("grouping", "ranges"),
    [
        ("rows:1", 1),
        ("rows:heads", 12),
        ("rows:128", 128),
        ("rows:each", 768),
        ("columns:32", 768 * 24),
        ("columns:64", 768 * 12),
        ("columns:128", 768 * 6),
    ],
)
@pytest.mark.parametrize("bits", DEFAULT_BITS)
def test_price_by_hand(bits, grouping, ranges):
    """Bytes = bits/8 per weight plus an fp16 scale and an fp16 offset per range; without the offset if symmetric."""
    candidate = Choice(bits, grouping, "gptq")
    assert candidate.code_bytes(SIDE, SIDE) == bits * CODES
    assert candidate.metadata_bytes(SIDE, SIDE, heads=12) == 4 * ranges
    assert candidate.bytes(SIDE, SIDE, heads=12) == bits * CODES + 4 * ranges
    extra = {"symmetric": 2 * ranges, "signed": 2 * ranges, "zero-point": 2 * ranges + -(-ranges * bits // 8)}
    for form, metadata in extra.items():
        assert Choice(bits, grouping, "gptq", form).bytes(SIDE, SIDE, heads=12) == bits * CODES + metadata
    if 2**bits < SIDE * SIDE / ranges:
        assert Choice(bits, grouping, "gptq", "codebook").metadata_bytes(SIDE, SIDE, heads=12) == 2 * 2**bits * ranges
    assert candidate.layout(SIDE, SIDE, heads=12).num_groups == ranges


def test_two_bits_in_columns_of_128_are_two_and_a_quarter():
    """The documented size: 2.25 bits per weight."""
    assert choice("2bit/columns:128/gptq").bytes(SIDE, SIDE, heads=12) * 8 / SIDE**2 == 2.25


def test_ternary_codes_are_packed_five_to_a_byte():
    """768 x 768 codes in 117,965 bytes, a fifth of a byte rounded up: 1.6 bits, and 0.125 of fp16 scales in 128s."""
    candidate = choice("2bit/columns:128/gptq/ternary")
    assert candidate.code_bytes(SIDE, SIDE) == 117_965 == Layout(2, "rows", 1, 1, "ternary").code_bytes(SIDE * SIDE)
    assert candidate.bytes(SIDE, SIDE, heads=12) == 117_965 + 2 * 768 * 6
    assert candidate.bytes(640, 640, heads=10) * 8 / 640**2 == pytest.approx(1.6 + 16 / 128)
    assert [candidate.code_bytes(1, n) for n in (1, 4, 5, 6, 10, 11)] == [1, 1, 1, 2, 2, 3]


def test_ternary_is_of_two_bits():
    """A grid leaves it out at other widths, and refuses it where no width is left."""
    forms = ("offset", "ternary")
    found = grid([2, 4], ["rows:1"], "x", forms)
    assert [(c.bits, c.form) for c in found] == [(2, "offset"), (2, "ternary"), (4, "offset")]
    with pytest.raises(UsageError, match=r"`forms` ternary: has no choice at 3, 4 bits\. Legal widths: 2\."):
        grid([3, 4], ["rows:1"], "x", forms)
    with pytest.raises(UsageError, match=r"choice: bits 3 of form ternary; legal: 2\."):
        choice("3bit/rows:1/rtn/ternary")
    assert {(c.bits, c.form) for c in table_grid((2, 8), ("rows:each",), forms)} == {
        (2, "offset"), (2, "ternary"), (8, "offset")
    }  # fmt: skip
    assert table_grid((8,), ("rows:each",), ("ternary",)) == table_grid((8,), ("rows:each",))


def test_codes_round_up_to_a_byte():
    """3 bits × 3 weights = 9 bits take 2 bytes; plus one range of 4."""
    assert Choice(3, "rows:1", "rtn").bytes(1, 3, heads=1) == 2 + 4


def test_layout_lies_as_named():
    """`rows:N` are N ranges of rows / N rows; `columns:G` are ranges of G inputs; a count may cross heads."""
    assert Choice(4, "rows:128", "rtn").layout(3072, 768, heads=12) == Layout(4, "rows", 128, 24)
    assert Choice(4, "rows:heads", "rtn").layout(3072, 768, heads=12) == Layout(4, "rows", 12, 256)
    assert Choice(4, "columns:64", "rtn").layout(3072, 768, heads=12) == Layout(4, "columns", 3072 * 12, 64)


@given(choices)
def test_names_round_trip(candidate):
    """`choice(c.name)` is c."""
    assert choice(candidate.name) == candidate


@given(choices, choices)
def test_names_are_unique(one, other):
    """Two choices have the same name only if they are the same."""
    assert (one.name == other.name) == (one == other)


def test_one_bit_is_two_levels_anywhere():
    """A bit per weight, and a scale and an offset per group; forms without an offset have no such choice."""
    candidate = choice("1bit/columns:64/gptq")
    assert candidate.bytes(SIDE, SIDE, heads=12) == CODES + 4 * SIDE * 12
    found = grid([1, 2], ["rows:1"], "x", ("offset", "symmetric"))
    assert [(c.bits, c.form) for c in found] == [(1, "offset"), (2, "offset"), (2, "symmetric")]


@given(
    rows=st.integers(1, 32).map(lambda n: 4 * n),
    columns=st.integers(1, 32).map(lambda n: 4 * n),
    bits=st.sampled_from(LEGAL_BITS[:-1]),
    axis=st.sampled_from(["rows", "columns"]),
)
def test_finer_and_wider_cost_more(rows, columns, bits, axis):
    """More groups cost more bytes, and so do more bits wherever a bit of every weight fills a byte."""
    coarse, fine = ("rows:2", "rows:4") if axis == "rows" else ("columns:4", "columns:2")
    price = {g: Choice(bits, g, "rtn").bytes(rows, columns, heads=1) for g in (coarse, fine)}
    assert price[coarse] < price[fine]
    assert Choice(bits + 1, coarse, "rtn").bytes(rows, columns, heads=1) > price[coarse]


def test_default_grid_is_every_bits_by_grouping():
    """28 distinct choices, bits outermost."""
    choices = default_grid("gptq")
    assert len(set(choices)) == 28
    assert [(c.bits, c.grouping) for c in choices] == [(b, g) for b in DEFAULT_BITS for g in DEFAULT_GROUPINGS]
    forms = ("symmetric", "codebook")
    assert grid([2], ["rows:1"], "x", forms) == tuple(Choice(2, "rows:1", "x", form) for form in forms)


def test_a_grid_holds_each_choice_once():
    assert grid([4, 4], ["rows:1", "rows:1"], "x") == (Choice(4, "rows:1", "x"),)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"bits": 0}, r"choice: bits 0; legal: 1, 2, 3, 4, 5, 6, 7, 8\."),
        ({"bits": 16}, "choice: bits 16; legal: 1"),
        ({"bits": 4.0}, r"choice: bits 4\.0; legal: 1"),
        ({"bits": True}, "choice: bits True; legal: 1"),
        ({"bits": 1, "form": "signed"}, r"choice: bits 1 of form signed; legal: 2, 3, 4, 5, 6, 7, 8\."),
        ({"form": "odd"}, "choice: form 'odd'; legal: offset, symmetric, signed, zero-point, codebook"),
        ({"grouping": "rows:0"}, "'rows:0' is not a grouping. Legal: rows:N, rows:heads, rows:each, columns:N"),
        ({"grouping": "columns:-32"}, "'columns:-32' is not a grouping"),
        ({"grouping": "rows:x"}, "'rows:x' is not a grouping"),
        ({"grouping": "rows:1,rows:2"}, "choice: grouping 'rows:1,rows:2'; legal: rows:N"),
        ({"grouping": 32}, "choice: grouping 32; legal: rows:N"),
    ],
)
def test_a_choice_that_no_matrix_can_have(fields, message):
    with pytest.raises(UsageError, match=message):
        Choice(**{"bits": 4, "grouping": "rows:each", "method": "rtn"} | fields)


@pytest.mark.parametrize(
    ("grouping", "rows", "columns", "message"),
    [
        ("rows:128", 312, 768, r"rows:128: 128 does not divide 312 output rows. Divisors: 1, 2, 3, 4, 6, 8, 12, 13"),
        ("columns:128", 768, 312, r"columns:128: 128 does not divide 312 inputs. Divisors: 1, 2, 3, 4, 6, 8, 12, 13"),
        ("rows:heads", 32, 32, r"rows:heads: 5 does not divide 32 output rows. Divisors: 1, 2, 4, 8, 16, 32\."),
    ],
)
def test_groups_that_do_not_divide_are_refused(grouping, rows, columns, message):
    """The message lists the divisors."""
    with pytest.raises(UsageError, match=message):
        Choice(2, grouping, "rtn").layout(rows, columns, heads=5)


@pytest.mark.parametrize("text", ["0", "9", "two", "2,,3", "", "-2", "2.5"])
def test_illegal_bit_widths(text):
    """Only legal bit widths are accepted."""
    with pytest.raises(UsageError, match=r"is not a bit width. Legal: 1, 2, 3, 4, 5, 6, 7, 8\."):
        parse_bits(text)


@pytest.mark.parametrize("text", ["rows", "rows:0", "columns:heads", "columns:each", "tiles:4", "rows:-1", "rows:1,"])
def test_illegal_groupings(text):
    """Only rows:N, rows:heads, rows:each and columns:N are accepted."""
    with pytest.raises(UsageError, match=r"is not a grouping\. Legal: rows:N, rows:heads, rows:each, columns:N\."):
        parse_groupings(text)


def test_lists_keep_order_and_lose_repeats():
    """`4,2,4` is (4, 2)."""
    assert parse_bits("4, 2,4") == (4, 2)
    assert parse_groupings("columns:64, rows:1,columns:64") == ("columns:64", "rows:1")


def test_a_codebook_as_long_as_its_group_is_refused():
    """A codebook of 32 values for 32 weights saves nothing."""
    with pytest.raises(UsageError, match="5bit/columns:32/gptq/codebook: a codebook of 32 values for groups of 32"):
        choice("5bit/columns:32/gptq/codebook").bytes(64, 64, heads=4)
    assert choice("4bit/columns:32/gptq/codebook").metadata_bytes(64, 64, heads=4) == 64 * 2 * 32


def test_illegal_forms():
    """Only known forms are accepted; they are returned in a fixed order without repeats."""
    assert parse_forms("codebook, offset,codebook") == ("offset", "codebook")
    with pytest.raises(
        UsageError,
        match=r"`forms` offset,lut: 'lut' is not a form\. Legal: offset, symmetric, signed, zero-point, codebook",
    ):
        parse_forms("offset,lut")


@pytest.mark.parametrize(
    "name", ["", "2bit", "2/rows:1/rtn/x/y", "abit/rows:1/rtn", "2bit/rows:1", "2bit/rows:1/rtn/offset"]
)
def test_illegal_names(name):
    """Anything but BITSbit/GROUPING/METHOD is rejected with an example."""
    with pytest.raises(UsageError, match=r"not of the form BITSbit/GROUPING/METHOD\[/FORM\], for example"):
        choice(name)
