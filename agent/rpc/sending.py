"""What one side of an HTTP/2 connection sends: calls, messages and control frames, within windows. No I/O, no clock."""

from collections import deque

from agent.record import record
from agent.rpc import frames
from agent.rpc.blocks import MAX_HEADERS
from agent.rpc.frames import DATA, HEAD, HEAD_SIZE, MAX_FRAME, MAX_WINDOW, NO_ERROR
from agent.rpc.inbox import PREFIX, PREFIX_SIZE, Buffer
from agent.rpc.status import Code
from agent.rpc.stream import Stream

QUEUE = 256 << 10  # bytes of DATA that are framed ahead of the socket


@record
class Limits:
    """What one side allows the other. `message` 0: messages of any length."""

    window: int = 1 << 20  # bytes of a stream that may be on the way or untaken
    streams: int = 100_000
    message: int = 0
    views: bool = False  # take long messages as read-only views (`Call.read_view`)


class Sending:
    """`out` holds what must be sent, `queued` bytes of it. Call `pump` before looking there."""

    def __init__(self, client: bool, limits: Limits) -> None:
        self._client = client
        self._limits = limits
        self._ready: deque[Stream] = deque()  # streams with something to send, in turn
        self._next_id = 1
        self._highest = 0  # the highest stream that the peer opened
        self._send_window = frames.DEFAULT_WINDOW
        self._peer_window = frames.DEFAULT_WINDOW  # initial window of new streams
        self._peer_frame = MAX_FRAME
        self._peer_streams = MAX_WINDOW  # calls that the peer allows at a time
        self._leaving = False  # no new calls
        self.streams: dict[int, Stream] = {}
        self.out: deque[Buffer] = deque()
        self.queued = 0
        self.broken: tuple[Code, str] | None = None
        own = [(frames.S_INITIAL_WINDOW, limits.window), (frames.S_MAX_HEADER_LIST, MAX_HEADERS)]
        own.append((frames.S_ENABLE_PUSH, 0) if client else (frames.S_MAX_STREAMS, limits.streams))
        # One stream must never wait because another has filled the connection's window: each has its own.
        whole = frames.window_update(0, MAX_WINDOW - frames.DEFAULT_WINDOW)
        self._put((frames.PREFACE if client else b"") + frames.settings(own) + whole)

    def open(self, block: bytes) -> Stream | None:
        """Start a call with these request headers (a header block); None if the connection takes no more calls."""
        full = len(self.streams) >= self._peer_streams or self._next_id > MAX_WINDOW
        if self.broken or self._leaving or full:
            return None
        stream = self._begin(self._next_id)
        self._next_id += 2
        self._put(frames.header_frames(stream.id, block, False, self._peer_frame))
        return stream

    def _begin(self, number: int) -> Stream:
        limits = self._limits
        stream = Stream(number, limits.window, self._peer_window, limits.message, limits.views)
        self.streams[number] = stream
        return stream

    def respond(self, stream: Stream, block: bytes) -> None:
        """Send response headers."""
        if not stream.local_closed:
            self._put(frames.header_frames(stream.id, block, False, self._peer_frame))

    def send(self, stream: Stream, message: Buffer) -> None:
        """Queue a message; `stream.out_size` tells how much of it has to wait."""
        if not (stream.local_closed or self.send_at_once(stream, message)):
            stream.put(message)
            self._park(stream)

    def send_at_once(self, stream: Stream, message: Buffer) -> bool:
        """Queue a message if it is one frame and nothing of it has to wait; False if it was not queued."""
        size = PREFIX_SIZE + len(message)
        if stream.local_closed or stream.out:
            return False
        if size > min(self._peer_frame, stream.send_window, self._send_window, QUEUE - self.queued):
            return False
        stream.send_window -= size
        self._send_window -= size
        head = HEAD.pack(size >> 8, size & 0xFF, DATA, 0, stream.id) + PREFIX.pack(0, len(message))
        self._put(head + message)
        return True

    def close(self, stream: Stream, frame: bytes) -> None:
        """End our side with `frame` once everything queued has gone: trailers, or an empty DATA frame."""
        if not stream.local_closed and stream.closing is None:
            stream.closing = frame
            if stream.out_size:
                self._park(stream)
            else:
                self._close(stream)

    def trailers(self, stream: Stream, block: bytes) -> bytes:
        """The frames that end a call which we serve."""
        return frames.header_frames(stream.id, block, True, self._peer_frame)

    def reset(self, stream: Stream, error: int, code: Code, text: str) -> None:
        """End both sides at once."""
        if self.streams.pop(stream.id, None) is not None and not self.broken:
            self._put(frames.rst_stream(stream.id, error))
        self._finish(stream, code, text)

    def took(self, stream: Stream) -> None:
        """A message was taken from the inbox: the peer may send more."""
        if credit := stream.credit():
            self._put(frames.window_update(stream.id, credit))

    def ping(self) -> None:
        self._put(frames.frame(frames.PING, 0, 0, bytes(8)))

    def leave(self, text: str = "") -> None:
        """Tell the peer that we take no more calls."""
        if not (self._leaving or self.broken):
            self._leaving = True
            self._put(frames.goaway(self._highest, NO_ERROR, text))

    def lost(self, text: str) -> None:
        """The transport is gone."""
        self.part(text)
        self.out.clear()
        self.queued = 0

    def part(self, text: str) -> None:
        """End every call; what is queued may still go."""
        if self.broken is None:
            self.broken = Code.UNAVAILABLE, text
        self._ready.clear()
        streams, self.streams = self.streams, {}
        for stream in streams.values():
            self._finish(stream, *self.broken)

    @property
    def busy(self) -> bool:
        """Something is to be sent, or may be by now."""
        return bool(self.out or self._ready)

    def pump(self) -> None:
        """Frame what waits, in turn, as far as windows and the queue allow."""
        while self._ready and self.queued < QUEUE and self._send_window > 0:
            stream = self._ready.popleft()
            stream.parked = False
            # One stream alone may fill the queue; among many each has one frame at a time.
            while stream.out_size and stream.send_window > 0 and self._send_window > 0 and self.queued < QUEUE:
                size = min(stream.out_size, stream.send_window, self._send_window, self._peer_frame)
                stream.send_window -= size
                self._send_window -= size
                self.out.append(HEAD.pack(size >> 8, size & 0xFF, DATA, 0, stream.id))
                self.out.extend(stream.gather(size))
                self.queued += HEAD_SIZE + size
                if self._ready:
                    break
            if not stream.out_size:
                if stream.closing is not None:
                    self._close(stream)
                else:
                    stream.changed()
            elif stream.send_window > 0:
                self._park(stream)

    def _park(self, stream: Stream) -> None:
        if not stream.parked:
            stream.parked = True
            self._ready.append(stream)

    def _close(self, stream: Stream) -> None:
        frame, stream.closing = stream.closing, None
        self._put(frame or b"")
        stream.local_closed = True
        if not self._client and not stream.remote_closed:
            self._put(frames.rst_stream(stream.id, NO_ERROR))  # the answer is complete: whatever comes is for nobody
            stream.remote_closed = True
        self._forget(stream)
        stream.changed()

    def _put(self, data: bytes) -> None:
        self.out.append(data)
        self.queued += len(data)

    def _forget(self, stream: Stream) -> None:
        if stream.local_closed and stream.remote_closed:
            self.streams.pop(stream.id, None)

    def _finish(self, stream: Stream, code: Code, text: str) -> None:
        stream.finish(code, text)
        stream.changed()
