"""DNS over TCP towards clients: length-prefixed messages, answered as they get ready (RFC 7766)."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

from agent import logs
from agent.dns.message import HEADER_SIZE, MAX_TCP

log = logs.scope("dns")

MAX_CONNECTIONS = 256
MAX_IN_FLIGHT = 32  # queries of one connection
IDLE = 10.0  # seconds until a silent connection is closed
WRITE = 5.0  # seconds for a client to take an answer
_CHUNK = 16384

Answerer = Callable[[bytes], Awaitable[bytes | None]]


class TcpService:
    """Accepts on listening sockets; `answer` turns a query into a reply, or None for what is not answered."""

    def __init__(self, answer: Answerer, idle: float = IDLE) -> None:
        self._answer, self._idle = answer, idle
        self.connections = 0

    async def serve(self, listener: socket.socket) -> None:
        """Accept until cancelled."""
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            while True:
                try:
                    client, _ = await loop.sock_accept(listener)
                except OSError as error:  # out of descriptors, or a client that left in the queue
                    log.warning("cannot accept a DNS connection: %s", error)
                    await asyncio.sleep(0.1)
                    continue
                if self.connections >= MAX_CONNECTIONS:
                    client.close()
                    continue
                self.connections += 1
                group.create_task(self._connection(client), name="dns tcp client")

    async def _connection(self, client: socket.socket) -> None:
        try:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            slots, writing = asyncio.Semaphore(MAX_IN_FLIGHT), asyncio.Lock()
            async with asyncio.TaskGroup() as group:
                async for query in self._queries(client):
                    await slots.acquire()
                    group.create_task(self._reply(client, query, slots, writing), name="dns tcp query")
        finally:
            client.close()
            self.connections -= 1

    async def _queries(self, client: socket.socket) -> AsyncIterator[bytes]:
        """Whole messages until the client ends, takes too long over one or sends something too short to be DNS."""
        loop, buffer = asyncio.get_running_loop(), bytearray()
        deadline = loop.time() + self._idle
        while True:
            while len(buffer) >= 2 and len(buffer) >= 2 + (size := int.from_bytes(buffer[:2], "big")):
                if size < HEADER_SIZE:
                    return
                yield bytes(buffer[2 : 2 + size])
                del buffer[: 2 + size]
                deadline = loop.time() + self._idle
            try:
                async with asyncio.timeout_at(deadline):
                    chunk = await loop.sock_recv(client, _CHUNK)
            except (OSError, TimeoutError) as error:
                log.debug("DNS connection ended: %s", str(error) or "silent for too long")
                return
            if not chunk:
                return
            buffer += chunk

    async def _reply(
        self, client: socket.socket, query: bytes, slots: asyncio.Semaphore, writing: asyncio.Lock
    ) -> None:
        try:
            reply = await self._answer(query)
            if reply is None or len(reply) > MAX_TCP:
                return
            async with writing, asyncio.timeout(WRITE):
                await asyncio.get_running_loop().sock_sendall(client, len(reply).to_bytes(2, "big") + reply)
        except (OSError, TimeoutError) as error:
            log.debug("a DNS client did not take its answer: %s", error)
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)  # wakes the reader, which ends the connection
        finally:
            slots.release()
