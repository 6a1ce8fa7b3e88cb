"""Header blocks: put together from frames, decoded with bounded memory and time."""

import time

import pytest
from hpack import Decoder, Encoder
from hypothesis import given
from hypothesis import strategies as st

from agent.rpc import frames
from agent.rpc.blocks import _BEGINNINGS, KNOWN, MAX_HEADERS, MAX_PARTS, MOST, Blocks
from agent.rpc.frames import END_HEADERS, END_STREAM, HAS_PRIORITY, PADDED, Broken, encode_headers

PAIRS = [(b":path", b"/a/b"), (b"te", b"trailers")]


def test_a_block_in_one_frame() -> None:
    assert Blocks().begin(END_HEADERS, 1, encode_headers(PAIRS)) == dict(PAIRS)


@pytest.mark.parametrize("flags", [0, PADDED, HAS_PRIORITY, PADDED | HAS_PRIORITY])
def test_padding_and_priority_are_left_out(flags: int) -> None:
    payload = encode_headers(PAIRS)
    if flags & HAS_PRIORITY:
        payload = b"\x80\0\0\0\xff" + payload
    if flags & PADDED:
        payload = b"\x03" + payload + b"xxx"
    assert Blocks().begin(END_HEADERS | flags, 1, payload) == dict(PAIRS)


def test_priority_that_is_not_there() -> None:
    with pytest.raises(Broken) as caught:
        Blocks().begin(END_HEADERS | HAS_PRIORITY, 1, b"1234")
    assert caught.value.error == frames.FRAME_SIZE_ERROR


@given(st.lists(st.integers(0, 40), max_size=20))
def test_a_block_in_many_frames(cuts: list[int]) -> None:
    block, blocks = encode_headers(PAIRS), Blocks()
    edges = sorted({min(c, len(block)) for c in cuts})
    first, *rest = [block[a:b] for a, b in zip([0, *edges], [*edges, len(block)], strict=True)]
    if not rest:
        return
    assert blocks.begin(END_STREAM, 5, first) is None
    for part in rest[:-1]:
        assert blocks.within
        assert blocks.more(0, 5, part) is None
    assert blocks.more(END_HEADERS, 5, rest[-1]) == (END_STREAM, dict(PAIRS))
    assert not blocks.within


def test_continuation_without_its_headers() -> None:
    blocks = Blocks()
    with pytest.raises(Broken) as caught:
        blocks.more(END_HEADERS, 1, b"")
    assert caught.value.error == frames.PROTOCOL_ERROR
    blocks.begin(0, 1, b"")
    with pytest.raises(Broken):
        blocks.more(END_HEADERS, 3, b"")


