"""What one side sends: within windows, in turn, in order, and no more than the queue ahead of the socket."""

import pytest

from agent.rpc import frames
from agent.rpc.connection import Connection
from agent.rpc.frames import DATA, DEFAULT_WINDOW, HEADERS, MAX_WINDOW, PREFACE, RST_STREAM
from agent.rpc.inbox import PREFIX_SIZE
from agent.rpc.sending import QUEUE, Limits
from agent.rpc.status import Code
from agent.rpc.stream import Stream
from tests.fakes.http2 import OK, REQUEST, SETTINGS, Frame, client, headers, message, parse, sent, server, taken

WIDE = frames.settings([(frames.S_INITIAL_WINDOW, MAX_WINDOW)]) + frames.window_update(0, MAX_WINDOW - DEFAULT_WINDOW)


def bodies(found: list[Frame]) -> dict[int, bytes]:
    """What was sent in DATA, by stream."""
    result: dict[int, bytes] = {}
    for f in found:
        if f.kind == DATA:
            result[f.stream] = result.get(f.stream, b"") + f.payload
    return result


def more(connection: Connection, count: int) -> list[Stream]:
    streams = [connection.open(REQUEST) for _ in range(count)]
    sent(connection)
    return [s for s in streams if s is not None]


@pytest.mark.parametrize("is_client", [True, False])
def test_first_words(is_client: bool) -> None:
    connection = Connection(is_client, Limits(window=200_000, streams=77))
    raw = sent(connection)
    if is_client:
        assert raw.startswith(PREFACE)
        raw = raw[len(PREFACE) :]
    settings, window = parse(raw)
    told = dict(frames.read_settings(settings.payload))
    assert told[frames.S_INITIAL_WINDOW] == 200_000
    assert told[frames.S_MAX_HEADER_LIST] == 65_536
    if is_client:
        assert told[frames.S_ENABLE_PUSH] == 0
    else:
        assert told[frames.S_MAX_STREAMS] == 77
    # All of one connection's streams together are never what one waits for.
    assert window == Frame(frames.WINDOW_UPDATE, 0, 0, (MAX_WINDOW - DEFAULT_WINDOW).to_bytes(4, "big"))


def test_calls_have_odd_numbers_in_order() -> None:
    connection, first = client()
    assert [first.id, *(s.id for s in more(connection, 3))] == [1, 3, 5, 7]


def test_numbers_end() -> None:
    connection, _ = client()
    connection._next_id = MAX_WINDOW
    last = connection.open(REQUEST)
    assert last is not None
    assert last.id == MAX_WINDOW
    assert connection.open(REQUEST) is None


def test_the_servers_limit_of_calls_is_obeyed() -> None:
    connection, first = client()
    connection.receive(frames.settings([(frames.S_MAX_STREAMS, 2)]))
    second = connection.open(REQUEST)
    assert second is not None
    assert connection.open(REQUEST) is None
    connection.receive(headers(first.id, OK, end=True))
    assert connection.open(REQUEST) is not None


@pytest.mark.parametrize("size", [0, 1, 100, 16_384 - PREFIX_SIZE])
def test_a_message_that_fits_is_one_frame(size: int) -> None:
    connection, stream = client()
    connection.send(stream, bytes(size))
    assert taken(connection) == [Frame(DATA, 0, 1, message(bytes(size)))]
    assert stream.out_size == 0


def test_frames_are_no_larger_than_the_peer_takes() -> None:
    connection, stream = client()
    connection.receive(WIDE)
    sent(connection)
    connection.send(stream, bytes(100_000))
    found = taken(connection)
    assert max(len(f.payload) for f in found) == 16_384
    assert bodies(found) == {1: message(bytes(100_000))}


def test_larger_frames_are_used_as_far_as_the_queue_goes() -> None:
    connection, stream = client()
    connection.receive(WIDE + frames.settings([(frames.S_MAX_FRAME, (1 << 24) - 1)]))
    sent(connection)
    connection.send(stream, bytes(3 << 20))
    found = taken(connection)
    assert {len(f.payload) for f in found} == {QUEUE}


