"""Quantities: what is parsed and what is rejected."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwmodels.device.errors import DeviceError
from hwmodels.device.units import (
    KINDS,
    format_bandwidth,
    format_bytes,
    format_joules,
    format_seconds,
    format_watts,
    parse_bytes,
    parse_quantity,
)


@pytest.mark.parametrize(
    ("text", "kind", "si"),
    [
        ("17.064 GB/s", "bandwidth", 17.064e9),
        ("3 Gbit/s", "bandwidth", 0.375e9),
        ("448 KiB", "bytes", 448 * 1024),
        ("8 pJ/bit", "energy_per_bit", 8e-12),
        ("20 us", "time", 20e-6),
        ("20 µs", "time", 20e-6),
        ("4266 MT/s", "data_rate", 4266e6),
        ("1.5 GHz", "frequency", 1.5e9),
        ("300 mJ", "energy", 0.3),
        ("10 W", "power", 10.0),
        ("0 s", "time", 0.0),
    ],
)
def test_a_quantity_is_read_to_the_last_digit(text, kind, si):
    assert parse_quantity(text, kind) == si


@pytest.mark.parametrize(
    ("text", "size"), [("25MB", 25_000_000), ("25 MiB", 25 * 2**20), ("2.3MB", 2_300_000), ("1e3 B", 1000)]
)
def test_bytes_are_whole_and_mb_is_not_mib(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("25Mb", "does not say bit or byte"),
        ("25", "without a unit.*legal is a number and a unit"),
        (25, "without a unit"),
        ("25 GB/s", "not one of bytes"),
        ("MB", "not a quantity"),
        ("-1 MB", "negative"),
        ("nan MB", "not a quantity"),
        ("inf MB", "not a quantity"),
        ("9e30 MB", "out of range"),
        ("1e999999999 MB", "not a quantity"),
        ("9**9**9 MB", "not a quantity"),
        pytest.param("9" * 10_000 + " MB", "not a quantity", id="huge text"),
        pytest.param(10**5000, "over 30 digits", id="huge integer"),
        (float("nan"), "without a unit"),
        (None, "without a unit"),
        ("25 mb", "does not say bit or byte"),
        ("25 xB", "case-sensitive"),
    ],
)
def test_illegal_sizes_are_rejected_in_one_line(text, says):
    with pytest.raises(DeviceError, match=says) as refused:
        parse_bytes(text)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 300


@given(st.text(max_size=30), st.sampled_from(sorted(KINDS)))
def test_any_text_is_parsed_or_rejected(text, kind):
    with contextlib.suppress(DeviceError):
        assert parse_quantity(text, kind) >= 0


@given(st.integers(1, 10**12))
def test_a_whole_number_of_bytes_comes_back_exactly(size):
    assert parse_bytes(f"{size} B") == size
    assert parse_bytes(f"{size / 8} KiB") == int(size / 8 * 1024)


def test_formatting_keeps_the_unit():
    assert (format_bytes(25e6), format_bytes(0), format_bytes(12)) == ("25.00 MB", "0 B", "12 B")
    assert (format_seconds(0.0158), format_joules(0.0123)) == ("15.80 ms", "12.30 mJ")
    assert (format_bandwidth(17.064e9), format_watts(2.5)) == ("17.06 GB/s", "2.50 W")
