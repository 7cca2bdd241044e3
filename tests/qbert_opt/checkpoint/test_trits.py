"""Three levels packed five to a byte: nothing lost, nothing else accepted."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qbert_opt.checkpoint.packed_modules import PackedEmbedding
from qbert_opt.checkpoint.stored_tensors import CODES, part_shapes, restored, stored_parts
from qbert_opt.checkpoint.trits import pack_trits, unpack_trits
from qbert_opt.quantization.methods import rtn
from qbert_opt.spec.choices import choice


@given(size=st.integers(0, 300), seed=st.integers(0, 2**32 - 1))
def test_round_trip(size, seed):
    """Every number of codes comes back, in exactly ceil(size / 5) bytes."""
    codes = np.random.default_rng(seed).integers(0, 3, size, dtype=np.uint8)
    packed = pack_trits(codes)
    assert packed.dtype == np.uint8 and packed.size == -(-size // 5)
    np.testing.assert_array_equal(unpack_trits(packed, size), codes)


def test_by_hand():
    """2 1 0 0 1 is 2 + 1·3 + 1·81 = 86; what fills up the last byte is zeros."""
    assert pack_trits(np.array([[2, 1, 0], [0, 1, 2]], np.uint8)).tolist() == [86, 2]
    assert unpack_trits(np.array([86, 2], np.uint8), 6).tolist() == [2, 1, 0, 0, 1, 2]
    assert pack_trits(np.full(5, 2, np.uint8)).tolist() == [242]


def test_each_five_codes_have_a_byte_of_their_own():
    """All 3**5 of them: bytes 0 to 242."""
    every = np.array(list(itertools.product(range(3), repeat=5)), np.uint8)
    packed = pack_trits(every)
    assert sorted(packed.tolist()) == list(range(243))
    np.testing.assert_array_equal(unpack_trits(packed, every.size).reshape(every.shape), every)


def test_what_is_no_five_codes_is_refused():
    with pytest.raises(ValueError, match="code 3 is not one of three"):
        pack_trits(np.array([0, 3], np.uint8))
    with pytest.raises(ValueError, match="byte 243 holds no five ternary codes"):
        unpack_trits(np.array([243], np.uint8), 5)
    with pytest.raises(ValueError, match="6 ternary codes take 2 bytes, found 1"):
        unpack_trits(np.array([0], np.uint8), 6)


@pytest.mark.parametrize("columns", [15, 16])
def test_a_table_reads_its_rows(columns):
    """Rows that start at whole bytes are unpacked one by one, others with the whole table; both are the table."""
    weight = torch.randn(9, columns, generator=torch.Generator().manual_seed(0))
    layout = choice("2bit/rows:each/rtn/ternary").layout(9, columns, heads=1)
    [quantized] = rtn.quantize(weight, [layout])
    parts = stored_parts(quantized)
    assert {name: (tuple(part.shape), part.dtype) for name, part in parts.items()} == part_shapes(layout, 9, columns)
    assert parts[CODES].numel() == -(-9 * columns // 5)
    assert torch.equal(restored(layout, 9, columns, parts).dequantize(), quantized.dequantize())
    table = PackedEmbedding(layout, torch.nn.Embedding(9, columns))
    for name, part in parts.items():
        table.get_buffer(table.names[name]).copy_(part)
    ids = torch.tensor([[3, 8, 0], [3, 1, 7]])
    assert torch.equal(table(ids), quantized.dequantize()[ids])