@pytest.mark.parametrize("size", [DEFAULT_WINDOW - PREFIX_SIZE, DEFAULT_WINDOW - PREFIX_SIZE + 1, 200_000])
def test_no_more_goes_than_the_window(size: int) -> None:
    connection, stream = client()
    connection.receive(frames.window_update(0, MAX_WINDOW - DEFAULT_WINDOW))
    connection.send(stream, bytes(size))
    first = bodies(taken(connection))[1]
    assert len(first) == min(size + PREFIX_SIZE, DEFAULT_WINDOW)
    assert stream.out_size == size + PREFIX_SIZE - len(first)
    connection.receive(frames.window_update(1, 200_000))
    assert first + bodies(taken(connection)).get(1, b"") == message(bytes(size))
    assert stream.out_size == 0


def test_the_connections_window_holds_for_all() -> None:
    connection, first = client()
    (second,) = more(connection, 1)
    connection.send(first, bytes(40_000))
    connection.send(second, bytes(40_000))
    found = bodies(taken(connection))
    assert sum(map(len, found.values())) == DEFAULT_WINDOW
    assert first.out_size + second.out_size == 2 * (40_000 + PREFIX_SIZE) - DEFAULT_WINDOW
    connection.receive(frames.window_update(0, 100_000))
    rest = bodies(taken(connection))
    for stream in (first, second):
        assert found.get(stream.id, b"") + rest.get(stream.id, b"") == message(bytes(40_000))


def test_a_setting_may_make_windows_negative() -> None:
    connection, stream = client()
    connection.send(stream, bytes(30_000))
    sent(connection)
    connection.receive(frames.settings([(frames.S_INITIAL_WINDOW, 10_000)]))
    assert stream.send_window == 10_000 - 30_000 - PREFIX_SIZE
    connection.send(stream, b"waits")
    assert bodies(taken(connection)) == {}
    connection.receive(frames.window_update(1, 20_000 + PREFIX_SIZE))  # to 0: not enough
    assert bodies(taken(connection)) == {}
    connection.receive(frames.window_update(1, 1))
    assert bodies(taken(connection)) == {1: message(b"waits")[:1]}
    connection.receive(frames.settings([(frames.S_INITIAL_WINDOW, 20_000)]))
    assert bodies(taken(connection)) == {1: message(b"waits")[1:]}
    later = connection.open(REQUEST)
    assert later is not None
    assert later.send_window == 20_000


def test_a_stalled_call_delays_no_other() -> None:
    connection, stalled = client()
    connection.receive(frames.window_update(0, MAX_WINDOW - DEFAULT_WINDOW))
    (other,) = more(connection, 1)
    connection.send(stalled, bytes(1 << 20))
    sent(connection)
    connection.send(other, b"hello")
    assert bodies(taken(connection)) == {other.id: message(b"hello")}


def test_calls_take_turns_when_many_have_much_to_send() -> None:
    connection, first = client()
    connection.receive(WIDE)
    streams = [first, *more(connection, 9)]
    sent(connection)
    for stream in streams:
        connection.send(stream, bytes(1 << 20))
    shares = {k: len(v) for k, v in bodies(taken(connection)).items()}
    assert set(shares) == {s.id for s in streams}
    assert max(shares.values()) - min(shares.values()) <= 2 * 16_384


def test_no_more_is_framed_than_the_queue_holds() -> None:
    connection, stream = client()
    connection.receive(WIDE)
    connection.send(stream, bytes(10 << 20))
    connection.pump()
    assert QUEUE <= connection.queued <= QUEUE + 16_384 + 9 + 100
    before = connection.queued
    connection.send(stream, b"behind")
    connection.pump()
    assert connection.queued == before


def test_messages_stay_in_order_behind_one_that_waits() -> None:
    connection, stream = client()
    connection.receive(frames.window_update(0, MAX_WINDOW - DEFAULT_WINDOW))
    connection.send(stream, bytes(DEFAULT_WINDOW))
    sent(connection)
    connection.send(stream, b"second")
    connection.receive(frames.window_update(1, 100))
    assert bodies(taken(connection))[1].endswith(message(b"second"))


