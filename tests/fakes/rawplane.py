"""A control plane that breaks the rules: HTTP/2 by hand, so that it can say half of something, or nonsense."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import h2.config
import h2.connection
import h2.events

Script = Callable[["RawStream"], Awaitable[None]]
RESPONSE_HEADERS = [(":status", "200"), ("content-type", "application/grpc")]


class RawStream:
    """One call of the agent's, after its headers. The script says what happens; its end is the connection's."""

    def __init__(self, http: h2.connection.H2Connection, writer: asyncio.StreamWriter, number: int) -> None:
        self.http, self.writer, self.number = http, writer, number

    async def headers(self) -> None:
        self.http.send_headers(self.number, RESPONSE_HEADERS)
        await self.flush()

    async def data(self, data: bytes) -> None:
        """As it is; a gRPC message has five bytes in front: compressed or not, and its length."""
        self.http.send_data(self.number, data)
        await self.flush()

    async def raw(self, data: bytes) -> None:
        """Past HTTP/2."""
        self.writer.write(data)
        await self.writer.drain()

    async def reset(self) -> None:
        self.http.reset_stream(self.number, 2)
        await self.flush()

    async def flush(self) -> None:
        self.writer.write(self.http.data_to_send())
        await self.writer.drain()


def message(frame: bytes, size: int | None = None, compressed: int = 0) -> bytes:
    """A gRPC message that claims to have `size` bytes."""
    return bytes([compressed]) + (len(frame) if size is None else size).to_bytes(4, "big") + frame


@asynccontextmanager
async def breaking(script: Script) -> AsyncIterator[tuple[str, list[int]]]:
    """(address, list that grows by one with each connection); plaintext. Every call runs `script`."""
    connections: list[int] = []
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        tasks.add(task)
        connections.append(len(connections))
        http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        http.initiate_connection()
        try:
            writer.write(http.data_to_send())
            number = 0
            while not number:
                data = await reader.read(65536)
                if not data:
                    return
                for event in http.receive_data(data):
                    if isinstance(event, h2.events.RequestReceived):
                        number = event.stream_id
                writer.write(http.data_to_send())
            await script(RawStream(http, writer, number))
        except (ConnectionError, asyncio.CancelledError):
            return
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", connections
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
