"""Every rule of RFC 9113 that a connection keeps, and what a peer may cost, by tables of frames."""

import tracemalloc

import pytest

from agent.rpc import frames
from agent.rpc.connection import MAX_HASTY, Connection
from agent.rpc.frames import (
    ACK,
    CANCEL,
    COMPRESSION_ERROR,
    CONTINUATION,
    DATA,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    GOAWAY,
    HEADERS,
    MAX_WINDOW,
    NO_ERROR,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PROTOCOL_ERROR,
    PUSH_PROMISE,
    REFUSED_STREAM,
    RST_STREAM,
    S_ENABLE_PUSH,
    S_INITIAL_WINDOW,
    S_MAX_FRAME,
    STREAM_CLOSED,
    WINDOW_UPDATE,
    encode_headers,
    frame,
    settings,
)
from agent.rpc.inbox import PREFIX
from agent.rpc.sending import Limits
from agent.rpc.status import Code
from agent.rpc.stream import Stream
from tests.fakes.http2 import (
    HELLO,
    OK,
    ONLY,
    REQUEST,
    RESPONSE,
    SETTINGS,
    Frame,
    broken,
    client,
    data,
    headers,
    message,
    sent,
    server,
    taken,
)


def statuses(*pairs: tuple[bytes, bytes]) -> bytes:
    return encode_headers(pairs)


def answered(*received: bytes) -> Stream:
    """A client's stream after these bytes."""
    connection, stream = client()
    connection.receive(b"".join(received))
    assert connection.broken is None, connection.broken
    return stream


# -- The beginning of a connection


@pytest.mark.parametrize("cut", range(len(PREFACE) + 1))
def test_the_preface_may_come_in_pieces(cut: int) -> None:
    connection = Connection(False, Limits())
    connection.receive(HELLO[:cut])
    assert connection.broken is None
    connection.receive(HELLO[cut:])
    assert connection.heard


@pytest.mark.parametrize("raw", [b"GET / HTTP/1.1\r\n", b"Px", b"PRI * HTTP/1.1", b"\x16\x03\x01", SETTINGS, bytes(9)])
def test_a_client_without_preface(raw: bytes) -> None:
    connection = Connection(False, Limits())
    for byte in raw:
        connection.receive(bytes([byte]))
    assert broken(connection) == PROTOCOL_ERROR
    assert connection.broken is not None
    assert connection.broken[0] is Code.UNAVAILABLE
    assert not connection.heard


@pytest.mark.parametrize(
    "first",
    [
        frame(PING, 0, 0, bytes(8)),
        frame(frames.SETTINGS, ACK, 0),
        headers(1),
        data(1, b"x"),
        frames.window_update(0, 1),
        frames.goaway(0, 0),
        frame(PRIORITY, 0, 1, bytes(5)),
        frame(99, 0, 0, b"what HTTP/2 does not know"),
    ],
)
@pytest.mark.parametrize("is_client", [True, False])
def test_the_first_frame_is_settings(first: bytes, is_client: bool) -> None:
    connection = Connection(is_client, Limits())
    if is_client:
        connection.open(REQUEST)
    connection.receive(first if is_client else PREFACE + first)
    assert broken(connection) == PROTOCOL_ERROR
    assert not connection.heard


