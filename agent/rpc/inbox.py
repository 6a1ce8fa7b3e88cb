"""Messages of one stream, put together from the payloads of DATA frames (gRPC's Length-Prefixed-Message)."""

import mmap
from collections import deque
from contextlib import suppress
from struct import Struct

PREFIX = Struct(">BI")
PREFIX_SIZE = 5
SMALL = 1024
MAX_JOINED = 65_536
# From here on a message that may be a view is put together in memory of its own: in huge pages, which saves most of its
# page faults (half of all time at 50 MB), written once instead of twice, and given back when nobody has it any more.
BIG = 4 << 20
_PAGES = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000  # MAP_NORESERVE: what was only promised costs nothing

Buffer = bytes | memoryview


class BadMessage(Exception):
    """The stream must end: `exhausted` if the message is too long, else it is not what gRPC allows."""

    def __init__(self, text: str, exhausted: bool = False) -> None:
        super().__init__(text)
        self.exhausted = exhausted


class Inbox:
    """`messages` are whole ones that nobody has taken. `limit`: the longest allowed message in bytes; 0: any length.

    Nothing is reserved for what a prefix promises: memory grows with what has arrived. With `views`, long messages are
    read-only views instead of bytes.
    """

    __slots__ = ("_limit", "_missing", "_parts", "_prefix", "_region", "_views", "held", "messages")

    def __init__(self, limit: int = 0, views: bool = False) -> None:
        self.messages: deque[Buffer] = deque()
        self._views = views
        self._region: memoryview | None = None  # where the message that has begun is put together
        self.held = 0  # bytes of whole messages that nobody has taken
        self._limit = limit
        self._prefix = b""  # of a message whose length is not known yet
        self._missing = 0  # bytes of the message in `_parts`
        self._parts: list[bytes | bytearray | memoryview] | None = None

    @property
    def partial(self) -> bool:
        """Whether a message has begun and not ended."""
        return self._parts is not None or bool(self._prefix)

    def take(self) -> Buffer:
        message = self.messages.popleft()
        self.held -= len(message)
        return message

    def feed(self, data: bytes, start: int, end: int) -> None:
        """`data[start:end]` came next. Raises BadMessage."""
        while start < end:
            if self._parts is not None:
                start = self._more(data, start, end)
                continue
            if self._prefix:
                lack = PREFIX_SIZE - len(self._prefix)
                self._prefix += data[start : min(end, start + lack)]
                start += lack
                if len(self._prefix) < PREFIX_SIZE:
                    return
                compressed, size = PREFIX.unpack(self._prefix)
                self._prefix = b""
            elif end - start < PREFIX_SIZE:
                self._prefix = data[start:end]
                return
            else:
                compressed, size = PREFIX.unpack_from(data, start)
                start += PREFIX_SIZE
            if compressed:
                raise BadMessage("a compressed message, although no compression was agreed on")
            if self._limit and size > self._limit:
                raise BadMessage(f"a message of {size} bytes; at most {self._limit} are taken", exhausted=True)
            if size <= end - start:
                self.messages.append(data[start : start + size])
                self.held += size
                start += size
            else:
                self._parts, self._missing = [], size
                self._region = _region(size) if self._views and size >= BIG else None

    def _more(self, data: bytes, start: int, end: int) -> int:
        """Add to the message that has begun; returns where the rest starts."""
        parts = self._parts
        assert parts is not None
        stop = min(end, start + self._missing)
        region = self._region
        if region is not None:
            place = len(region) - self._missing
            region[place : place + stop - start] = memoryview(data)[start:stop]
        elif stop - start < SMALL:
            # A peer that sends single bytes must not cost an object for each.
            if not (parts and isinstance(parts[-1], bytearray) and len(parts[-1]) < MAX_JOINED):
                parts.append(bytearray())
            parts[-1] += data[start:stop]  # type: ignore[operator]
        elif stop - start > len(data) >> 1:
            parts.append(memoryview(data)[start:stop])  # keeps the whole block alive: no more than twice its part
        else:
            parts.append(data[start:stop])
        self._missing -= stop - start
        if not self._missing:
            message = b"".join(parts) if region is None else region.toreadonly()
            self._parts = self._region = None
            self.messages.append(message)
            self.held += len(message)
        return stop


def _region(size: int) -> memoryview | None:
    """Memory for one message; None where the system gives none at once."""
    try:
        pages = mmap.mmap(-1, size, flags=_PAGES)
    except (OSError, OverflowError):
        return None
    with suppress(OSError, AttributeError):  # a kernel without huge pages
        pages.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(pages)
