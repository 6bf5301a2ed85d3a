"""Packed codes: exact round trips and exact sizes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from qsearch_quantizers.packed.bit_packing import CHUNK, elements_at, pack, unpack

from qsearch.errors import InputError


@given(bits=st.integers(1, 8), count=st.integers(0, 200), seed=st.integers(0, 2**31))
def test_unpack_returns_what_was_packed_into_the_least_bytes(bits, count, seed):
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 2**bits, (count,), dtype=torch.uint8, generator=generator)
    packed = pack(codes, bits)
    assert packed.dtype == torch.uint8
    assert packed.numel() == -(-count * bits // 8)
    assert torch.equal(unpack(packed, bits, count), codes)
    positions = torch.randint(0, max(count, 1), (2, min(count, 7)), generator=generator)
    assert torch.equal(elements_at(packed, bits, positions), codes[positions])


@pytest.mark.parametrize("bits", [2, 3, 5, 7])
def test_round_trip_across_chunks(bits):
    codes = torch.randint(0, 2**bits, (2 * CHUNK + 13,), dtype=torch.uint8)
    assert torch.equal(unpack(pack(codes, bits), bits, codes.numel()), codes)


def test_first_code_is_in_the_least_significant_bits():
    # written by hand: 0b001 + 0b010·8 + 0b111·64 = 0x1D1 → bytes D1 01
    assert pack(torch.tensor([1, 2, 7], dtype=torch.uint8), 3).tolist() == [0xD1, 0x01]


@pytest.mark.parametrize("packed", [torch.zeros(3, dtype=torch.uint8), torch.zeros(4)])
def test_bytes_of_another_number_of_codes_or_type_are_refused(packed):
    with pytest.raises(InputError, match="take 4 bytes of type uint8"):
        unpack(packed, 3, 10)


@pytest.mark.parametrize(
    ("code", "dtype", "bits", "message"),
    [
        (4, torch.uint8, 2, "code 4 does not fit into 2 bits"),
        (0, torch.uint8, 0, "bits must be 1 to 8, not 0"),
        (0, torch.uint8, 9, "bits must be 1 to 8, not 9"),
        (0, torch.int32, 4, "codes must be uint8"),
    ],
)
def test_what_is_not_a_code_is_refused(code, dtype, bits, message):
    with pytest.raises(InputError, match=message):
        pack(torch.tensor([code], dtype=dtype), bits)
