"""DNS over TCP towards clients: length-prefixed messages, answered as they get ready (RFC 7766)."""

import asyncio
import socket
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, cast

from agent import logs
from agent.dns.message import HEADER_SIZE, MAX_TCP

log = logs.scope("dns")

BACKLOG = 512
MAX_CONNECTIONS = 256
MAX_IN_FLIGHT = 32  # queries of one connection that wait for a resolver; further ones are not read meanwhile
IDLE = 10.0  # seconds without a whole query until a connection is closed

# A reply at once, None for what is not answered, or a coroutine for either.
Reply = bytes | None | Coroutine[Any, Any, bytes | None]
Answerer = Callable[[bytes], Reply]


class TcpService:
    """Serves one or more listening sockets until cancelled."""

    def __init__(self, answer: Answerer, idle: float = IDLE) -> None:
        self.answer, self.idle = answer, idle
        self.connections: set[Connection] = set()

    async def serve(self, listener: socket.socket) -> None:
        """Accept and answer until cancelled; then every connection is dropped."""
        async with asyncio.TaskGroup() as group:
            server = await asyncio.get_running_loop().create_server(
                partial(Connection, self, group), sock=listener, backlog=BACKLOG
            )
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                server.close()
                for connection in list(self.connections):
                    connection.abort()


class Connection(asyncio.Protocol):
    """One client. Local answers are written in the turn that read the query; forwarded ones become tasks."""

    def __init__(self, service: TcpService, group: asyncio.TaskGroup) -> None:
        self._service, self._group = service, group
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._in_flight = 0
        self._choked = False  # the client does not take what it asked for
        self._ended = False  # the client has said all it will say
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if len(self._service.connections) >= MAX_CONNECTIONS:
            self._transport.abort()
            return
        self._service.connections.add(self)
        loop = asyncio.get_running_loop()
        self._deadline = loop.time() + self._service.idle
        self._timer = loop.call_at(self._deadline, self._check_idle)

    def connection_lost(self, error: Exception | None) -> None:
        self._service.connections.discard(self)
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _check_idle(self) -> None:
        """One timer a connection: it looks again at the deadline, which moves with every whole query."""
        loop = asyncio.get_running_loop()
        if self._in_flight and not self._choked:
            self._deadline = loop.time() + self._service.idle
        if loop.time() >= self._deadline:
            self.abort()
        else:
            self._timer = loop.call_at(self._deadline, self._check_idle)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._work()

    def eof_received(self) -> bool:
        self._ended = True
        self._work()
        return True  # half-closed clients still get what they asked for

    def pause_writing(self) -> None:
        self._choked = True

    def resume_writing(self) -> None:
        self._choked = False
        self._work()

    def _work(self) -> None:
        """Answer every whole message in the buffer, as long as the client takes answers."""
        transport, buffer = self._transport, self._buffer
        if transport is None or transport.is_closing():
            return
        at = 0
        while not self._choked and self._in_flight < MAX_IN_FLIGHT and len(buffer) - at >= 2:
            size = buffer[at] << 8 | buffer[at + 1]
            if size < HEADER_SIZE:
                transport.abort()  # not DNS
                return
            if len(buffer) - at < 2 + size:
                break
            reply = self._service.answer(bytes(buffer[at + 2 : at + 2 + size]))
            at += 2 + size
            if isinstance(reply, bytes):
                self._write(reply)
            elif reply is not None:
                self._in_flight += 1
                self._group.create_task(self._later(reply), name="dns tcp query")
        if at:
            del buffer[:at]
            self._deadline = asyncio.get_running_loop().time() + self._service.idle
        if self._ended:
            if not self._in_flight and not self._choked:
                transport.close()  # what is written still goes out
        elif len(buffer) > MAX_TCP + 2:
            transport.pause_reading()
        elif not transport.is_reading():
            transport.resume_reading()

    async def _later(self, reply: Coroutine[Any, Any, bytes | None]) -> None:
        try:
            if (wire := await reply) is not None:
                self._write(wire)
        finally:
            self._in_flight -= 1
        self._work()

    def _write(self, reply: bytes) -> None:
        if self._transport is not None and len(reply) <= MAX_TCP:
            self._transport.write(len(reply).to_bytes(2, "big") + reply)