def test_a_server_that_speaks_http1() -> None:
    connection = Connection(True, Limits())
    stream = connection.open(REQUEST)
    connection.receive(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
    assert broken(connection) == FRAME_SIZE_ERROR
    assert stream is not None
    assert stream.end is not None
    assert stream.end[0] is Code.UNAVAILABLE
    assert not connection.heard


# -- What breaks a connection, in both roles

SERVER_BREACHES = {
    "frame too large": (bytes.fromhex("004001000000000000"), FRAME_SIZE_ERROR),
    "frame much too large": (bytes.fromhex("ffffff630000000000"), FRAME_SIZE_ERROR),
    "SETTINGS for a stream": (frame(frames.SETTINGS, 0, 1), PROTOCOL_ERROR),
    "SETTINGS of 5 bytes": (frame(frames.SETTINGS, 0, 0, bytes(5)), FRAME_SIZE_ERROR),
    "SETTINGS ack with content": (frame(frames.SETTINGS, ACK, 0, bytes(6)), FRAME_SIZE_ERROR),
    "SETTINGS window": (settings([(S_INITIAL_WINDOW, MAX_WINDOW + 1)]), FLOW_CONTROL_ERROR),
    "SETTINGS frame too small": (settings([(S_MAX_FRAME, 16_383)]), PROTOCOL_ERROR),
    "SETTINGS frame too large": (settings([(S_MAX_FRAME, 1 << 24)]), PROTOCOL_ERROR),
    "SETTINGS push": (settings([(S_ENABLE_PUSH, 2)]), PROTOCOL_ERROR),
    "PING for a stream": (frame(PING, 0, 1, bytes(8)), PROTOCOL_ERROR),
    "PING of 7 bytes": (frame(PING, 0, 0, bytes(7)), FRAME_SIZE_ERROR),
    "PING of 9 bytes": (frame(PING, ACK, 0, bytes(9)), FRAME_SIZE_ERROR),
    "GOAWAY for a stream": (frame(GOAWAY, 0, 1, bytes(8)), PROTOCOL_ERROR),
    "GOAWAY of 7 bytes": (frame(GOAWAY, 0, 0, bytes(7)), FRAME_SIZE_ERROR),
    "WINDOW_UPDATE of 3 bytes": (frame(WINDOW_UPDATE, 0, 0, bytes(3)), FRAME_SIZE_ERROR),
    "WINDOW_UPDATE of 0": (frames.window_update(0, 0), PROTOCOL_ERROR),
    "WINDOW_UPDATE of 0 with the reserved bit": (frames.window_update(0, 1 << 31), PROTOCOL_ERROR),
    "WINDOW_UPDATE too large": (frames.window_update(0, MAX_WINDOW), FLOW_CONTROL_ERROR),
    "WINDOW_UPDATE of an idle stream": (frames.window_update(99, 1), PROTOCOL_ERROR),
    "WINDOW_UPDATE of an even stream": (frames.window_update(2, 1), PROTOCOL_ERROR),
    "RST_STREAM of 5 bytes": (frame(RST_STREAM, 0, 1, bytes(5)), FRAME_SIZE_ERROR),
    "RST_STREAM of nothing": (frames.rst_stream(0, CANCEL), PROTOCOL_ERROR),
    "RST_STREAM of an idle stream": (frames.rst_stream(99, CANCEL), PROTOCOL_ERROR),
    "RST_STREAM of an even stream": (frames.rst_stream(2, CANCEL), PROTOCOL_ERROR),
    "PRIORITY of nothing": (frame(PRIORITY, 0, 0, bytes(5)), PROTOCOL_ERROR),
    "PRIORITY of 4 bytes": (frame(PRIORITY, 0, 1, bytes(4)), FRAME_SIZE_ERROR),
    "DATA of nothing": (data(0, b"x"), PROTOCOL_ERROR),
    "DATA of an idle stream": (data(99, b"x"), PROTOCOL_ERROR),
    "DATA of an even stream": (data(2, b"x"), PROTOCOL_ERROR),
    "DATA with too much padding": (frame(DATA, PADDED, 1, b"\x05abcd"), PROTOCOL_ERROR),
    "DATA with padding that has no length": (frame(DATA, PADDED, 1), PROTOCOL_ERROR),
    "HEADERS of nothing": (headers(0), PROTOCOL_ERROR),
    "HEADERS of an even stream": (headers(2), PROTOCOL_ERROR),
    "HEADERS with too much padding": (frame(HEADERS, PADDED | END_HEADERS, 3, b"\xff" + REQUEST), PROTOCOL_ERROR),
    "HEADERS that are no headers": (headers(3, b"\xff\xff\xff\xff\xff"), COMPRESSION_ERROR),
    "CONTINUATION of nothing": (frame(CONTINUATION, END_HEADERS, 1), PROTOCOL_ERROR),
    "CONTINUATION of another": (frame(HEADERS, 0, 3) + frame(CONTINUATION, 4, 5), PROTOCOL_ERROR),
    "PING within headers": (frame(HEADERS, 0, 3) + frame(PING, 0, 0, bytes(8)), PROTOCOL_ERROR),
    "DATA within headers": (frame(HEADERS, 0, 3) + data(1, b"x"), PROTOCOL_ERROR),
    "an unknown frame within headers": (frame(HEADERS, 0, 3) + frame(99, 0, 0), PROTOCOL_ERROR),
    "PUSH_PROMISE": (frame(PUSH_PROMISE, END_HEADERS, 1, b"\0\0\0\x02" + REQUEST), PROTOCOL_ERROR),
    "endless headers": (frame(HEADERS, 0, 3) + frame(CONTINUATION, 0, 3) * 100, ENHANCE_YOUR_CALM),
    "large headers": (frame(HEADERS, 0, 3) + frame(CONTINUATION, 0, 3, bytes(16_384)) * 5, ENHANCE_YOUR_CALM),
}
ONLY_SERVER = {"a second request": (headers(1), PROTOCOL_ERROR)}
ONLY_CLIENT = {
    "SETTINGS that push": (settings([(S_ENABLE_PUSH, 1)]), PROTOCOL_ERROR),
    "HEADERS of an idle stream": (headers(99, RESPONSE), PROTOCOL_ERROR),
    "trailers without end": (headers(1, RESPONSE) + headers(1, OK), PROTOCOL_ERROR),
}


@pytest.mark.parametrize("name", [*SERVER_BREACHES, *ONLY_SERVER])
def test_a_client_that_breaks_the_rules(name: str) -> None:
    raw, error = {**SERVER_BREACHES, **ONLY_SERVER}[name]
    connection, opened = server()
    connection.receive(headers(1))
    connection.receive(raw)
    assert broken(connection) == error
    assert opened[0].end is not None
    assert opened[0].end[0] is Code.INTERNAL
    connection.receive(frame(PING, 0, 0, bytes(8)))
    assert sent(connection) == b"", "a broken connection answers nothing"


@pytest.mark.parametrize("name", [*SERVER_BREACHES, *ONLY_CLIENT])
def test_a_server_that_breaks_the_rules(name: str) -> None:
    raw, error = {**SERVER_BREACHES, **ONLY_CLIENT}[name]
    connection, stream = client()
    more = [connection.open(REQUEST) for _ in range(2)]  # 3 and 5
    connection.receive(raw)
    assert broken(connection) == error
    for ended in (stream, *more):
        assert ended is not None
        assert ended.end is not None
        assert ended.end[0] is Code.INTERNAL
    assert connection.open(REQUEST) is None


def test_a_client_that_offers_push_gets_none() -> None:
    connection, _ = server()
    connection.receive(settings([(S_ENABLE_PUSH, 1)]))
    assert connection.broken is None


@pytest.mark.parametrize(
    "raw",
    [
        frame(99, 0xFF, 0, b"unknown frame"),
        frame(99, 0xFF, 77, b"unknown frame of a stream"),
        frame(PRIORITY, 0, 1, bytes(5)),
        frame(PRIORITY, 0, 99, bytes(5)),
        settings([(99, 5), (1, 0), (6, 1)]),
        frame(PING, 0xFE, 0, bytes(8)),
        frame(frames.SETTINGS, ACK, 0),
        frame(WINDOW_UPDATE, 0xFF, 0, b"\x80\0\0\x01"),  # the reserved bit counts for nothing
        frame(WINDOW_UPDATE, 0, 1 | 1 << 31, b"\0\0\0\x01"),
        frame(GOAWAY, 0xFF, 0, b"\xff\xff\xff\xff\0\0\0\0"),
        frame(DATA, 0xF6, 1, b""),
        frame(DATA, PADDED, 1, b"\x02xx"),
    ],
)
def test_what_must_be_passed_over(raw: bytes) -> None:
    connection, _ = server()
    connection.receive(headers(1) + raw)
    assert connection.broken is None
    assert 1 in connection.streams


# -- Frames of streams that have ended


@pytest.mark.parametrize(
    "late",
    [data(1, b"x"), data(1, b"", True), headers(1, OK, True), frames.rst_stream(1, 0), frames.window_update(1, 5)],
)
@pytest.mark.parametrize("is_client", [True, False])
def test_late_frames_of_an_ended_call_harm_nothing(late: bytes, is_client: bool) -> None:
    if is_client:
        connection, stream = client()
    else:
        connection, opened = server()
        connection.receive(headers(1))
        stream = opened[0]
    connection.reset(stream, CANCEL, Code.CANCELLED, "")
    sent(connection)
    connection.receive(late)
    assert connection.broken is None
    assert stream.end == (Code.CANCELLED, "")
    assert sent(connection) == b""


def test_late_headers_keep_the_table_in_step() -> None:
    connection, stream = client()
    other = connection.open(REQUEST)
    connection.reset(stream, CANCEL, Code.CANCELLED, "")
    connection.receive(headers(1, b"\x40\x07:status\x03999"))  # enters the table
    connection.receive(headers(3, b"\xbe", end=True))
    assert other is not None
    assert other.headers == {b":status": b"999"}


def test_late_data_is_paid_back_to_the_connection() -> None:
    connection, stream = client()
    connection.reset(stream, CANCEL, Code.CANCELLED, "")
    sent(connection)
    before = connection._recv_window
    connection.receive(data(1, bytes(16_384)) * 10)
    assert connection._recv_window == before - 163_840
    connection._recv_window = MAX_WINDOW // 2
    connection.receive(data(1, b"x"))
    assert [(f.kind, f.stream, f.number) for f in taken(connection)] == [(WINDOW_UPDATE, 0, MAX_WINDOW // 2 + 2)]


# -- Requests


def test_a_request_opens_a_stream() -> None:
    connection, opened = server()
    connection.receive(headers(1) + data(1, message(b"hello")) + data(1, message(b"")[:3]))
    (stream,) = opened
    assert stream.headers is not None
    assert stream.headers[b":path"] == b"/a/b"
    assert list(stream.inbox.messages) == [b"hello"]
    assert not stream.remote_closed
    connection.receive(data(1, message(b"")[3:], end=True))
    assert list(stream.inbox.messages) == [b"hello", b""]
    assert stream.remote_closed
    assert stream.end is None


@pytest.mark.parametrize(
    "end", [headers(1, OK, end=True), data(1, b"", end=True), frame(DATA, END_STREAM | PADDED, 1, b"\x01x")]
)
def test_a_client_may_half_close(end: bytes) -> None:
    connection, opened = server()
    connection.receive(headers(1) + end)
    assert opened[0].remote_closed
    assert not opened[0].local_closed
    connection.close(opened[0], connection.trailers(opened[0], ONLY))
    assert connection.streams == {}


def test_data_after_the_end_resets_the_call() -> None:
    connection, opened = server()
    connection.receive(headers(1, end=True) + data(1, b"x"))
    assert [(f.kind, f.number) for f in taken(connection)] == [(RST_STREAM, STREAM_CLOSED)]
    assert opened[0].end is not None
    assert connection.broken is None


def test_trailers_after_the_end_break_the_connection() -> None:
    connection, _ = server()
    connection.receive(headers(1, end=True) + headers(1, OK, end=True))
    assert broken(connection) == PROTOCOL_ERROR


@pytest.mark.parametrize("body", [b"\0", b"\0\0\0\0\x05ab"])
def test_a_request_that_ends_within_a_message(body: bytes) -> None:
    connection, opened = server()
    connection.receive(headers(1) + data(1, body, end=True))
    assert opened[0].end == (Code.INTERNAL, "the request ended within a message")
    assert not opened[0].local_closed, "the status is to be sent still"


def test_a_message_too_long_is_refused_but_the_status_can_be_told() -> None:
    connection, opened = server(Limits(message=10))
    connection.receive(headers(1) + data(1, PREFIX.pack(0, 11) + b"x"))
    stream = opened[0]
    assert stream.end is not None
    assert stream.end[0] is Code.RESOURCE_EXHAUSTED
    connection.receive(data(1, bytes(100)) * 5 + data(1, b"", end=True))
    assert stream.inbox.held == 0
    connection.close(stream, connection.trailers(stream, ONLY))
    assert taken(connection)[0].kind == HEADERS
    assert connection.broken is None
    assert connection.streams == {}


def test_more_calls_than_allowed_are_refused() -> None:
    connection, opened = server(Limits(streams=2))
    connection.receive(headers(1) + headers(3) + headers(5))
    assert [s.id for s in opened] == [1, 3]
    assert [(f.kind, f.stream, f.number) for f in taken(connection)] == [(RST_STREAM, 5, REFUSED_STREAM)]
    connection.receive(data(5, b"x") + frames.rst_stream(3, CANCEL) + headers(7))
    assert [s.id for s in opened] == [1, 3, 7]
    assert connection.broken is None


def test_numbers_may_skip_but_not_go_back() -> None:
    connection, opened = server()
    connection.receive(headers(7) + headers(3))
    assert [s.id for s in opened] == [7]
    assert connection.broken is None


# -- Responses


def test_a_whole_answer() -> None:
    stream = answered(headers(1, RESPONSE), data(1, message(b"hello")), headers(1, OK, end=True))
    assert list(stream.inbox.messages) == [b"hello"]
    assert stream.end == (Code.OK, "")
    assert stream.headers == {b":status": b"200", b"content-type": b"application/grpc"}
    assert stream.trailers == {b"grpc-status": b"0"}


NOT_FOUND = statuses((b":status", b"200"), (b"grpc-status", b"5"), (b"grpc-message", b"no%20such"))
DENIED = statuses((b":status", b"401"), (b"content-type", b"application/grpc"))
PAGE = statuses((b":status", b"200"), (b"content-type", b"text/html"))


@pytest.mark.parametrize(
    ("raw", "code", "text"),
    [
        (headers(1, NOT_FOUND, True), Code.NOT_FOUND, "no such"),
        (headers(1, RESPONSE, True), Code.UNKNOWN, "without a status"),
        (headers(1, RESPONSE) + data(1, b"", True), Code.UNKNOWN, "without a status"),
        (headers(1, RESPONSE) + headers(1, statuses((b"x", b"y")), True), Code.UNKNOWN, "without a status"),
        (headers(1, RESPONSE) + data(1, b"\0\0\0\0\x09x") + headers(1, OK, True), Code.INTERNAL, "within a message"),
        (headers(1, RESPONSE) + data(1, b"\x01\0\0\0\0"), Code.INTERNAL, "compressed"),
        (data(1, message(b"x")), Code.INTERNAL, "before the headers"),
        (headers(1, statuses((b":status", b"503"))), Code.UNAVAILABLE, "503"),
        (headers(1, statuses((b":status", b"503")), True), Code.UNAVAILABLE, "503"),
        (
            headers(1, statuses((b":status", b"401"), (b"content-type", b"application/grpc"))),
            Code.UNAUTHENTICATED,
            "401",
        ),
        (headers(1, PAGE), Code.UNKNOWN, "content of type text/html"),
        (headers(1, statuses((b":status", b"200"))), Code.UNKNOWN, "content of type (none)"),
        (headers(1, statuses((b"content-type", b"application/grpc"))), Code.UNKNOWN, "no number"),
        (headers(1, statuses((b":status", b"100")), True), Code.UNKNOWN, "100"),
        (frames.rst_stream(1, REFUSED_STREAM), Code.UNAVAILABLE, "REFUSED_STREAM"),
        (frames.rst_stream(1, CANCEL), Code.CANCELLED, "CANCEL"),
        (frames.rst_stream(1, 0x1234), Code.INTERNAL, "0x1234"),
        (frames.goaway(0, NO_ERROR, "bye"), Code.UNAVAILABLE, "NO_ERROR: bye"),
        (frames.goaway(0, ENHANCE_YOUR_CALM, "too_many_pings"), Code.UNAVAILABLE, "ENHANCE_YOUR_CALM: too_many_pings"),
        (frames.goaway(0, ENHANCE_YOUR_CALM), Code.UNAVAILABLE, "ENHANCE_YOUR_CALM"),
        (frames.window_update(1, 0), Code.INTERNAL, "WINDOW_UPDATE"),
        (frames.window_update(1, MAX_WINDOW), Code.INTERNAL, "WINDOW_UPDATE"),
    ],
)
def test_how_a_call_ends(raw: bytes, code: Code, text: str) -> None:
    stream = answered(raw)
    assert stream.end is not None
    assert stream.end[0] is code
    assert text in stream.end[1]
    assert stream.local_closed


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (headers(1, PAGE), CANCEL),
        (data(1, b"x"), STREAM_CLOSED),
        (headers(1, RESPONSE) + data(1, b"\x01\0\0\0\0"), CANCEL),
        (headers(1, ONLY, True), NO_ERROR),  # we had not ended our side
        (frames.window_update(1, 0), PROTOCOL_ERROR),
        (frames.window_update(1, MAX_WINDOW), FLOW_CONTROL_ERROR),
    ],
)
def test_the_server_is_told_that_a_call_has_ended(raw: bytes, error: int) -> None:
    connection, _ = client()
    connection.receive(raw)
    assert [(f.kind, f.stream, f.number) for f in taken(connection)] == [(RST_STREAM, 1, error)]
    assert connection.streams == {}
    assert connection.broken is None


def test_interim_answers_are_passed_over() -> None:
    early = headers(1, statuses((b":status", b"103"), (b"link", b"x"))) + headers(1, statuses((b":status", b"100")))
    stream = answered(early, headers(1, RESPONSE), headers(1, OK, True))
    assert stream.end == (Code.OK, "")


@pytest.mark.parametrize("kind", [b"application/grpc", b"application/grpc+proto", b"application/grpc;charset=x"])
def test_kinds_of_grpc(kind: bytes) -> None:
    stream = answered(headers(1, statuses((b":status", b"200"), (b"content-type", kind))))
    assert stream.end is None


def test_goaway_ends_only_the_calls_that_it_names() -> None:
    connection, first = client()
    second = connection.open(REQUEST)
    connection.receive(frames.goaway(1, NO_ERROR, "restarting"))
    assert second is not None
    assert second.end == (Code.UNAVAILABLE, "GOAWAY received with error code: NO_ERROR: restarting")
    assert first.end is None
    assert connection.open(REQUEST) is None
    connection.receive(headers(1, ONLY, True))
    assert first.end == (Code.NOT_FOUND, "")


def test_a_client_that_is_leaving_opens_no_more() -> None:
    connection, opened = server()
    connection.receive(headers(1) + frames.goaway(0, NO_ERROR) + headers(3))
    assert [s.id for s in opened] == [1]
    assert opened[0].end is None


# -- Settings, pings


@pytest.mark.parametrize("is_client", [True, False])
def test_settings_and_pings_are_answered_in_order(is_client: bool) -> None:
    connection = client()[0] if is_client else server()[0]
    connection.receive(
        frame(PING, 0, 0, b"12345678") + settings([(S_INITIAL_WINDOW, 5)]) + frame(PING, 0, 0, b"abcdefgh")
    )
    assert taken(connection) == [
        Frame(PING, ACK, 0, b"12345678"),
        Frame(frames.SETTINGS, ACK, 0, b""),
        Frame(PING, ACK, 0, b"abcdefgh"),
    ]


def test_pongs_are_counted_and_not_answered() -> None:
    connection, _ = client()
    connection.ping()
    (ping,) = taken(connection)
    assert (ping.kind, ping.flags, len(ping.payload)) == (PING, 0, 8)
    connection.receive(frame(PING, ACK, 0, ping.payload))
    assert connection.pongs == 1
    assert sent(connection) == b""


def test_of_several_values_the_last_counts() -> None:
    connection, stream = client()
    connection.receive(settings([(S_INITIAL_WINDOW, 1), (S_MAX_FRAME, 20_000), (S_INITIAL_WINDOW, 70_000)]))
    assert stream.send_window == 70_000


def test_a_setting_that_makes_a_window_too_large() -> None:
    connection, _ = client()
    connection.receive(frames.window_update(1, MAX_WINDOW - DEFAULT_WINDOW) + settings([(S_INITIAL_WINDOW, 65_536)]))
    assert broken(connection) == FLOW_CONTROL_ERROR


# -- Flow control of what comes


@pytest.mark.parametrize("window", [65_535, 100_000])
@pytest.mark.parametrize("padding", [0, 200])
def test_more_than_the_window_breaks_the_connection(window: int, padding: int) -> None:
    connection, opened = server(Limits(window=window))
    connection.receive(headers(1))
    left = window
    while left:
        body = bytes(min(left, 10_000))  # of messages that are empty: nothing is partial, nobody takes them
        extra = padding if len(body) > padding else 0
        if extra:
            body = bytes([extra - 1]) + body[extra:] + bytes(extra - 1)
        connection.receive(frame(DATA, PADDED if extra else 0, 1, body))
        left -= len(body)
        assert connection.broken is None
    assert opened[0].recv_window == 0
    connection.receive(data(1, b"x"))
    assert broken(connection) == FLOW_CONTROL_ERROR


def test_windows_smaller_than_http2_begins_with() -> None:
    """Before the peer has our settings it may send 65535 bytes; what it gets back fits the small window."""
    connection, opened = server(Limits(window=1000))
    connection.receive(headers(1) + data(1, message(bytes(20_000))[:16_384]) + data(1, bytes(3621)))
    assert connection.broken is None
    assert list(opened[0].inbox.messages) == [bytes(20_000)]


def test_credit_comes_for_taken_messages_only() -> None:
    connection, opened = server(Limits(window=100_000))
    stream = opened[0] if opened else None
    connection.receive(headers(1) + data(1, message(bytes(16_000))) * 5)
    (stream,) = opened
    assert sent(connection) == b""
    for left in (4, 3, 2, 1):
        stream.inbox.take()
        connection.took(stream)
        assert len(stream.inbox.messages) == left
        assert sent(connection) == b""
    stream.inbox.take()
    connection.took(stream)
    assert [(f.kind, f.stream, f.number) for f in taken(connection)] == [(WINDOW_UPDATE, 1, 5 * 16_005)]


def test_a_message_larger_than_the_window_gets_credit_as_it_comes() -> None:
    connection, opened = server(Limits(window=65_535))
    body = bytes(range(256)) * 8000
    raw = message(body)
    connection.receive(headers(1))
    window, position = 65_535, 0
    while position < len(raw):
        size = min(16_384, window, len(raw) - position)
        assert size, "the peer was left without credit"
        connection.receive(data(1, raw[position : position + size]))
        position, window = position + size, window - size
        window += sum(f.number for f in taken(connection) if f.kind == WINDOW_UPDATE and f.stream == 1)
    assert connection.broken is None
    assert opened[0].inbox.take() == body


def test_padding_is_paid_back() -> None:
    connection, opened = server(Limits(window=65_535))
    connection.receive(headers(1))
    for _ in range(1000):
        connection.receive(frame(DATA, PADDED, 1, b"\xff" + bytes(255)))
        credit = sum(f.number for f in taken(connection))
        assert connection.broken is None
        assert opened[0].recv_window + opened[0].debt == 65_535, credit


def test_no_credit_for_a_client_that_has_finished() -> None:
    connection, opened = server(Limits(window=65_535))
    connection.receive(headers(1) + data(1, message(bytes(16_000))) * 3 + data(1, b"", end=True))
    while opened[0].inbox.messages:
        opened[0].inbox.take()
    connection.took(opened[0])
    assert sent(connection) == b""


# -- What a peer may cost


def test_calls_that_are_reset_at_once() -> None:
    connection, opened = server()
    flood = b"".join(headers(n) + frames.rst_stream(n, CANCEL) for n in range(1, 2 * MAX_HASTY + 3, 2))
    connection.receive(flood)
    assert broken(connection) == ENHANCE_YOUR_CALM
    assert len(opened) == MAX_HASTY + 1
    assert all(s.end is not None for s in opened)


def test_calls_that_are_given_up_later_are_no_flood() -> None:
    connection, _ = server()
    numbers = range(1, 6 * MAX_HASTY, 2)
    connection.receive(b"".join(headers(n) for n in numbers))
    connection.receive(b"".join(frames.rst_stream(n, CANCEL) for n in numbers))
    assert connection.broken is None
    for n in range(6 * MAX_HASTY + 1, 12 * MAX_HASTY, 2):
        connection.receive(headers(n) + frames.rst_stream(n, CANCEL))
    assert connection.broken is None
    assert connection.streams == {}


def test_a_server_may_reset_whatever_it_likes() -> None:
    connection, _ = client()
    streams = [connection.open(REQUEST) for _ in range(2 * MAX_HASTY)]
    connection.receive(b"".join(frames.rst_stream(s.id, REFUSED_STREAM) for s in streams if s))
    assert connection.broken is None


@pytest.mark.parametrize("cut", [1, 3, 8, 9, 10])
def test_memory_of_a_frame_that_never_ends(cut: int) -> None:
    connection, _ = server()
    connection.receive(headers(1))
    tracemalloc.start()
    connection.receive(frame(DATA, 0, 1, bytes(16_384))[:cut])
    for _ in range(200):
        connection.receive(b"")
    assert len(connection._rest) == cut
    assert tracemalloc.get_traced_memory()[0] < 20_000
    tracemalloc.stop()


@pytest.mark.parametrize(
    "flood",
    [
        data(1) * 20_000,  # empty frames
        frame(DATA, PADDED, 1, b"\0") * 20_000,
        frames.window_update(1, 1) * 20_000,
        frame(PRIORITY, 0, 1, bytes(5)) * 20_000,
        frame(99, 0, 0) * 20_000,
        frames.rst_stream(1, CANCEL) * 20_000,
        headers(1, OK, end=True) + headers(1, OK, end=True) * 500,
        frames.goaway(0, 0, "x" * 1000) * 500,
        frame(PING, ACK, 0, bytes(8)) * 20_000,
        frame(frames.SETTINGS, ACK, 0) * 20_000,
    ],
)
def test_floods_that_need_no_answer_keep_nothing(flood: bytes) -> None:
    connection, _ = server()
    connection.receive(headers(1))
    tracemalloc.start()
    for start in range(0, len(flood), 50_000):
        connection.receive(flood[start : start + 50_000])
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert kept < 150_000
    assert connection.queued < 5000


@pytest.mark.parametrize("size", [0, 1, 2, 100])
def test_memory_of_tiny_messages_is_bounded_by_the_window(size: int) -> None:
    connection, opened = server(Limits(window=65_535))
    tracemalloc.start()
    count = 65_535 // (5 + size)
    connection.receive(headers(1) + data(1, message(b"x" * size) * (16_384 // (5 + size))) * 3)
    connection.receive(data(1, message(b"x" * size) * (16_384 // (5 + size))))
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert 0 < len(opened[0].inbox.messages) <= count
    assert kept < 14 * 65_535  # two bytes of a message cost about fifty of Python's


def test_many_settings_in_one_frame_cost_one_look_at_the_streams() -> None:
    connection, opened = server()
    for n in range(1, 4001, 2):
        connection.receive(headers(n))
    looks: list[int] = []

    class Counting(Stream):
        __slots__ = ()

        def widen(self, increment: int) -> bool:
            looks.append(increment)
            return super().widen(increment)

    for stream in opened:
        stream.__class__ = Counting
    connection.receive(settings([(S_INITIAL_WINDOW, n) for n in range(2000)]))
    assert len(looks) == len(opened)
