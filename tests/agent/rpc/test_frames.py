"""Frames on the wire; hpack's decoder is the judge of our header blocks."""

import pytest
from hpack import Decoder, NeverIndexedHeaderTuple
from hypothesis import given
from hypothesis import strategies as st

from agent.rpc import frames
from tests.fakes.http2 import Frame, parse


@pytest.mark.parametrize("size", [0, 1, 255, 256, 65_535, 65_536, (1 << 24) - 1])
def test_a_frame_has_its_length_in_24_bits(size: int) -> None:
    raw = frames.frame(frames.DATA, frames.END_STREAM, 7, bytes(size))
    assert int.from_bytes(raw[:3], "big") == size
    assert parse(raw) == [Frame(frames.DATA, frames.END_STREAM, 7, bytes(size))]


def test_control_frames() -> None:
    assert parse(frames.settings([(4, 65_536), (2, 0)])) == [Frame(4, 0, 0, bytes.fromhex("000400010000 000200000000"))]
    assert parse(frames.window_update(3, 0x7FFFFFFF)) == [Frame(8, 0, 3, b"\x7f\xff\xff\xff")]
    assert parse(frames.rst_stream(5, 8)) == [Frame(3, 0, 5, b"\0\0\0\x08")]
    assert parse(frames.goaway(9, 11, "enough")) == [Frame(7, 0, 0, b"\0\0\0\x09\0\0\0\x0benough")]
    assert len(frames.goaway(9, 11, "x" * 5000)) == frames.HEAD_SIZE + 8 + 1000


def test_settings_are_read_in_order() -> None:
    assert frames.read_settings(bytes.fromhex("000400010000 000400000001")) == [(4, 65_536), (4, 1)]
    assert frames.read_settings(b"") == []


@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 200, 201, 1000])
@pytest.mark.parametrize("end", [True, False])
def test_long_headers_go_on_in_continuations(size: int, end: bool) -> None:
    block = bytes(range(256)) * 4
    found = parse(frames.header_frames(3, block[:size], end, 100))
    assert b"".join(f.payload for f in found) == block[:size]
    assert [f.kind for f in found] == [frames.HEADERS] + [frames.CONTINUATION] * (len(found) - 1)
    assert all(len(f.payload) <= 100 for f in found)
    assert {f.stream for f in found} == {3}
    assert [bool(f.flags & frames.END_HEADERS) for f in found] == [False] * (len(found) - 1) + [True]
    assert [bool(f.flags & frames.END_STREAM) for f in found] == [end] + [False] * (len(found) - 1)


@pytest.mark.parametrize("length", [0, 1, 126, 127, 128, 254, 255, 16_510, 16_511, 40_000])
def test_lengths_of_literals(length: int) -> None:
    pairs = [(b"n" * length, b"v" * length)]
    assert Decoder(max_header_list_size=1 << 20).decode(frames.encode_headers(pairs), raw=True) == pairs


@given(st.lists(st.tuples(st.binary(max_size=300), st.binary(max_size=300)), max_size=20))
def test_header_blocks_need_no_state(pairs: list[tuple[bytes, bytes]]) -> None:
    decoder = Decoder(max_header_list_size=1 << 20)
    block = frames.encode_headers(pairs)
    assert decoder.decode(block, raw=True) == pairs
    assert decoder.decode(block, raw=True) == pairs
    assert decoder.header_table_size == 4096
    assert not decoder.header_table.dynamic_entries


def test_secrets_enter_no_table_on_the_way() -> None:
    block = frames.encode_headers([(b"authorization", b"Bearer x"), (b"clusterid", b"y")])
    secret, plain = Decoder().decode(block, raw=True)
    assert isinstance(secret, NeverIndexedHeaderTuple)
    assert not isinstance(plain, NeverIndexedHeaderTuple)


@pytest.mark.parametrize(
    ("payload", "body"),
    [(b"\0", b""), (b"\0abc", b"abc"), (b"\x02abcd", b"ab"), (b"\x03abc", b""), (b"\xff" + bytes(300), bytes(45))],
)
def test_padding(payload: bytes, body: bytes) -> None:
    assert frames.unpad(payload) == body


@pytest.mark.parametrize("payload", [b"", b"\x01", b"\x04abc", b"\xff"])
def test_more_padding_than_bytes(payload: bytes) -> None:
    with pytest.raises(frames.Broken) as caught:
        frames.unpad(payload)
    assert caught.value.error == frames.PROTOCOL_ERROR
