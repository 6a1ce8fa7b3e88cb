"""One HTTP/2 connection that carries gRPC, either end of it. Bytes in, bytes out: no I/O, no clock.

What a peer may cost is bounded everywhere: frames by the size we announce, header blocks, streams, and messages that
nobody takes by the stream's window. Peers that break the protocol lose the connection, with the reason in `broken`.
"""

from collections.abc import Callable

from agent.rpc import frames
from agent.rpc.blocks import Blocks
from agent.rpc.frames import (
    ACK,
    DATA,
    END_STREAM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    HEAD,
    HEAD_SIZE,
    HEADERS,
    MAX_FRAME,
    MAX_WINDOW,
    NO_ERROR,
    PADDED,
    PROTOCOL_ERROR,
    Broken,
    unpad,
)
from agent.rpc.inbox import BadMessage
from agent.rpc.sending import QUEUE, Limits, Sending
from agent.rpc.status import Code, error_name, of_reset, of_trailers
from agent.rpc.stream import Headers, Stream

MAX_HASTY = 1000  # calls that may be begun and reset within what one read gives


class Connection(Sending):
    """`receive` takes bytes; what to send comes out of `Sending`.

    A server hears of a new call through `opened`, which gets the stream and sets its `changed`.
    """

    def __init__(self, client: bool, limits: Limits) -> None:
        super().__init__(client, limits)
        self.opened: Callable[[Stream], None] | None = None
        self._blocks = Blocks()
        self._rest = b""
        self._preface = b"" if client else frames.PREFACE
        self._recv_window = MAX_WINDOW
        self._before = 0  # the highest stream before the bytes that are being taken
        self._hasty = 0  # calls that these bytes began and reset
        self.heard = False  # the peer's settings have come: it speaks HTTP/2
        self.pongs = 0  # answers to our pings
        self.goaway = ""  # why the peer will close, if it said so

    def receive(self, data: bytes) -> None:
        """Take what the transport read. After a breach `broken` is set, and `out` ends with a GOAWAY that says why."""
        if self.broken:
            return
        self._before, self._hasty = self._highest, 0
        try:
            self._take(data)
        except Broken as e:
            self._put(frames.goaway(self._highest, e.error, str(e)))
            text = f"the peer broke HTTP/2 ({error_name(e.error)}: {e})"
            self.broken = Code.INTERNAL if self.heard else Code.UNAVAILABLE, text
            self.part(text)

    def _take(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        if self._preface:
            size = len(self._preface)
            if not (data.startswith(self._preface) if len(data) >= size else self._preface.startswith(data)):
                raise Broken(PROTOCOL_ERROR, "the connection does not begin with HTTP/2's preface")
            if len(data) < size:
                self._rest = data
                return
            self._preface, position = b"", size
        else:
            position = 0
        end = len(data)
        unpack, streams, blocks = HEAD.unpack_from, self.streams, self._blocks
        while end - position >= HEAD_SIZE:
            high, low, kind, flags, number = unpack(data, position)
            size = high << 8 | low
            if size > MAX_FRAME:
                raise Broken(FRAME_SIZE_ERROR, f"a frame of {size} bytes")
            start = position + HEAD_SIZE
            stop = start + size
            if stop > end:
                break
            position = stop
            if kind == DATA and not flags and not blocks.within and number in streams:
                self._payload(streams[number], data, start, stop, size)
            else:
                self._frame(kind, flags, number & MAX_WINDOW, data[start:stop])
        self._rest = data[position:]

    def _frame(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if self._blocks.within and kind != frames.CONTINUATION:
            raise Broken(PROTOCOL_ERROR, "a frame between HEADERS and CONTINUATION")
        if not self.heard and kind != frames.SETTINGS:
            raise Broken(PROTOCOL_ERROR, "the first frame is not SETTINGS")
        handle = _HANDLERS.get(kind)
        if handle is not None:
            handle(self, flags, number, payload)

    def _data(self, flags: int, number: int, payload: bytes) -> None:
        stream = self.streams.get(number)
        size = len(payload)
        body = unpad(payload) if flags & PADDED else payload
        if stream is None:
            self._idle(number)
            self._recv_window -= size
            self._credit()
            return
        self._payload(stream, body, 0, len(body), size)
        if flags & END_STREAM and stream.end is None:
            self._remote_end(stream)

    def _payload(self, stream: Stream, data: bytes, start: int, stop: int, size: int) -> None:
        """`size` counts for flow control, padding included."""
        self._recv_window -= size
        stream.recv_window -= size
        if stream.recv_window < 0 or self._recv_window < 0:
            raise Broken(FLOW_CONTROL_ERROR, "more data than the window allows")
        self._credit()
        if stream.end is not None:
            return  # refused: the status is on its way
        if not self.heard:
            raise Broken(PROTOCOL_ERROR, "the first frame is not SETTINGS")
        if stream.remote_closed or (self._client and stream.headers is None):
            self.reset(stream, frames.STREAM_CLOSED, Code.INTERNAL, "data before the headers or after the end")
            return
        stream.debt += size
        try:
            stream.inbox.feed(data, start, stop)
        except BadMessage as e:
            code = Code.RESOURCE_EXHAUSTED if e.exhausted else Code.INTERNAL
            self.refuse(stream, code, str(e))
            return
        if stream.inbox.messages:
            stream.changed()
        else:
            self.took(stream)

    def refuse(self, stream: Stream, code: Code, text: str) -> None:
        """End a call because of what the peer sent in it; a server says why."""
        if self._client:
            self.reset(stream, frames.CANCEL, code, text)
            return
        stream.end = code, text
        stream.changed()

    def _credit(self) -> None:
        if self._recv_window * 2 < MAX_WINDOW:
            self._put(frames.window_update(0, MAX_WINDOW - self._recv_window))
            self._recv_window = MAX_WINDOW

    def _idle(self, number: int) -> None:
        """Frames for a stream that has ended are late; for one that was never opened they are wrong."""
        if number % 2 == 0 or number > (self._next_id - 2 if self._client else self._highest):
            raise Broken(PROTOCOL_ERROR, f"a frame for stream {number}, which was never opened")

    def _headers(self, flags: int, number: int, payload: bytes) -> None:
        if (headers := self._blocks.begin(flags, number, payload)) is not None:
            self._block(number, flags, headers)

    def _continuation(self, flags: int, number: int, payload: bytes) -> None:
        if (block := self._blocks.more(flags, number, payload)) is not None:
            self._block(number, *block)

    def _block(self, number: int, flags: int, headers: Headers) -> None:
        stream = self.streams.get(number)
        if self._client:
            if stream is None:
                self._idle(number)
            else:
                self._answer(stream, headers, bool(flags & END_STREAM))
        elif stream is not None:
            if not flags & END_STREAM or stream.remote_closed:
                raise Broken(PROTOCOL_ERROR, "a second block of request headers")
            self._remote_end(stream)
        else:
            self._request(number, headers, bool(flags & END_STREAM))

    def _answer(self, stream: Stream, headers: Headers, end: bool) -> None:
        if stream.headers is None:
            if headers.get(b":status", b"").startswith(b"1") and not end:
                return  # an interim response
            stream.headers = headers
        elif not end:
            raise Broken(PROTOCOL_ERROR, "trailers that do not end the stream")
        if not end:
            kind = headers.get(b"content-type", b"")
            if headers.get(b":status") != b"200" or not kind.startswith(b"application/grpc"):
                code, text = of_trailers(headers, headers)
                if headers.get(b":status") == b"200":
                    text = f"the server answered with content of type {kind[:80].decode('latin-1') or '(none)'}"
                self.reset(stream, frames.CANCEL, code, text)
            else:
                stream.changed()
            return
        stream.trailers = headers
        self._remote_end(stream)

    def _remote_end(self, stream: Stream) -> None:
        if stream.remote_closed:
            return
        stream.remote_closed = True
        if self._client:
            if stream.inbox.partial:
                status = Code.INTERNAL, "the server ended the call within a message"
            else:
                status = of_trailers(stream.headers or {}, stream.trailers or {})
            if not stream.local_closed:
                self._put(frames.rst_stream(stream.id, NO_ERROR))
            self.streams.pop(stream.id, None)
            stream.finish(*status)
        elif stream.inbox.partial:
            self.refuse(stream, Code.INTERNAL, "the request ended within a message")
            return
        else:
            self._forget(stream)
        stream.changed()

    def _request(self, number: int, headers: Headers, end: bool) -> None:
        if number % 2 == 0:
            raise Broken(PROTOCOL_ERROR, f"a client's stream with the number {number}")
        if number <= self._highest:
            return  # trailers of a call that has ended here already
        self._highest = number
        if self._leaving or len(self.streams) >= self._limits.streams:
            self._put(frames.rst_stream(number, frames.REFUSED_STREAM))
            return
        stream = self._begin(number)
        stream.headers = headers
        stream.remote_closed = end
        if self.opened is not None:
            self.opened(stream)

    def _rst_stream(self, _flags: int, number: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise Broken(FRAME_SIZE_ERROR, "RST_STREAM of a wrong size")
        stream = self.streams.pop(number, None)
        if stream is None:
            self._idle(number)
            return
        self._finish(stream, *of_reset(frames.u32(payload)))
        if number > self._before and not self._client:
            # Each costs a task that has not even begun: the limit of streams does not hold for these.
            self._hasty += 1
            if self._hasty > MAX_HASTY:
                raise Broken(frames.ENHANCE_YOUR_CALM, "too many calls that were reset at once")

    def _priority(self, _flags: int, number: int, payload: bytes) -> None:
        if not number or len(payload) != 5:
            raise Broken(FRAME_SIZE_ERROR if number else PROTOCOL_ERROR, "PRIORITY of a wrong size or for no stream")

    def _settings(self, flags: int, number: int, payload: bytes) -> None:
        if number or len(payload) % 6 or (flags & ACK and payload):
            raise Broken(PROTOCOL_ERROR if number else FRAME_SIZE_ERROR, "SETTINGS of a wrong size or for a stream")
        if flags & ACK:
            if not self.heard:
                raise Broken(PROTOCOL_ERROR, "the first frame is not SETTINGS")
            return
        self.heard = True
        # Of several values for one setting the last counts, and only that one may cost a look at every stream.
        for name, value in dict(frames.read_settings(payload)).items():
            if name == frames.S_INITIAL_WINDOW:
                self._resize(value)
            elif name == frames.S_MAX_STREAMS:
                self._peer_streams = value
            elif name == frames.S_ENABLE_PUSH and value > (0 if self._client else 1):
                raise Broken(PROTOCOL_ERROR, f"SETTINGS that set push to {value}")
            elif name == frames.S_MAX_FRAME:
                if not MAX_FRAME <= value < 1 << 24:
                    raise Broken(PROTOCOL_ERROR, f"SETTINGS with a frame size of {value}")
                self._peer_frame = min(value, QUEUE)
        self._put(frames.frame(frames.SETTINGS, ACK, 0))

    def _resize(self, value: int) -> None:
        if value > MAX_WINDOW:
            raise Broken(FLOW_CONTROL_ERROR, "SETTINGS with a window that is too large")
        change, self._peer_window = value - self._peer_window, value
        for stream in self.streams.values():
            if not stream.widen(change):
                raise Broken(FLOW_CONTROL_ERROR, "SETTINGS that make a window too large")
            if stream.out_size:
                self._park(stream)

    def _ping(self, flags: int, number: int, payload: bytes) -> None:
        if number or len(payload) != 8:
            raise Broken(PROTOCOL_ERROR if number else FRAME_SIZE_ERROR, "PING of a wrong size or for a stream")
        if flags & ACK:
            self.pongs += 1
        else:
            self._put(frames.frame(frames.PING, ACK, 0, payload))

    def _goaway(self, _flags: int, number: int, payload: bytes) -> None:
        if number or len(payload) < 8:
            raise Broken(PROTOCOL_ERROR if number else FRAME_SIZE_ERROR, "GOAWAY of a wrong size or for a stream")
        last, error = frames.u32(payload) & MAX_WINDOW, frames.u32(payload, 4)
        self._leaving = True
        text = payload[8:1008].decode("utf-8", "replace")
        self.goaway = f"GOAWAY received with error code: {error_name(error)}" + (f": {text}" if text else "")
        if self._client:
            for stream in [s for s in self.streams.values() if s.id > last]:
                del self.streams[stream.id]
                self._finish(stream, Code.UNAVAILABLE, self.goaway)

    def _window_update(self, _flags: int, number: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise Broken(FRAME_SIZE_ERROR, "WINDOW_UPDATE of a wrong size")
        increment = frames.u32(payload) & MAX_WINDOW
        if not number:
            self._send_window += increment
            if not increment or self._send_window > MAX_WINDOW:
                raise Broken(FLOW_CONTROL_ERROR if increment else PROTOCOL_ERROR, "WINDOW_UPDATE that makes no window")
            return
        stream = self.streams.get(number)
        if stream is None:
            self._idle(number)
        elif not increment or not stream.widen(increment):
            error = FLOW_CONTROL_ERROR if increment else PROTOCOL_ERROR
            self.reset(stream, error, Code.INTERNAL, "the peer sent a wrong WINDOW_UPDATE")
        elif stream.out_size:
            self._park(stream)

    def _push_promise(self, _flags: int, _number: int, _payload: bytes) -> None:
        raise Broken(PROTOCOL_ERROR, "PUSH_PROMISE, which was not asked for")


_HANDLERS: dict[int, Callable[[Connection, int, int, bytes], None]] = {
    DATA: Connection._data,
    HEADERS: Connection._headers,
    frames.PRIORITY: Connection._priority,
    frames.RST_STREAM: Connection._rst_stream,
    frames.SETTINGS: Connection._settings,
    frames.PUSH_PROMISE: Connection._push_promise,
    frames.PING: Connection._ping,
    frames.GOAWAY: Connection._goaway,
    frames.WINDOW_UPDATE: Connection._window_update,
    frames.CONTINUATION: Connection._continuation,
}
