"""One call as the HTTP/2 connection sees it: what came, what is to go, and how it ended. No I/O."""

from collections import deque
from collections.abc import Callable, Mapping

from agent.rpc.frames import DEFAULT_WINDOW, MAX_WINDOW
from agent.rpc.inbox import PREFIX, PREFIX_SIZE, Buffer, Inbox
from agent.rpc.status import Code

Headers = Mapping[bytes, bytes]


class Stream:
    """State of one HTTP/2 stream. `changed` is called after anything in it became different; it must not wait."""

    __slots__ = (
        "changed", "closing", "debt", "end", "headers", "id", "inbox", "local_closed", "out", "out_size", "parked",
        "recv_window", "remote_closed", "send_window", "trailers", "window",
    )  # fmt: skip

    def __init__(
        self, number: int, window: int, send_window: int = DEFAULT_WINDOW, limit: int = 0, views: bool = False
    ) -> None:
        self.id = number
        self.inbox = Inbox(limit, views)
        self.headers: Headers | None = None
        self.trailers: Headers | None = None
        self.remote_closed = False  # nothing more will come
        self.local_closed = False  # nothing more will go
        self.end: tuple[Code, str] | None = None  # the status, once nothing can change it any more
        self.window = window
        # Bytes that the peer may send still: before it has seen our settings, as many as HTTP/2 begins with.
        self.recv_window = max(window, DEFAULT_WINDOW)
        self.debt = 0  # bytes that it has sent and must be allowed to send again
        self.send_window = send_window
        self.out: deque[Buffer] = deque()
        self.out_size = 0  # bytes that wait for the peer's window, or for room in the connection's queue
        self.closing: bytes | None = None  # the frames that end our side, once everything else has gone
        self.parked = False  # waits in the connection's queue of streams
        self.changed: Callable[[], None] = _nothing

    def put(self, message: Buffer) -> None:
        """Queue a message behind what waits already."""
        self.out.append(PREFIX.pack(0, len(message)))
        if len(message):
            self.out.append(memoryview(message))
        self.out_size += PREFIX_SIZE + len(message)

    def gather(self, size: int) -> list[Buffer]:
        """Take the next `size` bytes of what waits; the message itself is not copied."""
        parts: list[Buffer] = []
        out = self.out
        self.out_size -= size
        while size:
            piece = out[0]
            if len(piece) <= size:
                parts.append(piece)
                size -= len(piece)
                out.popleft()
            else:
                parts.append(piece[:size])
                out[0] = piece[size:]
                size = 0
        return parts

    def drop(self) -> None:
        """Forget what has not gone."""
        self.out.clear()
        self.out_size = 0
        self.closing = None

    def widen(self, increment: int) -> bool:
        """The peer allows more (or, by a changed setting, less); False if that is more than HTTP/2 allows."""
        self.send_window += increment
        return self.send_window <= MAX_WINDOW

    def credit(self) -> int:
        """Bytes to allow the peer now. None while whole messages wait to be taken, or a slow reader would have to hold
        everything; always for a message that is being received, whatever its size."""
        if self.inbox.messages or self.remote_closed or self.debt * 2 < self.window:
            return 0
        debt, self.debt = self.debt, 0
        self.recv_window += debt
        return debt

    def finish(self, code: Code, text: str) -> None:
        """The first end counts."""
        self.remote_closed = self.local_closed = True
        self.drop()
        if self.end is None:
            self.end = code, text


def _nothing() -> None:
    return