@pytest.mark.parametrize(("size", "count"), [(0, MAX_PARTS), (16_384, MAX_HEADERS // 16_384)])
def test_headers_without_end(size: int, count: int) -> None:
    blocks = Blocks()
    blocks.begin(0, 1, bytes(size))
    for _ in range(count - 1):
        blocks.more(0, 1, bytes(size))
    with pytest.raises(Broken) as caught:
        blocks.more(0, 1, bytes(size))
    assert caught.value.error == frames.ENHANCE_YOUR_CALM


def test_repeated_fields_are_joined() -> None:
    block = encode_headers([(b"a", b"1"), (b"b", b"2"), (b"a", b"3")])
    assert Blocks().begin(END_HEADERS, 1, block) == {b"a": b"1,3", b"b": b"2"}


@given(
    st.lists(
        st.lists(
            st.lists(st.tuples(st.sampled_from(["a", "b", "x-long-name"]), st.sampled_from(["1", "2", "y" * 50]))),
            max_size=5,
        ),
        min_size=1,
        max_size=6,
    )
)
def test_connections_that_begin_alike_go_on_as_each_of_them_does(
    connections: list[list[list[tuple[str, str]]]],
) -> None:
    for connection in connections:
        encoder, oracle, blocks = Encoder(), Decoder(), Blocks()
        for pairs in connection:
            block = encoder.encode(pairs)
            joined: dict[bytes, bytes] = {}
            for name, value in oracle.decode(block, raw=True):
                joined[name] = joined[name] + b"," + value if name in joined else value
            assert blocks.begin(END_HEADERS, 1, block) == joined


def test_what_is_remembered_of_beginnings_is_bounded() -> None:
    for i in range(2 * MOST):
        Blocks().begin(END_HEADERS, 1, encode_headers([(b"x", b"%d" % i)]))
    Blocks().begin(END_HEADERS, 1, encode_headers([(b"x", b"y" * 2 * KNOWN)]))
    assert len(_BEGINNINGS) <= MOST
    assert all(sum(map(len, blocks)) <= KNOWN for blocks in _BEGINNINGS)


def test_the_table_of_the_peer_is_kept() -> None:
    encoder, blocks = Encoder(), Blocks()
    first, second = encoder.encode([("x-long-name", "y" * 50)]), encoder.encode([("x-long-name", "y" * 50)])
    assert len(second) < len(first)
    assert blocks.begin(END_HEADERS, 1, first) == blocks.begin(END_HEADERS, 3, second)


def literal(name: bytes, value: bytes) -> bytes:
    """A literal that enters the table."""
    return b"\x40" + encode_headers([(name, value)])[1:]


@pytest.mark.parametrize(
    ("block", "why"),
    [
        (b"\x80", "InvalidTableIndex"),
        (b"\xff\xff\xff\xff\x0f", "InvalidTableIndex"),
        (b"\xff" + b"\xff" * 1000, "HPACKDecodingError"),  # a number without end
        (b"\x00\x05ab", "HPACKDecodingError"),  # a literal that is cut off
        (b"\x00\x81\xff\x00", "HPACKDecodingError"),  # Huffman's end of string within one
        (b"\x3f\xe2\x1f", "InvalidTableSizeError"),  # 4097 bytes of table
        (b"\x88\x20", "HPACKDecodingError"),  # a table resized behind a header
        (b"\x20\x20\x20\x88", "more than twice"),
        (b"\x3f\x80\x00" * 3 + b"\x88", "more than twice"),
        (encode_headers([(b"a", b"b" * MAX_HEADERS)]), "OversizedHeaderListError"),
        (encode_headers([(b"", b"")] * 3000), "OversizedHeaderListError"),
        # A bomb: 4000 bytes in the table, named 60 times by one byte each.
        (literal(b"n", b"v" * 4000) + b"\xbe" * 60, "OversizedHeaderListError"),
    ],
)
def test_headers_that_cannot_be_decoded(block: bytes, why: str) -> None:
    with pytest.raises(Broken, match=why) as caught:
        Blocks().begin(END_HEADERS, 1, block)
    assert caught.value.error == frames.COMPRESSION_ERROR


@pytest.mark.parametrize("block", [b"\x20\x88", b"\x20\x3f\xe1\x1f\x88", b"\x3e\x21\x88", b"\x20\x3f\x80\x00\x88"])
def test_a_table_may_be_resized_twice(block: bytes) -> None:
    assert Blocks().begin(END_HEADERS, 1, block) == {b":status": b"200"}


@given(st.lists(st.binary(max_size=200), max_size=5))
def test_any_bytes_are_headers_or_a_breach(parts: list[bytes]) -> None:
    blocks = Blocks()
    for part in parts:
        try:
            found = blocks.begin(END_HEADERS, 1, part)
        except Broken:
            return
        assert isinstance(found, dict)


@pytest.mark.parametrize(
    "block",
    [b"\x20" * 16_384, b"\x88" * 16_384, literal(b"n", b"v" * 4000) + b"\xbe" * 12_000, b"\x3f" + b"\x80" * 16_383],
)
def test_no_block_costs_more_than_an_honest_one(block: bytes) -> None:
    def seconds(some: bytes) -> float:
        started = time.process_time()
        for _ in range(5):
            try:
                Blocks().begin(END_HEADERS, 1, some)
            except Broken:
                pass
        return time.process_time() - started

    honest = encode_headers([(b"name-%d" % i, b"value") for i in range(1000)])
    assert seconds(block) < 10 * max(seconds(honest), 0.005)


FIELD = st.tuples(st.sampled_from([b":path", b"x", b"grpc-timeout"]), st.sampled_from([b"1", b"22", b"v" * 90]))


@given(
    st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.none() | st.integers(0, 300)), max_size=30),
    st.lists(st.lists(FIELD, max_size=4, unique_by=lambda f: f[0]), min_size=4, max_size=4),
)
def test_what_comes_again_means_what_it_means_now(
    asked: list[tuple[int, bool, int | None]], requests: list[list[tuple[bytes, bytes]]]
) -> None:
    """The same request again and again, with others in between that change the table, or resize it."""
    encoder, blocks = Encoder(), Blocks()
    for which, huffman, size in asked:
        if size is not None:
            encoder.header_table_size = size
        assert blocks.begin(END_HEADERS, 1, encoder.encode(requests[which], huffman)) == dict(requests[which])


def test_the_same_bytes_with_another_table_are_other_headers() -> None:
    blocks = Blocks()
    newest = b"\xbe"  # the first entry of the dynamic table
    for name in (b"a", b"b"):
        assert blocks.begin(END_HEADERS, 1, b"\x40\x01" + name + b"\x011") == {name: b"1"}
        for _ in range(3):
            assert blocks.begin(END_HEADERS, 1, newest) == {name: b"1"}


def test_a_block_that_changes_the_table_changes_it_each_time() -> None:
    blocks = Blocks()
    for _ in range(2):
        assert blocks.begin(END_HEADERS, 1, b"\x40\x01a\x011") == {b"a": b"1"}
    assert blocks.begin(END_HEADERS, 1, b"\xbf") == {b"a": b"1"}