def test_the_end_waits_for_what_was_sent_before() -> None:
    connection, opened = server()
    connection.receive(headers(1))
    connection.respond(opened[0], OK)
    connection.send(opened[0], bytes(DEFAULT_WINDOW))
    connection.close(opened[0], connection.trailers(opened[0], OK))
    kinds = [f.kind for f in taken(connection)]
    assert kinds == [HEADERS, DATA, DATA, DATA, DATA]
    assert not opened[0].local_closed
    connection.receive(frames.window_update(0, 100) + frames.window_update(1, 100))
    last = taken(connection)
    assert [f.kind for f in last] == [DATA, HEADERS, RST_STREAM]
    assert last[1].flags == frames.END_STREAM | frames.END_HEADERS
    assert last[2].number == frames.NO_ERROR
    assert connection.streams == {}


def test_a_call_that_the_client_ended_needs_no_reset() -> None:
    connection, opened = server()
    connection.receive(headers(1, end=True))
    connection.close(opened[0], connection.trailers(opened[0], OK))
    assert [f.kind for f in taken(connection)] == [HEADERS]
    assert connection.streams == {}


def test_nothing_goes_after_the_end() -> None:
    connection, stream = client()
    end = frames.frame(DATA, frames.END_STREAM, 1)
    connection.close(stream, end)
    connection.close(stream, end)
    connection.send(stream, b"late")
    connection.respond(stream, OK)
    assert sent(connection) == end


def test_a_reset_forgets_what_waits() -> None:
    connection, stream = client()
    connection.send(stream, bytes(1 << 20))
    sent(connection)
    connection.reset(stream, frames.CANCEL, Code.CANCELLED, "enough")
    connection.reset(stream, frames.CANCEL, Code.INTERNAL, "again")
    assert taken(connection) == [Frame(RST_STREAM, 0, 1, b"\0\0\0\x08")]
    assert stream.end == (Code.CANCELLED, "enough")
    connection.receive(frames.window_update(0, 1000) + frames.window_update(1, 1000))
    assert sent(connection) == b""


def test_leaving_is_told_once_and_ends_no_call() -> None:
    connection, opened = server()
    connection.receive(headers(1))
    connection.leave("soon")
    connection.leave("soon")
    assert [(f.kind, f.payload) for f in taken(connection)] == [(frames.GOAWAY, b"\0\0\0\x01\0\0\0\0soon")]
    connection.receive(headers(3))
    assert [(f.kind, f.stream, f.number) for f in taken(connection)] == [(RST_STREAM, 3, frames.REFUSED_STREAM)]
    connection.send(opened[0], b"still")
    assert bodies(taken(connection)) == {1: message(b"still")}


def test_a_lost_connection_ends_every_call_once() -> None:
    connection, first = client()
    (second,) = more(connection, 1)
    calls: list[int] = []
    first.changed = lambda: calls.append(1)
    connection.send(first, bytes(1 << 20))
    connection.lost("gone")
    connection.lost("again")
    assert first.end == second.end == (Code.UNAVAILABLE, "gone")
    assert calls == [1]
    assert connection.open(REQUEST) is None
    connection.send(first, b"late")
    connection.receive(SETTINGS)
    assert sent(connection) == b""


def test_whoever_waits_hears_when_all_has_gone() -> None:
    connection, stream = client()
    heard: list[int] = []
    stream.changed = lambda: heard.append(stream.out_size)
    connection.send(stream, bytes(DEFAULT_WINDOW))
    sent(connection)
    assert heard == []
    connection.receive(frames.window_update(0, 1000) + frames.window_update(1, 1000))
    sent(connection)
    assert heard == [0]


def test_no_message_overtakes_one_that_may_go_but_has_not() -> None:
    connection, stream = client()
    connection.send(stream, bytes(DEFAULT_WINDOW))
    first = bodies(taken(connection))[1]
    connection.receive(frames.window_update(0, 100_000) + frames.window_update(1, 100_000))
    connection.send(stream, b"second")
    assert first + bodies(taken(connection))[1] == message(bytes(DEFAULT_WINDOW)) + message(b"second")
