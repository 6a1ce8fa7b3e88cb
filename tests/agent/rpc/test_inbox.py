"""Messages out of DATA payloads, however they are cut."""

import itertools
import tracemalloc

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.rpc.inbox import BIG, MAX_JOINED, PREFIX, BadMessage, Inbox


def framed(*messages: bytes) -> bytes:
    return b"".join(PREFIX.pack(0, len(m)) + m for m in messages)


def feed(inbox: Inbox, data: bytes, *cuts: int) -> None:
    edges = [0, *sorted(min(c, len(data)) for c in cuts), len(data)]
    for start, end in itertools.pairwise(edges):
        inbox.feed(data[start:end], 0, end - start)


def drained(inbox: Inbox) -> list[bytes]:
    return [inbox.take() for _ in range(len(inbox.messages))]


@given(st.lists(st.binary(max_size=3000), max_size=8), st.lists(st.integers(0, 25_000)))
def test_messages_arrive_whole_and_in_order(messages: list[bytes], cuts: list[int]) -> None:
    inbox = Inbox()
    feed(inbox, framed(*messages), *cuts)
    assert inbox.held == sum(map(len, messages))
    assert not inbox.partial
    assert drained(inbox) == messages
    assert inbox.held == 0


@given(st.binary(min_size=1, max_size=5000), st.lists(st.integers(0, 5000)), st.data())
def test_a_window_of_a_larger_block_is_all_that_is_read(message: bytes, cuts: list[int], data: st.DataObject) -> None:
    before, after = data.draw(st.binary(max_size=50)), data.draw(st.binary(max_size=50))
    inbox, raw = Inbox(), framed(message)
    edges = [0, *sorted(min(c, len(raw)) for c in cuts), len(raw)]
    for start, end in itertools.pairwise(edges):
        inbox.feed(before + raw[start:end] + after, len(before), len(before) + end - start)
    assert drained(inbox) == [message]


@pytest.mark.parametrize("size", range(5))
def test_a_begun_prefix_is_a_partial_message(size: int) -> None:
    inbox = Inbox()
    feed(inbox, framed(b"x")[:size])
    assert inbox.partial is (size > 0)


def test_a_begun_message_is_partial_until_its_last_byte() -> None:
    inbox = Inbox()
    raw = framed(b"hello")
    feed(inbox, raw[:-1])
    assert inbox.partial
    assert not inbox.messages
    feed(inbox, raw[-1:])
    assert not inbox.partial
    assert drained(inbox) == [b"hello"]


@pytest.mark.parametrize("flag", [1, 2, 255])
@pytest.mark.parametrize("cut", [0, 1, 4, 5])
def test_compression_was_not_agreed_on(flag: int, cut: int) -> None:
    with pytest.raises(BadMessage, match="compressed") as caught:
        feed(Inbox(), PREFIX.pack(flag, 3) + b"abc", cut)
    assert not caught.value.exhausted


@pytest.mark.parametrize("cut", [0, 3, 5])
def test_a_message_too_long_is_refused_at_its_prefix(cut: int) -> None:
    with pytest.raises(BadMessage, match="11 bytes; at most 10") as caught:
        feed(Inbox(10), PREFIX.pack(0, 11), cut)
    assert caught.value.exhausted
    inbox = Inbox(10)
    feed(inbox, framed(bytes(10)))
    assert drained(inbox) == [bytes(10)]


def test_messages_before_a_bad_one_stay() -> None:
    inbox = Inbox(10)
    with pytest.raises(BadMessage):
        feed(inbox, framed(b"good") + PREFIX.pack(0, 11))
    assert drained(inbox) == [b"good"]


def test_a_promise_reserves_nothing() -> None:
    inbox = Inbox()
    tracemalloc.start()
    feed(inbox, PREFIX.pack(0, 0xFFFFFFFF) + b"x")
    assert tracemalloc.get_traced_memory()[1] < 10_000
    tracemalloc.stop()


@pytest.mark.parametrize("piece", [1, 7, 500, 1023, 1024, 16_384])
def test_memory_is_near_the_bytes_that_came(piece: int) -> None:
    """A peer that sends single bytes, and one whose pieces are small parts of large blocks."""
    size = 200_000
    tracemalloc.start()
    inbox = Inbox()
    inbox.feed(PREFIX.pack(0, size + 1), 0, 5)
    block = bytes(256 << 10)
    for _ in range(size // piece):
        fresh = block[:50_000] + b"."  # a new object each time: what holds on to it would be seen
        inbox.feed(fresh, 10, 10 + piece)
    assert tracemalloc.get_traced_memory()[0] < 2 * size + 2 * MAX_JOINED + 100_000
    tracemalloc.stop()


@pytest.mark.parametrize("piece", [1000, 16_384, 262_144, BIG + 100])
@pytest.mark.parametrize("size", [BIG - 1, BIG, BIG + 1, 2 * BIG + 12_345])
def test_long_messages_as_views(size: int, piece: int) -> None:
    body = bytes(range(251)) * (size // 251 + 1)
    raw = framed(b"before", body[:size], b"after")
    inbox = Inbox(views=True)
    for start in range(0, len(raw), piece):
        part = raw[start : start + piece]
        inbox.feed(part, 0, len(part))
    assert inbox.held == size + len(b"beforeafter")
    before, found, after = (inbox.take() for _ in range(3))
    assert (before, after) == (b"before", b"after")
    assert found == body[:size]
    whole_at_once = piece > size
    assert isinstance(found, bytes if size < BIG or whole_at_once else memoryview)
    if isinstance(found, memoryview):
        assert found.readonly
    assert not inbox.partial
    assert inbox.held == 0


def test_a_view_that_was_only_promised_takes_no_memory() -> None:
    def resident() -> int:
        return psutil.Process().memory_info().rss

    before = resident()
    inboxes = [Inbox(views=True) for _ in range(4)]
    for inbox in inboxes:
        feed(inbox, PREFIX.pack(0, 0xFFFFFFFF) + b"x")
        assert inbox.partial
    assert resident() - before < 32 << 20  # a huge page each
