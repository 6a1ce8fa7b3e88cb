"""One stream's books: what waits to be sent, what the peer may still send, how it ended."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.rpc.frames import DEFAULT_WINDOW, MAX_WINDOW
from agent.rpc.status import Code
from agent.rpc.stream import Stream
from tests.fakes.http2 import message


@given(st.lists(st.binary(max_size=200), max_size=10), st.lists(st.integers(1, 100), min_size=1))
def test_what_was_put_is_gathered_in_any_sizes(messages: list[bytes], sizes: list[int]) -> None:
    stream = Stream(1, 1000)
    for body in messages:
        stream.put(body)
    whole, found = b"".join(map(message, messages)), b""
    assert stream.out_size == len(whole)
    turn = 0
    while stream.out_size:
        size = min(sizes[turn % len(sizes)], stream.out_size)
        found += b"".join(stream.gather(size))
        turn += 1
    assert found == whole
    assert not stream.out


def test_a_large_message_is_not_copied() -> None:
    stream, body = Stream(1, 1000), bytes(100_000)
    stream.put(body)
    parts = stream.gather(50_000)
    assert isinstance(parts[1], memoryview)
    assert parts[1].obj is body


@pytest.mark.parametrize(
    ("window", "increment", "fits"), [(0, MAX_WINDOW, True), (1, MAX_WINDOW, False), (-5, 10, True)]
)
def test_windows_have_a_maximum(window: int, increment: int, fits: bool) -> None:
    stream = Stream(1, 1000, window)
    assert stream.widen(increment) is fits
    assert stream.send_window == window + increment


@pytest.mark.parametrize(
    ("debt", "untaken", "closed", "credit"),
    [
        (0, 0, False, 0),
        (499, 0, False, 0),
        (500, 0, False, 500),
        (900, 0, False, 900),
        (900, 1, False, 0),
        (900, 0, True, 0),
    ],
)
def test_credit_is_for_those_who_take(debt: int, untaken: int, closed: bool, credit: int) -> None:
    stream = Stream(1, 1000)
    stream.inbox.messages.extend([b""] * untaken)
    stream.debt, stream.remote_closed = debt, closed
    before = stream.recv_window
    assert stream.credit() == credit
    assert stream.recv_window == before + credit
    assert stream.debt == debt - credit


@pytest.mark.parametrize(("window", "allowed"), [(1000, DEFAULT_WINDOW), (100_000, 100_000)])
def test_a_small_window_counts_once_the_peer_knows_it(window: int, allowed: int) -> None:
    assert Stream(1, window).recv_window == allowed


def test_the_first_end_counts_and_nothing_waits_any_more() -> None:
    stream = Stream(1, 1000)
    stream.put(b"unsent")
    stream.closing = b"trailers"
    stream.finish(Code.NOT_FOUND, "first")
    stream.finish(Code.INTERNAL, "second")
    assert stream.end == (Code.NOT_FOUND, "first")
    assert stream.local_closed
    assert stream.remote_closed
    assert (stream.out_size, list(stream.out), stream.closing) == (0, [], None)
