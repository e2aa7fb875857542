"""Binary blocks: what is encoded is decoded, and nothing else is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from skpat.lab.scpi import decode_block, encode_block, parse_block_header

DTYPES = st.sampled_from(["<f8", ">f8", "<f4", ">f4", "<i4", ">i4"])


@given(DTYPES.flatmap(lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=1, max_dims=2, min_side=0))))
def test_round_trip_keeps_every_bit(values: np.ndarray) -> None:
    block = encode_block(values, dtype=values.dtype)
    found = decode_block(block, dtype=values.dtype)
    assert found.dtype == values.dtype
    assert found.tobytes() == values.tobytes()  # NaN, -0.0 and infinity too
    assert encode_block(found, dtype=values.dtype) == block


@given(st.lists(st.floats(allow_nan=False), max_size=20), st.binary(max_size=9))
def test_header_says_where_the_bytes_are(values: list[float], after: bytes) -> None:
    block = encode_block(values)
    offset, n_bytes = parse_block_header(block + after)
    assert n_bytes == 8 * len(values)
    assert block[offset:] == np.array(values, dtype="<f8").tobytes()


def test_the_bytes_of_the_standard() -> None:
    assert encode_block([]) == b"#10"
    assert encode_block([1.0]) == b"#18" + b"\x00" * 6 + b"\xf0\x3f"
    assert encode_block([1.0], ">f8") == b"#18" + b"\x3f\xf0" + b"\x00" * 6
    assert encode_block(np.zeros(2), "<f4")[:3] == b"#18"
    assert encode_block(np.zeros(1250))[:7] == b"#510000"
    assert parse_block_header(b"#800000016") == (10, 16)  # leading zeros are legal


@pytest.mark.parametrize("data", [b"", b"#", b"#2", b"#21", b"#0abc", b"#a", b"18abcdefgh", b"#2-8", b"#2 8", b"##"])
def test_malformed_header(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"A block must begin with '#', a digit .* Got .*definite-length"):
        parse_block_header(data)


@given(st.integers(1, 20), st.data())
def test_every_truncation_is_seen(n_values: int, data: st.DataObject) -> None:
    block = encode_block(np.arange(n_values))
    cut = data.draw(st.integers(0, len(block) - 1))
    with pytest.raises(ValueError, match=r"A block must (begin|hold the)"):
        decode_block(block[:cut])


def test_a_byte_too_many_is_seen() -> None:
    with pytest.raises(ValueError, match=r"must hold the 8 bytes that its header announces. Got 9"):
        decode_block(encode_block([1.0]) + b"\n")


def test_wrong_data_type_is_seen() -> None:
    with pytest.raises(ValueError, match=r"A block of float64 must hold a multiple of 8 bytes. Got 4"):
        decode_block(encode_block([1.0], "<f4"))


def test_more_than_a_block_can_hold() -> None:
    with pytest.raises(ValueError, match=r"at most 999999999 bytes. Got 1000000000. .*max_batch"):
        encode_block(np.broadcast_to(np.int8(0), (10**9,)), dtype="i1")
