"""Packed codes: no gap, nothing lost, nothing else accepted."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qbert_opt.checkpoint.bits import pack, packed_bytes, unpack

widths = st.integers(1, 8)


@given(bits=widths, size=st.integers(0, 300), seed=st.integers(0, 2**32 - 1))
def test_round_trip(bits, size, seed):
    """Every width and size comes back, in exactly ceil(size · bits / 8) bytes."""
    codes = np.random.default_rng(seed).integers(0, 1 << bits, size, dtype=np.uint8)
    packed = pack(codes, bits)
    assert packed.dtype == np.uint8
    assert packed.size == packed_bytes(size, bits) == int(np.ceil(size * bits / 8))
    np.testing.assert_array_equal(unpack(packed, bits, size), codes)


def test_by_hand():
    """Lowest bit first: codes 1, 2, 3 of 3 bits are 001 010 011, read from the right 0|11 010 001 = 0xD1, 0x00."""
    assert pack(np.array([1, 2, 3], np.uint8), 3).tolist() == [0b11_010_001, 0b0]
    assert pack(np.array([5, 7, 6], np.uint8), 3).tolist() == [0b10_111_101, 0b1]
    assert unpack(np.array([0b10_111_101, 0b1], np.uint8), 3, 3).tolist() == [5, 7, 6]


@given(bits=widths, rows=st.integers(1, 9), columns=st.integers(1, 9))
def test_a_matrix_packs_like_its_rows_in_a_line(bits, rows, columns):
    """Rows are not padded."""
    codes = (np.arange(rows * columns) % (1 << bits)).astype(np.uint8).reshape(rows, columns)
    np.testing.assert_array_equal(pack(codes, bits), pack(codes.reshape(-1), bits))
    np.testing.assert_array_equal(pack(np.asfortranarray(codes), bits), pack(codes, bits))


@pytest.mark.parametrize("bits", range(1, 8))
def test_a_code_too_large_is_refused(bits):
    """The least code that does not fit is named."""
    with pytest.raises(ValueError, match=rf"code {1 << bits} does not fit in {bits} bits"):
        pack(np.array([0, 1 << bits], np.uint8), bits)


@given(bits=widths, size=st.integers(1, 100), extra=st.sampled_from([-1, 1, 5]))
def test_a_wrong_byte_count_is_refused(bits, size, extra):
    """Neither truncated nor padded bytes are read."""
    wrong = np.zeros(packed_bytes(size, bits) + extra, np.uint8)
    with pytest.raises(ValueError, match=rf"take {packed_bytes(size, bits)} bytes, found {wrong.size}"):
        unpack(wrong, bits, size)


@pytest.mark.parametrize("bits", [0, 9, -1])
def test_widths_that_are_none(bits):
    """Widths are 1 to 8."""
    with pytest.raises(ValueError, match=rf"bits is {bits}; legal: 1 to 8"):
        pack(np.zeros(1, np.uint8), bits)
    with pytest.raises(ValueError, match=rf"bits is {bits}; legal: 1 to 8"):
        unpack(np.zeros(1, np.uint8), bits, 1)
