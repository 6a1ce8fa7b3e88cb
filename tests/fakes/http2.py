"""HTTP/2 by hand: frames for a peer that keeps no rules, and what a connection has sent, cut into frames again."""

from dataclasses import dataclass

from agent.rpc import frames
from agent.rpc.connection import Connection
from agent.rpc.inbox import PREFIX
from agent.rpc.sending import Limits
from agent.rpc.stream import Stream

SETTINGS = frames.settings([])
HELLO = frames.PREFACE + SETTINGS  # what a client says first


def request(path: str) -> bytes:
    """The header block of a call."""
    return frames.encode_headers(
        [
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", path.encode()),
            (b":authority", b"x"),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
        ]
    )


REQUEST = request("/a/b")
RESPONSE = frames.encode_headers([(b":status", b"200"), (b"content-type", b"application/grpc")])
OK = frames.encode_headers([(b"grpc-status", b"0")])
ONLY = frames.encode_headers([(b":status", b"200"), (b"content-type", b"application/grpc"), (b"grpc-status", b"5")])


@dataclass(frozen=True)
class Frame:
    """One frame as it stands on the wire."""

    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def number(self) -> int:
        """The error or increment of a frame that carries just that."""
        return frames.u32(self.payload, 4 if self.kind == frames.GOAWAY else 0)


def parse(data: bytes) -> list[Frame]:
    """Whole frames, behind the preface perhaps; anything else fails."""
    found = []
    data = data.removeprefix(frames.PREFACE)
    while data:
        high, low, kind, flags, stream = frames.HEAD.unpack_from(data)
        end = frames.HEAD_SIZE + (high << 8 | low)
        assert len(data) >= end, "a frame is cut off"
        found.append(Frame(kind, flags, stream, data[frames.HEAD_SIZE : end]))
        data = data[end:]
    return found


def sent(connection: Connection) -> bytes:
    """Everything that the connection wants to send now, as if the socket had taken it."""
    connection.pump()
    data = b"".join(connection.out)
    assert connection.queued == len(data), "the count of queued bytes is wrong"
    connection.out.clear()
    connection.queued = 0
    return data


def taken(connection: Connection) -> list[Frame]:
    return parse(sent(connection))


def headers(stream: int, block: bytes = REQUEST, end: bool = False) -> bytes:
    return frames.header_frames(stream, block, end, frames.MAX_FRAME)


def data(stream: int, payload: bytes = b"", end: bool = False) -> bytes:
    return frames.frame(frames.DATA, frames.END_STREAM if end else 0, stream, payload)


def message(body: bytes) -> bytes:
    return PREFIX.pack(0, len(body)) + body


def server(limits: Limits | None = None) -> tuple[Connection, list[Stream]]:
    """A server that has heard a client's first words, and the streams that are opened on it."""
    connection, opened = Connection(False, limits or Limits()), list[Stream]()
    connection.opened = opened.append
    connection.receive(HELLO)
    sent(connection)
    return connection, opened


def client(limits: Limits | None = None, block: bytes = REQUEST) -> tuple[Connection, Stream]:
    """A client that has heard a server's first words, and has opened stream 1."""
    connection = Connection(True, limits or Limits())
    connection.receive(SETTINGS)
    stream = connection.open(block)
    assert stream is not None
    sent(connection)
    return connection, stream


def broken(connection: Connection) -> int:
    """The error of the GOAWAY with which a connection that was broken ends."""
    assert connection.broken is not None
    assert not connection.streams
    last = taken(connection)[-1]
    assert last.kind == frames.GOAWAY
    return last.number
