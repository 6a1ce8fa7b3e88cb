"""Header blocks: HEADERS and CONTINUATION put together and decoded (RFC 9113 section 4.3, RFC 7541). No I/O."""

from collections.abc import Iterable, Mapping

from hpack import Decoder, HPACKError

from agent.rpc.frames import (
    COMPRESSION_ERROR,
    END_HEADERS,
    ENHANCE_YOUR_CALM,
    FRAME_SIZE_ERROR,
    HAS_PRIORITY,
    PADDED,
    PROTOCOL_ERROR,
    Broken,
    unpad,
)

MAX_HEADERS = 64 << 10  # bytes of a header block, compressed or not
MAX_PARTS = 64  # frames of one
KNOWN = 1024  # bytes of a block that is remembered
BEGINNING = 2  # blocks with which a connection may begin as others did: of a call's answer, its headers and trailers
# What such blocks mean: with an empty table the same ones mean the same, and a server has the same for everybody.
_BEGINNINGS: dict[tuple[bytes, ...], Mapping[bytes, bytes]] = {}
MOST = 32  # of them


class Blocks:
    """What one peer sends; its table lives as long as the connection. `within`: no other frame may come now."""

    __slots__ = ("_decoder", "_flags", "_known", "_parts", "_past", "_size", "_skipped", "_stream", "within")

    def __init__(self) -> None:
        self._decoder = Decoder(max_header_list_size=MAX_HEADERS)
        self._decoder.max_allowed_table_size = 4096
        self._known: tuple[bytes, Mapping[bytes, bytes]] | None = None
        self._past: tuple[bytes, ...] | None = ()  # every block so far; None: too many
        self._skipped: list[bytes] = []  # blocks that were known, and that the decoder has not seen yet
        self.within = False
        self._stream = self._flags = self._size = 0
        self._parts: list[bytes] = []

    def begin(self, flags: int, stream: int, payload: bytes) -> Mapping[bytes, bytes] | None:
        """A HEADERS frame: its fields if the block ends with it. Raises Broken."""
        if flags & PADDED:
            payload = unpad(payload)
        if flags & HAS_PRIORITY:
            if len(payload) < 5:
                raise Broken(FRAME_SIZE_ERROR, "HEADERS without the priority that they announce")
            payload = payload[5:]
        if flags & END_HEADERS:
            return self._decoded(payload)
        self.within = True
        self._stream, self._flags, self._parts, self._size = stream, flags, [payload], len(payload)
        return None

    def more(self, flags: int, stream: int, payload: bytes) -> tuple[int, Mapping[bytes, bytes]] | None:
        """A CONTINUATION frame: the flags of its HEADERS and the fields if the block ends with it. Raises Broken."""
        if not self.within or self._stream != stream:
            raise Broken(PROTOCOL_ERROR, "CONTINUATION without HEADERS")
        self._parts.append(payload)
        self._size += len(payload)
        if self._size > MAX_HEADERS or len(self._parts) > MAX_PARTS:
            raise Broken(ENHANCE_YOUR_CALM, "headers without end")
        if not flags & END_HEADERS:
            return None
        block = b"".join(self._parts)
        self.within, self._parts = False, []
        return self._flags, self._decoded(block)

    def _decoded(self, block: bytes) -> Mapping[bytes, bytes]:
        # Clients ask for the same thing again and again. A block that leaves the table as it was means the same again.
        if self._known is not None and self._known[0] == block:
            return self._known[1]
        past = None if self._past is None else (*self._past, block)
        self._past = past if past is not None and len(past) < BEGINNING else None
        if past in _BEGINNINGS:
            self._skipped.append(block)
            return _BEGINNINGS[past]
        for skipped in self._skipped:
            self._decoder.decode(skipped, raw=True)
        self._skipped.clear()
        headers = self._decode(block)
        if past is not None and sum(map(len, past)) <= KNOWN:
            if len(_BEGINNINGS) >= MOST:
                _BEGINNINGS.clear()
            _BEGINNINGS[past] = headers
        return headers

    def _decode(self, block: bytes) -> Mapping[bytes, bytes]:
        updates = _updates(block)
        if updates > 2:
            raise Broken(COMPRESSION_ERROR, "headers that resize their table more than twice")
        table = self._decoder.header_table.dynamic_entries
        size, newest = len(table), table[0] if table else None
        try:
            headers = _merged(self._decoder.decode(block, raw=True))
        except HPACKError as e:
            raise Broken(COMPRESSION_ERROR, f"headers that cannot be decoded: {type(e).__name__}") from e
        same = not updates and len(table) == size and (table[0] if table else None) is newest
        self._known = (block, headers) if same and len(block) <= KNOWN else None
        return headers


def _updates(block: bytes) -> int:
    """How often a header block resizes the table at its beginning; twice is allowed (RFC 7541 section 4.2).

    Each is a byte that costs the decoder a microsecond, and none counts as a header. No more than three are counted.
    """
    position = count = 0
    while count < 3 and position < len(block) and block[position] & 0xE0 == 0x20:
        count += 1
        if block[position] & 0x1F == 0x1F:
            position += 1
            while position < len(block) and block[position] & 0x80:
                position += 1
        position += 1
    return count


def _merged(pairs: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Repeated fields joined by a comma (RFC 9110 section 5.2)."""
    headers: dict[bytes, bytes] = {}
    for name, value in pairs:
        headers[name] = headers[name] + b"," + value if name in headers else value
    return headers
