"""HTTP/2 frames (RFC 9113) as gRPC uses them, and header blocks of literals, which need no state (RFC 7541 6.2.2)."""

from collections.abc import Iterable
from struct import Struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD = Struct(">HBBBI")  # length as 16 + 8 bits, type, flags, stream
HEAD_SIZE = 9
MAX_FRAME = 16_384  # what we take, and what everybody must
MAX_WINDOW = (1 << 31) - 1
DEFAULT_WINDOW = 65_535

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 0x01
END_HEADERS, PADDED, HAS_PRIORITY = 0x04, 0x08, 0x20

S_HEADER_TABLE_SIZE, S_ENABLE_PUSH, S_MAX_STREAMS, S_INITIAL_WINDOW, S_MAX_FRAME, S_MAX_HEADER_LIST = range(1, 7)

NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR = range(4)
STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL, COMPRESSION_ERROR = range(5, 10)
ENHANCE_YOUR_CALM = 11

_SETTING = Struct(">HI")
_U32 = Struct(">I")


class Broken(Exception):
    """The peer broke the protocol: the connection ends with this HTTP/2 error."""

    def __init__(self, error: int, text: str) -> None:
        super().__init__(text)
        self.error = error


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    size = len(payload)
    return HEAD.pack(size >> 8, size & 0xFF, kind, flags, stream) + payload


def settings(values: Iterable[tuple[int, int]]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(*pair) for pair in values))


def read_settings(payload: bytes) -> list[tuple[int, int]]:
    """(identifier, value) pairs of a payload whose length is a multiple of six."""
    return list(_SETTING.iter_unpack(payload))


def window_update(stream: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, _U32.pack(increment))


def rst_stream(stream: int, error: int) -> bytes:
    return frame(RST_STREAM, 0, stream, _U32.pack(error))


def goaway(last: int, error: int, text: str = "") -> bytes:
    return frame(GOAWAY, 0, 0, _U32.pack(last) + _U32.pack(error) + text.encode()[:1000])


def u32(payload: bytes, offset: int = 0) -> int:
    value: int = _U32.unpack_from(payload, offset)[0]
    return value


def unpad(payload: bytes) -> bytes:
    """What a padded frame carries. Raises Broken."""
    if not payload or payload[0] >= len(payload):
        raise Broken(PROTOCOL_ERROR, "a frame with more padding than bytes")
    return payload[1 : len(payload) - payload[0]]


def header_frames(stream: int, block: bytes, end_stream: bool, limit: int) -> bytes:
    """One HEADERS frame, and CONTINUATION frames for what is longer than `limit`."""
    flags = END_STREAM if end_stream else 0
    if len(block) <= limit:
        return frame(HEADERS, flags | END_HEADERS, stream, block)
    parts = [frame(HEADERS, flags, stream, block[:limit])]
    for start in range(limit, len(block), limit):
        last = END_HEADERS if start + limit >= len(block) else 0
        parts.append(frame(CONTINUATION, last, stream, block[start : start + limit]))
    return b"".join(parts)


# Values that no intermediary may keep in a table (RFC 7541 section 7.1.3).
_SECRET = frozenset({b"authorization", b"cookie"})


def encode_headers(pairs: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A header block. Nothing enters the peer's table, so that every block stands for itself."""
    parts: list[bytes] = []
    for name, value in pairs:
        parts += (b"\x10" if name in _SECRET else b"\x00", _length(len(name)), name, _length(len(value)), value)
    return b"".join(parts)


def _length(value: int) -> bytes:
    """An integer with a 7-bit prefix; the Huffman flag is 0."""
    if value < 127:
        return bytes((value,))
    out = bytearray((127,))
    value -= 127
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
