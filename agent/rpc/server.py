"""Serving gRPC on one socket: one task for each call, everything else is callbacks."""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from agent import logs, uds
from agent.rpc.call import ServerCall
from agent.rpc.connection import Connection
from agent.rpc.frames import encode_headers
from agent.rpc.sending import Limits
from agent.rpc.status import Code, Gone, RpcError, decode_timeout, encode_message
from agent.rpc.stream import Stream
from agent.rpc.transport import Transport

log = logs.scope("default")

AT_ONCE = 64  # connections that are accepted before others have their turn
BREATH = 0.5  # seconds without accepting while the process has no file descriptor left
GREETING = 10.0  # seconds for the TLS handshake of a client
MAX_TEXT = 1000  # bytes of a status message before it is encoded, which may treble it; many clients take 8 KiB

Handler = Callable[[ServerCall], Awaitable[None]]

_HEADERS = b"\x88" + encode_headers([(b"content-type", b"application/grpc")])  # :status 200 is in everybody's table
_NOT_GRPC = encode_headers([(b":status", b"415")])

REFLECTION = tuple(f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo" for version in ("v1", "v1alpha"))


def reflecting(describe: Callable[[], tuple[Any, Any]]) -> dict[str, Handler]:
    """Routes that tell people's tools what a server has; `describe` gives the arguments of `reflection.serve`."""

    async def serve(call: ServerCall) -> None:
        from agent.rpc import reflection  # hardly ever: it takes descriptors of descriptors

        await reflection.serve(call, *describe())

    return dict.fromkeys(REFLECTION, serve)


class Server:
    """`routes`: method path -> handler. A handler that returns ends its call with OK, RpcError with another status.

    Calls whose client has left, or whose deadline is over, are cancelled. `context`: over TLS.
    """

    def __init__(
        self,
        routes: Mapping[str, Handler],
        limits: Limits,
        keepalive: tuple[float, float] = (0.0, 0.0),
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._routes = routes
        self._limits = limits
        self._keepalive = keepalive
        self._context = context
        self._listener: socket.socket | None = None
        self._transports: set[Transport] = set()
        self._group: asyncio.TaskGroup | None = None

    def bind(self, path: str) -> None:
        """Listen on a unix socket. Clients that dial now are served as soon as `run` does. Raises FatalError."""
        self.adopt(uds.listen(path))

    def adopt(self, listener: socket.socket) -> None:
        """Listen on a socket (non-blocking, agent.uds.listen) that exists already; it is closed with the server."""
        self._listener = listener

    @property
    def connections(self) -> int:
        return len(self._transports)

    async def run(self) -> None:
        """Serve until cancelled; then every call is cancelled and every connection closed."""
        listener = self._listener
        if listener is None:
            raise RuntimeError("bind() has not been called")
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.TaskGroup() as self._group:
                loop.add_reader(listener, self._accept, listener)
                try:
                    await loop.create_future()
                finally:
                    self._leave()  # the group takes no more tasks
        finally:
            self.close()

    def hurry(self) -> None:
        """Send what was written, rather than when the loop has nothing else to do."""
        for transport in list(self._transports):
            transport.hurry()

    def close(self) -> None:
        """Stop listening and end every connection."""
        self._leave()
        for transport in list(self._transports):
            transport.close("the server ends")

    def _leave(self) -> None:
        """Take no more connections, nor calls on those that there are."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with suppress(RuntimeError):  # no loop runs: nothing was added to it
                asyncio.get_running_loop().remove_reader(listener)
            if listener.family == socket.AF_UNIX:
                uds.close(listener)
            else:
                listener.close()
        for transport in list(self._transports):
            transport.connection.leave("the server ends")
            transport.flush()

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(AT_ONCE):
            try:
                sock, _ = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as e:  # most likely no file descriptor is left
                log.warning("no connection can be accepted: %s", e.strerror)
                loop = asyncio.get_running_loop()
                loop.remove_reader(listener)
                loop.call_later(BREATH, self._resume, listener)
                return
            sock.setblocking(False)
            if sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._context is None:
                self._connected(sock)
            else:
                assert self._group is not None
                self._group.create_task(self._greet(sock, self._context), name="rpc TLS handshake")

    async def _greet(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        from agent.rpc import dial  # not in the way of those who serve unix sockets

        try:
            async with asyncio.timeout(GREETING):
                secured = await dial.secure(sock, context, None)
        except (TimeoutError, RpcError) as e:
            log.debug("no TLS connection with a client: %s", e)
        else:
            self._connected(secured)

    def _resume(self, listener: socket.socket) -> None:
        if self._listener is listener:
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def _connected(self, sock: socket.socket) -> None:
        connection = Connection(False, self._limits)
        transport = Transport(sock, connection, self._keepalive)
        connection.opened = partial(self._opened, transport)
        transport.closed = partial(self._transports.discard, transport)
        self._transports.add(transport)

    def _opened(self, transport: Transport, stream: Stream) -> None:
        assert self._group is not None
        call = _Served(transport, stream)
        handler = self._routes.get(call.method)
        headers = stream.headers or {}
        if headers.get(b":method") != b"POST" or not headers.get(b"content-type", b"").startswith(b"application/grpc"):
            call.refuse()
        elif handler is None:
            call.status(Code.UNIMPLEMENTED, f"unknown method {call.method[:200]}")
        else:
            call.task = self._group.create_task(call.serve(handler), name=f"rpc {call.method}")


class _Served(ServerCall):
    """A call and the task that serves it."""

    def __init__(self, transport: Transport, stream: Stream) -> None:
        super().__init__(transport, stream, _HEADERS)
        self.task: asyncio.Task[None] | None = None

    async def serve(self, handler: Handler) -> None:
        try:
            seconds = decode_timeout(self.timeout) if self.timeout else None
        except ValueError as e:
            self.status(Code.INTERNAL, str(e))
            return
        try:
            async with asyncio.timeout(seconds) as deadline:
                await handler(self)
        except Gone as e:
            log.debug("the client of %s has left: %s", self.method, e.message)
        except RpcError as e:
            self.status(e.code, e.message)
        except asyncio.CancelledError:
            if not self.gone:
                self.status(Code.UNAVAILABLE, "the server ends")
                raise
        except Exception as e:
            if isinstance(e, TimeoutError) and deadline.expired():
                self.status(Code.DEADLINE_EXCEEDED, "the deadline of the call is over")
                return
            log.error("a call of %s failed: %s: %s", self.method, type(e).__name__, e, exc_info=e)
            self.status(Code.INTERNAL, "the call failed in the agent")
        else:
            self.status(Code.OK)

    def status(self, code: Code, message: str = "") -> None:
        """End the call."""
        pairs = [(b"grpc-status", b"%d" % code)]
        if message:
            pairs.append((b"grpc-message", encode_message(message, MAX_TEXT)))
        self.end(encode_headers(pairs))

    def refuse(self) -> None:
        """The request is not gRPC."""
        self._headers = None
        self.end(_NOT_GRPC)

    def _changed(self) -> None:
        super()._changed()
        if self._stream.local_closed and self._stream.end is not None and self.task is not None:
            self.task.cancel()
